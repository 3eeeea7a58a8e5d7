"""One run at a time in a workdir, and none kept out by a run that is dead."""

import json
import os
import subprocess
import sys
from dataclasses import replace

import pytest
from tiny import tiny_experiment

from semdiff.config import ConfigError
from semdiff.modes import train
from semdiff.training import lock

HOLD = """
import sys
from pathlib import Path
from semdiff.training import lock
with lock.held(Path(sys.argv[1])):
    print("held", flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def other(tmp_path):
    """A process that holds the lock of tmp_path."""
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(p for p in sys.path if p)}
    process = subprocess.Popen([sys.executable, "-c", HOLD, str(tmp_path)], env=environment, **pipes)
    assert process.stdout.readline() == "held\n"
    yield process
    process.kill()
    process.communicate()


def test_a_second_run_is_refused_while_the_first_lives_and_takes_over_when_it_was_killed(other, tmp_path):
    config = tiny_experiment()
    with pytest.raises(ConfigError, match=rf"training\.lock says .*\"pid\": {other.pid}.* remove that file"):
        train.train(replace(config, train=replace(config.train, steps=1)), tmp_path)
    assert not (tmp_path / "checkpoints").exists()
    other.kill()  # and not yet waited for: a zombie
    for _ in range(1000):
        if lock._birth(other.pid) is None:
            break
    with lock.held(tmp_path) as path:
        assert json.loads(path.read_text())["pid"] == os.getpid()


def test_a_run_that_ends_leaves_no_lock(other, tmp_path):
    other.communicate("")
    assert not list(tmp_path.iterdir())
    with pytest.raises(KeyError), lock.held(tmp_path):
        raise KeyError
    assert not list(tmp_path.iterdir())


def test_a_number_that_another_process_has_by_now_is_no_run(tmp_path):
    with lock.held(tmp_path) as path:
        run = json.loads(path.read_text())
        with pytest.raises(ConfigError), lock.held(tmp_path):
            pass
        path.write_text(json.dumps(run | {"born": "before"}))
        with lock.held(tmp_path):
            assert json.loads(path.read_text()) == run | {"since": json.loads(path.read_text())["since"]}


def test_a_run_on_another_machine_lives_while_it_touches_its_lock(tmp_path, monkeypatch):
    path = tmp_path / lock.NAME
    for text in (json.dumps({"host": "elsewhere", "pid": 1, "born": "1", "since": "then"}), ""):
        path.write_text(text)
        with pytest.raises(ConfigError, match=r"elsewhere|nothing yet"), lock.held(tmp_path):
            pass
        moment = path.stat().st_mtime - lock.PRESUMED_DEAD - 5
        os.utime(path, (moment, moment))
        with lock.held(tmp_path):
            assert path.read_text() != text
    monkeypatch.setattr(lock, "SIGN_OF_LIFE", 0.01)
    with lock.held(tmp_path):
        os.utime(path, (1, 1))
        for _ in range(10**6):
            if path.stat().st_mtime > 1:
                break
        assert path.stat().st_mtime > 1
