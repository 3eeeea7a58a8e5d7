"""Where the image half lives: in pixels, or where an autoencoder takes them.

A space has
    channels                          of x
    bounded                           whether x lies in [-1, 1]
    name                              of the space, in what is measured there
    init(key)                      -> its parameters, which are never trained here; {} where it has none
    shape(size)                    -> (height, width, channels) of an image of `size` = (height, width)
    encode(params, pixels, keys)   -> x_0 of 8-bit pixels; keys: one per example, None for the likeliest
    decode(params, x)              -> 8-bit pixels
    mask(free)                     -> [B, h, w, 1], true where x depends on a pixel of [B, H, W] that is
"""

import hashlib
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol

import jax
import jax.numpy as jnp
import numpy as np

from semdiff.diffusion import gaussian
from semdiff.models import initial
from semdiff.models.latent.autoencoder import Autoencoder


class Space(Protocol):
    @property
    def channels(self) -> int: ...

    @property
    def bounded(self) -> bool: ...

    @property
    def name(self) -> str: ...

    def init(self, key) -> dict: ...

    def shape(self, size: tuple[int, int]) -> tuple[int, int, int]: ...

    def encode(self, params: dict, pixels: Any, keys: Any = None) -> Any: ...

    def decode(self, params: dict, x: Any) -> Any: ...

    def mask(self, free: Any) -> Any: ...


@dataclass(frozen=True)
class Pixels:
    """Images as they are, in [-1, 1]."""

    channels: int = 3
    bounded = True
    name = "pixels"

    def init(self, key) -> dict:
        return {}

    def shape(self, size: tuple[int, int]) -> tuple[int, int, int]:
        return (*size, self.channels)

    def encode(self, params: dict, pixels, keys=None):
        return to_unit(pixels)

    def decode(self, params: dict, x):
        return to_pixels(x)

    def mask(self, free):
        return free[..., None]


PIXELS = Pixels()

MEAN, DEVIATION = "mean", "deviation"  # of the latents' channels, parameters beside the autoencoder's


@dataclass(frozen=True)
class Latents:
    """What an autoencoder makes of images, each channel less its mean over its deviation."""

    autoencoder: Autoencoder
    scale: float  # 1 / the deviation of all channels; 0: it is measured

    bounded: ClassVar = False

    @property
    def channels(self) -> int:
        return self.autoencoder.channels

    @property
    def name(self) -> str:
        return f"latents of {self.channels} channels at 1/{self.autoencoder.stride}"

    def init(self, key) -> dict:
        stride, channels = self.autoencoder.stride, (self.channels,)
        weights = initial.fresh(self.autoencoder.init, key, jnp.zeros((1, stride, stride, 3)))["params"]
        return weights | {MEAN: jnp.zeros(channels), DEVIATION: jnp.full(channels, 1 / (self.scale or 1))}

    def shape(self, size: tuple[int, int]) -> tuple[int, int, int]:
        stride = self.autoencoder.stride
        return size[0] // stride, size[1] // stride, self.channels

    def said(self, params: dict, pixels):
        """Mean and deviation of q(x_0 | pixels), side by side [B, h, w, 2C]."""
        q: Any = self.autoencoder.apply({"params": _weights(params)}, to_unit(pixels), method="encode")
        mean, deviation = q.mean - params[MEAN], jnp.exp(0.5 * q.log_variance)
        return jnp.concatenate([mean / params[DEVIATION], deviation / params[DEVIATION]], axis=-1)

    def encode(self, params: dict, pixels, keys=None):
        return drawn(self.said(params, pixels), keys)

    def decode(self, params: dict, x):
        z = x * params[DEVIATION] + params[MEAN]
        return to_pixels(self.autoencoder.apply({"params": _weights(params)}, z, method="decode"))

    def mask(self, free):
        """What of an image's latents looks mostly at free pixels; the autoencoder's edges look a little beyond."""
        b, h, w = free.shape
        stride = self.autoencoder.stride
        return free.reshape(b, h // stride, stride, w // stride, stride).any((2, 4))[..., None]


def drawn(said, keys=None):
    """x_0 of the mean and deviation of its channels; the mean without keys."""
    mean, deviation = jnp.split(said, 2, axis=-1)
    return mean if keys is None else mean + deviation * gaussian.normal(keys, mean)


def called(space: Space, params: dict) -> str:
    """Its name, and of which autoencoder: what was measured with one is of no use with another."""
    if not params:
        return space.name
    digest = hashlib.sha256()
    for leaf in jax.tree.leaves(params):  # as half precision, in which weights may have been kept
        digest.update(np.asarray(leaf).astype(np.float16).tobytes())
    return f"{space.name}, autoencoder {digest.hexdigest()[:12]}"


def _weights(params: dict) -> dict:
    return {name: part for name, part in params.items() if name not in (MEAN, DEVIATION)}


def to_unit(image):
    """8-bit pixels -> [-1, 1]."""
    return jnp.asarray(image, jnp.float32) / 127.5 - 1


def to_pixels(x):
    """[-1, 1] -> 8-bit pixels, rounded."""
    return jnp.round((jnp.clip(x, -1, 1) + 1) * 127.5).astype(jnp.uint8)
