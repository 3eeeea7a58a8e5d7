"""Where compiled programs are kept: what is in there is executed."""

import os
import stat
from dataclasses import replace
from pathlib import Path

import jax
import pytest
from tiny import tiny_experiment

from semdiff import main
from semdiff.config import Experiment
from semdiff.machine import compilation


@pytest.fixture(autouse=True)
def used(monkeypatch):
    """The settings of jax that are made; the cache of these tests stays what it is."""
    made = {}
    monkeypatch.setattr(jax.config, "update", made.__setitem__)
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    return made


@pytest.fixture
def anyone_may_read():
    before = os.umask(0)
    yield
    os.umask(before)


def run(folder, monkeypatch):
    """The program with that cache, up to where it trains."""
    monkeypatch.setitem(main.WITH_DATA, "train", ("", lambda *_: None))
    main.run(replace(tiny_experiment(), compilation_cache=str(folder)), Path("run"), "train")


def test_a_new_cache_is_its_users_alone(tmp_path, monkeypatch, used, anyone_may_read):
    folder = tmp_path / "a" / "xla"
    (tmp_path / "a").mkdir(0o755)
    run(folder, monkeypatch)
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert used == {"jax_compilation_cache_dir": str(folder)}


@pytest.mark.parametrize("mode", [0o700, 0o755, 0o750])
def test_a_cache_that_others_may_only_read_is_used(tmp_path, monkeypatch, used, mode):
    tmp_path.joinpath("xla").mkdir()
    tmp_path.joinpath("xla").chmod(mode)
    run(tmp_path / "xla", monkeypatch)
    assert used == {"jax_compilation_cache_dir": str(tmp_path / "xla")}


@pytest.mark.parametrize("mode", [0o770, 0o777, 0o1777, 0o702])
def test_a_cache_that_others_may_write_to_is_not_used(tmp_path, monkeypatch, used, mode, capsys):
    folder = tmp_path / "xla"
    folder.mkdir()
    folder.chmod(mode)
    (tmp_path / "link").symlink_to(folder)
    for path in (folder, tmp_path / "link"):
        run(path, monkeypatch)
        said = "".join(capsys.readouterr())
        assert f"compiled programs are not kept: config.compilation_cache={path}: others may write" in said
    assert used == {}


def test_a_cache_of_somebody_else_is_not_used(tmp_path, monkeypatch, used, capsys):
    monkeypatch.setattr(os, "geteuid", lambda: tmp_path.stat().st_uid + 1)
    run(tmp_path / "xla", monkeypatch)
    assert f"it belongs to user {tmp_path.stat().st_uid}" in "".join(capsys.readouterr())
    assert used == {}


def test_a_cache_that_anyone_may_replace_is_not_used(tmp_path, monkeypatch, used, capsys):
    above = tmp_path / "shared"
    above.mkdir()
    above.chmod(0o777)
    run(above / "xla", monkeypatch)
    assert f"anyone may write to {above}" in "".join(capsys.readouterr())
    assert used == {}
    above.chmod(0o1777)  # as /tmp: each may replace their own alone
    run(above / "xla", monkeypatch)
    assert used == {"jax_compilation_cache_dir": str(above / "xla")}


def test_a_cache_that_cannot_be_made_is_said(tmp_path, monkeypatch, used, capsys):
    (tmp_path / "file").write_text("")
    run(tmp_path / "file" / "xla", monkeypatch)
    assert "compiled programs are not kept" in "".join(capsys.readouterr())
    assert used == {}


def test_an_empty_string_keeps_nothing_silently(monkeypatch, used, capsys):
    run("", monkeypatch)
    assert used == {}
    assert not "".join(capsys.readouterr())


def test_the_default_lies_with_the_users_other_caches(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    default = Experiment().compilation_cache
    assert compilation.cache_folder(default) == tmp_path / ".cache" / "semdiff" / "xla"
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "caches"))
    assert compilation.cache_folder(default) == tmp_path / "caches" / "semdiff" / "xla"
    assert compilation.cache_folder("/elsewhere/xla") == Path("/elsewhere/xla")
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")  # by its specification to be ignored
    assert compilation.cache_folder(default) == tmp_path / ".cache" / "semdiff" / "xla"
