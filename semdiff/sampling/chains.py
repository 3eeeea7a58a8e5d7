"""From the settings of sampling to one pure chain: a sampler, its times, a program that generates a batch."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from semdiff.config import ConfigError, Sample
from semdiff.diffusion import guidance, joint, samplers, schedules
from semdiff.diffusion.joint import ByHalf, State
from semdiff.methods.method import START, Method

# Chains of more steps than this are run so many steps at a time, and tell how far they are. A program that would call back
# itself could not be kept in the compilation cache.
LONG_CHAIN = 100
SEGMENT = 50


def build_sampler(c: Sample) -> samplers.Sampler:
    """The sampler by its name, with what it alone can be told."""
    if c.eta and c.sampler != "ddim":
        raise ConfigError(
            f"config.sample.eta is {c.eta}, but only the ddim sampler has an eta, not {c.sampler}"
        )
    if c.order and c.sampler not in samplers.ORDERS:
        raise ConfigError(
            f"config.sample.order is {c.order}, but the {c.sampler} sampler has no choice of order; leave it at 0, or "
            f"choose one of {', '.join(samplers.ORDERS)}"
        )
    if c.order and c.order not in samplers.ORDERS[c.sampler]:
        raise ConfigError(
            f"config.sample.order is {c.order}; {c.sampler} has {', '.join(map(str, samplers.ORDERS[c.sampler]))}, or 0: "
            "its own"
        )
    settings = {"eta": c.eta} if c.sampler == "ddim" else {"order": c.order} if c.order else {}
    return samplers.SAMPLERS[c.sampler](**settings)


def build_times(schedule: schedules.Schedule, c: Sample) -> np.ndarray:
    """The times of the chain: as listed, else as many steps so spaced."""
    if not 0 < c.start <= 1:
        raise ConfigError(f"config.sample.start is {c.start}; it is a share of T, above 0 and at most 1")
    if c.times:
        if c.start != 1:
            raise ConfigError(
                f"config.sample.start is {c.start}, but the times are given one by one (config.sample.times, or "
                "spacing=tuned), from T on: leave one of them out"
            )
        return schedules.given_times(schedule, c.times)
    if c.spacing == "tuned":
        raise ConfigError(
            "config.sample.spacing is tuned, but no times were tuned for these weights: --mode=tune_times does it"
        )
    start = max(1, round(c.start * schedule.num_steps))
    return schedules.spaced_times(schedule, c.steps, c.spacing, start)


@dataclass(frozen=True)
class Chain:
    """A method's chain as `c` wants it, in parts that are compiled as one or apart."""

    method: Method
    c: Sample
    sampler: samplers.Joint

    @classmethod
    def build(cls, method: Method, c: Sample) -> "Chain":
        if c.threshold != "none" and not method.space.bounded:
            raise ConfigError(
                f"config.sample.threshold is {c.threshold}, which holds images in [-1, 1], but those of this method live "
                "in a space without such bounds: set it to none"
            )
        if c.layout_noise == "coherent" and not method.given.changes:
            raise ConfigError(
                "config.sample.layout_noise is coherent, but config.layout.transition is none: layouts are not noised"
            )
        return cls(method, c, samplers.Joint(build_corrected(c), samplers.LayoutStep(c.layout_last)))

    @property
    def process(self) -> joint.Process:
        return self.method.process

    def start(self, params, condition, keys, top, size: tuple[int, int], known=None, free=None):
        """(state, the sampler's memory) at `top`, the first time."""
        like = self.method.like(len(keys), size)
        whole = self.whole(known, free)
        if whole != joint.NEITHER:
            held = self.method.encode(params, known.image, known.layout)
            like = State(
                held.image if whole.image else like.image, held.layout if whole.layout else like.layout
            )
        process = joint.without(self.process, whole)
        tables = params.get(START, {})
        layout = self.method.given.layout(condition)
        state = self.method.start.draw(tables, process, like, layout, samplers.fold_in(keys, 0), top)
        return state, self.sampler.init(state)

    def whole(self, known: ByHalf | None, free: ByHalf | None) -> ByHalf:
        """Which half is known with nothing of it free: a network with two clocks is shown it as it is."""
        if known is None or not self.method.network.two_clocks:
            return joint.NEITHER
        free = free or ByHalf()
        return ByHalf(
            known.image is not None and free.image is None, known.layout is not None and free.layout is None
        )

    def advance(
        self,
        params,
        condition,
        keys,
        carry,
        times,
        first,
        last,
        *,
        known: ByHalf | None = None,
        free: ByHalf | None = None,
        weight=None,
        resample=1,
    ):
        """Steps first .. last - 1 over the times. What of `known`, 8-bit pixels and ids, is not `free` is held there."""
        clamp, whole = None, self.whole(known, free)
        process = joint.without(self.process, whole)
        partly = ByHalf() if known is None else known
        partly = ByHalf(None if whole.image else partly.image, None if whole.layout else partly.layout)
        if jax.tree.leaves(partly):
            held, loose = (
                self.method.encode(params, partly.image, partly.layout),
                self._loose(free or ByHalf()),
            )

            def clamp(state, s, step_keys):
                noised = joint.q_sample(self._known_process(held), held, s, step_keys)
                return State(*kept_where(loose, state, noised))

        if whole != joint.NEITHER:
            zero = jnp.zeros_like(times)
            times = ByHalf(zero if whole.image else times, zero if whole.layout else times)
        chain = (process, self.sampler, times, carry, samplers.fold_in(keys, 1), first, last)
        denoise_fn = self.denoise_fn(params, condition, keys, weight, whole)
        return samplers.segment(denoise_fn, *chain, clamp=clamp, resample=resample)

    def _loose(self, free: ByHalf) -> ByHalf:
        """Where the state is free, from where pixels are."""
        image = None if free.image is None else self.method.space.mask(free.image)
        return ByHalf(image, free.layout)

    def _known_process(self, held: State) -> joint.Process:
        """What noises the halves that are known."""
        return joint.Process(
            None if held.image is None else self.process.image,
            None if held.layout is None else self.process.layout,
        )

    def finish(self, params, state: State, known: ByHalf | None, free: ByHalf | None) -> ByHalf:
        """8-bit pixels and ids; what was known is as it was."""
        made = self.method.decode(params, state)
        if known is None:
            return made
        free = free or ByHalf()
        masks = ByHalf(
            False if free.image is None else free.image[..., None],
            False if free.layout is None else free.layout,
        )
        return ByHalf(*kept_where(masks, made, known))

    def denoise_fn(
        self, params, condition, keys, weight=None, known: ByHalf = joint.NEITHER
    ) -> samplers.DenoiseFn:
        c = self.c
        guide = guidance.Guidance(
            c.guidance if weight is None else weight,
            c.guidance_channels,
            c.guidance_interval,
            None if c.layout_guidance < 0 else c.layout_guidance,
        )
        kept_keys = samplers.fold_in(keys, 2) if c.layout_noise == "coherent" else None
        return self.method.denoise_fn(params, condition, guide, kept_keys, c.cache_condition, known)


def kept_where(free: ByHalf, made: State | ByHalf, known: State | ByHalf) -> tuple:
    """By halves: what was made where it is free, what is known elsewhere; a half of which nothing is known is all free."""
    image: Any = made.image
    layout: Any = made.layout
    if known.image is not None:
        image = jnp.where(free.image, image, known.image)
    if known.layout is not None:
        layout = jnp.where(free.layout, layout, known.layout)
    return image, layout


def build_generate(method: Method, c: Sample, progress: Callable[[int], None] | None = None) -> Callable:
    """generate(params, condition, keys, size, known=None, free=None, weight=None, resample=1) -> ByHalf: 8-bit pixels
    [B, H, W, 3] and class ids [B, H, W], for a method that makes them; compiled once a shape.

    known: pixels and ids to be held through the chain outside `free`, [B, H, W] of each half. weight: of guidance, as
    an argument of the program, in place of the one in `c`. A long chain is run in segments, with progress(steps done) after
    each; the images are the same.
    """
    chain, times = Chain.build(method, c), build_times(method.image.schedule, c)
    total = len(times) - 1

    def advance(params, condition, keys, carry, first, last, given, resample):
        return chain.advance(params, condition, keys, carry, times, first, last, **given, resample=resample)

    def generate(params, condition, keys, size, known=None, free=None, weight=None, resample=1):
        given = {"known": known, "free": free, "weight": weight}
        carry = chain.start(params, condition, keys, times[0], size, known, free)
        state, _ = advance(params, condition, keys, carry, 0, total, given, resample)
        return chain.finish(params, state, known, free)

    begin, go_on = jax.jit(chain.start, static_argnames="size"), jax.jit(advance, static_argnames="resample")
    finish = jax.jit(chain.finish)

    def in_segments(params, condition, keys, size, known=None, free=None, weight=None, resample=1):
        given = {"known": known, "free": free, "weight": weight}
        carry = begin(params, condition, keys, times[0], size, known, free)
        places = jax.tree.map(lambda a: a.sharding, carry)  # at other ones it would be another program
        for first in range(0, total, SEGMENT):
            last, carry = min(first + SEGMENT, total), jax.device_put(carry, places)
            carry = go_on(params, condition, keys, carry, first, last, given, resample=resample)
            if progress is not None:
                jax.block_until_ready(carry)
                progress(last)
        return finish(params, carry[0], known, free)

    if total > LONG_CHAIN:
        return in_segments
    return jax.jit(generate, static_argnames=("size", "resample"))


def build_corrected(c: Sample) -> samplers.Corrected:
    quantile = c.quantile if c.threshold == "dynamic" else None
    thresholds = {
        "none": None,
        "static": guidance.threshold,
        "dynamic": lambda x: guidance.threshold(x, quantile),
    }
    return samplers.Corrected(build_sampler(c), c.extrapolation, thresholds[c.threshold])


def num_steps(c: Sample) -> int:
    return len(c.times) or c.steps


def passes(method: Method, c: Sample) -> int:
    """How often the network is asked for an image: at each step, and again where guidance asks for the null condition."""
    layout = None if c.layout_guidance < 0 else c.layout_guidance
    guide = guidance.Guidance(c.guidance, c.guidance_channels, c.guidance_interval, layout)
    times = build_times(method.image.schedule, c)[:-1]
    if not guide.needs_null:
        return len(times)
    return len(times) + sum(bool(guide.active(jnp.asarray(t), method.process.num_steps)) for t in times)
