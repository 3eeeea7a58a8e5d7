"""The joint process: an image and its layout, noised together or either of them alone.

Sibling of `gaussian` and `categorical`, with the same verbs, over a `State`. Given (x_0, y_0) the halves are independent, so
q(x_s, y_s | x_t, y_t, x_0, y_0) is the product of their posteriors (GCDP, 2308.08157, Sec. 3), to any s < t. A half without
a process is not noised: what a state holds there stays as it is. The two halves meet only in the network.

s and t are times for both halves, or `ByHalf` of times: a half may run ahead of the other. The image half uses an example's
key itself, the layout half a key folded from it, so that an image's noise is what `gaussian` would draw.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

import jax
from jaxtyping import Array, Key, Shaped

from semdiff.diffusion import categorical, gaussian
from semdiff.diffusion.categorical import Categorical, Layout, Logits
from semdiff.diffusion.gaussian import Gaussian, Image

Keys = Key[Array, "b"]
Half = TypeVar("Half")


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class State:
    """x_t and y_t; None where there is no such half."""

    image: Image | None = None
    layout: Layout | None = None

    @property
    def batch(self) -> int:
        return len(jax.tree.leaves(self)[0])


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Process:
    """What noises each half; None: nothing."""

    image: Gaussian | None = None
    layout: Categorical | None = None

    @property
    def halves(self) -> list[Gaussian | Categorical]:
        """Those that are noised."""
        return [half for half in (self.image, self.layout) if half is not None]

    @property
    def continuous(self) -> bool:
        """Whether real times make sense."""
        return all(half.schedule.continuous for half in self.halves)

    @property
    def num_steps(self) -> int:
        steps = {half.num_steps for half in self.halves}
        if len(steps) != 1:
            raise ValueError(
                f"a joint process needs a half, and one number of steps for all it has; got {sorted(steps)}"
            )
        return steps.pop()


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Prediction:
    """What the network says: of the image as `gaussian` reads it, of the layout logits of y_0."""

    image: gaussian.Prediction | None = None
    layout: Logits | None = None


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class ByHalf:
    """Something for each half: times, distributions, loss terms."""

    image: Any = None
    layout: Any = None


Times = Shaped[Array, "b"] | ByHalf


NEITHER = ByHalf(False, False)


def without(process: Process, known: ByHalf) -> Process:
    """The process of what is free: a half that is known is not noised."""
    return Process(None if known.image else process.image, None if known.layout else process.layout)


def by_half(t: Any) -> ByHalf:
    """The times of each half, which may be the same."""
    return t if isinstance(t, ByHalf) else ByHalf(t, t)


def present(half: Half | None) -> Half:
    """A half that is noised: its state has it, and so has what is said of it."""
    assert half is not None, "a half that has a process is missing"
    return half


def layout_keys(keys: Keys) -> Keys:
    """The layout half's own."""
    return jax.vmap(lambda key: jax.random.fold_in(key, 1))(keys)


def _each(process: Process, state: State, of_image: Callable, of_layout: Callable) -> State:
    """Each half that has a process changed by its function, the others as they are."""
    return State(
        state.image if process.image is None else of_image(process.image, state.image),
        state.layout if process.layout is None else of_layout(process.layout, state.layout),
    )


def sample_prior(process: Process, like: State, keys: Keys) -> State:
    """(x_T, y_T): noise and MASK, or noise and classes at random."""
    return _each(
        process,
        like,
        lambda half, x: gaussian.sample_prior(half, x, keys),
        lambda half, y: categorical.sample_prior(half, y, layout_keys(keys)),
    )


def noise(process: Process, like: State, keys: Keys) -> ByHalf:
    """What `diffuse` needs of chance: eps of the image; numbers and ids per pixel of the layout."""
    return ByHalf(
        None if process.image is None else gaussian.normal(keys, present(like.image)),
        None
        if process.layout is None
        else categorical.noise(process.layout, present(like.layout), layout_keys(keys)),
    )


def diffuse(process: Process, start: State, t: Times, chance: ByHalf) -> State:
    """(x_t, y_t) from their noise."""
    at = by_half(t)
    return _each(
        process,
        start,
        lambda half, x: gaussian.diffuse(half, x, at.image, chance.image),
        lambda half, y: categorical.diffuse(half, y, at.layout, *chance.layout),
    )


def q_sample(process: Process, start: State, t: Times, keys: Keys) -> State:
    """(x_t, y_t) ~ q(. | x_0, y_0)."""
    return diffuse(process, start, t, noise(process, start, keys))


def q_step(process: Process, state: State, s: Times, t: Times, keys: Keys) -> State:
    """(x_t, y_t) ~ q(. | x_s, y_s) for s <= t: noising what is noised already further."""
    at, to = by_half(s), by_half(t)
    return _each(
        process,
        state,
        lambda half, x: gaussian.q_step(half, x, at.image, to.image, keys),
        lambda half, y: categorical.q_step(half, y, at.layout, to.layout, layout_keys(keys)),
    )


def q_posterior(process: Process, state: State, start: State, s: Times, t: Times) -> ByHalf:
    """q(x_s, y_s | x_t, y_t, x_0, y_0) by halves: (mean, variance) of the image, log-probabilities of the layout."""
    to, at = by_half(s), by_half(t)
    image = layout = None
    if process.image is not None:
        image = gaussian.q_posterior(
            process.image, present(state.image), present(start.image), to.image, at.image
        )
    if process.layout is not None:
        layout = categorical.q_posterior(
            process.layout, present(state.layout), present(start.layout), to.layout, at.layout
        )
    return ByHalf(image, layout)


def predict(process: Process, output: ByHalf, state: State, t: Times) -> Prediction:
    """Read the network's output at (x_t, y_t): channels of the image half, logits of the layout half."""
    at = by_half(t)
    if process.image is None:
        return Prediction(None, output.layout)
    return Prediction(
        gaussian.predict(process.image, output.image, present(state.image), at.image), output.layout
    )


def p_step(process: Process, state: State, prediction: Prediction, s: Times, t: Times, keys: Keys) -> State:
    """(x_s, y_s) ~ p(. | x_t, y_t): a Gaussian step times a categorical step."""
    to, at = by_half(s), by_half(t)
    return _each(
        process,
        state,
        lambda half, x: gaussian.p_step(half, x, present(prediction.image), to.image, at.image, keys),
        lambda half, y: categorical.p_step(
            half, y, present(prediction.layout), to.layout, at.layout, layout_keys(keys)
        ),
    )


def vlb_terms(
    process: Process, prediction: Prediction, state: State, start: State, s: Times, t: Times
) -> ByHalf:
    """KL( q(. | x_t, y_t, x_0, y_0) || p ) by halves: of the image in bits per dimension, of the layout in bits per pixel.

    The bound of the pair is their sum, each times its number of dimensions.
    """
    to, at = by_half(s), by_half(t)
    image = layout = None
    if process.image is not None:
        image = gaussian.vlb_term(
            process.image,
            present(prediction.image),
            present(state.image),
            present(start.image),
            to.image,
            at.image,
        )
    if process.layout is not None:
        layout = categorical.vlb_term(
            process.layout,
            present(prediction.layout),
            present(state.layout),
            present(start.layout),
            to.layout,
            at.layout,
        )
    return ByHalf(image, layout)


def prior_terms(process: Process, start: State) -> ByHalf:
    """KL( q(x_T, y_T | x_0, y_0) || prior ) by halves, in the same units."""
    return ByHalf(
        None if process.image is None else gaussian.prior_term(process.image, present(start.image)),
        None if process.layout is None else categorical.prior_term(process.layout, present(start.layout)),
    )
