"""A small encoder of words, trained with what it is for."""

from functools import partial

import flax.linen as nn
import jax.numpy as jnp

from semdiff.models import initial
from semdiff.models.layers import Dense, Embed


class TextEncoder(nn.Module):
    """ids [B, L] with a mask -> [B, L, width]: a transformer over embedded words and their places."""

    vocabulary: int
    width: int
    longest: int
    depth: int = 2
    heads: int = 4

    @nn.compact
    def __call__(self, ids, mask):
        places = self.param("places", initial.normal(0.02), (self.longest, self.width))
        x = Embed(self.vocabulary, self.width, name="words")(ids) + places[: ids.shape[1]]
        # A text without words would attend to nothing: its first place stands in, and is masked by whoever reads it.
        seen = (mask | (jnp.arange(ids.shape[1]) == 0))[:, None, None]
        attention = partial(nn.MultiHeadDotProductAttention, self.heads, kernel_init=initial.lecun)
        for i in range(self.depth):
            h = nn.LayerNorm(name=f"norm_{i}")(x)
            x = x + attention(name=f"attention_{i}")(h, mask=seen)
            h = nn.LayerNorm(name=f"feed_norm_{i}")(x)
            h = nn.gelu(Dense(2 * self.width, name=f"wide_{i}")(h))
            x = x + Dense(self.width, name=f"narrow_{i}")(h)
        return nn.LayerNorm(name="out_norm")(x)
