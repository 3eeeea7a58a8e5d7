"""Weights that a training begins with where they are not drawn: config.train.init, and config.space.weights.

A ControlNet that is not among them begins as a copy of its UNet's encoder, behind convolutions of zeros.
"""

from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from semdiff import inputs, shipped, stable_diffusion, trained
from semdiff.config import ConfigError, ControlUNet, Experiment, Latents
from semdiff.convert import weights
from semdiff.convert.diffusers_folder import Found
from semdiff.data import augment, latents, statistics
from semdiff.data.source import Source
from semdiff.machine import logs, parallel
from semdiff.machine.paths import local_path
from semdiff.methods import autoencoding, build, space
from semdiff.methods.method import SPACE, Method
from semdiff.training import checkpoint
from semdiff.training.params import Tree, rule_of

MEASURED = 256  # images that the mean and deviation of latents are of
CHECKPOINTS = "checkpoints"


def initial(config: Experiment, opened: build.Opened) -> Tree:
    """The parameters that do not start fresh; {} where all do."""
    found: Tree = {}
    if config.train.init:
        path = shipped.or_shipped(local_path(config.train.init, "config.train.init"))
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


def of_stable_diffusion(config: Experiment, opened: build.Opened, path: Path) -> Tree:
    found = stable_diffusion.found_in(path) or of_ours(path)
    params = stable_diffusion.fitted(config, found, opened.info, "edges" in opened.subject.reads, path)
    if "unet" in params and "control" not in params:
        params["control"] = {"encoder": params["unet"]["encoder"]}
        logs.say(f"the ControlNet begins as a copy of the encoder of {path}", parallel.is_main())
    return params


def of_ours(path: Path) -> Found:
    """A model folder's, or what `python -m semdiff.convert import` wrote."""
    params, metadata = trained.read_weights(path)
    return Found(params, settings=metadata.get("settings", {}))


# --- the space


def space_of(config: Experiment, inside: space.Latents, source: Source, found: Tree | None = None) -> Tree:
    """The autoencoder that config.space.weights names, else `found`, with what its latents are shifted and scaled by."""
    c = config.space
    assert isinstance(c, Latents)
    if c.weights:
        path = local_path(c.weights, "config.space.weights")
        found = autoencoder_of(config, path)
        like = jax.eval_shape(inside.init, jax.random.key(0))
        weights.check_tree(plain(found), plain(like), path)
    if found is None:
        raise ConfigError(
            "config.space.kind is latents, but no trained autoencoder is named. Name one in config.space.weights (Stable "
            "Diffusion's, or the workdir of a configuration with config.model.kind autoencoder), or weights with one in "
            "config.train.init"
        )
    if c.scale:
        normal = stable_diffusion.scaled(c.channels, c.scale)
    elif space.MEAN in found:
        normal = {name: found[name] for name in (space.MEAN, space.DEVIATION)}
    else:
        normal = measured(inside, found, source, config.data.size)
    return plain(found) | {name: np.asarray(value, np.float32) for name, value in normal.items()}


def space_params(config: Experiment, opened: build.Opened, workdir: Path) -> Tree:
    """The parameters of a method's space: a training's, where there is one in the workdir; {} of pixels."""
    inside = opened.method.space
    if not isinstance(inside, space.Latents):
        return {}
    if (workdir / trained.FROZEN).exists():
        return weights.load_weights(workdir / trained.FROZEN)[0][SPACE]
    return initial(config, opened)[SPACE]


def about_latents(source: Source, config: Experiment, inside: space.Space, params: Tree) -> dict[str, Any]:
    """What latents that are encoded beforehand are of."""
    shape = inside.shape(config.data.size)
    name, files = space.called(inside, params), statistics.fingerprint(source)
    return latents.about(name, files, config.data.size, shape, len(source))


def plain(autoencoder: Tree) -> Tree:
    """Its weights alone."""
    return {name: autoencoder[name] for name in ("encoder", "decoder") if name in autoencoder}


def autoencoder_of(config: Experiment, path: Path) -> Tree:
    if (path / CHECKPOINTS).is_dir():
        return autoencoder_of_workdir(path)
    found = stable_diffusion.found_in(path) or of_ours(path)
    stable_diffusion.check_settings(config, found, path, ("space",))
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


def measured(inside: space.Latents, found: Tree, source: Source, size: tuple[int, int]) -> dict[str, Any]:
    """Mean and deviation of each channel, over images from all over a source; all processes find the same."""
    plainly = plain(found) | latents_as_they_are(inside.channels)
    encode = jax.jit(lambda params, image: inside.encode(params, image[None])[0])
    count, total, squares = 0, np.zeros(inside.channels), np.zeros(inside.channels)
    chosen = inputs.spread(source, MEASURED)
    progress = logs.Progress(len(chosen), unit="image", active=parallel.is_main())
    for done, i in enumerate(chosen, start=1):
        z = np.asarray(encode(plainly, augment.squash(source[i], size)["image"]), np.float64)
        z = z.reshape(-1, inside.channels)
        count, total, squares = count + len(z), total + z.sum(0), squares + (z**2).sum(0)
        if done == len(chosen):
            progress.report(done, "measuring latents")
    mean = total / count
    return {space.MEAN: mean, space.DEVIATION: np.sqrt(np.maximum(squares / count - mean**2, 1e-12))}


def latents_as_they_are(channels: int) -> dict[str, Any]:
    return {space.MEAN: jnp.zeros(channels), space.DEVIATION: jnp.ones(channels)}
