"""The training of a latent space (2112.10752): an autoencoder that gives images back, its latents held near N(0, 1).

The error is that of pixels and of the differences between neighbours; what a network would see in them (a perceptual or
adversarial loss) is no part of it.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import jax
import jax.numpy as jnp

from semdiff.config import Autoencoding as Settings
from semdiff.config import ConfigError, Experiment
from semdiff.diffusion import gaussian, joint, losses, samplers
from semdiff.methods import parts
from semdiff.methods.space import Latents, to_unit

PAPER = ("LDM", "2112.10752")


@dataclass(frozen=True)
class Autoencoding:
    """What a trainer needs of a method, of the space itself."""

    space: Latents
    settings: Settings
    process: (
        joint.Process
    )  # of the images that will be noised there; here it is a clock that nothing looks at

    reads: ClassVar = ()

    def init(self, key, size: tuple[int, int]) -> dict:
        return self.space.init(key)

    def compute_dtypes(self, params: dict) -> dict:
        return jax.tree.map(lambda a: a.dtype, params)

    def loss(
        self, params, batch: Mapping[str, Any], keys, time_sampler: losses.TimeSampler, train: bool = True
    ):
        """Per-example losses, with times that are of no consequence."""
        t, weight = time_sampler.sample(keys)
        autoencoder = self.space.autoencoder
        weights = {"params": {name: params[name] for name in ("encoder", "decoder")}}
        x = to_unit(batch["image"])
        said: Any = autoencoder.apply(weights, x, method="encode")
        z = said.draw(gaussian.normal(samplers.fold_in(keys, 1), said.mean)) if train else said.mean
        again = autoencoder.apply(weights, z, method="decode")
        error = again - x
        terms = {
            "pixels": jnp.abs(error).mean((1, 2, 3)),
            "borders": sum(jnp.abs(jnp.diff(error, axis=axis)).mean((1, 2, 3)) for axis in (1, 2)),
            "kl": said.divergence(),
        }
        c = self.settings
        loss = terms["pixels"] + c.border_weight * terms["borders"] + c.kl_weight * terms["kl"]
        psnr = -10 * jnp.log10(jnp.maximum((error**2).mean((1, 2, 3)), 1e-10) / 4)
        return {"loss": loss, **terms, "psnr": psnr}, t, weight

    def again(self, params, image):
        """8-bit pixels as they come back."""
        return self.space.decode(params, self.space.encode(params, image))


def method(config: Experiment) -> Autoencoding:
    space = parts.space(config)
    if not isinstance(space, Latents) or not isinstance(config.model, Settings):
        raise ConfigError(
            "config.model.kind is autoencoder, but config.space.kind is pixels, which has none: set it to latents"
        )
    return Autoencoding(space, config.model, joint.Process(parts.image_process(config)))
