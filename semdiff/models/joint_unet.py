"""The network of GCDP: an Imagen-style UNet of image and layout together, told of words.

It sees x_t and an embedding of y_t side by side, the noise level and text, and has two heads: channels of the image and
logits of y_0. Levels halve before their blocks.
"""

import math
from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from semdiff.models import initial
from semdiff.models.layers import Conv, Dense, Embed, group_normalise
from semdiff.models.text import TextEncoder

Norm = partial(nn.LayerNorm, epsilon=1e-5)
ScaleNorm = partial(nn.LayerNorm, epsilon=1e-5, use_bias=False)  # without a shift


def folded(x):
    """[B, H, W, C] -> [B, H/2, W/2, 4C]: of each channel its 2 x 2 pixels."""
    b, h, w, c = x.shape
    return x.reshape(b, h // 2, 2, w // 2, 2, c).transpose(0, 1, 3, 5, 2, 4).reshape(b, h // 2, w // 2, 4 * c)


def unfolded(x):
    """The inverse of `folded`."""
    b, h, w, c = x.shape
    return x.reshape(b, h, w, c // 4, 2, 2).transpose(0, 1, 4, 2, 5, 3).reshape(b, 2 * h, 2 * w, c // 4)


class Enlarge(nn.Module):
    """Twice the size: four pixels from each, which begin as the same (ICNR, 1707.02937)."""

    channels: int
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x):
        def alike(key, shape, dtype=jnp.float32):
            quarter = initial.he(key, (shape[0], shape[1] // 4), dtype)
            return jnp.repeat(quarter, 4, axis=1)

        return unfolded(
            nn.silu(Dense(4 * self.channels, kernel_init=alike, dtype=self.dtype, name="conv")(x))
        )


class Waves(nn.Module):
    """A number with sines and cosines of it, whose frequencies are learned. They begin slow: log SNR runs from -10 to 10."""

    width: int = 16

    @nn.compact
    def __call__(self, value):
        frequencies = self.param("frequencies", initial.normal(0.1), (self.width // 2,))
        angles = 2 * math.pi * value[:, None] * frequencies
        return jnp.concatenate([value[:, None], jnp.sin(angles), jnp.cos(angles)], axis=-1)


class NoiseLevel(nn.Module):
    """log SNR -> (a vector added at every block, tokens to attend to)."""

    width: int
    token_width: int
    tokens: int = 2

    @nn.compact
    def __call__(self, log_snr):
        hidden = nn.silu(Dense(self.width, name="hidden")(Waves(name="waves")(log_snr)))
        tokens = Dense(self.tokens * self.token_width, name="tokens")(hidden)
        return Dense(self.width, name="vector")(hidden), tokens.reshape(-1, self.tokens, self.token_width)


def attend(q, k, v):
    """q [B, N, heads, width], k and v [B, M, heads or 1, width] -> [B, N, heads width]; scores in float32."""
    k, v = (jnp.broadcast_to(a, (*a.shape[:2], q.shape[2], a.shape[3])) for a in (k, v))
    scores = jnp.einsum("bnhd,bmhd->bhnm", q, k, preferred_element_type=jnp.float32)
    weights = jax.nn.softmax(scores / math.sqrt(q.shape[-1]), axis=-1).astype(v.dtype)
    mixed = jnp.einsum("bhnm,bmhd->bnhd", weights, v)
    return mixed.reshape(*mixed.shape[:2], -1)


def with_null(module: nn.Module, k, v):
    """With one learned key and value that say nothing, the same for every head."""
    null = module.param("null", initial.normal(1.0), (2, k.shape[-1])).astype(k.dtype)
    shape = (k.shape[0], 1, *k.shape[2:])
    return tuple(
        jnp.concatenate([jnp.broadcast_to(n, shape), a], axis=1) for n, a in zip(null, (k, v), strict=True)
    )


class SelfAttention(nn.Module):
    """Positions among each other and, if given, the tokens: many queries, one key and value (2205.11487, D.3)."""

    channels: int
    heads: int
    width: int
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x, tokens=None):
        dense = partial(Dense, dtype=self.dtype)
        b, h, w, c = x.shape
        positions = ScaleNorm(name="norm")(x.reshape(b, h * w, c))
        q = dense(self.heads * self.width, use_bias=False, name="q")(positions)
        kv = dense(2 * self.width, use_bias=False, name="kv")(positions)
        k, v = with_null(self, *(a[:, :, None] for a in jnp.split(kv, 2, axis=-1)))
        if tokens is not None:
            told = dense(2 * self.width, name="tokens_kv")(Norm(name="tokens_norm")(tokens))
            pairs = zip(jnp.split(told, 2, axis=-1), (k, v), strict=True)
            k, v = (jnp.concatenate([new[:, :, None], old], axis=1) for new, old in pairs)
        mixed = attend(q.reshape(b, h * w, self.heads, self.width), k, v)
        out = ScaleNorm(name="out_norm")(dense(self.channels, use_bias=False, name="out")(mixed))
        return out.reshape(b, h, w, c)


class CrossAttention(nn.Module):
    """Positions to tokens."""

    channels: int
    heads: int
    width: int
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x, tokens):
        dense = partial(Dense, dtype=self.dtype, use_bias=False)
        b, h, w, c = x.shape
        split = lambda a: a.reshape(*a.shape[:2], self.heads, self.width)  # noqa: E731
        q = split(dense(self.heads * self.width, name="q")(ScaleNorm(name="norm")(x.reshape(b, h * w, c))))
        kv = dense(2 * self.heads * self.width, name="kv")(tokens)
        k, v = with_null(self, *map(split, jnp.split(kv, 2, axis=-1)))
        out = ScaleNorm(name="out_norm")(dense(self.channels, name="out")(attend(q, k, v)))
        return out.reshape(b, h, w, c)


class FeedForward(nn.Module):
    """Norm, wider, GELU, norm, back; on the last axis, added by whoever calls it."""

    factor: float
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x):
        width = x.shape[-1]
        dense = partial(Dense, dtype=self.dtype, use_bias=False)
        x = dense(int(width * self.factor), name="wide")(ScaleNorm(name="norm")(x))
        x = nn.gelu(x, approximate=False)
        return dense(width, name="narrow")(ScaleNorm(name="wide_norm")(x))


class Transformer(nn.Module):
    """Self-attention and a feed-forward layer at every position."""

    heads: int
    width: int
    factor: float
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x, tokens):
        x = x + SelfAttention(x.shape[-1], self.heads, self.width, self.dtype, name="attention")(x, tokens)
        return x + FeedForward(self.factor, self.dtype, name="feed")(x)


class GlobalContext(nn.Module):
    """A weight for each channel, from a weighted mean over all positions (2012.13375)."""

    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x):
        b, h, w, c = x.shape
        scores = Conv(1, 1, dtype=self.dtype, name="scores")(x).reshape(b, h * w, 1)
        weights = jax.nn.softmax(scores.astype(jnp.float32), axis=1).astype(x.dtype)
        mean = (x.reshape(b, h * w, c) * weights).sum(1)
        hidden = nn.silu(Dense(max(3, c // 2), dtype=self.dtype, name="hidden")(mean))
        return nn.sigmoid(Dense(c, dtype=self.dtype, name="gates")(hidden))[:, None, None]


class Activated(nn.Module):
    """Group norm, the noise level as scale and shift where it is given, SiLU, a convolution."""

    channels: int
    groups: int
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x, scale_shift=None):
        width = x.shape[-1]
        scale = self.param("scale", nn.initializers.ones, (width,))
        bias = self.param("bias", nn.initializers.zeros, (width,))
        x = group_normalise(x, math.gcd(self.groups, width)) * scale + bias
        if scale_shift is not None:
            scale, shift = scale_shift
            x = x * (scale + 1) + shift
        return Conv(self.channels, 3, dtype=self.dtype, name="conv")(nn.silu(x).astype(self.dtype))


class Block(nn.Module):
    """A residual block: convolution, tokens, the noise level, convolution, gates."""

    channels: int
    groups: int = 8
    gated: bool = False
    heads: int = 0  # of the attention to tokens; 0: none
    width: int = 64
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x, vector, tokens=None):
        scale_shift = Dense(2 * self.channels, name="level")(nn.silu(vector))[:, None, None]
        h = Activated(self.channels, self.groups, self.dtype, name="first")(x)
        if self.heads:
            attention = CrossAttention(self.channels, self.heads, self.width, self.dtype, name="cross")
            h = h + attention(h, tokens)
        second = Activated(self.channels, self.groups, self.dtype, name="second")
        h = second(h, jnp.split(scale_shift, 2, axis=-1))
        if self.gated:
            h = h * GlobalContext(self.dtype, name="context")(h)
        if x.shape[-1] != self.channels:
            x = Conv(self.channels, 1, dtype=self.dtype, name="skip")(x)
        return h + x


class Stem(nn.Module):
    """Convolutions of several sizes side by side: half of the channels from the smallest, a quarter from the next, ..."""

    channels: int
    sizes: tuple[int, ...]
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x):
        shares = [self.channels // 2**i for i in range(1, len(self.sizes))]
        shares.append(self.channels - sum(shares))
        maps = [
            Conv(share, size, dtype=self.dtype, name=f"conv_{i}")(x)
            for i, (share, size) in enumerate(zip(shares, sorted(self.sizes), strict=True))
        ]
        return jnp.concatenate(maps, axis=-1)


class Resampler(nn.Module):
    """So many tokens from as many as there are (a Perceiver, 2103.03206), and four of their mean."""

    latents: int
    heads: int
    width: int
    depth: int = 2
    longest: int = 512
    of_mean: int = 4

    @nn.compact
    def __call__(self, tokens):
        b, n, width = tokens.shape
        places = self.param("places", initial.normal(1.0), (self.longest, width))
        latents = self.param("latents", initial.normal(1.0), (self.latents, width))
        mean = Dense(self.of_mean * width, name="mean")(ScaleNorm(name="mean_norm")(tokens.mean(1)))
        latents = jnp.broadcast_to(latents, (b, *latents.shape))
        latents = jnp.concatenate([mean.reshape(b, self.of_mean, width), latents], axis=1)
        placed = tokens + places[:n]
        for i in range(self.depth):
            latents = latents + LatentAttention(self.heads, self.width, name=f"attention_{i}")(
                placed, latents
            )
            latents = latents + FeedForward(4.0, name=f"feed_{i}")(latents)
        return latents


class LatentAttention(nn.Module):
    """Latents to tokens and to themselves."""

    heads: int
    width: int

    @nn.compact
    def __call__(self, tokens, latents):
        channels = latents.shape[-1]
        tokens, latents = Norm(name="tokens_norm")(tokens), Norm(name="latents_norm")(latents)
        split = lambda a: a.reshape(*a.shape[:2], self.heads, self.width)  # noqa: E731
        q = split(Dense(self.heads * self.width, use_bias=False, name="q")(latents))
        both = jnp.concatenate([tokens, latents], axis=1)
        kv = Dense(2 * self.heads * self.width, use_bias=False, name="kv")(both)
        k, v = map(split, jnp.split(kv, 2, axis=-1))
        return Norm(name="out_norm")(Dense(channels, use_bias=False, name="out")(attend(q, k, v)))


class Told(nn.Module):
    """Text -> (tokens to attend to, a vector added at every block).

    Where the mask is false stands a learned token of that place; a text without any is absent and has a vector of its own.
    """

    token_width: int
    width: int
    longest: int
    latents: int
    heads: int
    head_width: int

    @nn.compact
    def __call__(self, text, mask):
        null = self.param("null_tokens", initial.normal(1.0), (self.longest, self.token_width))
        null_vector = self.param("null_vector", initial.normal(1.0), (self.width,))
        tokens = Dense(self.token_width, name="tokens")(text.astype(jnp.float32)[:, : self.longest])
        missing = self.longest - tokens.shape[1]
        tokens = jnp.pad(tokens, ((0, 0), (0, missing), (0, 0)))
        shown = jnp.pad(mask[:, : self.longest], ((0, 0), (0, missing)))
        tokens = jnp.where(shown[:, :, None], tokens, null)
        if self.latents:
            tokens = Resampler(self.latents, self.heads, self.head_width, name="resampler")(tokens)
        hidden = Dense(self.width, name="hidden")(Norm(name="norm")(tokens.mean(1)))
        vector = Dense(self.width, name="vector")(nn.silu(hidden))
        return tokens, jnp.where(mask.any(1)[:, None], vector, null_vector)


class JointUNet(nn.Module):
    """channels of the image, logits of y_0 = network(x_t, y_t, log SNR, text).

    base, multipliers, blocks: width of level 0, its multiples, residual blocks per level. attention, cross_attention:
    levels, from 0, at which positions attend to each other and to the tokens. stem: sizes of its convolutions. text_width:
    of what the text encoder gives; vocabulary > 0: it is a part of this network, and texts are ids of words. latents: tokens
    that a text is pooled to; 0: none. upscales: the network is also given an image and a layout of lower resolution.
    layout_clock: the layout may be noised to another time than the image, and the network is told both.
    stem_to_last: what the first convolution gives also goes to the last block, past all levels. halve_first: level 0 is at
    half the size already (as released: nearly all work is then done at small sizes); else at the size of the image.
    """

    num_classes: int
    num_states: int = 0  # of y_t; 0: the classes
    image_channels: int = 3
    out_channels: int = 3
    label_channels: int = 3
    base: int = 128
    multipliers: tuple[int, ...] = (1, 2, 4, 8)
    blocks: tuple[int, ...] = (2, 4, 8, 8)
    attention: tuple[int, ...] = (1, 2, 3)
    cross_attention: tuple[int, ...] = (1, 2, 3)
    heads: int = 8
    head_width: int = 64
    feed_factor: float = 2.0
    groups: int = 8
    stem: tuple[int, ...] = (3, 7, 15)
    text_width: int = 1024
    text_length: int = 256
    vocabulary: int = 0
    latents: int = 32
    time_tokens: int = 2
    upscales: int = 0
    layout_clock: bool = False
    stem_to_last: bool = False
    halve_first: bool = True
    remat: bool = False
    dtype: Any = jnp.float32

    @property
    def size_multiple(self) -> int:
        """Height and width must be multiples of this."""
        return 2 ** (len(self.multipliers) - (not self.halve_first))

    @property
    def halving(self) -> list[bool]:
        """Whether a level begins by halving what comes from above."""
        return [self.halve_first or i > 0 for i in range(len(self.multipliers))]

    @property
    def states(self) -> int:
        return self.num_states or self.num_classes

    def check_size(self, height: int, width: int):
        if height % self.size_multiple or width % self.size_multiple:
            raise ValueError(
                f"image size {height} x {width} does not fit a network of {len(self.multipliers)} levels: "
                f"both must be multiples of {self.size_multiple}; pad the image or use fewer multipliers"
            )

    def compute_dtypes(self, params) -> dict:
        """The type that each part of the parameters is used in, as a tree."""
        exact = ("level", "told", "text", "tokens_norm", "conv_", "labels")
        return {
            name: jax.tree.map(lambda _, x=name: jnp.float32 if x.startswith(exact) else self.dtype, part)
            for name, part in params.items()
        }

    def setup(self):
        widths = [m * self.base for m in self.multipliers]
        vector = 4 * self.base * (2 if self.upscales else 1)
        level = partial(NoiseLevel, vector, self.base, self.time_tokens)
        self.labels = Embed(self.states, self.label_channels)
        self.conv_in = Stem(self.base, self.stem, self.dtype)
        self.level = level()
        if self.layout_clock:
            self.level_layout = level()
        if self.upscales:
            self.level_low, self.labels_low = level(), Embed(self.states, self.label_channels)
        if self.vocabulary:
            self.text_encoder = TextEncoder(self.vocabulary, self.text_width, self.text_length)
        if self.text_width:
            tell = (self.base, vector, self.text_length, self.latents, self.heads, self.head_width)
            self.told = Told(*tell)
        self.tokens_norm = Norm()

        block = partial(
            nn.remat(Block) if self.remat else Block,
            groups=self.groups,
            width=self.head_width,
            dtype=self.dtype,
        )
        attend_here = lambda i: self.heads if i in self.cross_attention else 0  # noqa: E731
        conv = partial(Conv, dtype=self.dtype)
        self.first = block(self.base, gated=True)
        self.down_resample = [conv(w, 1) if halves else None for w, halves in zip(widths, self.halving)]
        self.down_first = [block(width, heads=attend_here(i)) for i, width in enumerate(widths)]
        self.down_blocks = [
            [block(w, gated=True) for _ in range(n)] for w, n in zip(widths, self.blocks, strict=True)
        ]
        self.down_attention = [self._transformer(i) for i in range(len(widths))]
        self.middle_first = block(widths[-1], heads=self.heads)
        self.middle_attention = SelfAttention(widths[-1], self.heads, self.head_width, self.dtype)
        self.middle_last = block(widths[-1], heads=self.heads)
        self.up_first = [block(width, heads=attend_here(i)) for i, width in enumerate(widths)]
        self.up_blocks = [
            [block(w, gated=True) for _ in range(n)] for w, n in zip(widths, self.blocks, strict=True)
        ]
        self.up_attention = [self._transformer(i) for i in range(len(widths))]
        above = (self.base, *widths[:-1])
        self.up_resample = [
            Enlarge(w, self.dtype) if halves else None for w, halves in zip(above, self.halving)
        ]
        self.last = block(self.base, gated=True)
        self.conv_image = Conv(self.out_channels, 3, zero=True, dtype=jnp.float32)
        self.conv_layout = Conv(self.num_classes, 3, zero=True, dtype=jnp.float32)

    def _transformer(self, level: int) -> Transformer | None:
        if level not in self.attention:
            return None
        kind = nn.remat(Transformer) if self.remat else Transformer
        return kind(self.heads, self.head_width, self.feed_factor, self.dtype)

    def tell(self, text, mask) -> dict:
        """What a text does to the network, whatever x_t, y_t and t: give it to `__call__` as `told`."""
        tokens, vector = self.told(self.text_encoder(text, mask) if self.vocabulary else text, mask)
        return {"tokens": tokens, "vector": vector}

    def __call__(
        self, image, layout, log_snr, text=None, mask=None, *, told=None, low=None, layout_log_snr=None
    ):
        """image [B,H,W,C], layout [B,H,W] states (others: the zero vector), log_snr [B], text [B,L,D] or ids [B,L] with
        mask [B,L] -> ([B,H,W,out_channels], logits [B,H,W,K]), float32.

        low: {"image", "layout", "log_snr"} of the lower resolution, enlarged, for a network that upscales. layout_log_snr
        [B]: of the layout's own time, as the image's log SNR at that time.
        """
        self.check_size(*image.shape[1:3])
        seen = [image, embedded(self.labels, layout)]
        vector, tokens = self.level(log_snr)
        if self.layout_clock:
            more, told_layout = self.level_layout(log_snr if layout_log_snr is None else layout_log_snr)
            vector, tokens = vector + more, jnp.concatenate([tokens, told_layout], axis=1)
        if self.upscales:
            small = [low["image"], embedded(self.labels_low, low["layout"])]
            seen += small
            more, told_low = self.level_low(low["log_snr"])
            vector, tokens = vector + more, jnp.concatenate([tokens, told_low], axis=1)
        if told is None and text is not None:
            told = self.tell(text, mask)
        if told is not None:
            rows = lambda a: jnp.broadcast_to(a, (len(image), *a.shape[1:]))  # noqa: E731
            vector = vector + told["vector"]
            tokens = jnp.concatenate([tokens, rows(told["tokens"])], axis=1)
        tokens = self.tokens_norm(tokens).astype(self.dtype)

        stem = self.conv_in(jnp.concatenate(seen, axis=-1).astype(self.dtype))
        h, skips = self.first(stem, vector), []
        for i, resample in enumerate(self.down_resample):
            h = self.down_first[i](h if resample is None else resample(folded(h)), vector, tokens)
            for block in self.down_blocks[i]:
                h = block(h, vector)
                skips.append(h)
            if self.down_attention[i] is not None:
                h = self.down_attention[i](h, tokens)
            skips.append(h)
        h = self.middle_first(h, vector, tokens)
        h = h + self.middle_attention(h)
        h = self.middle_last(h, vector, tokens)
        for i in reversed(range(len(self.multipliers))):
            joined = lambda h: jnp.concatenate([h, skips.pop() * 2**-0.5], axis=-1)  # noqa: E731
            h = self.up_first[i](joined(h), vector, tokens)
            for block in self.up_blocks[i]:
                h = block(joined(h), vector)
            if self.up_attention[i] is not None:
                h = self.up_attention[i](h, tokens)
            if self.up_resample[i] is not None:
                h = self.up_resample[i](h)
        if self.stem_to_last:
            h = jnp.concatenate([h, stem], axis=-1)
        h = self.last(h, vector).astype(jnp.float32)
        if self.upscales:
            h = jnp.concatenate([h, *small], axis=-1)
        return self.conv_image(h), self.conv_layout(h)


def embedded(table: nn.Embed, layout):
    """The row of each state; ids that are none: zeros."""
    known = (layout >= 0) & (layout < table.num_embeddings)
    return jnp.where(known[..., None], table(jnp.clip(layout, 0, table.num_embeddings - 1)), 0.0)
