"""Data whose every pixel is drawn by itself from a mixture of normals: the denoiser and the probability flow are known."""

import jax
import jax.numpy as jnp
import numpy as np
from scipy.special import log_ndtr, ndtri

from semdiff.diffusion import gaussian, schedules
from semdiff.diffusion.gaussian import Prediction

SHARES = np.array([0.35, 0.65])
MEANS = np.array([-0.6, 0.4])
STDS = np.array([0.1, 0.2])


def quantiles(count):
    """[1, count, 1, 1] evenly likely values of a standard normal."""
    return jnp.asarray(
        ndtri((np.arange(count) + 0.5) / count).reshape(1, count, 1, 1), jnp.result_type(float)
    )


def exact(process):
    """denoise_fn: E[x_0 | x_t]."""

    def denoise(x, t, keys):
        del keys
        shares, means, stds = (
            jnp.asarray(part, x.dtype).reshape(1, 1, 1, 1, -1) for part in (SHARES, MEANS, STDS)
        )
        alpha, variance = schedules.alpha(process.schedule, t), schedules.variance(process.schedule, t)
        off, total = x[..., None] - alpha * means, alpha**2 * stds**2 + variance
        log_weight = jnp.log(shares) - off**2 / (2 * total) - jnp.log(total) / 2
        x0 = (jax.nn.softmax(log_weight, -1) * (means + alpha * stds**2 / total * off)).sum(-1)
        return Prediction(x0, gaussian.eps_from_x0(process, x, x0, jnp.full(x.shape[:1], t)))

    return denoise


def _log_cdf(x, alpha, variance):
    """log P(x_t < x) and log P(x_t > x)."""
    z = (x[..., None] - alpha * MEANS) / np.sqrt(alpha**2 * STDS**2 + variance)
    return tuple(np.logaddexp.reduce(np.log(SHARES) + log_ndtr(side), axis=-1) for side in (z, -z))


def flow(process, x, t, s):
    """Where the probability flow takes x from t to s: each value keeps its place in its distribution."""
    x = np.asarray(x, np.float64)
    with jax.enable_x64(True):
        levels = [
            tuple(float(f(process.schedule, jnp.asarray(at))) for f in (schedules.alpha, schedules.variance))
            for at in (t, s)
        ]
    low_t, high_t = _log_cdf(x, *levels[0])
    below, above = np.full(x.shape, -50.0), np.full(x.shape, 50.0)
    for _ in range(100):
        middle = (below + above) / 2
        low, high = _log_cdf(middle, *levels[1])
        left = np.where(low_t < high_t, low < low_t, high > high_t)  # in the nearer tail, where it is exact
        below, above = np.where(left, middle, below), np.where(left, above, middle)
    return (below + above) / 2
