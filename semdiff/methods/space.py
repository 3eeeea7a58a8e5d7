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

from dataclasses import dataclass
from typing import Any, Protocol

import jax.numpy as jnp


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


def to_unit(image):
    """8-bit pixels -> [-1, 1]."""
    return jnp.asarray(image, jnp.float32) / 127.5 - 1


def to_pixels(x):
    """[-1, 1] -> 8-bit pixels, rounded."""
    return jnp.round((jnp.clip(x, -1, 1) + 1) * 127.5).astype(jnp.uint8)
