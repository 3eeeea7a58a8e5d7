"""Classifier-free guidance and thresholding: what is done to a prediction before a sampler uses it."""

from dataclasses import dataclass
from typing import Literal

import jax.numpy as jnp
from jaxtyping import Array, Float, Shaped

from semdiff.diffusion.categorical import Logits
from semdiff.diffusion.gaussian import Image


@dataclass(frozen=True)
class Guidance:
    """eps_hat = eps_null + weight (eps_cond - eps_null); weight 1 is no guidance.

    channels: `mean` guides the predicted image only and leaves the variance to the conditional pass (SDM), `all` guides
    every channel. interval: (low, high) shares of T; outside low < t/T <= high the conditional pass stands alone
    (2404.07724). layout_weight: of the layout half; None: the same.
    """

    weight: float | Float[Array, ""] = 1.0
    channels: Literal["mean", "all"] = "mean"
    interval: tuple[float, float] = (0.0, 1.0)
    layout_weight: float | None = None

    @property
    def needs_null(self) -> bool:
        """Whether a null pass is made: always for a weight that is known only when the program runs."""
        weights = (self.weight, self.weight if self.layout_weight is None else self.layout_weight)
        return any(not isinstance(weight, int | float) or weight != 1.0 for weight in weights)

    def active(self, t: Shaped[Array, ""], num_steps: int) -> Shaped[Array, ""]:
        low, high = self.interval
        return (t > low * num_steps) & (t <= high * num_steps)

    def combine(
        self,
        conditional: Float[Array, "b h w n"],
        null: Float[Array, "b h w n"],
        mean_channels: int,
    ) -> Float[Array, "b h w n"]:
        guided = null + self.weight * (conditional - null)
        if self.channels == "all":
            return guided
        return jnp.concatenate([guided[..., :mean_channels], conditional[..., mean_channels:]], axis=-1)

    def combine_logits(self, conditional: Logits, null: Logits) -> Logits:
        """Of the layout half. Logits and log-probabilities differ by a number per pixel, and so does what is made of them
        here: the classes' probabilities are the same."""
        weight = self.weight if self.layout_weight is None else self.layout_weight
        return null + weight * (conditional - null)


def threshold(x0: Image, quantile: float | None = None) -> Image:
    """Clip a predicted image to [-1, 1], or, with a quantile, dynamically (Imagen, Sec. 2.3).

    Dynamic: s = max(1, quantile of |x_0| per example); clip to [-s, s] and divide by s.
    """
    if quantile is None:
        return jnp.clip(x0, -1, 1)
    magnitude = jnp.abs(x0).reshape(x0.shape[0], -1)
    scale = jnp.maximum(jnp.quantile(magnitude, quantile, axis=1), 1.0)[:, None, None, None]
    return jnp.clip(x0, -scale, scale) / scale
