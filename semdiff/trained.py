"""Trained weights and what they mean: a model is opened without the data that it was trained on.

A model folder holds model.safetensors (the weights, averaged), config.json (the configuration, what of the data the weights
depend on, times for short chains), dataset.json (the classes) and README.md. `--mode=export` writes it.
"""

import hashlib
import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from semdiff import inputs, shipped, stable_diffusion
from semdiff.config import ConfigError, ControlUNet, Experiment, JointUNet, Sample
from semdiff.convert import gcdp, sdm, torch_file, weights
from semdiff.convert.diffusers_folder import Found
from semdiff.data import classes, moments
from semdiff.data.prompts import Encoder
from semdiff.data.source import Info
from semdiff.data.text import Vocabulary
from semdiff.machine import logs
from semdiff.machine.paths import local_path
from semdiff.methods import build, scp
from semdiff.methods.method import SPACE, START, Method
from semdiff.methods.networks import LayoutAndWords
from semdiff.methods.space import called
from semdiff.parser import from_dict
from semdiff.sampling import times
from semdiff.sampling.tasks import Enlarger
from semdiff.training import checkpoint
from semdiff.training.params import merged, rule_of

FORMAT = "semdiff.model.1"
WEIGHTS, ABOUT, CLASSES, CARD = "model.safetensors", "config.json", "dataset.json", "README.md"
FROZEN = "frozen.safetensors"
SEGMENTER, PRIOR = "segmenter.safetensors", "prior.safetensors"
RELEASED = (".pt", ".pth")


@dataclass(frozen=True)
class Trained:
    """A method with its weights, and what they are of.

    name: of the weights, for folders and manifests. times: what was tuned for short chains. rates: what class rates the
    method was built with. about: what else is known of the training, for the card of a model folder. folder: where the
    weights are, and what else was made for them.
    """

    config: Experiment
    method: Method
    params: Any
    name: str
    info: Info
    rates: np.ndarray | None = None
    times: tuple[dict, ...] = ()
    about: Any = None
    language: inputs.Language | None = None
    folder: Path | None = None

    @property
    def edges(self) -> bool:
        """Whether the network is given borders between instances."""
        return "edges" in self.method.reads

    def ready(self) -> "Trained":
        """With all that config.sample asks for beside the weights: tuned times, and statistics to start from."""
        config = times.resolved(self.config, list(self.times), self.name)
        method, tables = scp.started(self.method, config.sample, self.statistics(config.sample))
        method = with_strength(method, config.sample.control_strength)
        params = {name: part for name, part in self.params.items() if name != START}
        if tables:
            params[START] = jax.tree.map(jnp.asarray, tables)
        return replace(self, config=config, method=method, params=params)

    @property
    def tables(self) -> dict:
        """Those of its start, as they stand beside the weights."""
        return {START: self.params[START]} if START in self.params else {}

    def statistics(self, c: Sample) -> moments.Moments | None:
        """Those that config.sample.prior needs, where they are."""
        if c.prior == "normal":
            return None
        path = local_path(c.prior_file, "config.sample.prior_file") if c.prior_file else None
        if path is None:
            path = self.folder / PRIOR if self.folder else None
            if path is None or not path.exists():
                return None
        tree, written = weights.load_weights(path)
        found = moments.of_tree(tree, written, path)
        space = self.method.space
        name = called(space, self.params.get(SPACE, {}))
        moments.check(found, written, path, self.info.names, space.shape(self.config.data.size), name)
        return found


def enlarger(model: Trained) -> Enlarger | None:
    """What makes this model's pairs larger: the model of a second stage that config.sample.upscale names."""
    config = model.config
    if not config.sample.upscale:
        return None
    path = shipped.or_shipped(local_path(config.sample.upscale, "config.sample.upscale"))
    if (path / WEIGHTS).is_file():
        own = folder_config(path)
    else:
        own = workdir_config(path)
        own = replace(own, sample=replace(own.sample, weights=""))
    second = opened(own, path).ready()
    wrong = differing(model, second)
    if wrong:
        raise ConfigError(
            f"config.sample.upscale is {path}, which does not go on from {model.name}: {'; '.join(wrong)}"
        )
    parts = (second.method, second.params, second.config.sample, second.config.data.size, second.language)
    return Enlarger(second.name, *parts, small_noise=config.sample.small_noise)


def differing(model: Trained, second: Trained) -> list[str]:
    """What keeps a model from being the second stage of another, in words."""
    own, larger = model.config, second.config
    if not isinstance(larger.model, JointUNet) or not larger.model.upscales:
        return ["it enlarges nothing (config.model.upscales is 0)"]
    if not isinstance(own.model, JointUNet) or own.model.upscales:
        return ["it enlarges pairs as a first stage makes them, and this is none"]
    wrong, factor = [], larger.model.upscales
    if model.info.names != second.info.names:
        here, there = model.info.names, second.info.names
        wrong.append(f"it has the classes {', '.join(there[:5])}, ..., not {', '.join(here[:5])}, ...")
    height, width = own.data.size
    if larger.data.size != (factor * height, factor * width):
        small = tuple(n // factor for n in larger.data.size)
        wrong.append(f"it makes {larger.data.size} of {small}, not of {(height, width)}")
    words, texts = (second.language, model.language), (larger.model.text_length, own.model.text_length)
    if not all(isinstance(language, Vocabulary) for language in words) and (
        words[0] != words[1] or texts[0] != texts[1]
    ):
        wrong.append("it reads what is said in another way")
    return wrong


def with_strength(method: Method, strength: float) -> Method:
    """With what a ControlNet adds multiplied by this."""
    if isinstance(method.network, LayoutAndWords):
        return replace(method, network=replace(method.network, strength=strength))
    if strength != 1:
        raise ConfigError(
            f"config.sample.control_strength is {strength:g}, but this network has no ControlNet: leave it at 1"
        )
    return method


def opened(config: Experiment, workdir: Path) -> Trained:
    """The weights that config.sample.weights names, else those of the newest checkpoint of the workdir."""
    if config.sample.weights:
        path = shipped.or_shipped(local_path(config.sample.weights, "config.sample.weights"))
        released = stable_diffusion.found_in(path) if isinstance(config.model, ControlUNet) else None
        if released is not None:
            found = of_stable_diffusion(config, released, path, workdir)
        else:
            found = of_folder(config, path) if path.is_dir() else of_file(config, path, workdir)
    else:
        found = of_workdir(config, workdir)
    if (prompts := inputs.prompts(config)) is not None:  # other words than it was trained with, maybe
        found = replace(found, params=found.params | {"prompts": jnp.asarray(prompts.table)})
    beside = [place for place in (workdir, found.folder) if place is not None and (place / PRIOR).exists()]
    return replace(
        found, times=(*found.times, *times.entries_of(workdir)), folder=beside[0] if beside else found.folder
    )


def of_workdir(config: Experiment, workdir: Path) -> Trained:
    checkpoints = checkpoint.Checkpoints(workdir)
    step = checkpoints.latest()
    if step is None:
        raise checkpoint.CheckpointError(
            f"{workdir} holds no checkpoint. Train first: --mode=train with the same --workdir."
        )
    written = checkpoints.about(step)
    if "classes" in written:
        info, rates, language = meaning(written, checkpoints.directory / str(step) / "about")
    else:  # written before checkpoints knew their classes: the data must be at hand
        data = build.opened(config, workdir)
        info, rates, language = data.info, data.rates, data.language
    method = build.build_method(config, info, rates, build.words_of(language))
    like = shapes_of(method, config)
    edges = "edges" in method.reads
    about = checkpoint.describe(config, inputs.identity(info, edges, rates, language))
    trained, frozen = rule_of(from_dict(written["config"])).split(like)
    name = "ema" if config.sample.ema else "params"
    params = checkpoints.restore_weights(step, trained, about, name)
    logs.say(f"weights: {name} of step {step}, {checkpoints.directory}", jax.process_index() == 0)
    params = merged(params, read_frozen(workdir, frozen))
    return Trained(config, method, params, f"{step}/{name}", info, rates, (), written["config"], language)


def of_folder(config: Experiment, folder: Path) -> Trained:
    """A model folder's; `config` says what is to be done with it, and must mean the same network."""
    written = read_about(folder)
    info, rates, language = meaning(written, folder / CLASSES)
    method = build.build_method(config, info, rates, build.words_of(language))
    about = checkpoint.describe(config, inputs.identity(info, "edges" in method.reads, rates, language))
    remedy = f"Use the configuration it was trained with: --config=configs/model.py:{folder}"
    checkpoint.same_meaning(written, about, str(folder), remedy)
    path = folder / WEIGHTS
    params = jax.tree.map(in_full, read_weights(path)[0])
    weights.check_tree(params, shapes_of(method, config), path)
    name = f"{folder.name}-{digest(path)}"
    return Trained(
        config,
        method,
        params,
        name,
        info,
        rates,
        tuple(written["times"]),
        written["config"],
        language,
        folder,
    )


def of_file(config: Experiment, path: Path, workdir: Path) -> Trained:
    """A file of weights alone, or a released .pt: their classes are those of the configuration's data set."""
    params, metadata = read_weights(path, *heads_of(config))
    info, rates = classes_for(config, workdir)
    method = build.build_method(config, info, rates)
    weights.check_tree(params, shapes_of(method, config), path)
    params = jax.tree.map(jnp.asarray, params)
    language = (
        Encoder() if isinstance(config.model, JointUNet) else None
    )  # it reads states of whatever it was trained with
    name, found = f"{path.stem}-{digest(path)}", tuple(metadata.get("times", ()))
    return Trained(config, method, params, name, info, rates, found, language=language)


def of_stable_diffusion(config: Experiment, released: Found, path: Path, workdir: Path) -> Trained:
    """Stable Diffusion with a ControlNet as released, told of the prompts of config.data.prompts."""
    info, rates = classes_for(config, workdir)
    method = build.build_method(config, info, rates)
    params = stable_diffusion.fitted(config, released, info, "edges" in method.reads, path)
    if (prompts := inputs.prompts(config)) is not None:
        params["prompts"] = prompts.table
    elif "prompts" not in params:
        raise ConfigError(
            f"{path} has no prompts: encode some with `python -m semdiff.prompts`, and name them in config.data.prompts"
        )
    weights.check_tree(params, shapes_of(method, config), path)
    seen = np.asarray(params["control"]["hint"]["labels"]["kernel"]).tobytes()
    name = f"{path.stem}-{hashlib.sha256(seen).hexdigest()[:8]}"
    return Trained(config, method, jax.tree.map(in_full, params), name, info, rates)


def classes_for(config: Experiment, workdir: Path) -> tuple[Info, np.ndarray | None]:
    """The classes and class rates that released weights are for: known, or those of the data."""
    info = None if inputs.measures_rates(config) else inputs.classes_of(config.data)
    if info is not None:
        return info, inputs.named_rates(config, info)
    data = build.opened(config, workdir)
    return data.info, data.rates


def heads_of(config: Experiment) -> tuple[int, int]:
    """Number and width: a released network's weights do not tell."""
    return getattr(config.model, "heads", 0), getattr(config.model, "head_width", sdm.HEAD_WIDTH)


def in_full(weight: np.ndarray) -> jax.Array:
    """A weight as it is used: float16 saves room in a file only."""
    return jnp.asarray(weight, jnp.float32 if weight.dtype == np.float16 else weight.dtype)


def shapes_of(method: Method, config: Experiment):
    """What the method's parameters are like, with nothing made."""
    return jax.eval_shape(lambda key: method.init(key, config.data.size), jax.random.key(0))


def digest(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()[:8]


def meaning(written: dict, where: Path) -> tuple[Info, np.ndarray | None, inputs.Language | None]:
    """The classes, class rates and language that weights were written with."""
    info = classes.description_of(written["classes"], where).info
    info = replace(info, has_instances=bool(written["data"].get("edges")))
    if list(info.names) != written["data"].get("classes"):
        raise ConfigError(
            f"{where}: names other classes ({', '.join(info.names[:5])}, ...) than the weights were trained for "
            f"({', '.join(written['data'].get('classes', [])[:5])}, ...). Copy it again"
        )
    language = inputs.language_of(written["data"])
    if (listed := written["data"].get("rates")) is None:
        return info, None, language
    rates = np.asarray(listed, np.float64)
    return info, rates if len(rates) == info.num_classes else rates.reshape(-1, info.num_classes), language


def read_about(folder: Path) -> dict:
    """config.json and dataset.json of a model folder."""
    try:
        written = json.loads((folder / ABOUT).read_text(encoding="utf-8"))
        if not isinstance(written, dict) or written.get("format") != FORMAT:
            raise ValueError(f"its format is not {FORMAT}")
        if missing := {"config", "data", "times"} - written.keys():
            raise ValueError(f"it lacks {', '.join(sorted(missing))}")
        return written | {"classes": json.loads((folder / CLASSES).read_text(encoding="utf-8"))}
    except (OSError, ValueError, RecursionError) as error:
        raise ConfigError(
            f"{folder} is no model folder: {folder / ABOUT}: {str(error)[:200]}. Expected {WEIGHTS}, {ABOUT} and {CLASSES} "
            f"as --mode=export writes them, or a name: {shipped.known()}"
        ) from error


def folder_config(folder: Path) -> Experiment:
    """The configuration that a model folder was trained with, set to sample with its weights."""
    folder = shipped.or_shipped(folder)
    config = from_dict(read_about(folder)["config"])
    return replace(config, sample=replace(config.sample, weights=str(folder)))


def workdir_config(workdir: Path) -> Experiment:
    """The configuration that the newest checkpoint of a workdir was written with."""
    checkpoints = checkpoint.Checkpoints(workdir)
    step = checkpoints.latest()
    if step is None:
        raise checkpoint.CheckpointError(f"{workdir} holds no checkpoint. Train first: --mode=train")
    return from_dict(checkpoints.about(step)["config"])


def read_weights(path: Path, heads: int = 0, head_width: int = sdm.HEAD_WIDTH) -> tuple[dict, dict]:
    """(parameters, metadata) of a model folder, of a file of ours, or of a released .pt, which is not executed."""
    if path.is_dir():
        path = path / WEIGHTS
    if not path.is_file():
        raise ConfigError(
            f"{path}: no such file; expected a model folder, weights (.safetensors), a released .pt, or a name: "
            f"{shipped.known()}"
        )
    if path.suffix not in RELEASED:
        return weights.load_weights(path)
    tensors = torch_file.load(path, flatten=True)
    if gcdp.is_gcdp(tensors):
        return gcdp.to_semdiff(tensors, path), {}
    return sdm.to_semdiff(tensors, heads=heads, head_width=head_width, source=path), {}


def placed(params: dict, like: dict, path: str | Path) -> dict:
    """Weights where `like`, a tree of shapes, will live; an error where they do not fit."""
    weights.check_tree(params, like, path)
    return jax.tree.map(lambda new, at: jax.device_put(np.asarray(new, at.dtype), at.sharding), params, like)


def write_frozen(workdir: Path, frozen: dict):
    """The weights that are not trained, once for all the checkpoints of a workdir."""
    weights.save_weights(workdir / FROZEN, frozen)


def read_frozen(workdir: Path, like: dict) -> dict:
    """What `write_frozen` wrote, in the place of `like`; nothing where nothing is frozen."""
    if not like:
        return {}
    found, _ = weights.load_weights(workdir / FROZEN)
    here = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
    at = jax.tree.map(
        lambda a: a if a.sharding else jax.ShapeDtypeStruct(a.shape, a.dtype, sharding=here), like
    )
    return placed(found, at, workdir / FROZEN)
