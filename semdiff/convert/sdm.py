"""The released networks of SDM and SCDM (PyTorch) in and out of `SpadeUNet`'s parameters.

One table says which tensor of theirs is which of ours; import, export and the checks all read it.
The condition's channels are the K one-hot classes, then the edge channel where there is one; the
time input is 0..999. Both are `SpadeUNet`'s own convention, so weights change layout and no more.
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from semdiff.convert import table
from semdiff.convert.table import Entry, layer, norm
from semdiff.convert.weights import differences, flatten, unflatten, write_safetensors

HEAD_WIDTH = 64  # of all released networks; weights do not tell


@dataclass(frozen=True)
class Architecture:
    """What names and shapes tell of a network. Fields are called as `SpadeUNet`'s.

    label_channels: classes plus edge channel. attention: downsampling factors.
    """

    base: int
    multipliers: tuple[int, ...]
    blocks: int
    attention: tuple[int, ...]
    label_channels: int
    image_channels: int
    out_channels: int
    spade_hidden: int
    scale_shift: bool
    resblock_updown: bool
    conv_resample: bool


def infer_config(tensors: Mapping[str, Any], source: str | Path = "the checkpoint") -> dict:
    """The network a released checkpoint belongs to, from names and shapes alone.

    Besides `Architecture`'s fields: learned_sigma. Not to be recovered: how label_channels splits
    into classes and edge channel, and the heads' width (`HEAD_WIDTH` in all released networks).
    """
    architecture = _architecture(_sketch_torch(table.bare(tensors), source), source)
    learned = architecture.out_channels == 2 * architecture.image_channels
    return asdict(architecture) | {"learned_sigma": learned}


def to_semdiff(
    tensors: Mapping[str, np.ndarray],
    *,
    new_attention_order: bool = False,
    heads: int = 0,
    head_width: int = HEAD_WIDTH,
    source: str | Path = "the checkpoint",
) -> dict[str, Any]:
    """Nested parameters of `SpadeUNet`. Half precision is widened to float32, which loses nothing.

    new_attention_order: for networks trained with that option, whose qkv channels come q k v
    first, then head. Needs the heads' number or, where that is 0, their width.
    """
    tensors = table.bare(tensors)
    architecture = _architecture(_sketch_torch(tensors, source), source)
    entries = _entries(architecture)
    if problems := table.misfits(entries, tensors):
        raise ValueError(
            f"{source}: not the network of SDM that its names suggest ({architecture}): {problems}. "
            "Pass the state_dict of the released UNet, nothing left out or added"
        )
    table.check_floats(tensors, source)
    if new_attention_order:
        tensors = {
            name: _heads_first(tensor, heads, head_width, f"{source}: {name}")
            if re.search(r"\.qkv\.(weight|bias)$", name)
            else tensor
            for name, tensor in tensors.items()
        }
    return unflatten(table.ours(entries, tensors))


def to_torch(params: Mapping[str, Any], source: str | Path = "the parameters") -> dict[str, np.ndarray]:
    """The inverse of `to_semdiff`: a state_dict of the released network."""
    flat = flatten(params)
    architecture = _architecture(_sketch_params(flat, source), source)
    entries = _entries(architecture)
    wanted = {entry.name: (entry.our_shape, None) for entry in entries}
    problems = differences({name: (p.shape, None) for name, p in flat.items()}, wanted)
    if problems:
        raise ValueError(
            f"{source}: the released network has no place for these parameters: {problems}. It knows "
            "SPADE conditioning and dot attention only"
        )
    return {name: tensor for entry in entries for name, tensor in entry.to_torch(flat[entry.name]).items()}


def export_safetensors(
    path: str | Path, params: Mapping[str, Any], source: str | Path = "the parameters"
) -> None:
    """Writes what the released PyTorch network loads with load_state_dict(strict=True)."""
    write_safetensors(path, to_torch(params, source), {"format": "pt"})


# --- the table


def _entries(a: Architecture) -> list[Entry]:
    widths = [multiplier * a.base for multiplier in a.multipliers]
    entries = [
        *layer("dense", "time_embed.0", "time_embed_0", a.base, 4 * a.base),
        *layer("dense", "time_embed.2", "time_embed_1", 4 * a.base, 4 * a.base),
        *layer("conv", "input_blocks.0.0", "conv_in", a.image_channels, widths[0]),
    ]
    channels, skips = widths[0], [widths[0]]
    for level, width in enumerate(widths):
        for _ in range(a.blocks):
            torch, ours = f"input_blocks.{len(skips)}", f"encoder_{len(skips) - 1}"
            entries += _residual(a, f"{torch}.0", f"{ours}/res", channels, width, spade=False)
            entries += _attention(a, level, f"{torch}.1", f"{ours}/attention", width)
            channels = width
            skips.append(channels)
        if level < len(widths) - 1:
            torch, ours = f"input_blocks.{len(skips)}.0", f"encoder_{len(skips) - 1}"
            if a.resblock_updown:
                entries += _residual(a, torch, f"{ours}/res", width, width, spade=False)
            elif a.conv_resample:
                entries += layer("conv", f"{torch}.op", f"{ours}/resample/conv", width, width)
            skips.append(channels)
    entries += _residual(a, "middle_block.0", "middle_res_0", channels, channels, spade=True)
    entries += _attention(a, None, "middle_block.1", "middle_attention", channels)
    entries += _residual(a, "middle_block.2", "middle_res_1", channels, channels, spade=True)
    entries += _decoder(a, widths, channels, skips)
    entries += norm("out.0", "norm_out", widths[0])
    entries += layer("conv", "out.2", "conv_out", widths[0], a.out_channels)
    return entries


def _decoder(a: Architecture, widths: list[int], channels: int, skips: list[int]) -> Iterator[Entry]:
    index = 0
    for level, width in reversed(list(enumerate(widths))):
        for block in range(a.blocks + 1):
            torch, ours = f"output_blocks.{index}", f"decoder_{index}"
            taken = channels + skips.pop()
            yield from _residual(a, f"{torch}.0", f"{ours}/res", taken, width, spade=True)
            attention = _attention(a, level, f"{torch}.1", f"{ours}/attention", width)
            yield from attention
            if level and block == a.blocks:
                torch, ours = f"{torch}.{2 if attention else 1}", f"{ours}/resample"
                if a.resblock_updown:
                    yield from _residual(a, torch, ours, width, width, spade=True)
                elif a.conv_resample:
                    yield from layer("conv", f"{torch}.conv", f"{ours}/conv", width, width)
            channels = width
            index += 1


def _residual(
    a: Architecture, torch: str, ours: str, inputs: int, outputs: int, spade: bool
) -> Iterator[Entry]:
    # SPADE blocks keep their norms outside the sequences, which shifts the convolutions' numbers.
    first, last = ("1", "2") if spade else ("2", "3")
    if spade:
        yield from _spade(a, f"{torch}.in_norm", f"{ours}/norm1", inputs)
        yield from _spade(a, f"{torch}.out_norm", f"{ours}/norm2", outputs)
    else:
        yield from norm(f"{torch}.in_layers.0", f"{ours}/norm1", inputs)
        yield from norm(f"{torch}.out_layers.0", f"{ours}/norm2", outputs)
    yield from layer("conv", f"{torch}.in_layers.{first}", f"{ours}/conv1", inputs, outputs)
    yield from layer("conv", f"{torch}.out_layers.{last}", f"{ours}/conv2", outputs, outputs)
    time = outputs * (1 + a.scale_shift)
    yield from layer("dense", f"{torch}.emb_layers.1", f"{ours}/time", 4 * a.base, time)
    if inputs != outputs:
        yield from layer("1x1", f"{torch}.skip_connection", f"{ours}/skip", inputs, outputs)


def _attention(a: Architecture, level: int | None, torch: str, ours: str, width: int) -> list[Entry]:
    if level is not None and 2**level not in a.attention:
        return []
    return [
        *norm(f"{torch}.norm", f"{ours}/norm", width),
        *layer("pointwise", f"{torch}.qkv", f"{ours}/qkv", width, 3 * width),
        *layer("pointwise", f"{torch}.proj_out", f"{ours}/out", width, width),
    ]


def _spade(a: Architecture, torch: str, ours: str, width: int) -> Iterator[Entry]:
    shared = f"{torch}.mlp_shared.0"
    yield from layer("conv", shared, f"{ours}/labels", a.label_channels, a.spade_hidden)
    pair = (f"{torch}.mlp_gamma", f"{torch}.mlp_beta")
    yield from layer("conv", pair, f"{ours}/modulation_conv", a.spade_hidden, width)


# --- which network is it


@dataclass(frozen=True)
class _Sketch:
    """What tells one architecture from another, the same for both sides' names.

    encoder: by number from 1, (width, or 0 for a mere convolution; has attention); a unit without
    parameters is absent. ups: each decoder unit's upsampling, "block", "conv" or "".
    """

    base: int
    image_channels: int
    out_channels: int
    label_channels: int
    spade_hidden: int
    time_outputs: int
    encoder: dict[int, tuple[int, bool]]
    ups: list[str]


def _architecture(sketch: _Sketch, source: str | Path) -> Architecture:
    units, encoder = len(sketch.ups), sketch.encoder
    blocks_up, convs_up = sketch.ups.count("block"), sketch.ups.count("conv")
    absent = units - 1 - len(encoder)
    levels = 1 + (blocks_up or convs_up or absent)
    per_level = units // levels
    if units == 0 or units % levels or per_level < 2 or (blocks_up and convs_up):
        raise ValueError(
            f"{source}: {units} decoder units with {blocks_up} upsampling blocks and {convs_up} "
            f"upsampling convolutions are no UNet of {levels} levels: something is missing"
        )
    firsts = [encoder.get(1 + level * per_level, (0, False)) for level in range(levels)]
    widths = [width for width, _ in firsts]
    if not all(widths) or any(width % sketch.base for width in widths):
        raise ValueError(
            f"{source}: the levels' widths {widths} are not multiples of the base {sketch.base}; "
            "an encoder unit is missing, or the multipliers are fractions, which SpadeUNet lacks"
        )
    middle = widths[-1]
    return Architecture(
        base=sketch.base,
        multipliers=tuple(width // sketch.base for width in widths),
        blocks=per_level - 1,
        attention=tuple(2**level for level, (_, attends) in enumerate(firsts) if attends),
        label_channels=sketch.label_channels,
        image_channels=sketch.image_channels,
        out_channels=sketch.out_channels,
        spade_hidden=sketch.spade_hidden,
        scale_shift=sketch.time_outputs == 2 * middle,
        resblock_updown=blocks_up > 0,
        conv_resample=blocks_up > 0 or convs_up > 0 or levels == 1,
    )


def _sketch_torch(tensors: Mapping[str, Any], source: str | Path) -> _Sketch:
    def shape(name: str) -> tuple[int, ...]:
        if name not in tensors or len(tensors[name].shape) < 2:
            raise ValueError(_foreign(source, name, tensors))
        return tuple(tensors[name].shape)

    def unit(index: int) -> tuple[int, bool]:
        prefix = f"input_blocks.{index}"
        if f"{prefix}.0.op.weight" in tensors:
            return 0, False
        return shape(f"{prefix}.0.in_layers.2.weight")[0], f"{prefix}.1.qkv.weight" in tensors

    def up(index: int) -> str:
        prefix = f"output_blocks.{index}"
        places = (f"{prefix}.1", f"{prefix}.2")
        if any(f"{place}.conv.weight" in tensors for place in places):
            return "conv"
        return "block" if any(f"{place}.emb_layers.1.weight" in tensors for place in places) else ""

    shared = shape("middle_block.0.in_norm.mlp_shared.0.weight")
    return _Sketch(
        base=shape("time_embed.0.weight")[1],
        image_channels=shape("input_blocks.0.0.weight")[1],
        out_channels=shape("out.2.weight")[0],
        label_channels=shared[1],
        spade_hidden=shared[0],
        time_outputs=shape("middle_block.0.emb_layers.1.weight")[0],
        encoder={i: unit(i) for i in _numbers(tensors, r"input_blocks\.(\d+)\.") if i},
        ups=[up(i) for i in _numbers(tensors, r"output_blocks\.(\d+)\.")],
    )


def _sketch_params(flat: Mapping[str, Any], source: str | Path) -> _Sketch:
    def shape(name: str) -> tuple[int, ...]:
        if name not in flat or len(flat[name].shape) < 2:
            raise ValueError(_foreign(source, name, flat))
        return flat[name].shape

    def unit(index: int) -> tuple[int, bool]:
        prefix = f"encoder_{index - 1}"
        if f"{prefix}/resample/conv/kernel" in flat:
            return 0, False
        return shape(f"{prefix}/res/conv1/kernel")[-1], f"{prefix}/attention/qkv/kernel" in flat

    def up(index: int) -> str:
        prefix = f"decoder_{index}/resample"
        if f"{prefix}/conv/kernel" in flat:
            return "conv"
        return "block" if f"{prefix}/time/kernel" in flat else ""

    labels = shape("middle_res_0/norm1/labels/kernel")
    return _Sketch(
        base=shape("time_embed_0/kernel")[0],
        image_channels=shape("conv_in/kernel")[-2],
        out_channels=shape("conv_out/kernel")[-1],
        label_channels=labels[-2],
        spade_hidden=labels[-1],
        time_outputs=shape("middle_res_0/time/kernel")[1],
        encoder={i + 1: unit(i + 1) for i in _numbers(flat, r"encoder_(\d+)/")},
        ups=[up(i) for i in _numbers(flat, r"decoder_(\d+)/")],
    )


def _numbers(names: Mapping[str, Any], pattern: str) -> list[int]:
    return sorted({int(match[1]) for name in names if (match := re.match(pattern, name))})


def _foreign(source: str | Path, lacking: str, names: Mapping[str, Any]) -> str:
    return (
        f"{source}: not the network of SDM: it lacks the weight {lacking!r}. It holds {len(names)} "
        f"tensors, the first called {', '.join(map(repr, list(names)[:3]))}; expected the state_dict "
        "of the released UNet, or weights imported from it"
    )


# --- tensors


def _heads_first(tensor: np.ndarray, heads: int, head_width: int, what: str) -> np.ndarray:
    """Rows ordered (q k v, head, channel) -> (head, q k v, channel)."""
    width = tensor.shape[0] // 3
    heads = heads or width // head_width
    if heads < 1 or width % heads:
        raise ValueError(
            f"{what}: {width} channels do not split into heads (heads={heads}, "
            f"head_width={head_width}); pass the number or width of heads it was trained with"
        )
    parts = tensor.reshape(3, heads, width // heads, *tensor.shape[1:])
    return np.ascontiguousarray(parts.swapaxes(0, 1)).reshape(tensor.shape)
