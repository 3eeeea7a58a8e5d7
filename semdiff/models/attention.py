"""Attention over long sequences, by whatever the platform has for it."""

import contextlib

import jax
import jax.numpy as jnp

from semdiff.models.target import on_gpu

LIMIT = 2**24  # logits of one example that are held at a time
FUSED_WIDTH = 128  # cuDNN's attention takes heads up to this width
REFUSALS = (RuntimeError, ValueError, NotImplementedError)  # it is not there, or takes no such shapes


def attend(q, k, v, fused: bool = True):
    """softmax(q k^T / sqrt(width)) v: q [B, L, heads, width], k and v [B, M, heads, width] -> [B, L, heads, width].

    fused: on GPUs, in half precision, cuDNN's, which holds no logits, where it is installed and takes such heads. Else
    queries are taken in parts where there would be too many logits at once: the same numbers.
    """
    if fused and _is_fusible(q):
        with contextlib.suppress(*REFUSALS):
            return jax.nn.dot_product_attention(q, k, v, implementation="cudnn")
    rows = _rows_at_once(q, k)
    if rows == q.shape[1]:
        return jax.nn.dot_product_attention(q, k, v, implementation="xla")
    parts = jnp.moveaxis(q.reshape(q.shape[0], -1, rows, *q.shape[2:]), 1, 0)
    # The checkpoint: a gradient that kept the parts' logits would keep them all.
    one = jax.checkpoint(lambda part: jax.nn.dot_product_attention(part, k, v, implementation="xla"))
    return jnp.moveaxis(jax.lax.map(one, parts), 0, 1).reshape(q.shape)


def _is_fusible(q) -> bool:
    width = q.shape[-1]
    return on_gpu() and q.dtype.itemsize == 2 and width % 8 == 0 and width <= FUSED_WIDTH


def _rows_at_once(q, k) -> int:
    """The most rows that divide the queries and stay within the limit."""
    _, length, heads, _ = q.shape
    most = max(1, LIMIT // (heads * k.shape[1]))
    return max(rows for rows in range(1, min(most, length) + 1) if length % rows == 0)
