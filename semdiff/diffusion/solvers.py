"""Solvers of the probability flow that remember: what was predicted before says how the prediction is changing.

Between t and s the flow is, exactly (DEIS, 2204.13902; DPM-Solver++, 2211.01095),
    x_s / alpha_s = x_t / alpha_t + int eps d rho              rho = sigma / alpha
    x_s / sigma_s = x_t / sigma_t + int x_0 d exp(lambda)      lambda = log(alpha / sigma)
DDIM holds eps, and so x_0, at what it is at t. Here it is a polynomial through the last predictions, in Newton's form:
with v = 0 at t, 1 at s and negative before t,
    f_0 + f_01 v + f_012 v (v - v_1) + ...
where each further prediction adds one term, so that the first steps of a chain just have fewer. A solver's `order` is the
number of predictions that it combines, and the power of the step at which its error falls.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from semdiff.diffusion import gaussian, schedules
from semdiff.diffusion.gaussian import Gaussian, Image, Keys, PerExample, Prediction, Times, bcast

# Gauss-Legendre on [0, 1].
_POINTS, _WEIGHTS = (array / 2 for array in np.polynomial.legendre.leggauss(32))
_POINTS = _POINTS + 0.5

Rest = Callable[[Float[Array, "q 1"]], Float[Array, "q b"]]


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class History:
    """The last predictions, newest first, the clock when they were made, and how many there have been."""

    values: Float[Array, "n b h w c"]
    clock: Float[Array, "n b"]
    count: Int[Array, ""]

    def nodes(self, start: PerExample, end: PerExample, max_ratio: float = math.inf) -> list[PerExample]:
        """Where they are on the scale from 0 at `start` to 1 at `end`; those that are missing, one step before another.

        max_ratio: as if the steps before had been no shorter than the one from start to end divided by this.
        """
        before = (self.clock - start[None]) / (end - start)[None]
        gaps = jnp.maximum(-jnp.diff(before, axis=0, prepend=0.0), 1 / max_ratio)
        missing = (jnp.arange(len(gaps)) >= self.count)[:, None]
        return list(-jnp.cumsum(jnp.where(missing, 1.0, gaps), axis=0))

    def push(self, value: Image, clock: PerExample) -> "History":
        values = jnp.concatenate([value[None], self.values])[: len(self.values)]
        clock = jnp.concatenate([clock[None].astype(self.clock.dtype), self.clock])[: len(self.clock)]
        return History(values, clock, self.count + 1)


def no_history(x: Image, length: int) -> History:
    return History(
        jnp.zeros((length, *x.shape), x.dtype), jnp.zeros((length, len(x)), x.dtype), jnp.zeros((), jnp.int32)
    )


def divided_differences(values: Sequence[Image], nodes: Sequence[PerExample]) -> list[Image]:
    """f_0, f_01, f_012, ...: Newton's coefficients of the polynomial through values at nodes."""
    column, result = list(values), [values[0]]
    for k in range(1, len(nodes)):
        spans = [nodes[i] - nodes[i + k] for i in range(len(nodes) - k)]
        column = [(column[i] - column[i + 1]) / bcast(span) for i, span in enumerate(spans)]
        result.append(column[0])
    return result


def newton_integrals(nodes: Sequence[PerExample], rest: Rest) -> list[PerExample]:
    """The integrals of v, v (v - v_1), ... dF over [0, 1], where rest(v) = F(1) - F(v) and nodes = (0, v_1, ...).

    int v^k dF = int (F(1) - F(v)) k v^(k-1) dv, by parts. With F monotone and no node above 0 nothing cancels.
    """
    v, weights = (jnp.asarray(array, jnp.result_type(float))[:, None] for array in (_POINTS, _WEIGHTS))
    weighted = weights * rest(v)
    moments = [(k * v ** (k - 1) * weighted).sum(0) for k in range(1, len(nodes) + 1)]
    coefficients = [jnp.ones_like(moments[0])]  # of v, v^2, ...
    result = [moments[0]]
    for node in nodes[1:]:
        zero = jnp.zeros_like(node)
        coefficients = [a - node * b for a, b in zip([zero, *coefficients], [*coefficients, zero])]
        terms = (c * m for c, m in zip(coefficients, moments))
        result.append(sum(terms, start=jnp.zeros_like(moments[0])))
    return result


def beyond_constant(now: Image, history: History, nodes: Sequence[PerExample], rest: Rest) -> Image:
    """int (p - f_0) dF over [0, 1]: p the polynomial through `now` at 0 and the history at its nodes, f_0 its value at 0."""
    nodes = [jnp.zeros(now.shape[:1], now.dtype), *nodes]
    total = jnp.zeros_like(now)
    if len(nodes) > 1:
        differences = divided_differences([now, *history.values], nodes)[1:]
        for k, integral in enumerate(newton_integrals(nodes[:-1], rest)):
            total += bcast(jnp.where(k < history.count, integral, 0.0)) * differences[k]
    return total


def check_order(order: int, orders: Sequence[int], name: str) -> None:
    if order not in orders:
        raise ValueError(f"{name} has order {orders[0]} to {orders[-1]}, got {order}")


# Adams-Bashforth: what the last predictions weigh, newest first, after as many equal steps.
ADAMS_BASHFORTH = (
    (1.0,),
    (3 / 2, -1 / 2),
    (23 / 12, -16 / 12, 5 / 12),
    (55 / 24, -59 / 24, 37 / 24, -9 / 24),
)


@dataclass(frozen=True)
class IPNDM:
    """iPNDM (2204.13902): DDIM's step with the eps of PNDM's linear multistep (2202.09778), as if all steps were equal.

    order 1 is DDIM. The first steps have lower orders, not PNDM's Runge-Kutta: each asks the network once.
    """

    order: int = 4

    orders: ClassVar = (1, 2, 3, 4)

    def __post_init__(self):
        check_order(self.order, self.orders, "ipndm")

    def init(self, x: Image):
        return no_history(x, self.order - 1)

    def step(self, process: Gaussian, memory, xt, prediction: Prediction, s: Times, t: Times, keys: Keys):
        table = np.zeros((self.order, self.order))  # [how many came before, newest first]
        for count, row in enumerate(ADAMS_BASHFORTH[: self.order]):
            table[count, : count + 1] = row
        weights = jnp.asarray(table, xt.dtype)[jnp.minimum(memory.count, self.order - 1)]
        change = sum(
            (weights[i + 1] * (memory.values[i] - prediction.eps) for i in range(self.order - 1)),
            start=jnp.zeros_like(xt),
        )
        span = schedules.rho(process.schedule, s) - schedules.rho(process.schedule, t)
        x = _from_eps(process, prediction, s, bcast(span) * change)
        return x, memory.push(prediction.eps, t.astype(xt.dtype))


@dataclass(frozen=True)
class DEIS:
    """The exponential integrator of 2204.13902: eps is a polynomial in the clock, integrated over rho as it runs.

    clock: of the polynomial: t (the paper's tAB), or rho (rhoAB: Adams-Bashforth for unequal steps, ipndm_v elsewhere).
    order: predictions combined; the paper's tAB3 counts the powers, and is order 4 here. order 1 is DDIM.
    """

    order: int = 4
    clock: Literal["t", "rho"] = "t"

    orders: ClassVar = (1, 2, 3, 4)

    def __post_init__(self):
        check_order(self.order, self.orders, "deis")

    def init(self, x: Image):
        return no_history(x, self.order - 1)

    def step(self, process: Gaussian, memory, xt, prediction: Prediction, s: Times, t: Times, keys: Keys):
        rho_s, rho_t = schedules.rho(process.schedule, s), schedules.rho(process.schedule, t)
        start, end = t.astype(xt.dtype), s.astype(xt.dtype)
        between = lambda v: start[None] + v * (end - start)[None]  # noqa: E731
        rest = lambda v: rho_s[None] - schedules.rho_between(process.schedule, between(v))  # noqa: E731
        if self.clock == "rho":
            start, end = rho_t, rho_s
            rest = lambda v: (1 - v) * (rho_s - rho_t)[None]  # noqa: E731
        change = beyond_constant(prediction.eps, memory, memory.nodes(start, end), rest)
        return _from_eps(process, prediction, s, change), memory.push(prediction.eps, start)


def _from_eps(process: Gaussian, prediction: Prediction, s: Times, change: Image) -> Image:
    """x_s, where int eps d rho is what DDIM takes it for, plus a change."""
    alpha = bcast(schedules.alpha(process.schedule, s))
    return gaussian.diffuse(process, prediction.x0, s, prediction.eps) + alpha * change


@dataclass(frozen=True)
class DPMSolver2M:
    """DPM-Solver++(2M) (2211.01095, Alg. 2): second order in log-SNR from the last two x_0.

    The first step and the last are first order. max_ratio: how far to extrapolate, in steps of log-SNR before this one
    (inf: as published). Times that are even in t grow many-fold in log-SNR near the data, where extrapolating all
    the way does worse than DDIM.
    """

    max_ratio: float = 1.0

    def init(self, x: Image):
        return x, jnp.zeros(x.shape[:1], x.dtype)  # last x_0; the last step's h, 0 before there was one

    def step(self, process: Gaussian, memory, xt, prediction: Prediction, s: Times, t: Times, keys: Keys):
        last_x0, last_h = memory
        h = schedules.log_snr(process.schedule, s) / 2 - schedules.log_snr(process.schedule, t) / 2
        second_order = (last_h > 0) & (s > 0)
        ratio = jnp.where(second_order, h / jnp.where(last_h > 0, last_h, 1.0), 0.0)  # 1 / r
        share = jnp.minimum(ratio, self.max_ratio) / 2
        x0 = prediction.x0
        blend = jnp.where(bcast(second_order), x0 + bcast(share) * (x0 - last_x0), x0)
        shrink = schedules.sigma(process.schedule, s) / schedules.sigma(process.schedule, t)
        grow = schedules.alpha(process.schedule, s) * -jnp.expm1(-h)
        return bcast(shrink) * xt + bcast(grow) * blend, (x0, h)


@dataclass(frozen=True)
class DPMSolver3M:
    """DPM-Solver++(3M) (2211.01095): x_0 is a polynomial in lambda through the last three, integrated exactly.

    order 1 is DDIM; into the data, at infinite lambda, every order is. max_ratio: as DPMSolver2M has it.
    """

    order: int = 3
    max_ratio: float = 1.0

    orders: ClassVar = (1, 2, 3)

    def __post_init__(self):
        check_order(self.order, self.orders, "dpmpp_3m")

    def init(self, x: Image):
        return no_history(x, self.order - 1)

    def step(self, process: Gaussian, memory, xt, prediction: Prediction, s: Times, t: Times, keys: Keys):
        x = _from_x0(process, memory, xt, prediction.x0, s, t, self.max_ratio)
        return x, memory.push(prediction.x0, _half_log_snr(process, t))


def _half_log_snr(process: Gaussian, t: Times) -> PerExample:
    """lambda = log(alpha / sigma)."""
    return schedules.log_snr(process.schedule, t) / 2


def _from_x0(process: Gaussian, history: History, xt: Image, x0: Image, s: Times, t: Times, max_ratio: float):
    """x_s, where x_0 is a polynomial in lambda. Into the data a constant: infinitely far nothing can be extrapolated."""
    into_data = s == 0
    start = _half_log_snr(process, t)
    end = jnp.where(into_data, start + 1, _half_log_snr(process, s))
    alpha = schedules.alpha(process.schedule, s)
    rest = lambda v: alpha[None] * -jnp.expm1((v - 1) * (end - start)[None])  # noqa: E731
    change = beyond_constant(x0, history, history.nodes(start, end, max_ratio), rest)
    shrink = schedules.sigma(process.schedule, s) / schedules.sigma(process.schedule, t)
    grow = jnp.where(into_data, alpha, alpha * -jnp.expm1(start - end))
    return bcast(shrink) * xt + bcast(grow) * x0 + jnp.where(bcast(into_data), 0.0, change)


@dataclass(frozen=True)
class UniPC:
    """UniPC (2302.04867), predicting x_0: DPM-Solver++'s polynomial, then corrected by what is seen there.

    The prediction at the end of a step is of use twice: it first corrects that step (one power more, no further call),
    then starts the next. With all equations of an order solved, as here, the paper's B(h) drops out of it.
    """

    order: int = 2
    max_ratio: float = 1.0

    orders: ClassVar = (1, 2, 3)

    def __post_init__(self):
        check_order(self.order, self.orders, "unipc")

    def init(self, x: Image):
        return no_history(x, self.order)

    def step(self, process: Gaussian, memory, xt, prediction: Prediction, s: Times, t: Times, keys: Keys):
        x0, here = prediction.x0, _half_log_snr(process, t)
        xt = xt + self._correction(process, memory, x0, t, here)
        recent = History(memory.values[:-1], memory.clock[:-1], memory.count)
        x = _from_x0(process, recent, xt, x0, s, t, self.max_ratio)
        return x, memory.push(x0, here)

    def _correction(self, process: Gaussian, history: History, x0: Image, t: Times, here: PerExample):
        """Of the step that has led to t: the integral of the one term that x_0 at its end adds to its polynomial."""
        some = history.count > 0
        start = jnp.where(some, history.clock[0], here - 1)
        nodes = history.nodes(start, here)
        nodes[0] = jnp.zeros_like(nodes[0])
        alpha = schedules.alpha(process.schedule, t)
        rest = lambda v: alpha[None] * -jnp.expm1((v - 1) * (here - start)[None])  # noqa: E731
        differences = divided_differences([x0, *history.values], [jnp.ones_like(here), *nodes])[1:]
        total, used = jnp.zeros_like(x0), jnp.minimum(history.count, self.order)
        for k, integral in enumerate(newton_integrals(nodes, rest), start=1):
            total += bcast(jnp.where(k == used, integral, 0.0)) * differences[k - 1]
        return total
