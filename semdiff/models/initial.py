"""Weights at the start of a training, cut from one draw: of hundreds of draws a compiler makes more work than of a network.

Modules say how theirs are spread (`lecun`, `normal`); `fresh` draws them all. What is not said so is drawn by itself.
"""

import math
from collections.abc import Callable, Sequence
from contextvars import ContextVar
from dataclasses import dataclass

import jax
import jax.numpy as jnp

_TWO_SIGMA = 0.87962566103423978  # the deviation of a standard normal within [-2, 2]


@dataclass
class _Pool:
    """Numbers of which some were taken; without numbers, they are counted only."""

    numbers: jax.Array | None = None
    taken: int = 0

    def take(self, shape: Sequence[int]) -> jax.Array:
        first, self.taken = self.taken, self.taken + math.prod(shape)
        if self.numbers is None:
            return jnp.zeros(shape)
        return jax.lax.slice(self.numbers, (first,), (self.taken,)).reshape(shape)


_POOL: ContextVar[_Pool | None] = ContextVar("pool", default=None)


def fresh(init: Callable, key, *args, **kwargs) -> dict:
    """init(key, *args, **kwargs), an initialisation of flax, with its draws in one: a function of the key alone."""
    count = _Pool()
    jax.eval_shape(lambda key: _with(count, init, key, *args, **kwargs), key)
    # The barrier: a compiler would rather draw again for every cut than keep what was drawn.
    numbers = jax.lax.optimization_barrier(_standard(jax.random.fold_in(key, count.taken), (count.taken,)))
    return _with(_Pool(numbers), init, key, *args, **kwargs)


def _with(pool: _Pool, init: Callable, *args, **kwargs):
    token = _POOL.set(pool)
    try:
        return init(*args, **kwargs)
    finally:
        _POOL.reset(token)


def _standard(key, shape: Sequence[int]) -> jax.Array:
    """Of mean 0 and deviation 1, none far off."""
    return jax.random.truncated_normal(key, -2, 2, shape) / _TWO_SIGMA


def normal(deviation: float) -> Callable:
    """An initialiser of flax."""

    def init(key, shape, dtype=jnp.float32):
        pool = _POOL.get()
        drawn = _standard(key, shape) if pool is None else pool.take(shape)
        return (deviation * drawn).astype(dtype)

    return init


def lecun(key, shape, dtype=jnp.float32):
    """An initialiser of flax: a sum over the inputs [..., inputs, outputs] is as large as they are."""
    return normal(math.prod(shape[:-1]) ** -0.5)(key, shape, dtype)


def he(key, shape, dtype=jnp.float32):
    """The same before a rectifier, which lets half of it through."""
    return normal((2 / math.prod(shape[:-1])) ** 0.5)(key, shape, dtype)


def embedding(key, shape, dtype=jnp.float32):
    """An initialiser of flax, of a table [rows, width]: rows have length 1."""
    return normal(shape[-1] ** -0.5)(key, shape, dtype)
