"""Noise schedules: how much of the data is left at time t.

Time runs over 0..T for every schedule: t = 0 is data, t = T is the prior, abar_0 = 1. A schedule answers one question,
`log_abar(t)`; everything else is derived from it with expm1, so it holds at both ends. A `Table` knows integer times, a
`LogSNR` is a formula and takes any real t in [0, T].
"""

import math
from collections.abc import Callable
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


def transition(schedule: Schedule, s: Time, t: Time) -> tuple[Level, Level]:
    """q(x_t | x_s) = N(a x_s, v I) for s <= t: returns (a, v)."""
    log_ratio = schedule.log_abar(t) - schedule.log_abar(s)
    return jnp.exp(log_ratio / 2), -jnp.expm1(log_ratio)


def spaced_times(num_steps: int, count: int, spacing: str = "even", start: int | None = None) -> np.ndarray:
    """`count` + 1 descending integer times from `start` (default T) to 0.

    even:     ends at 1, then 0; the first step is always `start`. The released codes' respacing to the step: they
              round i = t - 1, halves to even, of a running sum.
    stride:   a fixed stride, counted from 1 (DDIM's spacing): the top is below T.
    trailing: a fixed stride counted from the top.
    quadratic: dense near the data.
    """
    top = num_steps if start is None else start
    if not 1 <= count <= top <= num_steps:
        raise ValueError(
            f"cannot take {count} sampling steps from time {top} of {num_steps}: need 1 <= steps <= start <= T"
        )
    if spacing == "even":
        strides = np.full(count - 1, (top - 1) / max(count - 1, 1))
        times = 1 + np.round(np.cumsum([0.0, *strides]))[::-1] if count > 1 else np.array([top])
    elif spacing == "stride":
        times = 1 + (top // count) * np.arange(count)[::-1]
    elif spacing == "trailing":
        times = np.round(top * (1 - np.arange(count) / count))
    elif spacing == "quadratic":
        times = np.round(1 + (top - 1) * np.linspace(1, 0, count) ** 2) if count > 1 else np.array([top])
        for i in range(count - 2, -1, -1):  # rounding may have made neighbours equal near the data
            times[i] = max(times[i], times[i + 1] + 1)
    else:
        raise ValueError(f"unknown spacing {spacing!r}; choose even, stride, trailing or quadratic")
    return np.concatenate([times, [0]]).astype(np.int32)
