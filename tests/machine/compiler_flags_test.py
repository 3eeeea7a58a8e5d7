"""What XLA is told, and when it is told nothing."""

import os

import pytest

from semdiff.machine import compiler_flags


@pytest.fixture
def chosen(monkeypatch):
    """chosen(flags, version, platforms, plugins): XLA_FLAGS after importing semdiff there."""

    def choose(given="", version="0.10.2", platforms="cpu", plugins=()):
        monkeypatch.setenv("XLA_FLAGS", given)
        monkeypatch.setenv("JAX_PLATFORMS", platforms)
        monkeypatch.setattr(compiler_flags.importlib.metadata, "version", lambda package: version)
        monkeypatch.setattr(compiler_flags.importlib.metadata, "entry_points", lambda group: plugins)
        compiler_flags.choose()
        return os.environ["XLA_FLAGS"]

    return choose


def test_flags_are_added_to_those_of_the_user(chosen):
    flags = chosen("--xla_backend_optimization_level=0").split()
    assert flags[0] == "--xla_backend_optimization_level=0"
    assert [f.split("=")[0] for f in flags[1:]] == [
        "--xla_cpu_experimental_ynn_fusion_type",
        "--xla_cpu_scheduler_type",
    ]


def test_a_flag_that_the_user_gives_is_left_alone(chosen):
    flags = chosen("--xla_cpu_experimental_ynn_fusion_type=-reduce")
    assert flags.count("ynn_fusion_type") == 1
    assert "ynn_fusion_type=-reduce " in flags


@pytest.mark.parametrize(
    "elsewhere",
    [
        {"version": "0.11.2"},
        {"platforms": "cuda"},
        {"platforms": "cpu,tpu"},
        {"platforms": "", "plugins": ("cuda",)},
        {"given": "--xla_cpu_experimental_onednn_custom_call=true"},
    ],
)
def test_nothing_is_said_to_what_may_not_understand_it(chosen, elsewhere):
    assert chosen(**elsewhere) == elsewhere.get("given", "")


def test_this_very_process_was_told():
    assert os.environ["XLA_FLAGS"].count("ynn_fusion_type") == 1
