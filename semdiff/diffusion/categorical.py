"""The layout half of the process: categorical diffusion of class ids, from any t to any s < t.

Sibling of `gaussian`, with the same verbs. A pixel of class c keeps its class with probability gamma_{c,t}; otherwise it
shows MASK (absorbing: SCDM, 2402.16506, a rate per class) or a class drawn uniformly (GCDP, 2308.08157, one shared rate).
Ids are 0..K-1; MASK is K. Nothing here is larger than K + 1 numbers per pixel.

All functions take times per example, `[B]`; `keys` holds one random key per example.
"""

import math
from dataclasses import dataclass, field
from typing import Literal

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Key, Shaped

from semdiff.diffusion.class_schedules import ClassSchedule, PerClass

Layout = Int[Array, "b h w"]
Uniform = Float[Array, "b h w"]
Logits = Float[Array, "b h w k"]
LogProbs = Float[Array, "b h w states"]
Times = Shaped[Array, "b"]
Keys = Key[Array, "b"]
PerExample = Float[Array, "b"]

Transition = Literal["absorbing", "uniform"]
Reverse = Literal["mixture", "of_mean"]
LOG2 = math.log(2)


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Categorical:
    """y_t shows y_0 with probability gamma_{c,t}, c the class of y_0; otherwise MASK, or a class at random.

    ignore: pixels of this true class do not count in the loss terms. reverse, of uniform transitions: p(y_s | y_t) is the
    mixture of the posteriors of all y_0, or, as in GCDP's released code, the posterior's formula with p(y_0) in y_0's place.
    """

    schedule: ClassSchedule
    transition: Transition = field(default="absorbing", metadata={"static": True})
    ignore: int | None = field(default=None, metadata={"static": True})
    reverse: Reverse = field(default="mixture", metadata={"static": True})

    def __post_init__(self):
        if self.reverse != "mixture" and self.transition == "absorbing":
            raise ValueError(
                f"reverse is {self.reverse!r}, which absorbing transitions do not have; choose mixture"
            )
        if self.transition == "uniform" and not self.schedule.shared:
            raise ValueError(
                "uniform transitions need one schedule for all classes: with a rate per class they are no closed family. "
                "Take class_schedules.linear or cosine, or absorbing transitions"
            )

    @property
    def num_steps(self) -> int:
        return self.schedule.num_steps

    @property
    def num_classes(self) -> int:
        return self.schedule.num_classes

    @property
    def mask_id(self) -> int:
        """The id of MASK, a state of absorbing processes alone."""
        return self.num_classes

    @property
    def num_states(self) -> int:
        return self.num_classes + (self.transition == "absorbing")


def at_pixels(values: PerClass, layout: Layout) -> Float[Array, "b h w"]:
    """values[b, class of the pixel]. Ids that are no class read the nearest one's: mask them afterwards."""
    flat = layout.reshape(layout.shape[0], -1)
    return jnp.take_along_axis(values, flat, axis=1, mode="clip").reshape(layout.shape)


def per_pixel(per_example: Float[Array, "b k"]) -> Float[Array, "b 1 1 k"]:
    return per_example[:, None, None, :]


def is_class(process: Categorical, layout: Layout) -> Shaped[Array, "b h w"]:
    return (layout >= 0) & (layout < process.num_classes)


def noise(process: Categorical, like: Layout, keys: Keys) -> tuple[Uniform, Layout]:
    """What `diffuse` needs of chance: a uniform number per pixel, and what shows where the class does not."""

    def one(key):
        keep_key, draw_key = jax.random.split(key)
        chance = jax.random.uniform(keep_key, like.shape[1:], jnp.result_type(float))
        if process.transition == "absorbing":
            return chance, jnp.full(like.shape[1:], process.mask_id, like.dtype)
        return chance, jax.random.randint(draw_key, like.shape[1:], 0, process.num_classes, like.dtype)

    return jax.vmap(one)(keys)


def sample_prior(process: Categorical, like: Layout, keys: Keys) -> Layout:
    """y_T: MASK everywhere, or classes at random."""
    _, drawn = noise(process, like, keys)
    return drawn


def q_sample(process: Categorical, y0: Layout, t: Times, keys: Keys) -> Layout:
    """y_t ~ q(y_t | y_0) (SCDM Sec. 4.1; GCDP Eq. 6). Ids that are no class (no label, MASK) stay what they are."""
    return diffuse(process, y0, t, *noise(process, y0, keys))


def diffuse(process: Categorical, y0: Layout, t: Times, chance: Uniform, otherwise: Layout) -> Layout:
    """y_t from its noise. With one noise kept through all t, a pixel that has changed stays changed as t grows."""
    kept = chance < at_pixels(process.schedule.keep(t), y0)
    return jnp.where(kept | ~is_class(process, y0), y0, otherwise)


def transition(process: Categorical, s: Times, t: Times) -> tuple[PerClass, PerClass]:
    """(a, 1 - a) of q(y_t | y_s): a class shown at s shows at t with probability a = gamma_t / gamma_s."""
    at_s = process.schedule.keep(s)
    # Where gamma_s is 0 (s = T) no pixel shows the class; such a step has to lead nowhere.
    change = jnp.where(at_s > 0, process.schedule.drop(s, t) / jnp.where(at_s > 0, at_s, 1.0), 0.0)
    stay = jnp.where(at_s > 0, process.schedule.keep(t) / jnp.where(at_s > 0, at_s, 1.0), 1.0)
    return stay, change


def q_step(process: Categorical, ys: Layout, s: Times, t: Times, keys: Keys) -> Layout:
    """y_t ~ q(y_t | y_s) for s <= t: noising an already noised layout further. MASK stays MASK."""
    stay, _ = transition(process, s, t)
    chance, otherwise = noise(process, ys, keys)
    kept = chance < at_pixels(stay, ys)
    return jnp.where(kept | ~is_class(process, ys), ys, otherwise)


def reveal(process: Categorical, s: Times, t: Times) -> tuple[PerClass, PerClass]:
    """(r, 1 - r): a pixel masked at t whose class is c shows it at s with r = (gamma_s - gamma_t) / (1 - gamma_t)."""
    start = jnp.zeros_like(t)
    masked = process.schedule.drop(start, t)
    safe = jnp.where(masked > 0, masked, 1.0)
    # Where class c is never masked by t, a pixel masked nevertheless is not of that class: any r does, and r = 1 ends it.
    r = jnp.where(masked > 0, process.schedule.drop(s, t) / safe, 1.0)
    return r, jnp.where(masked > 0, process.schedule.drop(start, s) / safe, 0.0)


def log_reverse(process: Categorical, yt: Layout, log_p0: Logits, s: Times, t: Times) -> LogProbs:
    """log p(y_s | y_t) = log sum over c of q(y_s | y_t, y_0 = c) p(c), for log p(c) in `log_p0` (but see `reverse`).

    Absorbing: each class has its own gamma inside the sum; a pixel that shows a class keeps it. States: K classes, then
    MASK where the process has one.
    """
    if process.transition == "absorbing":
        return _log_reveal(process, yt, log_p0, s, t)
    return _log_exchange(process, yt, log_p0, s, t)


def _log_reveal(process: Categorical, yt: Layout, log_p0: Logits, s: Times, t: Times) -> LogProbs:
    shown, hidden = (per_pixel(jnp.log(p)) for p in reveal(process, s, t))
    # Where no class can stay masked (always at s = 0) the sum is of nothing, and has no gradient.
    possible = (hidden > -jnp.inf).any(-1, keepdims=True)
    stays = jax.nn.logsumexp(log_p0 + jnp.where(possible, hidden, 0.0), axis=-1, keepdims=True)
    stays = jnp.where(possible, stays, -jnp.inf)
    masked = jnp.concatenate([log_p0 + shown, stays], axis=-1)
    carried = jnp.where(jax.nn.one_hot(yt, process.num_states, dtype=bool), 0.0, -jnp.inf)
    return jnp.where((yt == process.mask_id)[..., None], masked, carried)


def _log_exchange(process: Categorical, yt: Layout, log_p0: Logits, s: Times, t: Times) -> LogProbs:
    """With L(c) = q(y_t | y_s = c) and w(c) = p(c) / q(y_t | y_0 = c):  L(c) (gamma_s w(c) + (1 - gamma_s) mean w).

    The posterior's formula itself has w(c) = p(c), and is normalised afterwards.
    """
    start, k = jnp.zeros_like(t), process.num_classes
    here = jax.nn.one_hot(yt, k, dtype=bool)

    def log_likelihood(stay: PerClass, change: PerClass) -> Logits:
        drawn = per_pixel(jnp.log(change / k))
        return jnp.where(here, jnp.logaddexp(per_pixel(jnp.log(stay)), drawn), drawn)

    changed = process.schedule.drop(start, t)
    log_w = log_p0
    if process.reverse == "mixture":
        log_w = log_w - log_likelihood(process.schedule.keep(t), jnp.where(changed > 0, changed, 1.0))
    mean_w = jax.nn.logsumexp(log_w, axis=-1, keepdims=True) - math.log(k)
    at_s = per_pixel(jnp.log(process.schedule.keep(s))) + log_w
    mixed = per_pixel(jnp.log(process.schedule.drop(start, s))) + mean_w
    reversed_ = log_likelihood(*transition(process, s, t)) + jnp.logaddexp(at_s, mixed)
    if process.reverse == "of_mean":
        reversed_ = jax.nn.log_softmax(reversed_, axis=-1)
    return jnp.where(per_pixel(changed) > 0, reversed_, jnp.where(here, 0.0, -jnp.inf))


def q_posterior(process: Categorical, yt: Layout, y0: Layout, s: Times, t: Times) -> LogProbs:
    """log q(y_s | y_t, y_0) for any s < t."""
    certain = jnp.where(jax.nn.one_hot(y0, process.num_classes, dtype=bool), 0.0, -jnp.inf)
    return log_reverse(process, yt, certain, s, t)


def draw(log_probs: LogProbs, keys: Keys) -> Layout:
    """One state per pixel."""
    return jax.vmap(lambda key, values: jax.random.categorical(key, values))(keys, log_probs)


def p_step(process: Categorical, yt: Layout, logits: Logits, s: Times, t: Times, keys: Keys) -> Layout:
    """y_s ~ p(y_s | y_t) under the network's class probabilities, given as logits of y_0: drawing needs no normalising."""
    return draw(log_reverse(process, yt, logits, s, t), keys).astype(yt.dtype)


def mean_over_pixels(process: Categorical, values: Float[Array, "b h w"], y0: Layout) -> PerExample:
    """Over pixels whose true label counts; 0 where none does."""
    counted = is_class(process, y0)
    if process.ignore is not None:
        counted &= y0 != process.ignore
    total = jnp.where(counted, values, 0.0).sum((1, 2))
    return total / jnp.maximum(counted.sum((1, 2)), 1)


def categorical_kl(log_q: LogProbs, log_p: LogProbs) -> Float[Array, "b h w"]:
    """KL(q || p) in nats per pixel; a state that q does not have costs nothing."""
    possible = log_q > -jnp.inf
    gap = jnp.where(possible, log_q, 0.0) - jnp.where(possible, log_p, 0.0)
    return (jnp.where(possible, jnp.exp(log_q), 0.0) * gap).sum(-1)


def vlb_term(process: Categorical, logits: Logits, yt: Layout, y0: Layout, s: Times, t: Times) -> PerExample:
    """KL( q(y_s | y_t, y_0) || p(y_s | y_t) ) in bits per pixel. At s = 0 it is the NLL of y_0: q is certain there."""
    log_p0 = jax.nn.log_softmax(logits, axis=-1)
    kl = categorical_kl(q_posterior(process, yt, y0, s, t), log_reverse(process, yt, log_p0, s, t))
    return mean_over_pixels(process, kl, y0) / LOG2


def prior_term(process: Categorical, y0: Layout) -> PerExample:
    """KL( q(y_T | y_0) || prior ) in bits per pixel: the part of the bound that no training changes.

    Infinite for an absorbing process that leaves something unmasked at T: its prior never shows a class.
    """
    t = jnp.full(y0.shape[:1], process.num_steps)
    stay, change = (at_pixels(p, y0) for p in (process.schedule.keep(t), process.schedule.drop(0 * t, t)))
    if process.transition == "absorbing":
        kl = jnp.where(stay > 0, jnp.inf, 0.0)
    else:
        k = process.num_classes
        same = stay + change / k
        kl = jax.scipy.special.xlogy(same, k * same) + (k - 1) * jax.scipy.special.xlogy(change / k, change)
    return mean_over_pixels(process, kl, y0) / LOG2
