"""Shared by all tests: shapes of the kernels are checked while testing; 64-bit and devices are for those who ask."""

import ctypes
import gc
import os
import platform
import subprocess
import sys
from pathlib import Path

import jaxtyping
import pytest
from beartype import beartype

from semdiff.machine import compiler_flags

pytest_plugins = ["accounts"]

# Most of the time here is compilation: compile plainly, and keep what was compiled for the other processes and the next run.
os.environ.setdefault("JAX_PLATFORMS", "cpu")
compiler_flags.CPU.add(
    (
        "--xla_backend_optimization_level=0",
        "--xla_cpu_use_fusion_emitters=false",  # a third less, where nothing is optimised
        "--xla_cpu_parallel_codegen_split_count=1",
    )
)
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(Path(__file__).parents[1] / ".pytest_cache" / "xla"))
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")


# Tracing makes many objects that live as long as the program: looking through all of them again and again is in vain.
gc.set_threshold(50_000, 20, 100)


def check_types(function):
    """beartype, but for the constructors: jax rebuilds pytrees with shardings, shapes or None in place of arrays."""
    return function if function.__name__ == "__init__" else beartype(function)


already = [name for name in sys.modules if name.startswith("semdiff.diffusion")]
assert not already, f"imported before their shapes could be checked: {already}"
jaxtyping.install_import_hook("semdiff.diffusion", f"{__name__}.{check_types.__name__}")


@pytest.fixture(scope="module", autouse=True)
def compiled_programs_are_let_go():
    """What a module compiled is of no use to the next; kept, or freed and not given back, it fills gigabytes."""
    import jax

    yield
    jax.clear_caches()
    gc.collect()
    if sys.platform == "linux" and platform.libc_ver()[0] == "glibc":
        ctypes.CDLL("libc.so.6").malloc_trim(0)


@pytest.fixture
def x64():
    """float64 arithmetic inside one test."""
    import jax

    with jax.enable_x64(True):
        yield


@pytest.fixture
def x32():
    """float32 arithmetic, also where all other tests run in float64: JAX_ENABLE_X64=1 make check."""
    import jax

    with jax.enable_x64(False):
        yield


@pytest.fixture
def strict_ranks():
    """No silent broadcasting between ranks: a [B] that meets a [B, H, W, C] is an error."""
    import jax

    with jax.numpy_rank_promotion("raise"):
        yield


@pytest.fixture
def quick_compile():
    """Small programs are compiled in half the time when nothing is done to make them fast."""
    import jax

    before = jax.config.read("jax_disable_most_optimizations")
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", before)


@pytest.fixture(scope="session")
def run_on_devices():
    """run_on_devices(code, count): a Python program in a process of its own, with that many simulated CPU devices."""

    def run(code: str, count: int = 8) -> str:
        environment = dict(os.environ, JAX_PLATFORMS="cpu", JAX_NUM_CPU_DEVICES=str(count))
        environment["PYTHONPATH"] = os.pathsep.join(p for p in sys.path if p)
        process = subprocess.run(
            [sys.executable, "-c", code], env=environment, capture_output=True, text=True, timeout=300
        )
        assert process.returncode == 0, process.stderr[-4000:]
        return process.stdout

    return run
