"""Stable Diffusion and ControlNets as they are released, as the weights of a configuration's network.

They lie in a diffusers directory or an original .ckpt or .pth. A ControlNet that was trained on colours becomes one of
classes: its first convolution is linear, so that each class has the weights of its colour.
"""

from pathlib import Path

import numpy as np

from semdiff.config import ConfigError, Experiment
from semdiff.convert import diffusers_folder, ldm, torch_file
from semdiff.convert.diffusers_folder import Found
from semdiff.data.source import Info
from semdiff.machine import logs, parallel
from semdiff.methods.method import SPACE
from semdiff.methods.space import DEVIATION, MEAN
from semdiff.training.params import Tree

COLOURS = 3  # planes of a condition that shows classes as colours
FILES = (".ckpt", ".pth", ".pt", ".safetensors")


def found_in(path: Path) -> Found | None:
    """What a diffusers directory or an original file holds; None where the path is neither."""
    if path.is_dir():
        return diffusers_folder.read(path) if diffusers_folder.is_diffusers(path) else None
    if path.is_file() and path.suffix in FILES:
        tensors = torch_file.load(path, flatten=True)
        return diffusers_folder.of_tensors(path, tensors) if ldm.is_ldm(tensors) else None
    return None


def fitted(config: Experiment, found: Found, info: Info, edges: bool, path: Path) -> Tree:
    """The parameters, for these classes; an error where the configuration is of another network."""
    check_settings(config, found, path, ("model", "space", "process"))
    params = dict(found.params)
    if "control" in params:
        params["control"] = of_classes(params["control"], info, edges, path)
    if SPACE in params and config.space.kind == "latents" and config.space.scale:
        params[SPACE] = params[SPACE] | scaled(config.space.channels, config.space.scale)
    return params


def scaled(channels: int, scale: float) -> Tree:
    """All channels of the latents alike."""
    zero = np.zeros(channels, np.float32)
    return {MEAN: zero, DEVIATION: zero + np.float32(1 / scale)}


def check_settings(config: Experiment, found: Found, path: Path, parts: tuple[str, ...]):
    """An error that names each key in which the configuration is not what the weights were trained with."""
    lines = []
    for key, there in found.settings.items():
        part, name = key.split(".")
        here = getattr(getattr(config, part), name, None)
        there = tuple(there) if isinstance(there, list) else there
        measured = key == "space.scale" and here == 0
        if part in parts and here is not None and here != there and not measured:
            lines.append(f"config.{key} is {here!r}, {there!r} there")
    if lines:
        shown = "\n  ".join(lines)
        raise ConfigError(f"{path} is of another network:\n  {shown}\nSet these keys to what is there")


def of_classes(control: Tree, info: Info, edges: bool, path: Path) -> Tree:
    """A ControlNet of classes, from one of their colours."""
    kernel = np.asarray(control["hint"]["labels"]["kernel"]) if "hint" in control else None
    if kernel is None or kernel.shape[2] != COLOURS or info.num_classes + edges == COLOURS:
        return control
    logs.say(
        f"{path}: its ControlNet was trained on colours; those of {info.name} are taken", parallel.is_main()
    )
    planes = np.einsum("hwic,ki->hwkc", kernel, palette_of(info))
    if edges:
        planes = np.concatenate([planes, np.zeros_like(planes[:, :, :1])], axis=2)
    labels = control["hint"]["labels"] | {"kernel": planes.astype(kernel.dtype)}
    return control | {"hint": control["hint"] | {"labels": labels}}


def palette_of(info: Info) -> np.ndarray:
    """Colours of the classes [K, 3], in 0..1."""
    return np.asarray(info.palette, np.float64)[: info.num_classes] / 255
