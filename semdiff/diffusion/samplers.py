"""Reverse chains. A sampler is one step t -> s; `chain` is the only loop, over any descending times; `segment` a part of it.

A sampler is a frozen dataclass with
    init(x)                                                  -> memory
    step(process, memory, x_t, prediction, s, t, keys)       -> (x_s, memory)
Those of one prediction are here, those that remember several in `solvers`.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Shaped

from semdiff.diffusion import gaussian, schedules
from semdiff.diffusion.gaussian import Gaussian, Image, Keys, Prediction, Times, bcast
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


SAMPLERS = {
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

DenoiseFn = Callable[[Image, Shaped[Array, ""], Keys], Prediction]


def fold_in(keys: Keys, data) -> Keys:
    """A new key per example."""
    return jax.vmap(lambda key: jax.random.fold_in(key, data))(keys)


def _at_time(keys: Keys, t: Shaped[Array, ""]) -> Keys:
    """The keys of time t. Of a real time all bits count: `fold_in` would cut it to an integer."""
    if jnp.issubdtype(t.dtype, jnp.floating):
        t = jax.lax.bitcast_convert_type(t.astype(jnp.float32), jnp.uint32)
    return fold_in(keys, t)


def _check_times(times: np.ndarray, process: Gaussian) -> None:
    ordered = times.ndim == 1 and len(times) > 1 and (np.diff(times) < 0).all()
    if not (ordered and times[-1] >= 0 and times[0] <= process.num_steps):
        raise ValueError(
            f"sampling times must descend, from at most {process.num_steps} to no less than 0, got {times.tolist()}"
        )
    if not (process.schedule.continuous or np.issubdtype(times.dtype, np.integer)):
        raise ValueError(
            f"this schedule knows integer times only, got {times.dtype} {times.tolist()}: round them, "
            "or use a schedule of log SNR"
        )


Clamp = Callable[[Image, Times, Keys], Image]


def chain(
    denoise_fn: DenoiseFn,
    process: Gaussian,
    sampler: Sampler | Corrected,
    times: np.ndarray,
    x_start: Image,
    keys: Keys,
    *,
    clamp: Clamp | None = None,
    resample: int = 1,
) -> Image:
    """From x at times[0] to x at times[-1] (0: data).

    denoise_fn(x_t, t, keys) -> Prediction, with one t for the whole batch. clamp(x_s, s, keys) overwrites what is known
    after each step; with resample > 1 each step is re-noised and repeated so that the free part can agree with the
    clamped part (RePaint, 2201.09865).
    """
    return _scan(denoise_fn, process, sampler, times, x_start, keys, clamp, resample, seen=False)[0]


def segment(
    denoise_fn: DenoiseFn,
    process: Gaussian,
    sampler: Sampler | Corrected,
    times: np.ndarray | Shaped[Array, " n"],
    carry,
    keys: Keys,
    first,
    last,
    *,
    clamp: Clamp | None = None,
    resample: int = 1,
):
    """Steps first .. last - 1 of `chain`: (x, memory) at times[first] -> (x, memory) at times[last].

    A chain begins with (x_start, sampler.init(x_start)). first, last and, as an array of jax, times may be known only when
    the program runs, so that one program, called again and again, is the chain, or any chain. Such times are not checked.
    """
    one_step = _one_step(denoise_fn, process, sampler, times, keys, clamp, resample)
    return jax.lax.fori_loop(first, last, lambda i, carry: one_step(carry, i)[0], carry)


def trajectory(
    denoise_fn: DenoiseFn,
    process: Gaussian,
    sampler: Sampler | Corrected,
    times: np.ndarray,
    x_start: Image,
    keys: Keys,
) -> tuple[Image, Float[Array, "n b h w c"], Prediction]:
    """What `chain` goes through: (x at times[-1], x at the times before, what was predicted there)."""
    x, (states, predictions) = _scan(denoise_fn, process, sampler, times, x_start, keys, None, 1, seen=True)
    return x, states, predictions


def _scan(denoise_fn, process, sampler, times, x_start, keys, clamp, resample, seen):
    one_step = _one_step(denoise_fn, process, sampler, times, keys, clamp, resample)

    def pass_by(carry, i):
        carry, passed = one_step(carry, i)
        return carry, passed if seen else None

    (x, _), passed = jax.lax.scan(pass_by, (x_start, sampler.init(x_start)), jnp.arange(len(times) - 1))
    return x, passed


def _one_step(denoise_fn, process, sampler, times, keys, clamp, resample):
    """(x, memory) at t = times[i], i -> (those at times[i + 1], (x, prediction) at t or, after several attempts, None)."""
    if not isinstance(times, jax.Array):
        _check_times(np.asarray(times), process)
    at = jnp.asarray(times)

    def one_step(carry, i):
        x, memory = carry  # every attempt at a step starts from the memory of the step before
        t, s = at[i], at[i + 1]
        t_b, s_b = jnp.full(x.shape[:1], t), jnp.full(x.shape[:1], s)

        def attempt(repeat, inner):
            x, _ = inner
            step_keys = fold_in(_at_time(keys, t), repeat)
            prediction = denoise_fn(x, t, fold_in(step_keys, 0))
            x_s, new_memory = sampler.step(process, memory, x, prediction, s_b, t_b, fold_in(step_keys, 1))
            if clamp is not None:
                x_s = clamp(x_s, s_b, fold_in(step_keys, 2))
            if resample > 1:
                renoised = gaussian.q_step(process, x_s, s_b, t_b, fold_in(step_keys, 3))
                x_s = jnp.where(repeat + 1 < resample, renoised, x_s)
            return (x_s, new_memory), (x, prediction)

        if resample == 1:
            return attempt(0, (x, memory))
        return jax.lax.fori_loop(0, resample, lambda *args: attempt(*args)[0], (x, memory)), None

    return one_step
