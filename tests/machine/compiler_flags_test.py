"""What XLA is told, and when it is told nothing."""

import os

import pytest

from semdiff.machine import compiler_flags

NAMES = ["--xla_cpu_experimental_ynn_fusion_type", "--xla_cpu_scheduler_type"]


@pytest.fixture
def elsewhere(monkeypatch, tmp_path):
    """elsewhere(...): a machine on which flags named in `knows` are understood; returns those that were tried."""

    def go(given="", version="9.9", platforms="cpu", plugins=(), knows=("ynn", "scheduler"), tpu=False):
        tried = []

        def starts_with(flag):
            tried.append(flag)
            return any(word in flag for word in knows)

        monkeypatch.setenv("XLA_FLAGS", given)
        monkeypatch.setenv("JAX_PLATFORMS", platforms)
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
        monkeypatch.setenv("LIBTPU_INIT_ARGS", "")
        monkeypatch.setattr(compiler_flags.importlib.metadata, "version", lambda package: version)
        monkeypatch.setattr(compiler_flags, "_installed", lambda package: tpu)
        monkeypatch.setattr(compiler_flags.importlib.metadata, "entry_points", lambda group: plugins)
        monkeypatch.setattr(compiler_flags.Compiler, "_starts_with", lambda compiler, flag: starts_with(flag))
        compiler_flags.choose()
        return tried

    return go


def flags() -> list[str]:
    return os.environ["XLA_FLAGS"].split()


def test_flags_are_added_to_those_of_the_user(elsewhere):
    elsewhere("--xla_backend_optimization_level=0")
    assert flags()[0] == "--xla_backend_optimization_level=0"
    assert [flag.split("=")[0] for flag in flags()[1:]] == NAMES


def test_a_flag_that_the_user_gives_is_left_alone(elsewhere):
    elsewhere("--xla_cpu_experimental_ynn_fusion_type=-reduce")
    assert flags()[0] == "--xla_cpu_experimental_ynn_fusion_type=-reduce"
    assert [flag.split("=")[0] for flag in flags()] == NAMES


def test_a_version_is_asked_once_and_told_what_it_knows(elsewhere):
    assert len(elsewhere(knows=("scheduler",))) == 2
    assert [flag.split("=")[0] for flag in flags()] == NAMES[1:]
    assert elsewhere(knows=()) == []  # remembered
    assert [flag.split("=")[0] for flag in flags()] == NAMES[1:]
    assert len(elsewhere(version="10.0", knows=())) == 2
    assert flags() == []


@pytest.mark.parametrize("damage", ["{", "[]", '{"a": 1'])
def test_a_damaged_memory_is_no_memory(elsewhere, tmp_path, damage):
    elsewhere()
    (tmp_path / "semdiff" / "xla_flags.json").write_text(damage)
    assert len(elsewhere()) == 2
    assert elsewhere() == []


def test_nothing_can_be_remembered_and_flags_are_added_all_the_same(elsewhere, tmp_path):
    (tmp_path / "semdiff").write_text("in the way")
    assert len(elsewhere()) == len(elsewhere()) == len(flags()) == 2


@pytest.mark.parametrize(
    "machine",
    [
        {"platforms": "cuda"},
        {"platforms": "cpu,tpu"},
        {"platforms": "", "plugins": ("cuda",)},
        {"given": "--xla_cpu_experimental_onednn_custom_call=true"},
    ],
)
def test_nothing_is_said_to_what_may_not_understand_it(elsewhere, machine):
    assert elsewhere(**machine) == []
    assert os.environ["XLA_FLAGS"] == machine.get("given", "")


def test_xla_itself_is_asked():
    assert compiler_flags.CPU._starts_with("--xla_backend_optimization_level=0")
    assert not compiler_flags.CPU._starts_with("--xla_cpu_no_such_flag=0")


@pytest.mark.parametrize(
    ("platforms", "told"), [("", True), ("tpu,cpu", True), ("cpu", False), ("cuda", False)]
)
def test_tpus_are_told_where_one_may_be(elsewhere, monkeypatch, platforms, told):
    elsewhere(platforms=platforms, tpu=True, knows=("new_platforms",))
    expected = "--xla_tpu_run_space_to_batch_on_new_platforms=false" if told else ""
    assert os.environ["LIBTPU_INIT_ARGS"] == expected


@pytest.mark.skipif(not compiler_flags._installed("libtpu"), reason="libtpu is not installed")
def test_libtpu_itself_is_asked():
    assert all(compiler_flags.TPU._starts_with(flag) for flag in compiler_flags.FOR_TPU)
    assert not compiler_flags.TPU._starts_with("--xla_tpu_no_such_flag=0")


def test_this_very_process_was_told():
    assert os.environ["XLA_FLAGS"].count("ynn_fusion_type") == 1
