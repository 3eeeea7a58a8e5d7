"""How long a pixel of each class keeps showing it: gamma_{c,t} = P(class c still shows at time t).

Siblings of `schedules`, with a trailing axis of classes. Time runs over 0..T: gamma_{c,0} = 1. A schedule answers with
    drop(s, t)   gamma_s - gamma_t, the share of a class's pixels that change between s and t
    keep(t)      gamma_t
both `[B, K]` for times `[B]`, and both without cancellation at either end. Whatever has these (learned, say) is a schedule.
"""

from dataclasses import dataclass, field
from typing import Protocol

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Shaped

Times = Shaped[Array, "b"]
PerClass = Float[Array, "b k"]

register = jax.tree_util.register_dataclass


class ClassSchedule(Protocol):
    """What a layout process asks of a schedule. shared: every class has the same one."""

    @property
    def num_steps(self) -> int: ...

    @property
    def num_classes(self) -> int: ...

    @property
    def shared(self) -> bool: ...

    @property
    def continuous(self) -> bool: ...

    def drop(self, s: Times, t: Times) -> PerClass: ...

    def keep(self, t: Times) -> PerClass: ...


def growth(u: Float[Array, "b #k"], log_rate: Float[Array, "#b k"]) -> PerClass:
    """(lambda^u - 1) / (lambda - 1) for 0 <= u <= 1 and any lambda > 0: at lambda = 1, u."""
    steep = -jnp.abs(log_rate)  # both signs are reduced to lambda < 1, where nothing overflows
    ratio = jnp.expm1(u * steep) / jnp.expm1(jnp.where(steep == 0, -1.0, steep))
    ratio = jnp.where((steep == 0) | (u == 1), u, ratio)
    return jnp.where(log_rate > 0, jnp.exp((u - 1) * jnp.maximum(log_rate, 0)) * ratio, ratio)


@register
@dataclass(frozen=True)
class Exponential:
    """1 - gamma_{c,t} = (lambda_c^u - 1) / (lambda_c - 1), u = t / T (SCDM, 2402.16506).

    lambda = 1 is linear; the larger lambda, the later a class goes. lag: u = (t - lag) / T; the released code counts
    i = t - 1 here, so that nothing is masked at its first step and something is left at its last.
    """

    log_rate: Float[Array, "k"]
    num_steps: int = field(metadata={"static": True})
    lag: int = field(default=0, metadata={"static": True})
    shared: bool = field(default=False, metadata={"static": True})

    continuous = True

    @property
    def num_classes(self) -> int:
        return self.log_rate.shape[0]

    def _clock(self, t: Times) -> Float[Array, "b 1"]:
        return jnp.maximum(jnp.asarray(t, self.log_rate.dtype) - self.lag, 0)[:, None]

    def drop(self, s: Times, t: Times) -> PerClass:
        """lambda^{u_s} (lambda^{u_t - u_s} - 1) / (lambda - 1). Times are subtracted before they are divided: exactly."""
        s, t = self._clock(s), self._clock(t)
        step = growth((t - s) / self.num_steps, -jnp.abs(self.log_rate)[None])
        # Of a lambda above 1, `step` has taken 1 / lambda: lambda^{u_t - 1} is left.
        shift = jnp.where(self.log_rate[None] > 0, t - self.num_steps, s) / self.num_steps
        return step * jnp.exp(shift * self.log_rate[None])

    def keep(self, t: Times) -> PerClass:
        """(lambda - lambda^u) / (lambda - 1)."""
        t = self._clock(t)
        kept = growth((self.num_steps - t) / self.num_steps, -self.log_rate[None])
        return jnp.where(t > 0, kept, 1.0)  # a compiled T / T may be off by a rounding


@register
@dataclass(frozen=True)
class Cosine:
    """gamma_t = cos^{2 power}(pi u / 2), for all classes alike; power 1 is the cosine schedule (GCDP: cosine_p)."""

    num_steps: int = field(metadata={"static": True})
    num_classes: int = field(metadata={"static": True})
    power: float = field(default=1.0, metadata={"static": True})

    continuous = True
    shared = True

    def _angles(self, t: Times) -> tuple[Float[Array, "b"], Float[Array, "b"]]:
        """pi u / 2, and what it lacks to pi / 2."""
        t = jnp.asarray(t, jnp.result_type(float))
        from_start, to_end = (jnp.pi / 2 * (part / self.num_steps) for part in (t, self.num_steps - t))
        return from_start, to_end

    def drop(self, s: Times, t: Times) -> PerClass:
        """gamma_s (1 - ratio), ratio = gamma_t / gamma_s; near 1 by cos^2 a - cos^2 b = sin(b - a) sin(a + b)."""
        from_start, _ = self._angles(s)
        step, _ = self._angles(jnp.asarray(t) - jnp.asarray(s))
        at_s, at_t = self._at(s), self._at(t)
        safe = jnp.where(at_s > 0, at_s, 1.0)
        change = jnp.sin(step) * jnp.sin(2 * from_start + step) / safe
        log_ratio = jnp.where(change < 0.5, jnp.log1p(-jnp.minimum(change, 0.5)), jnp.log(at_t / safe))
        return self._for_all(at_s**self.power * -jnp.expm1(self.power * log_ratio))

    def keep(self, t: Times) -> PerClass:
        return self._for_all(self._at(t) ** self.power)

    def _at(self, t: Times) -> Float[Array, "b"]:
        """gamma_t at power 1."""
        _, to_end = self._angles(t)
        return jnp.sin(to_end) ** 2

    def _for_all(self, value: Float[Array, "b"]) -> PerClass:
        return jnp.broadcast_to(value[:, None], (len(value), self.num_classes))


@register
@dataclass(frozen=True)
class Table:
    """gamma_{c,t} as given, for t = 0..T."""

    gamma: Float[Array, "steps_and_zero k"]
    shared: bool = field(default=False, metadata={"static": True})

    continuous = False

    @property
    def num_steps(self) -> int:
        return self.gamma.shape[0] - 1

    @property
    def num_classes(self) -> int:
        return self.gamma.shape[1]

    def drop(self, s: Times, t: Times) -> PerClass:
        return self.gamma[s] - self.gamma[t]

    def keep(self, t: Times) -> PerClass:
        return self.gamma[t]


def classwise(
    num_steps: int, rates: np.ndarray, eta: float = 1.0, *, floor: bool = True, lag: int = 0
) -> Exponential:
    """The paper's schedule: lambda_c = rates_c^eta, where rates_c = psi_c phi_c; eta = 0 is linear for all.

    floor: lambda is at least 1. It is what the released code's min(masked share, u) comes to: a class whose
    lambda is below 1 (large and common) is masked linearly, not faster.
    """
    rates = check_rates(rates)
    log_rate = eta * np.log(rates)
    if floor:
        log_rate = np.maximum(log_rate, 0.0)
    return Exponential(jnp.asarray(log_rate, jnp.result_type(float)), num_steps, lag)


def linear(num_steps: int, num_classes: int, lag: int = 0) -> Exponential:
    """gamma_t = 1 - t / T for every class: SCDM's uniform schedule, and D3PM's absorbing one."""
    return Exponential(jnp.zeros(num_classes), num_steps, lag, shared=True)


def table(gamma: np.ndarray) -> Table:
    """Checked: rows t = 0..T, columns classes; from 1 at t = 0, never rising, never negative."""
    gamma = np.asarray(gamma, np.float64)
    if gamma.ndim != 2 or len(gamma) < 2 or not gamma.shape[1]:
        raise ValueError(f"a table of keep probabilities must be [T + 1, K], got {gamma.shape}")
    wrong = ~((gamma >= 0) & (gamma <= 1))
    wrong[1:] |= gamma[1:] > gamma[:-1]
    wrong[0] |= gamma[0] != 1
    if wrong.any():
        t, c = np.argwhere(wrong)[0]
        raise ValueError(
            f"a table of keep probabilities must start at 1, stay between 0 and 1 and never rise; class {c} has "
            f"{gamma[t, c]:g} at t = {t}"
        )
    return Table(jnp.asarray(gamma, jnp.result_type(float)), shared=bool((gamma == gamma[:, :1]).all()))


def check_rates(rates: np.ndarray) -> np.ndarray:
    """psi phi per class: finite and positive."""
    rates = np.asarray(rates, np.float64)
    if rates.ndim != 1 or not len(rates):
        raise ValueError(f"class rates (psi phi) must be one number per class, got an array {rates.shape}")
    wrong = np.flatnonzero(~(np.isfinite(rates) & (rates > 0)))
    if len(wrong):
        listed = ", ".join(f"class {c}: {rates[c]:g}" for c in wrong[:5])
        raise ValueError(
            f"class rates (psi phi) must be positive numbers, since a schedule takes their logarithm; got {listed}"
            f"{', ...' if len(wrong) > 5 else ''}. For a class that should go linearly give 1"
        )
    return rates
