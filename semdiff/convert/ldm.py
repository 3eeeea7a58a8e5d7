"""Names of Stable Diffusion's original files (.ckpt, ControlNet's .pth) as diffusers calls the same tensors."""

import re
from collections.abc import Mapping

import numpy as np

PREFIXES = {"unet": "model.diffusion_model.", "controlnet": "control_model.", "vae": "first_stage_model."}
BLOCK = {
    "in_layers.0": "norm1",
    "in_layers.2": "conv1",
    "emb_layers.1": "time_emb_proj",
    "out_layers.0": "norm2",
    "out_layers.3": "conv2",
    "skip_connection": "conv_shortcut",
}
MIDDLE = {"0": "mid_block.resnets.0", "1": "mid_block.attentions.0", "2": "mid_block.resnets.1"}
ENDS = {
    "time_embed.0": "time_embedding.linear_1",
    "time_embed.2": "time_embedding.linear_2",
    "input_blocks.0.0": "conv_in",
    "out.0": "conv_norm_out",
    "out.2": "conv_out",
    "middle_block_out.0": "controlnet_mid_block",
}
HALF = {
    "mid.block_1": "mid_block.resnets.0",
    "mid.attn_1": "mid_block.attentions.0",
    "mid.block_2": "mid_block.resnets.1",
    "norm_out": "conv_norm_out",
}
ATTENTION = {"norm": "group_norm", "q": "to_q", "k": "to_k", "v": "to_v", "proj_out": "to_out.0"}


def is_ldm(tensors: Mapping[str, np.ndarray]) -> bool:
    return any(prefix in name for name in tensors for prefix in PREFIXES.values())


def parts(tensors: Mapping[str, np.ndarray]) -> dict[str, dict[str, np.ndarray]]:
    """ "unet", "controlnet" and "vae", those that are there, under diffusers' names. Averaged copies are left out."""
    found = {}
    for part, prefix in PREFIXES.items():
        inside = {}
        for name, tensor in tensors.items():
            before, mark, rest = name.partition(prefix)
            if mark and before in ("", "state_dict."):
                inside[rest] = tensor
        if inside:
            renamed = _autoencoder(inside) if part == "vae" else _denoiser(inside)
            found[part] = renamed
    return found


def _denoiser(tensors: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    numbers = [
        int(match[1]) for name in tensors if (match := re.match(r"input_blocks\.(\d+)\.0\.op\.", name))
    ]
    most = max((int(m[1]) for name in tensors if (m := re.match(r"input_blocks\.(\d+)\.", name))), default=0)
    rows = min(numbers, default=most + 1)  # entries of a level: its blocks, and the change of size
    hints = [int(m[1]) for name in tensors if (m := re.match(r"input_hint_block\.(\d+)\.", name))]

    def renamed(name: str) -> str:
        if match := re.match(r"input_hint_block\.(\d+)\.(.*)", name):
            place, leaf = int(match[1]), match[2]
            inner = (
                "conv_in" if place == 0 else "conv_out" if place == max(hints) else f"blocks.{place // 2 - 1}"
            )
            return f"controlnet_cond_embedding.{inner}.{leaf}"
        if match := re.match(r"zero_convs\.(\d+)\.0\.(.*)", name):
            return f"controlnet_down_blocks.{match[1]}.{match[2]}"
        if match := re.match(r"middle_block\.(\d)\.(.*)", name):
            return f"{MIDDLE[match[1]]}.{_leaf(match[2], BLOCK)}"
        if name.rpartition(".")[0] in ENDS:
            module, _, leaf = name.rpartition(".")
            return f"{ENDS[module]}.{leaf}"
        match = re.match(r"(input|output)_blocks\.(\d+)\.(\d)\.(.*)", name)
        if match is None:
            return name
        way, inside, leaf = match[1], match[3], match[4]
        level, row = divmod(int(match[2]) - (way == "input"), rows)
        side = "down" if way == "input" else "up"
        if leaf.startswith(("op.", "conv.")):
            return f"{side}_blocks.{level}.{side}samplers.0.conv.{leaf.partition('.')[2]}"
        kind = "resnets" if inside == "0" else "attentions"
        return f"{side}_blocks.{level}.{kind}.{row}.{_leaf(leaf, BLOCK if inside == '0' else {})}"

    return {renamed(name): tensor for name, tensor in tensors.items()}


def _leaf(name: str, names: Mapping[str, str]) -> str:
    module, _, leaf = name.rpartition(".")
    return f"{names.get(module, module)}.{leaf}"


def _autoencoder(tensors: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    levels = len({m[1] for name in tensors if (m := re.match(r"decoder\.up\.(\d+)\.", name))})

    def renamed(name: str) -> str:
        half, _, rest = name.partition(".")
        if half not in ("encoder", "decoder"):
            return name
        if match := re.match(r"(down|up)\.(\d+)\.(block\.(\d+)|(down|up)sample\.conv)\.(.*)", rest):
            side, level, number, leaf = match[1], int(match[2]), match[4], match[6]
            level = level if side == "down" else levels - 1 - level
            inner = f"{side}samplers.0.conv" if number is None else f"resnets.{number}"
            return f"{half}.{side}_blocks.{level}.{inner}.{leaf.replace('nin_shortcut', 'conv_shortcut')}"
        for theirs, ours in HALF.items():
            if rest.startswith(f"{theirs}."):
                leaf = rest.removeprefix(f"{theirs}.")
                return f"{half}.{ours}.{_leaf(leaf, ATTENTION) if 'attn' in theirs else leaf}"
        return name

    def flat(name: str, tensor: np.ndarray) -> np.ndarray:
        """Convolutions of 1 x 1 that diffusers has as dense layers."""
        return tensor[..., 0, 0] if ".attn_1." in name and tensor.ndim == 4 else tensor

    return {
        renamed(name): flat(name, tensor)
        for name, tensor in tensors.items()
        if name.partition(".")[0] != "loss"
    }
