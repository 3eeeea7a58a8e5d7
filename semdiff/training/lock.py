"""One run at a time in a workdir."""

import contextlib
import json
import os
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path

from semdiff.config import ConfigError

NAME = "training.lock"
SIGN_OF_LIFE = 30.0  # seconds between two touches of the file by the run that holds it
PRESUMED_DEAD = 600.0  # seconds without one, after which a lock of another machine counts no more


@contextlib.contextmanager
def held(workdir: Path) -> Iterator[Path]:
    """WORKDIR/training.lock, for as long as this lasts; an error in words while another run has it.

    What a killed run left is taken over: on its machine at once, on another one when it was not touched for ten minutes.
    """
    path = workdir / NAME
    mine = json.dumps(
        {"host": socket.gethostname(), "pid": os.getpid(), "born": _birth(os.getpid()), "since": time.ctime()}
    )
    _take(path, mine)
    ended = threading.Event()
    threading.Thread(target=_keep_alive, args=(path, ended), daemon=True).start()
    try:
        yield path
    finally:
        ended.set()
        if _read(path) == mine:
            path.unlink(missing_ok=True)


def _take(path: Path, mine: str):
    for _ in range(2):
        with contextlib.suppress(FileExistsError), path.open("x") as file:
            file.write(mine)
            return
        found = _read(path)
        if not _is_stale(path, found):
            break
        path.unlink(missing_ok=True)
    raise ConfigError(
        f"another run is training in {path.parent}: {path} says {found or 'nothing yet'}. Wait for its end or use another "
        "--workdir. If no such run exists, remove that file and start again."
    )


def _is_stale(path: Path, text: str) -> bool:
    """Whether the run that wrote this lock is surely, or presumably, dead."""
    try:
        run = json.loads(text)
        host, pid, born = run["host"], run["pid"], run["born"]
    except (ValueError, KeyError, TypeError):
        host = None
    if host == socket.gethostname():
        return _birth(pid) != born  # gone, or another process by now
    return _silent_for(path) > PRESUMED_DEAD


def _birth(pid: int) -> str | None:
    """What tells a process of this machine from earlier ones of its number: when it was started; None if it is gone."""
    try:
        state, *rest = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        return None if state in "ZX" else rest[18]
    except OSError:
        pass
    if Path("/proc/self/stat").exists():
        return None
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return None
    except PermissionError:
        pass
    return "alive"


def _silent_for(path: Path) -> float:
    """Seconds since the file was touched, by the clock of the file system that holds it."""
    probe = path.with_suffix(f".{os.getpid()}")
    probe.touch()
    try:
        return probe.stat().st_mtime - path.stat().st_mtime
    finally:
        probe.unlink(missing_ok=True)


def _keep_alive(path: Path, ended: threading.Event):
    while not ended.wait(SIGN_OF_LIFE):
        with contextlib.suppress(OSError):
            os.utime(path)


def _read(path: Path) -> str:
    try:
        return path.read_text()
    except FileNotFoundError:
        return ""
