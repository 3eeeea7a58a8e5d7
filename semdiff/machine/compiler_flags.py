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
from dataclasses import dataclass, field
from pathlib import Path


@dataclass(frozen=True)
class Compiler:
    """The package it comes in, the variable that its flags are in, a program that fails where it does not know one."""

    package: str
    variable: str
    program: str
    environment: dict[str, str] = field(hash=False)

    @property
    def given(self) -> str:
        return os.environ.get(self.variable, "")

    def add(self, flags: Iterable[str]):
        """Tells it those flags that it understands and that are not given already."""
        known = {_name(flag) for flag in self.given.split()}
        new = [flag for flag in flags if _name(flag) not in known and self.understands(flag)]
        os.environ[self.variable] = " ".join([self.given, *new]).strip()

    def understands(self, flag: str) -> bool:
        """Whether the version that is installed knows the flag: tried once, in a process of its own, and remembered."""
        path, key = _memory(), f"{self.package} {importlib.metadata.version(self.package)} {flag}"
        known = _remembered(path)
        if key not in known:
            known[key] = self._starts_with(flag)
            with contextlib.suppress(OSError):  # where nothing can be written it is tried again
                path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
                temporary = path.with_suffix(f".{os.getpid()}")
                temporary.write_text(json.dumps(known, indent=1))
                temporary.replace(path)
        return known[key] is True

    def _starts_with(self, flag: str) -> bool:
        environment = os.environ | {"JAX_PLATFORMS": "cpu"} | self.environment | {self.variable: flag}
        command = [sys.executable, "-c", self.program]
        try:
            tried = subprocess.run(command, env=environment, capture_output=True, timeout=_PATIENCE)
        except (OSError, subprocess.TimeoutExpired):
            return False
        return tried.returncode == 0


CPU = Compiler("jaxlib", "XLA_FLAGS", "import jax; jax.devices()", {})
TPU = Compiler(
    "libtpu",
    "LIBTPU_INIT_ARGS",
    # Of a slice that need not be there: nothing of a real one is taken.
    "from jax.experimental import topologies as t; t.get_topology_desc('v5e:2x2', platform='tpu')",
    {"TPU_SKIP_MDS_QUERY": "1", "ALLOW_MULTIPLE_LIBTPU_LOAD": "true", "XLA_FLAGS": ""},
)
FOR_CPU = (
    # No single convolution, product or reduction to the YNNPACK library: XLA's own (Eigen) are faster, most of all in
    # gradients.
    "--xla_cpu_experimental_ynn_fusion_type=-individual_convolution,-individual_dot,-reduce",
    # A step in the order that needs the least memory: a fifth less, and no slower.
    "--xla_cpu_scheduler_type=CPU_SCHEDULER_TYPE_MEMORY_OPTIMIZED",
)
FOR_TPU = (
    # At small batches a device, a pass that moves space into the batch and back: 3 to 5 times the bytes in a label
    # convolution and its gradients.
    "--xla_tpu_run_space_to_batch=false",
    "--xla_tpu_run_space_to_batch_on_new_platforms=false",
)
_PATIENCE = 60.0  # seconds


def choose():
    """Tells compilers what was measured to help: those for CPUs where nothing else may compile, those for TPUs if any."""
    if (
        _only_cpu() and "onednn" not in CPU.given
    ):  # with oneDNN's custom calls the first flag makes gradients wrong
        CPU.add(FOR_CPU)
    if _maybe_tpu():
        TPU.add(FOR_TPU)


def _name(flag: str) -> str:
    return flag.partition("=")[0]


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


def _maybe_tpu() -> bool:
    return _installed("libtpu") and "tpu" in (os.environ.get("JAX_PLATFORMS") or "tpu").split(",")


def _installed(package: str) -> bool:
    try:
        importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return False
    return True
