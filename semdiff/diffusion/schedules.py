"""Noise schedules: how much of the data is left at time t.

Time runs over 0..T for every schedule: t = 0 is data, t = T is the prior, abar_0 = 1. A schedule answers one question,
`log_abar(t)`; everything else is derived from it with expm1, so it holds at both ends. A `Table` knows integer times, a
`LogSNR` is a formula and takes any real t in [0, T].
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Shaped

Time = Shaped[Array, "*t"]
Level = Float[Array, "*t"]

register = jax.tree_util.register_dataclass


@register
@dataclass(frozen=True)
class Table:
    """A discrete schedule: log abar_t for t = 0..T."""

    log_abar_table: Float[Array, "steps_and_zero"]

    @property
    def num_steps(self) -> int:
        return self.log_abar_table.shape[0] - 1

    continuous = False

    def log_abar(self, t: Time) -> Level:
        return self.log_abar_table[t]


@register
@dataclass(frozen=True)
class LogSNR:
    """A schedule given by its log signal-to-noise ratio as a decreasing function of u = t / T."""

    num_steps: int = field(metadata={"static": True})
    log_snr_of_u: Callable[[Level], Level] = field(metadata={"static": True})

    continuous = True

    def log_abar(self, t: Time) -> Level:
        u = jnp.asarray(t, jnp.result_type(float)) / self.num_steps
        value = jax.nn.log_sigmoid(self.log_snr_of_u(jnp.where(u > 0, u, 0.5)))
        return jnp.where(u > 0, value, 0.0)


Schedule = Table | LogSNR


def table_from_betas(betas: np.ndarray) -> Table:
    """abar_t = prod_{i<=t} (1 - beta_i), accumulated in float64 logarithms."""
    betas = np.asarray(betas, np.float64)
    if not ((betas > 0) & (betas < 1)).all():
        raise ValueError(
            f"the betas of a noise schedule must lie between 0 and 1, got {betas.min():g} to {betas.max():g} "
            f"over {len(betas)} steps: take more steps, or smaller betas"
        )
    log_abar = np.concatenate([[0.0], np.cumsum(np.log1p(-betas))])
    return Table(jnp.asarray(log_abar, jnp.result_type(float)))


def linear(num_steps: int = 1000, first: float = 1e-4, last: float = 0.02) -> Table:
    """beta from `first` to `last`, evenly (DDPM Sec. 4). The ends are given for T = 1000 and scale with 1000 / T."""
    scale = 1000 / num_steps
    return table_from_betas(np.linspace(scale * first, scale * last, num_steps))


def scaled_linear(num_steps: int = 1000, first: float = 0.00085, last: float = 0.012) -> Table:
    """sqrt(beta) evenly spaced: the schedule of latent diffusion."""
    scale = 1000 / num_steps
    ends = math.sqrt(scale * first), math.sqrt(scale * last)
    return table_from_betas(np.linspace(*ends, num_steps) ** 2)


def cosine(num_steps: int = 1000, offset: float = 0.008, max_beta: float = 0.999) -> Table:
    """abar_t = f(t) / f(0), f(t) = cos^2((t/T + offset) / (1 + offset) pi / 2) (Improved DDPM, Eq. 17), beta <= max_beta."""
    u = np.arange(num_steps + 1, dtype=np.float64) / num_steps
    f = np.cos((u + offset) / (1 + offset) * np.pi / 2) ** 2
    return table_from_betas(np.minimum(1 - f[1:] / f[:-1], max_beta))


def _cosine_log_snr(u, limit):
    # -log(cos^-2 - 1) = -2 log tan(pi u / 2), kept inside +-limit, where float32 still tells abar from 0 and 1.
    end = 2 / math.pi * math.atan(math.exp(-limit / 2))
    return -2 * jnp.log(jnp.tan(jnp.pi / 2 * (end + u * (1 - 2 * end))))


def _linear_log_snr(u):
    return -jnp.log(jnp.expm1(1e-4 + 10 * u**2))


def cosine_log_snr(num_steps: int = 1000, limit: float = 15.0) -> LogSNR:
    """Continuous cosine: log SNR = -log(cos(pi u / 2)^-2 - 1), from +limit to -limit."""
    return LogSNR(num_steps, partial(_cosine_log_snr, limit=limit))


def linear_log_snr(num_steps: int = 1000) -> LogSNR:
    """Continuous limit of the linear beta schedule: log SNR = -log expm1(1e-4 + 10 u^2)."""
    return LogSNR(num_steps, _linear_log_snr)


SCHEDULES: dict[str, Callable[[int], Schedule]] = {
    "linear": linear,
    "scaled_linear": scaled_linear,
    "cosine": cosine,
    "cosine_log_snr": cosine_log_snr,
    "linear_log_snr": linear_log_snr,
}


def alpha(schedule: Schedule, t: Time) -> Level:
    """sqrt(abar_t), the share of the data in x_t."""
    return jnp.exp(schedule.log_abar(t) / 2)


def variance(schedule: Schedule, t: Time) -> Level:
    """1 - abar_t, the variance of the noise in x_t."""
    return -jnp.expm1(schedule.log_abar(t))


def sigma(schedule: Schedule, t: Time) -> Level:
    """sqrt(1 - abar_t)."""
    return jnp.sqrt(variance(schedule, t))


def log_snr(schedule: Schedule, t: Time) -> Level:
    """log abar_t / (1 - abar_t); +inf at t = 0."""
    return schedule.log_abar(t) - jnp.log(variance(schedule, t))


def snr(schedule: Schedule, t: Time) -> Level:
    return jnp.exp(log_snr(schedule, t))


def rho(schedule: Schedule, t: Time) -> Level:
    """sigma_t / alpha_t, the noise in x_t / alpha_t; 0 at t = 0."""
    return jnp.sqrt(jnp.expm1(-schedule.log_abar(t)))


def rho_between(schedule: Schedule, t: Level) -> Level:
    """rho at real times. Between the times of a table its log abar is a straight line: beta is constant within a step."""
    if schedule.continuous:
        return rho(schedule, t)
    below = jnp.clip(jnp.floor(t).astype(jnp.int32), 0, schedule.num_steps - 1)
    low, high = schedule.log_abar(below), schedule.log_abar(below + 1)
    return jnp.sqrt(jnp.expm1(-low - (t - below) * (high - low)))


def transition(schedule: Schedule, s: Time, t: Time) -> tuple[Level, Level]:
    """q(x_t | x_s) = N(a x_s, v I) for s <= t: returns (a, v)."""
    log_ratio = schedule.log_abar(t) - schedule.log_abar(s)
    return jnp.exp(log_ratio / 2), -jnp.expm1(log_ratio)


SPACINGS = ("even", "stride", "trailing", "quadratic", "chebyshev", "log_snr", "karras")


def spaced_times(
    schedule: Schedule | int, count: int, spacing: str = "even", start: int | None = None
) -> np.ndarray:
    """`count` + 1 descending times from `start` (default T) to 0, of a schedule; but for the last two, of its T.

    even:     ends at 1, then 0; the first step is always `start`. The released codes' respacing to the step: they
              round i = t - 1, halves to even, of a running sum.
    stride:   a fixed stride, counted from 1 (DDIM's spacing): the top is below T, by less than a stride.
    trailing: a fixed stride counted from the top.
    quadratic: dense near the data.
    chebyshev: dense at both ends, at Chebyshev's points T (1 + cos(pi i / n)) / 2: near where fitted times come to lie.
    log_snr:  even in log SNR, down to time 1, then 0 (DPM-Solver, 2206.00927).
    karras:   even in (sigma / alpha)^(1/7), down to time 1, then 0 (EDM, 2206.00364, Eq. 5).

    The times are integers; those of log_snr and karras are real where the schedule is continuous. Where rounding has
    made neighbours equal, they are moved apart by one, towards where there is room.
    """
    num_steps = schedule if isinstance(schedule, int) else schedule.num_steps
    top = num_steps if start is None else start
    if not 1 <= count <= top <= num_steps:
        raise ValueError(
            f"cannot take {count} sampling steps from time {top} of {num_steps}: need 1 <= steps <= start <= T"
        )
    if spacing in ("log_snr", "karras"):
        if isinstance(schedule, int):
            raise ValueError(
                f"spacing {spacing!r} depends on the noise schedule: give it, not its {num_steps} steps"
            )
        return _times_by_noise(schedule, top, count, spacing)
    if spacing == "even":
        strides = np.full(count - 1, (top - 1) / max(count - 1, 1))
        times = 1 + np.round(np.cumsum([0.0, *strides]))[::-1] if count > 1 else np.array([top])
    elif spacing == "stride":
        times = _strided(top, count)
    elif spacing == "trailing":
        times = np.round(top * (1 - np.arange(count) / count))
    elif spacing == "quadratic":
        times = np.round(1 + (top - 1) * np.linspace(1, 0, count) ** 2) if count > 1 else np.array([top])
        times = _apart(times)
    elif spacing == "chebyshev":
        points = top * (1 + np.cos(np.pi * np.arange(count) / count)) / 2
        times = _apart(np.maximum(np.round(points), 1))
    else:
        raise ValueError(f"unknown spacing {spacing!r}; choose one of {', '.join(SPACINGS)}")
    return np.concatenate([times, [0]]).astype(np.int32)


def _strided(top: int, count: int) -> np.ndarray:
    stride = top // count
    first = 1 + stride * (count - 1)
    if first + stride <= top:
        raise ValueError(
            f"spacing 'stride' with {count} steps of {top} has a stride of {stride} and starts at time {first}, where "
            f"there still is an image to see: choose a number that divides {top} more evenly, or spacing "
            "'even' or 'trailing'"
        )
    return first - stride * np.arange(count)


def _times_by_noise(schedule: Schedule, top: int, count: int, spacing: str) -> np.ndarray:
    """From `top` to 1 evenly in what the spacing names, then 0."""
    grid = np.arange(1, top + 1) if not schedule.continuous else np.linspace(1, top, 16 * top)
    with jax.ensure_compile_time_eval():
        level = np.asarray(log_snr(schedule, jnp.asarray(grid)), np.float64)
    if spacing == "karras":
        level = -np.exp(-level / 2 / 7)
    if count == 1 or top == 1:
        times = np.array([top])
    else:
        times = np.interp(np.linspace(level[-1], level[0], count), level[::-1], grid[::-1])
    if schedule.continuous:
        return np.concatenate([times, [0]])
    return np.concatenate([_apart(np.round(times)), [0]]).astype(np.int32)


def _apart(times: np.ndarray) -> np.ndarray:
    """Integer times that are equal are moved apart: up from the data, then down from the first, which stays."""
    times, top = times.copy(), times[0]
    for i in range(len(times) - 2, -1, -1):
        times[i] = max(times[i], times[i + 1] + 1)
    times[0] = top
    for i in range(1, len(times)):
        times[i] = min(times[i], times[i - 1] - 1)
    return times


def given_times(schedule: Schedule, times: Sequence[float]) -> np.ndarray:
    """Times chosen one by one, from T down and without the 0 at their end, as `spaced_times` would give them."""
    chosen = np.asarray(times, np.float64)
    if not (chosen.ndim == 1 and len(chosen) and chosen[0] == schedule.num_steps and chosen[-1] > 0):
        raise ValueError(
            f"sampling times must start at T = {schedule.num_steps} and end above 0, which is added; got {chosen.tolist()}"
        )
    if not (np.diff(chosen) < 0).all():
        raise ValueError(f"sampling times must descend, got {chosen.tolist()}")
    chosen = np.append(chosen, 0.0)
    if schedule.continuous:
        return chosen
    if (chosen != np.round(chosen)).any():
        raise ValueError(f"this schedule knows whole times only, got {chosen[:-1].tolist()}: round them")
    return chosen.astype(np.int32)
