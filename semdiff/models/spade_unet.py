"""The network of SDM: an ADM UNet whose decoder is normalised by the layout (SPADE)."""

from collections.abc import Callable
from functools import partial
from typing import Any, Literal

import flax.linen as nn
import jax
import jax.numpy as jnp

from semdiff.models.layers import (
    Attention,
    AttentionKind,
    Dense,
    GroupNorm,
    LabelConv,
    LabelConvKind,
    Labels,
    ResBlock,
    Spade,
    conv3x3,
    downsample,
    heads_of,
    timestep_embedding,
    upsample,
)

Conditioning = Literal["spade", "concat"]


class Resample(nn.Module):
    """Change of size outside a residual block: with a convolution, or nearest / mean alone."""

    channels: int
    direction: str
    learned: bool
    dtype: Any

    def setup(self):
        if self.learned:
            self.conv = conv3x3(self.channels, self.dtype, stride=2 if self.direction == "down" else 1)

    def __call__(self, x):
        if self.direction == "up":
            x = upsample(x)
            return self.conv(x) if self.learned else x
        return self.conv(x) if self.learned else downsample(x)


class Unit(nn.Module):
    """One entry of the encoder or decoder: a residual block, then attention, then a change of size, each optional."""

    res: ResBlock | None = None
    attention: Attention | None = None
    resample: ResBlock | Resample | None = None

    def modulation(self, labels: Labels, height: int) -> dict:
        blocks = {"res": self.res, "resample": self.resample}
        return {k: b.modulation(labels, height) for k, b in blocks.items() if isinstance(b, ResBlock)}

    def __call__(self, x, emb, labels, modulation, dropout_keys):
        modulation = modulation or {}
        if self.res is not None:
            x = self.res(x, emb, labels, modulation.get("res"), dropout_keys)
        if self.attention is not None:
            x = self.attention(x)
        if isinstance(self.resample, ResBlock):
            x = self.resample(x, emb, labels, modulation.get("resample"), dropout_keys)
        elif self.resample is not None:
            x = self.resample(x)
        return x


class SpadeUNet(nn.Module):
    """eps, variance = network(x_t, time, layout).

    base, multipliers, blocks: width of level 0, its multiples, residual blocks per level. attention: downsampling factors at
    which positions attend, e.g. (8, 16, 32). head_width: channels per head, or `heads` of them when > 0.
    conditioning: `spade` normalises middle and decoder by the layout (the paper); `concat` appends the layout to the input
    image and normalises plainly (its ablation).
    """

    num_classes: int
    edge_channel: bool = False
    image_channels: int = 3
    out_channels: int = 6
    base: int = 256
    multipliers: tuple[int, ...] = (1, 1, 2, 2, 4, 4)
    blocks: int = 2
    attention: tuple[int, ...] = (8, 16, 32)
    attention_kind: AttentionKind = "dot"
    head_width: int = 64
    heads: int = 0
    scale_shift: bool = True
    resblock_updown: bool = True
    conv_resample: bool = True
    dropout: float = 0.0
    spade_hidden: int = 128
    conditioning: Conditioning = "spade"
    label_conv: LabelConvKind = "auto"
    groups: int = 32
    remat: bool = False
    dtype: Any = jnp.float32

    @property
    def size_multiple(self) -> int:
        """Height and width must be multiples of this."""
        return 2 ** (len(self.multipliers) - 1)

    def compute_dtypes(self, params) -> dict:
        """The type that each part of the parameters is used in, as a tree."""
        exact = ("time_embed", "conv_out", "norm_out")
        return {
            name: jax.tree.map(lambda _, x=name: jnp.float32 if x.startswith(exact) else self.dtype, part)
            for name, part in params.items()
        }

    def setup(self):
        width = 4 * self.base
        self.time_embed = [Dense(width), Dense(width)]
        ch = self.multipliers[0] * self.base
        self.conv_in = conv3x3(ch, self.dtype)
        if self.conditioning == "concat":
            self.conv_in_labels = LabelConv(
                ch, self.num_classes, self.edge_channel, self.label_conv, self.dtype
            )
        skips, factor, encoder = [ch], 1, []
        for level, multiplier in enumerate(self.multipliers):
            for _ in range(self.blocks):
                out = multiplier * self.base
                encoder.append(Unit(self._res(ch, out, plain=True), self._attention(out, factor)))
                ch = out
                skips.append(ch)
            if level < len(self.multipliers) - 1:
                down = (
                    Unit(res=self._res(ch, ch, resize="down", plain=True))
                    if self.resblock_updown
                    else Unit(resample=Resample(ch, "down", self.conv_resample, self.dtype))
                )
                encoder.append(down)
                skips.append(ch)
                factor *= 2
        self.encoder = encoder
        self.middle_res = [self._res(ch, ch), self._res(ch, ch)]
        self.middle_attention = self._attention(ch, None)
        decoder = []
        for level, multiplier in reversed(list(enumerate(self.multipliers))):
            for i in range(self.blocks + 1):
                out = multiplier * self.base
                resample = None
                if level and i == self.blocks:
                    resample = (
                        self._res(out, out, resize="up")
                        if self.resblock_updown
                        else Resample(out, "up", self.conv_resample, self.dtype)
                    )
                decoder.append(Unit(self._res(ch + skips.pop(), out), self._attention(out, factor), resample))
                ch = out
            factor //= 2
        self.decoder = decoder
        self.norm_out = GroupNorm(ch, self.groups)
        self.conv_out = conv3x3(self.out_channels, jnp.float32, zero=True)

    def _res(self, in_channels: int, channels: int, resize: str = "", plain: bool = False) -> ResBlock:
        if plain or self.conditioning == "concat":
            norm: Callable[[int], GroupNorm | Spade] = partial(GroupNorm, groups=self.groups)
        else:
            norm = partial(
                Spade,
                hidden=self.spade_hidden,
                num_classes=self.num_classes,
                edge_channel=self.edge_channel,
                label_conv=self.label_conv,
                groups=self.groups,
                dtype=self.dtype,
            )
        block = nn.remat(ResBlock) if self.remat else ResBlock
        return block(in_channels, channels, norm, self.scale_shift, resize, self.dropout, self.dtype)

    def _attention(self, channels: int, factor: int | None) -> Attention | None:
        if factor is not None and factor not in self.attention:
            return None
        heads = heads_of(channels, self.heads, self.head_width)
        block = nn.remat(Attention) if self.remat else Attention
        return block(channels, heads, self.attention_kind, self.groups, self.dtype)

    def check_size(self, height: int, width: int):
        if height % self.size_multiple or width % self.size_multiple:
            raise ValueError(
                f"image size {height} x {width} does not fit a network of {len(self.multipliers)} levels: "
                f"both must be multiples of {self.size_multiple}; pad the image or use fewer multipliers"
            )

    def _stages(self):
        """(name, module) of every stage after the encoder that the layout reaches, in the order of the forward pass."""
        yield from ((f"middle_{i}", block) for i, block in enumerate(self.middle_res))
        yield from ((f"decoder_{i}", unit) for i, unit in enumerate(self.decoder))

    def modulation(self, layout, edges=None) -> dict:
        """gamma and beta of every SPADE norm: all that the network needs of the layout, whatever x_t and t.

        Give it to `__call__` in the layout's place; a chain with a frozen layout then computes it once.
        """
        _, height, width = layout.shape
        self.check_size(height, width)
        labels = Labels(layout, edges)
        height //= self.size_multiple
        result = {}
        for name, stage in self._stages():
            result[name] = stage.modulation(labels, height)
            height *= 2 if getattr(stage, "resample", None) is not None else 1
        return result

    def __call__(self, x, time, layout=None, edges=None, *, modulation=None, dropout_keys=None):
        """x [B,H,W,C], time [B] on the 0..999 scale, layout [B,H,W] ids (others than 0..K-1: the zero vector), edges
        [B,H,W] or None -> [B,H,W,out_channels] float32. With `modulation` the layout is not needed."""
        self.check_size(*x.shape[1:3])
        labels = None if modulation is not None else Labels(layout, edges)
        modulation = modulation or {}
        emb = timestep_embedding(time, self.base)
        emb = self.time_embed[1](nn.silu(self.time_embed[0](emb)))

        h = self.conv_in(x.astype(self.dtype))
        if self.conditioning == "concat":
            h = h + self.conv_in_labels(labels)
        skips = [h]
        for unit in self.encoder:
            h = unit(h, emb, None, None, dropout_keys)
            skips.append(h)
        h = self.middle_res[0](h, emb, labels, modulation.get("middle_0"), dropout_keys)
        h = self.middle_attention(h)
        h = self.middle_res[1](h, emb, labels, modulation.get("middle_1"), dropout_keys)
        for i, unit in enumerate(self.decoder):
            h = jnp.concatenate([h, skips.pop()], axis=-1)
            h = unit(h, emb, labels, modulation.get(f"decoder_{i}"), dropout_keys)
        return self.conv_out(nn.silu(self.norm_out(h)).astype(jnp.float32))
