"""The platform that a program is traced for: some formulations give the same numbers at another cost there."""

import contextlib
from collections.abc import Iterator
from contextvars import ContextVar

import jax
from jax.experimental.layout import Layout, with_layout_constraint

_TARGET: ContextVar[str] = ContextVar("target", default="")


def _platform() -> str:
    return _TARGET.get() or jax.default_backend()


def on_cpu() -> bool:
    return _platform() == "cpu"


def in_order(tree):
    """The arrays, their last axis the closest in memory.

    On GPUs the gradient of a convolution's kernel comes in another order, and XLA would bring all that it meets into that
    order and back: the parameter, its average and both moments.
    """
    if _platform() != "gpu":
        return tree
    return jax.tree.map(lambda a: with_layout_constraint(a, Layout(tuple(range(a.ndim)))), tree)


@contextlib.contextmanager
def traced_for(platform: str) -> Iterator[None]:
    """Programs that are traced for the first time within this are for "cpu", "gpu" or "tpu", whatever this machine has."""
    token = _TARGET.set(platform)
    try:
        yield
    finally:
        _TARGET.reset(token)
