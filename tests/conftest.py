"""Shared by all tests: shapes of the kernels are checked while testing; 64-bit and devices are for those who ask."""

import os
import subprocess
import sys

import jaxtyping
import pytest
from beartype import beartype


def check_types(function):
    """beartype, but for the constructors: jax rebuilds pytrees with shardings, shapes or None in place of arrays."""
    return function if function.__name__ == "__init__" else beartype(function)


already = [name for name in sys.modules if name.startswith("semdiff.diffusion")]
assert not already, f"imported before their shapes could be checked: {already}"
jaxtyping.install_import_hook("semdiff.diffusion", f"{__name__}.{check_types.__name__}")


@pytest.fixture
def x64():
    """float64 arithmetic inside one test."""
    import jax

    with jax.enable_x64(True):
        yield


@pytest.fixture
def strict_ranks():
    """No silent broadcasting between ranks: a [B] that meets a [B, H, W, C] is an error."""
    import jax

    with jax.numpy_rank_promotion("raise"):
        yield


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
