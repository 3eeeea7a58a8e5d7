"""Weights that a training begins with where they are not drawn: config.train.init, and config.space.weights.

Stable Diffusion's come from a diffusers directory or an original .ckpt. A ControlNet that is not among them begins as a copy
of its UNet's encoder, behind convolutions of zeros; one that was trained on colours is given the colours of its classes.
"""

from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from semdiff import inputs, trained
from semdiff.config import ConfigError, ControlUNet, Experiment, Latents
from semdiff.convert import diffusers_folder, ldm, torch_file, weights
from semdiff.convert.diffusers_folder import Found
from semdiff.data import augment
from semdiff.data.source import Info, Source
from semdiff.machine import logs, parallel
from semdiff.machine.paths import local_path
from semdiff.methods import autoencoding, build, space
from semdiff.methods.method import SPACE, Method
from semdiff.training import checkpoint
from semdiff.training.params import Tree, rule_of

MEASURED = 256  # images that the mean and deviation of latents are of
CHECKPOINTS = "checkpoints"
COLOURS = 3  # planes of a condition that shows classes as colours


def initial(config: Experiment, opened: build.Opened) -> Tree:
    """The parameters that do not start fresh; {} where all do."""
    found: Tree = {}
    if config.train.init:
        path = local_path(config.train.init, "config.train.init")
        if isinstance(config.model, ControlUNet):
            found = of_stable_diffusion(config, opened, path)
        else:
            found = trained.read_weights(path)[0]
    if (prompts := inputs.prompts(config)) is not None:
        found["prompts"] = prompts.table
    method = opened.subject
    if isinstance(method, Method) and isinstance(method.space, space.Latents):
        found[SPACE] = space_of(config, method.space, opened.source, found.get(SPACE))
    return found


def placed(given: Tree, like: Tree, path: str) -> Tree:
    """What is given, where `like`, a tree of all shapes, will live; an error where it does not fit.

    Of a latent method whole parts may be missing, and of a ControlNet all but its encoder.
    """
    expected = like
    if SPACE in like:
        expected = {name: part for name, part in like.items() if name in given}
        if set(given.get("control", ())) == {"encoder"}:
            expected["control"] = {"encoder": like["control"]["encoder"]}
    return trained.placed(given, expected, path)


# --- Stable Diffusion


def found_in(path: Path) -> Found:
    """What a diffusers directory, an original file, or weights of ours hold."""
    if path.is_dir() and diffusers_folder.is_diffusers(path):
        return diffusers_folder.read(path)
    if path.is_file() and path.suffix in (".ckpt", ".pth", ".pt", ".safetensors"):
        tensors = torch_file.load(path, flatten=True)
        if ldm.is_ldm(tensors):
            return diffusers_folder.of_tensors(path, tensors)
    params, metadata = trained.read_weights(path)
    return Found(params, settings=metadata.get("settings", {}))


def of_stable_diffusion(config: Experiment, opened: build.Opened, path: Path) -> Tree:
    found = found_in(path)
    check_settings(config, found, path, ("model", "process"))
    params = found.params
    if "control" in params:
        params["control"] = of_classes(params["control"], opened, path)
    elif "unet" in params:
        params["control"] = {"encoder": params["unet"]["encoder"]}
        logs.say(f"the ControlNet begins as a copy of the encoder of {path}", parallel.is_main())
    return params


def check_settings(config: Experiment, found: Found, path: Path, parts: tuple[str, ...]):
    """An error that names each key in which the configuration is not what the weights were trained with."""
    lines = []
    for key, there in found.settings.items():
        part, name = key.split(".")
        here = getattr(getattr(config, part), name, None)
        there = tuple(there) if isinstance(there, list) else there
        if part in parts and here is not None and here != there:
            lines.append(f"config.{key} is {here!r}, {there!r} there")
    if lines:
        shown = "\n  ".join(lines)
        raise ConfigError(f"{path} is of another network:\n  {shown}\nSet these keys to what is there")


def of_classes(control: Tree, opened: build.Opened, path: Path) -> Tree:
    """A ControlNet of classes, from one of their colours: its first convolution is of the colour that a class has."""
    info, edges = opened.info, "edges" in opened.subject.reads
    kernel = np.asarray(control["hint"]["labels"]["kernel"]) if "hint" in control else None
    if kernel is None or kernel.shape[2] != COLOURS or info.num_classes + edges == COLOURS:
        return control
    logs.say(
        f"{path}: its ControlNet was trained on colours; those of {info.name} are taken", parallel.is_main()
    )
    palette = palette_of(info)
    planes = np.einsum("hwic,ki->hwkc", kernel, palette)
    if edges:
        planes = np.concatenate([planes, np.zeros_like(planes[:, :, :1])], axis=2)
    labels = control["hint"]["labels"] | {"kernel": planes.astype(kernel.dtype)}
    return control | {"hint": control["hint"] | {"labels": labels}}


def palette_of(info: Info) -> np.ndarray:
    """Colours of the classes [K, 3], in 0..1."""
    return np.asarray(info.palette, np.float64)[: info.num_classes] / 255


# --- the space


def space_of(config: Experiment, latents: space.Latents, source: Source, found: Tree | None = None) -> Tree:
    """The autoencoder that config.space.weights names, else `found`, with what its latents are shifted and scaled by."""
    c = config.space
    assert isinstance(c, Latents)
    if c.weights:
        path = local_path(c.weights, "config.space.weights")
        found = autoencoder_of(config, path)
        like = jax.eval_shape(latents.init, jax.random.key(0))
        weights.check_tree(plain(found), plain(like), path)
    if found is None:
        raise ConfigError(
            "config.space.kind is latents, but no trained autoencoder is named. Name one in config.space.weights (Stable "
            "Diffusion's, or the workdir of a configuration with config.model.kind autoencoder), or weights with one in "
            "config.train.init"
        )
    if c.scale:
        normal = {space.MEAN: np.zeros(c.channels), space.DEVIATION: np.full(c.channels, 1 / c.scale)}
    elif space.MEAN in found:
        normal = {name: found[name] for name in (space.MEAN, space.DEVIATION)}
    else:
        normal = measured(latents, found, source, config.data.size)
    return plain(found) | {name: np.asarray(value, np.float32) for name, value in normal.items()}


def space_params(config: Experiment, opened: build.Opened, workdir: Path) -> Tree:
    """The parameters of a method's space: a training's, where there is one in the workdir; {} of pixels."""
    latents = opened.method.space
    if not isinstance(latents, space.Latents):
        return {}
    if (workdir / trained.FROZEN).exists():
        return weights.load_weights(workdir / trained.FROZEN)[0][SPACE]
    return initial(config, opened)[SPACE]


def plain(autoencoder: Tree) -> Tree:
    """Its weights alone."""
    return {name: autoencoder[name] for name in ("encoder", "decoder") if name in autoencoder}


def autoencoder_of(config: Experiment, path: Path) -> Tree:
    if (path / CHECKPOINTS).is_dir():
        return autoencoder_of_workdir(path)
    found = found_in(path)
    check_settings(config, found, path, ("space",))
    return found.params.get(SPACE, found.params)


def autoencoder_of_workdir(workdir: Path) -> Tree:
    """The averaged weights of the newest checkpoint."""
    written = trained.workdir_config(workdir)
    checkpoints = checkpoint.Checkpoints(workdir)
    step, method = checkpoints.latest(), autoencoding.method(written)
    assert step is not None  # its configuration is from there
    like = jax.eval_shape(lambda key: method.init(key, written.data.size), jax.random.key(0))
    weights_like, _ = rule_of(written).split(like)
    about = checkpoints.about(step)
    return checkpoints.restore_weights(step, weights_like, about, "ema")


def measured(latents: space.Latents, found: Tree, source: Source, size: tuple[int, int]) -> dict[str, Any]:
    """Mean and deviation of each channel, over images from all over a source; all processes find the same."""
    plainly = plain(found) | latents_as_they_are(latents.channels)
    encode = jax.jit(lambda params, image: latents.encode(params, image[None])[0])
    count, total, squares = 0, np.zeros(latents.channels), np.zeros(latents.channels)
    chosen = inputs.spread(source, MEASURED)
    progress = logs.Progress(len(chosen), unit="image", active=parallel.is_main())
    for done, i in enumerate(chosen, start=1):
        z = np.asarray(encode(plainly, augment.squash(source[i], size)["image"]), np.float64)
        z = z.reshape(-1, latents.channels)
        count, total, squares = count + len(z), total + z.sum(0), squares + (z**2).sum(0)
        if done == len(chosen):
            progress.report(done, "measuring latents")
    mean = total / count
    return {space.MEAN: mean, space.DEVIATION: np.sqrt(np.maximum(squares / count - mean**2, 1e-12))}


def latents_as_they_are(channels: int) -> dict[str, Any]:
    return {space.MEAN: jnp.zeros(channels), space.DEVIATION: jnp.ones(channels)}
