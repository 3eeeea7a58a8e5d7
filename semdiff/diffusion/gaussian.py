"""The image half of the process: Gaussian diffusion, from any t to any s < t.

Equation numbers: DDPM (2006.11239), DDIM (2010.02502), Improved DDPM (2102.09672). SDM (2207.00050) uses them unchanged.
All functions take times per example, `[B]`; `keys` holds one random key per example, so an example's noise depends on its
own key alone.
"""

import math
from dataclasses import dataclass, field, replace
from typing import Literal

import jax
import jax.numpy as jnp
from jax.scipy.special import log_ndtr
from jaxtyping import Array, Float, Key, Shaped

from semdiff.diffusion import schedules

Image = Float[Array, "b h w c"]
Times = Shaped[Array, "b"]
Keys = Key[Array, "b"]
PerExample = Float[Array, "b"]

Parameterisation = Literal["eps", "x0", "v"]
Variance = Literal["learned_range", "small", "large"]
LOG2 = math.log(2)


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Gaussian:
    """x_t = sqrt(abar_t) x_0 + sqrt(1 - abar_t) eps, and what a network says about it.

    parameterisation: what the network's first C channels mean. variance: of the reverse step; `learned_range` reads the
    next C channels.
    """

    schedule: schedules.Schedule
    parameterisation: Parameterisation = field(default="eps", metadata={"static": True})
    variance: Variance = field(default="learned_range", metadata={"static": True})

    @property
    def num_steps(self) -> int:
        return self.schedule.num_steps

    @property
    def output_channels_per_channel(self) -> int:
        return 2 if self.variance == "learned_range" else 1


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Prediction:
    """What the network says at x_t: the clean image, the noise, and where the variance lies in its range (0..1)."""

    x0: Image
    eps: Image
    fraction: Image | None = None


def bcast(per_example: Shaped[Array, "b"]) -> Shaped[Array, "b 1 1 1"]:
    return per_example[:, None, None, None]


def _alpha_sigma(process: Gaussian, t: Times):
    return bcast(schedules.alpha(process.schedule, t)), bcast(schedules.sigma(process.schedule, t))


def normal(keys: Keys, like: Image) -> Image:
    """Standard normal noise, one key per example."""
    return jax.vmap(lambda key: jax.random.normal(key, like.shape[1:], like.dtype))(keys)


def sample_prior(process: Gaussian, like: Image, keys: Keys) -> Image:
    """x_T ~ N(0, I)."""
    del process
    return normal(keys, like)


def q_sample(process: Gaussian, x0: Image, t: Times, keys: Keys) -> Image:
    """x_t ~ q(x_t | x_0) (DDPM Eq. 4)."""
    return diffuse(process, x0, t, normal(keys, x0))


def diffuse(process: Gaussian, x0: Image, t: Times, eps: Image) -> Image:
    """x_t from its noise (DDPM Eq. 4, reparameterised)."""
    alpha, sigma = _alpha_sigma(process, t)
    return alpha * x0 + sigma * eps


def q_step(process: Gaussian, xs: Image, s: Times, t: Times, keys: Keys) -> Image:
    """x_t ~ q(x_t | x_s) for s <= t: noising an already noised image further."""
    scale, variance = schedules.transition(process.schedule, s, t)
    return bcast(scale) * xs + bcast(jnp.sqrt(variance)) * normal(keys, xs)


def posterior_coefficients(process: Gaussian, s: Times, t: Times):
    """q(x_s | x_t, x_0) = N(a x_t + b x_0, v I): returns (a, b, v) (DDPM Eq. 7 for s = t - 1)."""
    scale, step_variance = schedules.transition(process.schedule, s, t)
    variance_s = schedules.variance(process.schedule, s)
    variance_t = schedules.variance(process.schedule, t)
    safe = jnp.where(variance_t > 0, variance_t, 1.0)  # t = 0 leaves x_t where it is
    a = jnp.where(variance_t > 0, scale * variance_s / safe, 1.0)
    b = schedules.alpha(process.schedule, s) * step_variance / safe
    return a, b, step_variance * variance_s / safe


def q_posterior(process: Gaussian, xt: Image, x0: Image, s: Times, t: Times) -> tuple[Image, PerExample]:
    """Mean and variance of q(x_s | x_t, x_0) for any s < t."""
    a, b, variance = posterior_coefficients(process, s, t)
    return bcast(a) * xt + bcast(b) * x0, variance


def log_variance_range(process: Gaussian, s: Times, t: Times) -> tuple[PerExample, PerExample]:
    """(log betatilde, log beta) of the step t -> s: the two ends of the learned range (Improved DDPM Eq. 15).

    betatilde is 0 at s = 0; there that of the step 2 -> 1 stands in, as in all released codes, unless beta is below it:
    the step from a real time below 1 has no range, its two ends are beta.
    """
    at_data = s == 0
    _, _, small = posterior_coefficients(process, jnp.where(at_data, 1, s), jnp.where(at_data, 2, t))
    _, large = schedules.transition(process.schedule, s, t)
    small = jnp.where(at_data & (t < 1), jnp.minimum(small, large), small)
    return jnp.log(small), jnp.log(large)


def step_log_variance(process: Gaussian, fraction: Image | None, s: Times, t: Times) -> Float[Array, "b ..."]:
    """log Sigma of the reverse step: exp(v log beta + (1 - v) log betatilde), or one of its ends."""
    small, large = (bcast(end) for end in log_variance_range(process, s, t))
    if process.variance == "small":
        return small
    if process.variance == "large":
        # As DDPM's fixed-large: beta everywhere but at the last step, where beta is too wide for 8-bit data.
        return jnp.where(bcast(s == 0), small, large)
    if fraction is None:
        raise ValueError("a process with learned variance needs a network with twice the channels")
    return fraction * large + (1 - fraction) * small


def x0_from_eps(process: Gaussian, xt: Image, eps: Image, t: Times) -> Image:
    alpha, sigma = _alpha_sigma(process, t)
    return (xt - sigma * eps) / alpha


def eps_from_x0(process: Gaussian, xt: Image, x0: Image, t: Times) -> Image:
    """The noise that leads from x_0 to x_t; 0 at t = 0, where there is none."""
    alpha, sigma = _alpha_sigma(process, t)
    return jnp.where(sigma > 0, (xt - alpha * x0) / jnp.where(sigma > 0, sigma, 1.0), 0.0)


def v_from_x0_eps(process: Gaussian, x0: Image, eps: Image, t: Times) -> Image:
    """v = sqrt(abar) eps - sqrt(1 - abar) x_0 (progressive distillation, App. D)."""
    alpha, sigma = _alpha_sigma(process, t)
    return alpha * eps - sigma * x0


def target(process: Gaussian, x0: Image, eps: Image, t: Times) -> Image:
    """What the network is asked for."""
    if process.parameterisation == "eps":
        return eps
    return x0 if process.parameterisation == "x0" else v_from_x0_eps(process, x0, eps, t)


def split_output(process: Gaussian, output: Float[Array, "b h w n"]) -> tuple[Image, Image | None]:
    """The network's channels as (target, variance fraction in 0..1)."""
    if process.variance != "learned_range":
        return output, None
    mean, raw = jnp.split(output, 2, axis=-1)
    return mean, (raw + 1) / 2


def predict(process: Gaussian, output: Float[Array, "b h w n"], xt: Image, t: Times) -> Prediction:
    """Read the network's output at x_t."""
    value, fraction = split_output(process, output)
    if process.parameterisation == "eps":
        return Prediction(x0_from_eps(process, xt, value, t), value, fraction)
    if process.parameterisation == "x0":
        return Prediction(value, eps_from_x0(process, xt, value, t), fraction)
    alpha, sigma = _alpha_sigma(process, t)
    return Prediction(alpha * xt - sigma * value, sigma * xt + alpha * value, fraction)


def with_x0(process: Gaussian, prediction: Prediction, x0: Image, xt: Image, t: Times) -> Prediction:
    """The same prediction with another x_0 (thresholded, extrapolated); the noise follows."""
    return replace(prediction, x0=x0, eps=eps_from_x0(process, xt, x0, t))


def p_step(process: Gaussian, xt: Image, prediction: Prediction, s: Times, t: Times, keys: Keys) -> Image:
    """x_s ~ p(x_s | x_t): the posterior mean at the predicted x_0, with the step's variance; no noise into s = 0."""
    mean, _ = q_posterior(process, xt, prediction.x0, s, t)
    std = jnp.exp(step_log_variance(process, prediction.fraction, s, t) / 2)
    return mean + jnp.where(bcast(s == 0), 0.0, std * normal(keys, xt))


def mean_over_pixels(values: Float[Array, "b ..."]) -> PerExample:
    return values.mean(axis=tuple(range(1, values.ndim)))


def normal_kl(mean1, log_variance1, mean2, log_variance2):
    """KL( N(mean1, e^lv1) || N(mean2, e^lv2) ) in nats, elementwise."""
    difference = log_variance2 - log_variance1
    return (difference + jnp.exp(-difference) - 1 + (mean1 - mean2) ** 2 * jnp.exp(-log_variance2)) / 2


def _log_cdf(z):
    """log Phi(z). Far left by its series: there the gradient of `log_ndtr` is lost to cancellation."""
    far = jnp.minimum(z, -20.0)
    series = (
        jnp.log1p(-(far**-2) + 3 * far**-4 - 15 * far**-6)
        - far**2 / 2
        - jnp.log(-far * math.sqrt(2 * math.pi))
    )
    return jnp.where(z < -20, series, log_ndtr(jnp.maximum(z, -20.0)))


def discretised_log_likelihood(x: Image, mean: Image, log_variance: Float[Array, "b ..."]) -> Image:
    """log of the normal's mass in the 8-bit bin around x in [-1, 1], the end bins open (DDPM Eq. 13), in nats."""
    half_bin, inverse_std = 1 / 255, jnp.exp(-log_variance / 2)
    low, high = (x - half_bin - mean) * inverse_std, (x + half_bin - mean) * inverse_std
    # By symmetry move each bin to the left tail, where log Phi is exact.
    left, right = jnp.where(low > 0, -high, low), jnp.where(low > 0, -low, high)
    lowest, highest = x < half_bin - 1, x > 1 - half_bin
    right = jnp.where(lowest, high, jnp.where(highest, -low, right))
    log_right = _log_cdf(right)
    gap = jnp.minimum(_log_cdf(left) - log_right, -1e-7)
    return jnp.where(lowest | highest, log_right, log_right + jnp.log(-jnp.expm1(gap)))


def vlb_term(
    process: Gaussian, prediction: Prediction, xt: Image, x0: Image, s: Times, t: Times
) -> PerExample:
    """KL( q(x_s | x_t, x_0) || p(x_s | x_t) ), at s = 0 the discretised NLL instead: in bits per dimension."""
    true_mean, _ = q_posterior(process, xt, x0, s, t)
    true_log_variance, _ = log_variance_range(process, s, t)
    mean, _ = q_posterior(process, xt, prediction.x0, s, t)
    log_variance = step_log_variance(process, prediction.fraction, s, t)
    kl = mean_over_pixels(normal_kl(true_mean, bcast(true_log_variance), mean, log_variance))
    nll = -mean_over_pixels(discretised_log_likelihood(x0, mean, log_variance))
    return jnp.where(s == 0, nll, kl) / LOG2


def prior_term(process: Gaussian, x0: Image) -> PerExample:
    """KL( q(x_T | x_0) || N(0, I) ) in bits per dimension: the part of the bound that no training changes."""
    t = jnp.full(x0.shape[:1], process.num_steps)
    alpha, _ = _alpha_sigma(process, t)
    log_variance = bcast(jnp.log(schedules.variance(process.schedule, t)))
    return mean_over_pixels(normal_kl(alpha * x0, log_variance, 0.0, 0.0)) / LOG2
