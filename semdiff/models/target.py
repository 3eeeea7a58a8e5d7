"""The platform that a program is traced for: some formulations give the same numbers at another cost there."""

import contextlib
from collections.abc import Iterator
from contextvars import ContextVar

import jax

_TARGET: ContextVar[str] = ContextVar("target", default="")


def _platform() -> str:
    return _TARGET.get() or jax.default_backend()


def on_cpu() -> bool:
    return _platform() == "cpu"


def on_gpu() -> bool:
    return _platform() == "gpu"


@contextlib.contextmanager
def traced_for(platform: str) -> Iterator[None]:
    """Programs that are traced for the first time within this are for "cpu", "gpu" or "tpu", whatever this machine has."""
    token = _TARGET.set(platform)
    try:
        yield
    finally:
        _TARGET.reset(token)
