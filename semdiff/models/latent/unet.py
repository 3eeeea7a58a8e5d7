"""The UNet of Stable Diffusion, told of words, and a ControlNet (2302.05543) that brings the layout to it."""

from dataclasses import dataclass
from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from semdiff.models import initial
from semdiff.models.attention import attend
from semdiff.models.layers import (
    Conv,
    Dense,
    GroupNorm,
    LabelConv,
    LabelConvKind,
    Labels,
    ResBlock,
    heads_of,
    timestep_embedding,
    upsample,
)

Skips = list[jax.Array]


@dataclass(frozen=True)
class Shape:
    """What UNet and ControlNet have in common.

    base, multipliers, blocks: width of level 0, its multiples, residual blocks a level. attention: downsampling factors, of
    the latents, at which positions attend to each other and to the words. head_width: channels per head, or `heads` of them
    when > 0. depth: transformer blocks at each such place. fused: attention by what the platform has for it.
    """

    base: int = 320
    multipliers: tuple[int, ...] = (1, 2, 4, 4)
    blocks: int = 2
    attention: tuple[int, ...] = (1, 2, 4)
    head_width: int = 64
    heads: int = 0
    depth: int = 1
    groups: int = 32
    fused: bool = True
    remat: bool = False
    dtype: Any = jnp.float32

    def res(self, inputs: int, outputs: int, name: str) -> ResBlock:
        kind = nn.remat(ResBlock) if self.remat else ResBlock
        return kind(
            inputs, outputs, partial(GroupNorm, groups=self.groups), False, dtype=self.dtype, name=name
        )

    def transformer(self, channels: int, name: str) -> "Transformer":
        heads = heads_of(channels, self.heads, self.head_width)
        kind = nn.remat(Transformer) if self.remat else Transformer
        return kind(heads, self.depth, self.groups, self.fused, self.dtype, name=name)


class Attend(nn.Module):
    """From x [B, L, C] to what is given [B, M, W]."""

    heads: int
    fused: bool
    dtype: Any

    @nn.compact
    def __call__(self, x, given):
        channels = x.shape[-1]
        by_head = lambda a: a.reshape(*a.shape[:2], self.heads, -1)  # noqa: E731
        linear = partial(Dense, channels, dtype=self.dtype)
        q = by_head(linear(use_bias=False, name="q")(x))
        k, v = (by_head(linear(use_bias=False, name=name)(given)) for name in "kv")
        return linear(name="out")(attend(q, k, v, self.fused).reshape(x.shape))


class TransformerBlock(nn.Module):
    """Attention to each other, to the words, and a wide layer (GEGLU), each added to its input."""

    heads: int
    fused: bool
    dtype: Any

    @nn.compact
    def __call__(self, x, words):
        norm = partial(nn.LayerNorm, epsilon=1e-5)
        h = norm(name="norm_self")(x).astype(self.dtype)
        x = x + Attend(self.heads, self.fused, self.dtype, name="self")(h, h)
        h = norm(name="norm_words")(x).astype(self.dtype)
        x = x + Attend(self.heads, self.fused, self.dtype, name="words")(h, words)
        h = norm(name="norm_wide")(x).astype(self.dtype)
        h, gate = jnp.split(Dense(8 * x.shape[-1], dtype=self.dtype, name="wide")(h), 2, axis=-1)
        return x + Dense(x.shape[-1], dtype=self.dtype, name="narrow")(h * nn.gelu(gate, approximate=False))


class Transformer(nn.Module):
    """`TransformerBlock`s over all positions of x [B, h, w, C], added to it."""

    heads: int
    depth: int
    groups: int
    fused: bool
    dtype: Any

    @nn.compact
    def __call__(self, x, words):
        b, h, w, c = x.shape
        inner = GroupNorm(c, self.groups, 1e-6, name="norm")(x).astype(self.dtype).reshape(b, h * w, c)
        inner, words = Dense(c, dtype=self.dtype, name="in")(inner), words.astype(self.dtype)
        for i in range(self.depth):
            inner = TransformerBlock(self.heads, self.fused, self.dtype, name=f"block_{i}")(inner, words)
        out = Dense(c, dtype=self.dtype, kernel_init=nn.initializers.zeros, name="out")(inner)
        return x + out.reshape(b, h, w, c)


class Encoder(nn.Module):
    """The way down and the middle, which a ControlNet begins as a copy of -> (embedded time, h, skips)."""

    shape: Shape

    @nn.compact
    def __call__(self, x, time, words, hint=None):
        s = self.shape
        emb = Dense(4 * s.base, name="time_0")(timestep_embedding(time, s.base))
        emb = Dense(4 * s.base, name="time_1")(nn.silu(emb))
        h = Conv(s.base, 3, dtype=s.dtype, name="conv_in")(x)
        if hint is not None:
            h = h + hint
        skips = [h]
        for level, multiplier in enumerate(s.multipliers):
            if level:
                h = Conv(h.shape[-1], 3, stride=2, dtype=s.dtype, name=f"halve_{level}")(h)
                skips.append(h)
            for i in range(s.blocks):
                h = s.res(h.shape[-1], multiplier * s.base, f"level_{level}_{i}_res")(h, emb)
                if 2**level in s.attention:
                    h = s.transformer(h.shape[-1], f"level_{level}_{i}_attention")(h, words)
                skips.append(h)
        h = s.res(h.shape[-1], h.shape[-1], "middle_res_0")(h, emb)
        h = s.transformer(h.shape[-1], "middle_attention")(h, words)
        return emb, s.res(h.shape[-1], h.shape[-1], "middle_res_1")(h, emb), skips


class Decoder(nn.Module):
    """The way up."""

    shape: Shape
    channels: int

    @nn.compact
    def __call__(self, h, skips: Skips, emb, words):
        s, skips = self.shape, list(skips)
        for level, multiplier in reversed(list(enumerate(s.multipliers))):
            for i in range(s.blocks + 1):
                h = jnp.concatenate([h, skips.pop()], axis=-1)
                h = s.res(h.shape[-1], multiplier * s.base, f"level_{level}_{i}_res")(h, emb)
                if 2**level in s.attention:
                    h = s.transformer(h.shape[-1], f"level_{level}_{i}_attention")(h, words)
            if level:
                h = Conv(h.shape[-1], 3, dtype=s.dtype, name=f"double_{level}")(upsample(h))
        h = nn.silu(GroupNorm(h.shape[-1], s.groups, name="norm_out")(h))
        return Conv(self.channels, 3, name="conv_out")(h.astype(jnp.float32))


class UNet(nn.Module):
    """What x_t [B, h, w, C] was, as its process asks for it, told of words [B, L, W]; with what a ControlNet adds."""

    shape: Shape
    channels: int

    def setup(self):
        self.encoder, self.decoder = Encoder(self.shape), Decoder(self.shape, self.channels)

    def __call__(self, x, time, words, added: tuple[jax.Array, Skips] | None = None):
        emb, h, skips = self.encoder(x, time, words)
        if added is not None:
            to_middle, to_skips = added
            h, skips = h + to_middle, [skip + more for skip, more in zip(skips, to_skips, strict=True)]
        return self.decoder(h, skips, emb, words)


class Hint(nn.Module):
    """A layout at the size of the image -> what is added to x_t behind its first convolution, at the size of the latents.

    The first convolution is over classes, so that weights for colours are these classes' colours times theirs.
    """

    widths: tuple[int, ...]  # each but the first at half the size
    channels: int
    num_classes: int
    edge_channel: bool
    label_conv: LabelConvKind
    dtype: Any

    @nn.compact
    def __call__(self, labels: Labels):
        first = LabelConv(
            self.widths[0], self.num_classes, self.edge_channel, self.label_conv, self.dtype, name="labels"
        )
        h = nn.silu(first(labels))
        for i, width in enumerate(self.widths[1:]):
            h = nn.silu(Conv(h.shape[-1], 3, dtype=self.dtype, name=f"conv_{i}")(h))
            h = nn.silu(Conv(width, 3, stride=2, dtype=self.dtype, name=f"halve_{i}")(h))
        return Conv(self.channels, 3, zero=True, dtype=self.dtype, name="out")(h)


class ControlNet(nn.Module):
    """The encoder again, given the layout, behind convolutions that begin at zero -> what is added to middle and skips."""

    shape: Shape
    hint_widths: tuple[int, ...]
    num_classes: int
    edge_channel: bool
    label_conv: LabelConvKind

    def setup(self):
        s = self.shape
        hint = (self.num_classes, self.edge_channel, self.label_conv, s.dtype)
        self.hint, self.encoder = Hint(self.hint_widths, s.base, *hint), Encoder(s)
        widths = [s.base]
        for level, multiplier in enumerate(s.multipliers):
            widths += widths[-1:] * (level > 0) + [multiplier * s.base] * s.blocks
        zero = partial(Conv, size=1, zero=True, dtype=s.dtype)
        self.zero = [zero(width) for width in widths]
        self.zero_middle = zero(widths[-1])

    def __call__(self, x, time, words, hint, strength) -> tuple[jax.Array, Skips]:
        _, h, skips = self.encoder(x, time, words, hint)
        scaled = lambda module, h: strength * module(h)  # noqa: E731
        return scaled(self.zero_middle, h), [scaled(zero, skip) for zero, skip in zip(self.zero, skips)]


class ControlUNet(nn.Module):
    """x_t [B, h, w, C], told of words and given a layout [B, H, W], s times as large.

    prompts: length and width of a text in states of its encoder. Two are parameters: no text, or one to steer away from
    (row 0), and what is said of every image that has no text of its own (row 1).
    """

    shape: Shape
    num_classes: int
    edge_channel: bool = False
    channels: int = 4
    out_channels: int = 4
    hint: tuple[int, ...] = (16, 32, 96, 256)
    prompts: tuple[int, int] = (77, 1024)
    label_conv: LabelConvKind = "auto"

    @property
    def stride(self) -> int:
        """Pixels of a layout to a place of the latents."""
        return 2 ** (len(self.hint) - 1)

    @property
    def size_multiple(self) -> int:
        """Height and width of a layout are multiples of this."""
        return self.stride * 2 ** (len(self.shape.multipliers) - 1)

    def compute_dtypes(self, params) -> dict:
        """The type that each part of the parameters is used in, as a tree."""

        def of(path, _):
            names = [entry.key for entry in path]
            exact = any(name.startswith(("time_", "conv_out", "norm", "prompts")) for name in names)
            return jnp.float32 if exact else self.shape.dtype

        return jax.tree_util.tree_map_with_path(of, params)

    def setup(self):
        self.unet = UNet(self.shape, self.out_channels)
        self.control = ControlNet(self.shape, self.hint, self.num_classes, self.edge_channel, self.label_conv)
        self.prompts_table = self.param("prompts", initial.normal(1.0), (2, *self.prompts))

    def check_size(self, height: int, width: int):
        if height % self.size_multiple or width % self.size_multiple:
            raise ValueError(
                f"image size {height} x {width} does not fit latents {self.stride} times smaller and a network of "
                f"{len(self.shape.multipliers)} levels: both must be multiples of {self.size_multiple}"
            )

    def hinted(self, layout, edges=None):
        """What the layout is to the ControlNet, whatever x_t and t: give it to `__call__` in the layout's place."""
        self.check_size(*layout.shape[1:])
        return self.control.hint(Labels(layout, edges))

    def told(self, said, states=None):
        """said [B]: 0 nothing, 1 the text of every image, 2 that of `states` [B, L, W] -> [B, L, W]."""
        words = self.prompts_table[jnp.minimum(said, 1)]
        return words if states is None else jnp.where((said == 2)[:, None, None], states, words)

    def __call__(
        self, x, time, layout=None, edges=None, *, said, states=None, hint=None, strength: float = 1.0
    ):
        """time [B]: 0..999. strength: of the ControlNet -> [B, h, w, out_channels] float32."""
        words = self.told(said, states)  # of one absence of words for all of a batch, there is one
        words = jnp.broadcast_to(words, (len(x), *words.shape[1:]))
        hint = self.hinted(layout, edges) if hint is None else hint
        return self.unet(x, time, words, self.control(x, time, words, hint, strength))
