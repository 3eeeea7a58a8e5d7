"""Reverse chains. A sampler is one step t -> s; `chain` is the only loop, over any descending times; `segment` a part of it.

A sampler of images is a frozen dataclass with
    init(x)                                                  -> memory
    step(process, memory, x_t, prediction, s, t, keys)       -> (x_s, memory)
Those of one prediction are here, those that remember several in `solvers`. `Joint` is one for both halves of a state, and
what a chain is made of.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Shaped

from semdiff.diffusion import categorical, gaussian, joint, schedules
from semdiff.diffusion.categorical import Categorical, Layout, Logits
from semdiff.diffusion.gaussian import Gaussian, Image, Keys, Prediction, Times, bcast
from semdiff.diffusion.joint import ByHalf, State, present
from semdiff.diffusion.solvers import DEIS, IPNDM, DPMSolver2M, DPMSolver3M, UniPC


@dataclass(frozen=True)
class Ancestral:
    """DDPM: x_s ~ p(x_s | x_t) with the process's own variance, on any subset of the steps (DDPM Alg. 2)."""

    def init(self, x: Image):
        return ()

    def step(self, process: Gaussian, memory, xt, prediction: Prediction, s: Times, t: Times, keys: Keys):
        return gaussian.p_step(process, xt, prediction, s, t, keys), memory


@dataclass(frozen=True)
class DDIM:
    """DDIM Eq. 12; eta = 0 is deterministic, eta = 1 has the posterior's variance."""

    eta: float = 0.0

    def init(self, x: Image):
        return ()

    def step(self, process: Gaussian, memory, xt, prediction: Prediction, s: Times, t: Times, keys: Keys):
        _, _, posterior = gaussian.posterior_coefficients(process, s, t)
        noise = self.eta**2 * posterior
        kept = jnp.sqrt(jnp.maximum(schedules.variance(process.schedule, s) - noise, 0.0))
        mean = bcast(schedules.alpha(process.schedule, s)) * prediction.x0 + bcast(kept) * prediction.eps
        if self.eta:
            mean = mean + bcast(jnp.sqrt(noise)) * gaussian.normal(keys, xt)
        return mean, memory


Sampler = Ancestral | DDIM | DPMSolver2M | DPMSolver3M | UniPC | IPNDM | DEIS
Threshold = Callable[[Image], Image]


@dataclass(frozen=True)
class Corrected:
    """A sampler that is given a corrected x_0: extrapolated, then thresholded; its noise follows.

    extrapolation: x_0 + k (x_0 - what came out of this at the step before), as the released code of SCDM has it: what is
    remembered is extrapolated, but not thresholded.
    """

    sampler: Sampler
    extrapolation: float = 0.0
    threshold: Threshold | None = None

    def init(self, x: Image):
        return self.sampler.init(x), x, jnp.zeros((), bool)  # last x_0, and whether there was one

    def step(self, process: Gaussian, memory, xt, prediction: Prediction, s: Times, t: Times, keys: Keys):
        inner, last, is_later = memory
        x0 = prediction.x0
        if self.extrapolation:
            x0 = last = jnp.where(is_later, x0 + self.extrapolation * (x0 - last), x0)
        if self.threshold is not None:
            x0 = self.threshold(x0)
        if x0 is not prediction.x0:
            prediction = gaussian.with_x0(process, prediction, x0, xt, t)
        x, inner = self.sampler.step(process, inner, xt, prediction, s, t, keys)
        return x, (inner, last, jnp.ones((), bool))


SAMPLERS: dict[str, Callable[..., Sampler]] = {
    "ancestral": Ancestral,
    "ddim": DDIM,
    "dpmpp_2m": DPMSolver2M,
    "dpmpp_3m": DPMSolver3M,
    "unipc": UniPC,
    "ipndm": IPNDM,
    "ipndm_v": partial(DEIS, clock="rho"),
    "deis": DEIS,
}
ORDERS = {
    "dpmpp_3m": DPMSolver3M.orders,
    "unipc": UniPC.orders,
    "ipndm": IPNDM.orders,
    "ipndm_v": DEIS.orders,
    "deis": DEIS.orders,
}


@dataclass(frozen=True)
class LayoutStep:
    """y_s ~ p(y_s | y_t). last: into the data a draw, as everywhere, or the likeliest class (argmax)."""

    last: Literal["argmax", "draw"] = "argmax"

    def step(
        self, process: Categorical, yt: Layout, logits: Logits, s: Times, t: Times, keys: Keys
    ) -> Layout:
        drawn = categorical.p_step(process, yt, logits, s, t, keys)
        if self.last == "draw":
            return drawn
        likeliest = categorical.log_reverse(process, yt, logits, s, t).argmax(-1).astype(yt.dtype)
        return jnp.where((s == 0)[:, None, None], likeliest, drawn)


@dataclass(frozen=True)
class Joint:
    """A step of both halves: each by its own sampler; a half without a process stays as it is."""

    image: Sampler | Corrected | None = None
    layout: LayoutStep = LayoutStep()

    def init(self, state: State):
        return () if state.image is None or self.image is None else self.image.init(state.image)

    def step(
        self,
        process: joint.Process,
        memory,
        state: State,
        prediction: joint.Prediction,
        s: joint.Times,
        t: joint.Times,
        keys: Keys,
    ):
        to, at = joint.by_half(s), joint.by_half(t)
        image, layout = state.image, state.layout
        if process.image is not None:
            assert self.image is not None, "an image that is noised needs a sampler"
            image, memory = self.image.step(
                process.image, memory, present(image), present(prediction.image), to.image, at.image, keys
            )
        if process.layout is not None:
            layout = self.layout.step(
                process.layout,
                present(layout),
                present(prediction.layout),
                to.layout,
                at.layout,
                joint.layout_keys(keys),
            )
        return State(image, layout), memory


Time = Shaped[Array, ""] | ByHalf  # of a whole batch
DenoiseFn = Callable[[State, Time, Keys], joint.Prediction]


def fold_in(keys: Keys, data) -> Keys:
    """A new key per example."""
    return jax.vmap(lambda key: jax.random.fold_in(key, data))(keys)


def _at_time(keys: Keys, t: Shaped[Array, ""]) -> Keys:
    """The keys of time t. Of a real time all bits count: `fold_in` would cut it to an integer."""
    if jnp.issubdtype(t.dtype, jnp.floating):
        t = jax.lax.bitcast_convert_type(t.astype(jnp.float32), jnp.uint32)
    return fold_in(keys, t)


def _check_times(times: np.ndarray, half: Gaussian | Categorical) -> None:
    ordered = times.ndim == 1 and len(times) > 1 and (np.diff(times) < 0).all()
    if not (ordered and times[-1] >= 0 and times[0] <= half.num_steps):
        raise ValueError(
            f"sampling times must descend, from at most {half.num_steps} to no less than 0, got {times.tolist()}"
        )
    if not (half.schedule.continuous or np.issubdtype(times.dtype, np.integer)):
        raise ValueError(
            f"this schedule knows integer times only, got {times.dtype} {times.tolist()}: round them, "
            "or use a schedule of log SNR"
        )


ChainTimes = np.ndarray | Shaped[Array, " n"] | ByHalf
Clamp = Callable[[State, joint.Times, Keys], State]


def chain(
    denoise_fn: DenoiseFn,
    process: joint.Process,
    sampler: Joint,
    times: ChainTimes,
    start: State,
    keys: Keys,
    *,
    clamp: Clamp | None = None,
    resample: int = 1,
) -> State:
    """From the state at times[0] to that at times[-1] (0: data). times: for both halves, or `ByHalf`, as many of each.

    denoise_fn(state, t, keys) -> Prediction, with one t for the whole batch. clamp(state, s, keys) overwrites what is known
    after each step; with resample > 1 each step is re-noised and repeated so that the free part can agree with the
    clamped part (RePaint, 2201.09865; GCDP Sec. 3.3).
    """
    return _scan(denoise_fn, process, sampler, times, start, keys, clamp, resample, seen=False)[0]


def segment(
    denoise_fn: DenoiseFn,
    process: joint.Process,
    sampler: Joint,
    times: ChainTimes,
    carry,
    keys: Keys,
    first,
    last,
    *,
    clamp: Clamp | None = None,
    resample: int = 1,
):
    """Steps first .. last - 1 of `chain`: (state, memory) at times[first] -> (state, memory) at times[last].

    A chain begins with (start, sampler.init(start)). first, last and, as an array of jax, times may be known only when the
    program runs, so that one program, called again and again, is the chain, or any chain. Such times are not checked.
    """
    one_step = _one_step(denoise_fn, process, sampler, times, keys, clamp, resample)
    return jax.lax.fori_loop(first, last, lambda i, carry: one_step(carry, i)[0], carry)


def trajectory(
    denoise_fn: DenoiseFn,
    process: joint.Process,
    sampler: Joint,
    times: ChainTimes,
    start: State,
    keys: Keys,
) -> tuple[State, State, joint.Prediction]:
    """What `chain` goes through: (the state at times[-1], the states before, what was predicted there), stacked."""
    end, (states, predictions) = _scan(denoise_fn, process, sampler, times, start, keys, None, 1, seen=True)
    return end, states, predictions


ImageDenoiseFn = Callable[[Image, Shaped[Array, ""], Keys], Prediction]


def of_images(
    denoise_fn: ImageDenoiseFn, process: Gaussian, sampler: Sampler | Corrected
) -> tuple[DenoiseFn, joint.Process, Joint]:
    """What a chain of images alone is made of."""

    def denoise(state: State, t: Time, keys: Keys) -> joint.Prediction:
        return joint.Prediction(denoise_fn(present(state.image), joint.by_half(t).image, keys))

    return denoise, joint.Process(process), Joint(sampler)


def image_chain(
    denoise_fn: ImageDenoiseFn,
    process: Gaussian,
    sampler: Sampler | Corrected,
    times: np.ndarray,
    x_start: Image,
    keys: Keys,
    *,
    clamp: Callable[[Image, Times, Keys], Image] | None = None,
    resample: int = 1,
) -> Image:
    """`chain` of images alone."""
    clamped = None if clamp is None else lambda state, s, keys: State(clamp(state.image, s, keys))
    parts = of_images(denoise_fn, process, sampler)
    return present(chain(*parts, times, State(x_start), keys, clamp=clamped, resample=resample).image)


def _scan(denoise_fn, process, sampler, times, start, keys, clamp, resample, seen):
    one_step = _one_step(denoise_fn, process, sampler, times, keys, clamp, resample)

    def pass_by(carry, i):
        carry, passed = one_step(carry, i)
        return carry, passed if seen else None

    steps = jnp.arange(len(jax.tree.leaves(times)[0]) - 1)
    (end, _), passed = jax.lax.scan(pass_by, (start, sampler.init(start)), steps)
    return end, passed


def _one_step(denoise_fn, process: joint.Process, sampler: Joint, times, keys, clamp, resample):
    """(state, memory) at t = times[i], i -> (those at times[i + 1], (state, prediction) at t or, after several attempts,
    None)."""
    if not any(isinstance(a, jax.Array) for a in jax.tree.leaves(times)):
        of = joint.by_half(times)
        for half, its in ((process.image, of.image), (process.layout, of.layout)):
            if half is not None:
                _check_times(np.asarray(its), half)
    at = jax.tree.map(jnp.asarray, times)

    def one_step(carry, i):
        state, memory = carry  # every attempt at a step starts from the memory of the step before
        t, s = jax.tree.map(lambda a: a[i], at), jax.tree.map(lambda a: a[i + 1], at)
        t_b, s_b = (jax.tree.map(lambda a: jnp.full((state.batch,), a), each) for each in (t, s))
        clock = joint.by_half(t).layout if process.image is None else joint.by_half(t).image

        def attempt(repeat, inner):
            state, _ = inner
            step_keys = fold_in(_at_time(keys, clock), repeat)
            prediction = denoise_fn(state, t, fold_in(step_keys, 0))
            new, new_memory = sampler.step(
                process, memory, state, prediction, s_b, t_b, fold_in(step_keys, 1)
            )
            if clamp is not None:
                new = clamp(new, s_b, fold_in(step_keys, 2))
            if resample > 1:
                renoised = joint.q_step(process, new, s_b, t_b, fold_in(step_keys, 3))
                new = jax.tree.map(lambda a, b: jnp.where(repeat + 1 < resample, a, b), renoised, new)
            return (new, new_memory), (state, prediction)

        if resample == 1:
            return attempt(0, (state, memory))
        return jax.lax.fori_loop(0, resample, lambda *args: attempt(*args)[0], (state, memory)), None

    return one_step
