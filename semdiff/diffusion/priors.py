"""Where a chain starts.

A start has draw(tables, process, like, layout, keys, t) -> the state at t, the first time of the chain, of images of these
layouts (None where none are given). Its tables are
arrays of the data's statistics, which stand beside the network's parameters, since they are too large to be a part of a
program.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import jax
import jax.numpy as jnp

from semdiff.diffusion import gaussian, joint
from semdiff.diffusion.joint import Keys, Process, State

# Keys are folded with these: the first numbers are taken by the halves.
_OF_IMAGE, _OF_LAYOUT = 101, 102


class Start(Protocol):
    def draw(
        self, tables: Mapping[str, Any], process: Process, like: State, layout: Any, keys: Keys, t: Any
    ) -> State: ...


@dataclass(frozen=True)
class Standard:
    """The process's own prior, that of the top, whatever t is."""

    def draw(self, tables, process: Process, like: State, layout: Any, keys: Keys, t: Any) -> State:
        del tables, layout, t
        return joint.sample_prior(process, like, keys)


STANDARD = Standard()


@dataclass(frozen=True)
class Measured:
    """z ~ N(mean(y), deviation(y)^2) by the data's statistics of class and place, noised to t (SCP-Diff, 2403.09638).

    Its tables are "mean" and "deviation" [K + 1 or 1, H or 1, W or 1, C]: by class (row K: no class), place, or both. Where
    layouts are generated, "shares" [H, W, K] too: y_0 is drawn by how often each place has each class, and noised like z.
    """

    def draw(self, tables, process: Process, like: State, layout: Any, keys: Keys, t: Any) -> State:
        layout = like.layout if like.layout is not None else layout
        if process.layout is not None:
            layout = drawn_layout(tables["shares"], _folded(keys, _OF_LAYOUT))
        image = like.image
        if process.image is not None:
            image = drawn_image(tables, layout, image, _folded(keys, _OF_IMAGE))
        start = State(image, like.layout if process.layout is None else layout)
        return joint.q_sample(process, start, jnp.full((len(keys),), t), keys)


def _folded(keys: Keys, number: int) -> Keys:
    return jax.vmap(lambda key: jax.random.fold_in(key, number))(keys)


def drawn_layout(shares, keys: Keys):
    """y_0 [B, H, W]: each place by itself."""
    draw = lambda key: jax.random.categorical(key, jnp.log(shares), axis=-1)  # noqa: E731
    return jax.vmap(draw)(keys).astype(jnp.int32)


def drawn_image(tables: Mapping[str, Any], layout, like, keys: Keys):
    """z, like `like` [B, H, W, C], for layouts [B, H, W] of as many pixels or of some whole multiple of them."""
    mean, deviation = tables["mean"], tables["deviation"]
    rows, height, width = mean.shape[:3]
    if height not in (1, like.shape[1]) or width not in (1, like.shape[2]):
        raise ValueError(
            f"statistics of places at {height} x {width} start no chain at {like.shape[1]} x {like.shape[2]}: sample at "
            "that size, or start from a categorical prior, which has no places"
        )
    stride = layout.shape[1] // like.shape[1]
    ids = layout[:, ::stride, ::stride]
    row = jnp.where((ids >= 0) & (ids < rows - 1), ids, rows - 1)
    place = (jnp.arange(height)[:, None], jnp.arange(width))  # broadcasts where there is but one
    return mean[row, *place] + deviation[row, *place] * gaussian.normal(keys, like)
