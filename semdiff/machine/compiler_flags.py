"""What XLA is told through its environment, where that was measured to help and this version of it understands.

Measured on 2 cores in float32: docs/benchmarks.md.
"""

import contextlib
import importlib.metadata
import json
import os
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path

_FOR_CPU = {
    # No single convolution, product or reduction to the YNNPACK library: XLA's own (Eigen) are faster, most of all in
    # gradients.
    "xla_cpu_experimental_ynn_fusion_type": "-individual_convolution,-individual_dot,-reduce",
    # A step in the order that needs the least memory: a fifth less, and no slower.
    "xla_cpu_scheduler_type": "CPU_SCHEDULER_TYPE_MEMORY_OPTIMIZED",
}
_TRY = "import jax; jax.devices()"  # reads the flags; one that it does not know ends the process
_PATIENCE = 60.0  # seconds


def choose():
    """Adds the flags to XLA_FLAGS, but for those that the user gives, and where nothing but a CPU may compile."""
    given = os.environ.get("XLA_FLAGS", "")
    if "onednn" in given:  # with oneDNN's custom calls the first flag makes gradients wrong
        return
    if not _only_cpu():
        return
    add(f"--{name}={value}" for name, value in _FOR_CPU.items())


def add(flags: Iterable[str]):
    """Adds to XLA_FLAGS those flags that this version understands and that are not given already."""
    given = os.environ.get("XLA_FLAGS", "")
    new = [flag for flag in flags if _name(flag) not in map(_name, given.split()) and understood(flag)]
    os.environ["XLA_FLAGS"] = " ".join([given, *new]).strip()


def _name(flag: str) -> str:
    return flag.partition("=")[0]


def understood(flag: str) -> bool:
    """Whether this version of XLA knows the flag: tried once, in a process of its own, and remembered."""
    path, key = _memory(), f"jaxlib {importlib.metadata.version('jaxlib')} {flag}"
    known = _remembered(path)
    if key not in known:
        known[key] = _starts_with(flag)
        with contextlib.suppress(OSError):  # where nothing can be written it is tried again
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            temporary = path.with_suffix(f".{os.getpid()}")
            temporary.write_text(json.dumps(known, indent=1))
            temporary.replace(path)
    return known[key] is True


def _starts_with(flag: str) -> bool:
    environment = dict(os.environ, XLA_FLAGS=flag, JAX_PLATFORMS="cpu")
    command = [sys.executable, "-c", _TRY]
    try:
        tried = subprocess.run(command, env=environment, capture_output=True, timeout=_PATIENCE)
    except (OSError, subprocess.TimeoutExpired):
        return False
    return tried.returncode == 0


def _memory() -> Path:
    caches = os.environ.get("XDG_CACHE_HOME", "")
    return Path(caches if os.path.isabs(caches) else "~/.cache").expanduser() / "semdiff" / "xla_flags.json"


def _remembered(path: Path) -> dict[str, bool]:
    with contextlib.suppress(OSError, ValueError):
        found = json.loads(path.read_text())
        if isinstance(found, dict):
            return found
    return {}


def _only_cpu() -> bool:
    """Another platform's library reads the same variable and may know other flags."""
    platforms = os.environ.get("JAX_PLATFORMS", "")
    if platforms:
        return platforms == "cpu"
    plugins = importlib.metadata.entry_points(group="jax_plugins")
    return not plugins and not _installed("libtpu")


def _installed(package: str) -> bool:
    try:
        importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return False
    return True
