"""Stable Diffusion's UNet, ControlNet and autoencoder (diffusers' names) in and out of models/latent's parameters.

One table a network says which tensor of theirs is which of ours. What the tensors do not tell, the heads of the attention,
diffusers writes beside them (config.json).
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from semdiff.convert import table
from semdiff.convert.table import Entry, layer, norm
from semdiff.convert.weights import differences, flatten, unflatten

Tensors = Mapping[str, Any]


@dataclass(frozen=True)
class Denoiser:
    """A UNet or the ControlNet beside one, from names and shapes. Fields are called as those of models/latent/unet.py.

    linear: whether the layers around a transformer are dense, or convolutions of 1 x 1, which is the same. hint: widths of
    what a ControlNet makes of its condition, of `given` channels; () for a UNet.
    """

    base: int
    multipliers: tuple[int, ...]
    blocks: int
    attention: tuple[int, ...]
    depth: int
    channels: int
    out_channels: int
    text_width: int
    linear: bool
    hint: tuple[int, ...] = ()
    given: int = 0

    @property
    def widths(self) -> list[int]:
        return [multiplier * self.base for multiplier in self.multipliers]

    def attends(self, level: int) -> bool:
        return 2**level in self.attention


@dataclass(frozen=True)
class Autoencoder:
    """From names and shapes; fields are called as those of models/latent/autoencoder.py."""

    base: int
    multipliers: tuple[int, ...]
    blocks: int
    channels: int


# --- which network is it


def denoiser_of(tensors: Tensors, source: str | Path) -> Denoiser:
    """Of a UNet's or a ControlNet's tensors."""
    look = _Looker(tensors, source, "a UNet or ControlNet of Stable Diffusion")
    base, channels = look.shape("conv_in.weight")[:2]
    levels, blocks = look.count(r"down_blocks\.(\d+)\."), look.count(r"down_blocks\.0\.resnets\.(\d+)\.")
    widths = [look.shape(f"down_blocks.{level}.resnets.0.conv1.weight")[0] for level in range(levels)]
    hint = _hint_of(look)
    to_words = "mid_block.attentions.0.transformer_blocks.0.attn2.to_k.weight"
    return Denoiser(
        base=base,
        multipliers=_multiples(widths, base, source),
        blocks=blocks,
        attention=tuple(
            2**level for level in range(levels) if look.count(rf"down_blocks\.{level}\.attentions\.(\d+)\.")
        ),
        depth=look.count(r"mid_block\.attentions\.0\.transformer_blocks\.(\d+)\."),
        channels=channels,
        out_channels=0 if hint else look.shape("conv_out.weight")[0],
        text_width=look.shape(to_words)[1],
        linear=len(look.shape("mid_block.attentions.0.proj_in.weight")) == 2,
        hint=hint,
        given=look.shape("controlnet_cond_embedding.conv_in.weight")[1] if hint else 0,
    )


def _hint_of(look: "_Looker") -> tuple[int, ...]:
    prefix = "controlnet_cond_embedding"
    if f"{prefix}.conv_in.weight" not in look.tensors:
        return ()
    convs = look.count(rf"{prefix}\.blocks\.(\d+)\.")
    halving = [look.shape(f"{prefix}.blocks.{i}.weight")[0] for i in range(1, convs, 2)]
    return (look.shape(f"{prefix}.conv_in.weight")[0], *halving)


def autoencoder_of(tensors: Tensors, source: str | Path) -> Autoencoder:
    look = _Looker(tensors, source, "an autoencoder of Stable Diffusion")
    base = look.shape("encoder.conv_in.weight")[0]
    levels = look.count(r"encoder\.down_blocks\.(\d+)\.")
    widths = [look.shape(f"encoder.down_blocks.{level}.resnets.0.conv1.weight")[0] for level in range(levels)]
    return Autoencoder(
        base=base,
        multipliers=_multiples(widths, base, source),
        blocks=look.count(r"encoder\.down_blocks\.0\.resnets\.(\d+)\."),
        channels=look.shape("post_quant_conv.weight")[1],
    )


def _multiples(widths: list[int], base: int, source: str | Path) -> tuple[int, ...]:
    if not widths or any(width % base for width in widths):
        raise ValueError(f"{source}: the levels' widths {widths} are not multiples of the first, {base}")
    return tuple(width // base for width in widths)


@dataclass(frozen=True)
class _Looker:
    tensors: Tensors
    source: str | Path
    what: str

    def shape(self, name: str) -> tuple[int, ...]:
        if name not in self.tensors or len(self.tensors[name].shape) < 2:
            first = ", ".join(map(repr, list(self.tensors)[:3]))
            raise ValueError(
                f"{self.source}: not {self.what}: it lacks the weight {name!r}. It holds {len(self.tensors)} tensors, the "
                f"first called {first}"
            )
        return tuple(self.tensors[name].shape)

    def count(self, pattern: str) -> int:
        """How many numbers follow each other from 0 in names of this pattern."""
        found = {int(match[1]) for name in self.tensors if (match := re.match(pattern, name))}
        return next(i for i in range(len(found) + 1) if i not in found)


# --- the tables


def unet_entries(a: Denoiser) -> list[Entry]:
    return [*_encoder(a, "unet/encoder"), *_decoder(a, "unet/decoder")]


def control_entries(a: Denoiser) -> list[Entry]:
    """The first convolution of the condition is over `given` channels: classes here, colours in what is released."""
    theirs, ours = "controlnet_cond_embedding", "control/hint"
    entries = [
        *_encoder(a, "control/encoder"),
        *layer("conv", f"{theirs}.conv_in", f"{ours}/labels", a.given, a.hint[0]),
        *layer("conv", f"{theirs}.conv_out", f"{ours}/out", a.hint[-1], a.base),
    ]
    for i, (before, after) in enumerate(zip(a.hint, a.hint[1:])):
        entries += layer("conv", f"{theirs}.blocks.{2 * i}", f"{ours}/conv_{i}", before, before)
        entries += layer("conv", f"{theirs}.blocks.{2 * i + 1}", f"{ours}/halve_{i}", before, after)
    skips = _skips(a)
    for i, width in enumerate(skips):
        entries += layer("1x1", f"controlnet_down_blocks.{i}", f"control/zero_{i}", width, width)
    return [*entries, *layer("1x1", "controlnet_mid_block", "control/zero_middle", skips[-1], skips[-1])]


def _skips(a: Denoiser) -> list[int]:
    """Widths of what goes from the way down to the way up."""
    widths = [a.base]
    for level, width in enumerate(a.widths):
        widths += widths[-1:] * (level > 0) + [width] * a.blocks
    return widths


def _encoder(a: Denoiser, ours: str) -> Iterator[Entry]:
    yield from layer("dense", "time_embedding.linear_1", f"{ours}/time_0", a.base, 4 * a.base)
    yield from layer("dense", "time_embedding.linear_2", f"{ours}/time_1", 4 * a.base, 4 * a.base)
    yield from layer("conv", "conv_in", f"{ours}/conv_in", a.channels, a.base)
    width = a.base
    for level, after in enumerate(a.widths):
        theirs, at = f"down_blocks.{level}", f"{ours}/level_{level}"
        if level:
            down = f"down_blocks.{level - 1}.downsamplers.0.conv"
            yield from layer("conv", down, f"{ours}/halve_{level}", width, width)
        for i in range(a.blocks):
            yield from _block(f"{theirs}.resnets.{i}", f"{at}_{i}_res", width, after, 4 * a.base)
            if a.attends(level):
                yield from _transformer(a, f"{theirs}.attentions.{i}", f"{at}_{i}_attention", after)
            width = after
    yield from _block("mid_block.resnets.0", f"{ours}/middle_res_0", width, width, 4 * a.base)
    yield from _transformer(a, "mid_block.attentions.0", f"{ours}/middle_attention", width)
    yield from _block("mid_block.resnets.1", f"{ours}/middle_res_1", width, width, 4 * a.base)


def _decoder(a: Denoiser, ours: str) -> Iterator[Entry]:
    skips, width = _skips(a), a.widths[-1]
    for level, after in reversed(list(enumerate(a.widths))):
        theirs, at = f"up_blocks.{len(a.widths) - 1 - level}", f"{ours}/level_{level}"
        for i in range(a.blocks + 1):
            taken = width + skips.pop()
            yield from _block(f"{theirs}.resnets.{i}", f"{at}_{i}_res", taken, after, 4 * a.base)
            if a.attends(level):
                yield from _transformer(a, f"{theirs}.attentions.{i}", f"{at}_{i}_attention", after)
            width = after
        if level:
            yield from layer("conv", f"{theirs}.upsamplers.0.conv", f"{ours}/double_{level}", width, width)
    yield from norm("conv_norm_out", f"{ours}/norm_out", width)
    yield from layer("conv", "conv_out", f"{ours}/conv_out", width, a.out_channels)


def _block(theirs: str, ours: str, inputs: int, outputs: int, time: int = 0) -> Iterator[Entry]:
    yield from norm(f"{theirs}.norm1", f"{ours}/norm1", inputs)
    yield from norm(f"{theirs}.norm2", f"{ours}/norm2", outputs)
    yield from layer("conv", f"{theirs}.conv1", f"{ours}/conv1", inputs, outputs)
    yield from layer("conv", f"{theirs}.conv2", f"{ours}/conv2", outputs, outputs)
    if time:
        yield from layer("dense", f"{theirs}.time_emb_proj", f"{ours}/time", time, outputs)
    if inputs != outputs:
        yield from layer("1x1", f"{theirs}.conv_shortcut", f"{ours}/skip", inputs, outputs)


def _transformer(a: Denoiser, theirs: str, ours: str, width: int) -> Iterator[Entry]:
    around = "dense" if a.linear else "pixelwise"
    yield from norm(f"{theirs}.norm", f"{ours}/norm", width)
    yield from layer(around, f"{theirs}.proj_in", f"{ours}/in", width, width)
    yield from layer(around, f"{theirs}.proj_out", f"{ours}/out", width, width)
    for i in range(a.depth):
        block, own = f"{theirs}.transformer_blocks.{i}", f"{ours}/block_{i}"
        for number, name, given in ((1, "self", width), (2, "words", a.text_width)):
            attention = f"{block}.attn{number}"
            yield from norm(f"{block}.norm{number}", f"{own}/norm_{name}", width)
            yield from layer("dense", f"{attention}.to_q", f"{own}/{name}/q", width, width, bias=False)
            yield from layer("dense", f"{attention}.to_k", f"{own}/{name}/k", given, width, bias=False)
            yield from layer("dense", f"{attention}.to_v", f"{own}/{name}/v", given, width, bias=False)
            yield from layer("dense", f"{attention}.to_out.0", f"{own}/{name}/out", width, width)
        yield from norm(f"{block}.norm3", f"{own}/norm_wide", width)
        yield from layer("dense", f"{block}.ff.net.0.proj", f"{own}/wide", width, 8 * width)
        yield from layer("dense", f"{block}.ff.net.2", f"{own}/narrow", 4 * width, width)


def autoencoder_entries(a: Autoencoder) -> list[Entry]:
    return [*_way_in(a), *_way_out(a)]


def _way_in(a: Autoencoder) -> Iterator[Entry]:
    width = a.base
    yield from layer("conv", "encoder.conv_in", "encoder/conv_in", 3, a.base)
    for level, multiplier in enumerate(a.multipliers):
        if level:
            down = f"encoder.down_blocks.{level - 1}.downsamplers.0.conv"
            yield from layer("conv", down, f"encoder/halve_{level}/conv", width, width)
        for i in range(a.blocks):
            after = multiplier * a.base
            theirs = f"encoder.down_blocks.{level}.resnets.{i}"
            yield from _block(theirs, f"encoder/level_{level}_{i}", width, after)
            width = after
    yield from _middle("encoder", width)
    yield from norm("encoder.conv_norm_out", "encoder/norm_out", width)
    yield from layer("conv", "encoder.conv_out", "encoder/conv_out", width, 2 * a.channels)
    yield from layer("1x1", "quant_conv", "encoder/quant", 2 * a.channels, 2 * a.channels)


def _way_out(a: Autoencoder) -> Iterator[Entry]:
    width = a.multipliers[-1] * a.base
    yield from layer("1x1", "post_quant_conv", "decoder/quant", a.channels, a.channels)
    yield from layer("conv", "decoder.conv_in", "decoder/conv_in", a.channels, width)
    yield from _middle("decoder", width)
    for level, multiplier in reversed(list(enumerate(a.multipliers))):
        theirs = f"decoder.up_blocks.{len(a.multipliers) - 1 - level}"
        for i in range(a.blocks + 1):
            after = multiplier * a.base
            yield from _block(f"{theirs}.resnets.{i}", f"decoder/level_{level}_{i}", width, after)
            width = after
        if level:
            up = f"{theirs}.upsamplers.0.conv"
            yield from layer("conv", up, f"decoder/double_{level}", width, width)
    yield from norm("decoder.conv_norm_out", "decoder/norm_out", width)
    yield from layer("conv", "decoder.conv_out", "decoder/conv_out", width, 3)


def _middle(half: str, width: int) -> Iterator[Entry]:
    theirs, ours = f"{half}.mid_block", f"{half}/middle"
    for i in range(2):
        yield from _block(f"{theirs}.resnets.{i}", f"{ours}/res_{i}", width, width)
    yield from norm(f"{theirs}.attentions.0.group_norm", f"{ours}/norm", width)
    for name, our_name in (("to_q", "q"), ("to_k", "k"), ("to_v", "v"), ("to_out.0", "out")):
        yield from layer("dense", f"{theirs}.attentions.0.{name}", f"{ours}/{our_name}", width, width)


# --- in and out


def to_semdiff(tensors: Mapping[str, np.ndarray], source: str | Path) -> tuple[dict[str, Any], Any]:
    """(nested parameters, what network they are) of a UNet, {"unet"}, a ControlNet, {"control"}, or an autoencoder,
    {"encoder", "decoder"}."""
    tensors = renamed(tensors)
    network, entries = network_of(tensors, source)
    if problems := table.misfits(entries, tensors):
        raise ValueError(f"{source}: not the network that its names suggest ({network}): {problems}")
    table.check_floats(tensors, source)
    return unflatten(table.ours(entries, tensors)), network


def network_of(tensors: Tensors, source: str | Path) -> tuple[Denoiser | Autoencoder, list[Entry]]:
    """What network these are the tensors of, and its table."""
    in_latents = any(name.startswith("encoder.") for name in tensors)
    found = autoencoder_of(tensors, source) if in_latents else denoiser_of(tensors, source)
    return found, entries_of(found)


def entries_of(network: Denoiser | Autoencoder) -> list[Entry]:
    """The table of a network."""
    if isinstance(network, Autoencoder):
        return autoencoder_entries(network)
    return control_entries(network) if network.hint else unet_entries(network)


OLD_NAMES = {"query": "to_q", "key": "to_k", "value": "to_v", "proj_attn": "to_out.0"}


def renamed(tensors: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Diffusers' names of today, for those of its older autoencoders."""
    old = re.compile(r"(.*mid_block\.attentions\.0)\.(query|key|value|proj_attn)\.(weight|bias)")

    def today(name: str) -> str:
        match = old.fullmatch(name)
        return f"{match[1]}.{OLD_NAMES[match[2]]}.{match[3]}" if match else name

    return {today(name): tensor for name, tensor in tensors.items()}


def to_torch(params: Mapping[str, Any], entries: list[Entry], source: str | Path) -> dict[str, np.ndarray]:
    """The inverse, by the table of the network."""
    flat = flatten(params)
    wanted = {entry.name: (entry.our_shape, None) for entry in entries}
    problems = differences({name: (p.shape, None) for name, p in flat.items()}, wanted)
    if problems:
        raise ValueError(
            f"{source}: Stable Diffusion's network has no place for these parameters: {problems}"
        )
    return {name: tensor for entry in entries for name, tensor in entry.to_torch(flat[entry.name]).items()}
