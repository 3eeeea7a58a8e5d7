"""What XLA is told through its environment, where that was measured to help and the version is known to understand it.

Measured on 2 cores in float32: docs/benchmarks.md.
"""

import importlib.metadata
import os

_FOR_CPU = {
    # No single convolution, product or reduction to the YNNPACK library: XLA's own (Eigen) are faster, most of all in
    # gradients.
    "xla_cpu_experimental_ynn_fusion_type": "-individual_convolution,-individual_dot,-reduce",
    # A step in the order that needs the least memory: a fifth less, and no slower.
    "xla_cpu_scheduler_type": "CPU_SCHEDULER_TYPE_MEMORY_OPTIMIZED",
}
# An unknown flag aborts the process: these versions were seen to know them.
_KNOWN_IN = ("0.10.2",)


def choose():
    """Adds the flags to XLA_FLAGS, but for those that the user gives, and where nothing but a CPU may compile."""
    given = os.environ.get("XLA_FLAGS", "")
    if "onednn" in given:  # with oneDNN's custom calls the first flag makes gradients wrong
        return
    if not _only_cpu() or importlib.metadata.version("jaxlib") not in _KNOWN_IN:
        return
    flags = [f"--{name}={value}" for name, value in _FOR_CPU.items() if name not in given]
    os.environ["XLA_FLAGS"] = " ".join([given, *flags]).strip()


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
