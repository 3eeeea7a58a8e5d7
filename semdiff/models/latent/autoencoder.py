"""The autoencoder of latent diffusion (2112.10752): images at a fraction of their size, in a few channels.

What it says of an image is a normal distribution of each number.
"""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax import struct

from semdiff.models.attention import attend
from semdiff.models.layers import Conv, Dense, GroupNorm, ResBlock, add_bias, convolve, upsample

EPSILON = 1e-6  # of the norms
LOG_VARIANCE = (-30.0, 20.0)  # bounds of what the encoder says


@struct.dataclass
class Latents:
    """q(z | image), [B, h, w, C]."""

    mean: jax.Array
    log_variance: jax.Array

    def draw(self, noise):
        return self.mean + jnp.exp(0.5 * self.log_variance) * noise

    def divergence(self):
        """KL(q || N(0, 1)) in nats per number, [B]."""
        kl = 0.5 * (self.mean**2 + jnp.exp(self.log_variance) - 1 - self.log_variance)
        return kl.mean((1, 2, 3))


class Halve(nn.Module):
    """Half the size, by a convolution that looks right and down."""

    channels: int
    dtype: Any

    def setup(self):
        self.conv = Conv(self.channels, 3, dtype=self.dtype)

    def __call__(self, x):
        kernel, bias = self.conv.weights(x.shape[-1])
        return add_bias(convolve(x.astype(self.dtype), kernel, 2, pad=((0, 1), (0, 1))), bias)


class Middle(nn.Module):
    """A block, attention of one head, a block."""

    groups: int
    dtype: Any

    @nn.compact
    def __call__(self, x):
        b, h, w, c = x.shape
        x = block(c, c, self.groups, self.dtype, "res_0")(x)
        normed = GroupNorm(c, self.groups, EPSILON, name="norm")(x).astype(self.dtype).reshape(b, h * w, 1, c)
        q, k, v = (Dense(c, dtype=self.dtype, name=name)(normed) for name in "qkv")
        mixed = Dense(c, dtype=self.dtype, name="out")(attend(q, k, v)).reshape(b, h, w, c)
        return block(c, c, self.groups, self.dtype, "res_1")(x + mixed)


def block(inputs: int, outputs: int, groups: int, dtype: Any, name: str) -> ResBlock:
    """A residual block that is told no time."""
    return ResBlock(inputs, outputs, lambda width: GroupNorm(width, groups, EPSILON), dtype=dtype, name=name)


class Encoder(nn.Module):
    """Images [B, H, W, 3] in [-1, 1] -> mean and log variance side by side, [B, h, w, 2C]."""

    base: int
    multipliers: tuple[int, ...]
    blocks: int
    channels: int
    groups: int
    dtype: Any

    @nn.compact
    def __call__(self, x):
        h = Conv(self.base, 3, dtype=self.dtype, name="conv_in")(x)
        for level, multiplier in enumerate(self.multipliers):
            if level:
                h = Halve(h.shape[-1], self.dtype, name=f"halve_{level}")(h)
            for i in range(self.blocks):
                width = multiplier * self.base
                h = block(h.shape[-1], width, self.groups, self.dtype, f"level_{level}_{i}")(h)
        h = Middle(self.groups, self.dtype, name="middle")(h)
        h = nn.silu(GroupNorm(h.shape[-1], self.groups, EPSILON, name="norm_out")(h))
        h = Conv(2 * self.channels, 3, name="conv_out")(h)
        return Conv(2 * self.channels, 1, name="quant")(h)


class Decoder(nn.Module):
    """Latents [B, h, w, C] -> images [B, H, W, 3], which may leave [-1, 1]."""

    base: int
    multipliers: tuple[int, ...]
    blocks: int
    groups: int
    dtype: Any

    @nn.compact
    def __call__(self, z):
        h = Conv(z.shape[-1], 1, name="quant")(z)
        h = Conv(self.multipliers[-1] * self.base, 3, dtype=self.dtype, name="conv_in")(h)
        h = Middle(self.groups, self.dtype, name="middle")(h)
        for level, multiplier in reversed(list(enumerate(self.multipliers))):
            for i in range(self.blocks + 1):
                width = multiplier * self.base
                h = block(h.shape[-1], width, self.groups, self.dtype, f"level_{level}_{i}")(h)
            if level:
                h = Conv(width, 3, dtype=self.dtype, name=f"double_{level}")(upsample(h))
        h = nn.silu(GroupNorm(h.shape[-1], self.groups, EPSILON, name="norm_out")(h))
        return Conv(3, 3, name="conv_out")(h)


class Autoencoder(nn.Module):
    """base, multipliers, blocks: width of level 0, its multiples, residual blocks a level; each level but the first is half
    as large. channels: of the latents."""

    base: int = 128
    multipliers: tuple[int, ...] = (1, 2, 4, 4)
    blocks: int = 2
    channels: int = 4
    groups: int = 32
    dtype: Any = jnp.float32

    @property
    def stride(self) -> int:
        """Pixels of an image to a place of its latents."""
        return 2 ** (len(self.multipliers) - 1)

    def setup(self):
        shape = (self.base, self.multipliers, self.blocks)
        self.encoder = Encoder(*shape, self.channels, self.groups, self.dtype)
        self.decoder = Decoder(*shape, self.groups, self.dtype)

    def __call__(self, x):
        return self.decode(self.encode(x).mean)

    def encode(self, x) -> Latents:
        mean, log_variance = jnp.split(self.encoder(x), 2, axis=-1)
        return Latents(mean, jnp.clip(log_variance, *LOG_VARIANCE))

    def decode(self, z):
        return self.decoder(z)
