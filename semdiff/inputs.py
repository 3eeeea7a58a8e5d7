"""From a configuration to sources of data, their statistics, and what a checkpoint remembers of them."""

import json
from collections.abc import Sized
from pathlib import Path
from typing import Any

import jax
import numpy as np

from semdiff.config import ConfigError, ControlUNet, Data, Experiment, JointUNet, Latents
from semdiff.data import known_classes, make_source, statistics
from semdiff.data.captions import Captions, Described, read_captions
from semdiff.data.images import DataError
from semdiff.data.latents import Encoded
from semdiff.data.prompts import Encoder, Prompted, Prompts, Stated
from semdiff.data.prompts import read as read_prompts
from semdiff.data.readers.folder import Layouts
from semdiff.data.source import Info, Source
from semdiff.data.text import Told, Vocabulary, captions_of
from semdiff.machine import logs, parallel
from semdiff.machine.paths import local_path, prepare_workdir, write_json

RELEASED_RATES = ("ade20k", "coco_stuff", "celebamask_hq")

Language = Vocabulary | Encoder  # what a network reads captions in


def training_source(data: Data, seed: int) -> Source:
    return _source(data, "split", seed, length=data.length or None)


def evaluation_source(data: Data, seed: int) -> Source:
    return _source(data, "eval_split", seed)


def _source(data: Data, key: str, seed: int, **options) -> Source:
    split = getattr(data, key)
    if data.source == "scenes":
        options |= {"size": data.size, "seed": seed}
    if data.source == "folder" or data.mismatch != Data.mismatch:
        options["mismatch"] = data.mismatch
    if data.root:
        options["root"] = local_path(data.root, "config.data.root")
    if data.num_classes:
        options["num_classes"] = data.num_classes
    try:
        source = make_source(data.source, split=split, **{k: v for k, v in options.items() if v is not None})
        if data.captions:
            path = data.captions.replace("{split}", str(split))
            source = Described(source, local_path(path, "config.data.captions"))
        return source
    except DataError as error:
        raise DataError(f"config.data.{key}={split}: {error}") from error


def classes_of(data: Data) -> Info | None:
    """The classes of a data set that are known without its files."""
    return known_classes(data.source, data.num_classes or None)


def layouts_source(
    folder: str, info: Info, edges: bool, unlabelled: int = -1, key: str = "config.sample.layouts"
) -> Source:
    """Layouts to sample from. A network with an edge channel wants instance maps too: FOLDER/../instances, or where a
    data set has them, ROOT/instances/SPLIT beside ROOT/labels/SPLIT."""
    path = local_path(folder, key)
    split = path.parent.name == "labels"
    instances = path.parents[1] / "instances" / path.name if split else path.parent / "instances"
    if edges and not instances.is_dir():
        raise ConfigError(
            f"this network was trained with borders between instances, but {instances} does not exist. Put instance maps "
            f"(PNG of 8 or 16 bits, the names of the layouts in {folder}, 0 where there is no instance) there; where the "
            "borders are those between classes (CelebAMask-HQ), copies of the layouts do."
        )
    return Layouts(path, info=info, instances=instances if edges else None, unlabelled=unlabelled)


def spread(source: Sized, count: int) -> list[int]:
    """`count` indices over the whole of a source (0: all): neighbours are often frames of one film."""
    count = min(count or len(source), len(source))
    return [round(i * (len(source) - 1) / max(count - 1, 1)) for i in range(count)]


def training_options(config: Experiment) -> dict:
    """How the training pipeline treats the source."""
    data = config.data
    return {
        "batch_size": config.train.batch_size,
        "size": data.size,
        "max_scale": data.max_scale,
        "flip": data.flip,
        "seed": config.seed,
        "workers": data.workers,
        "cache": data.cache,
        "edges": data.edges,
    }


def describe(source: Source, data: Data) -> str:
    info = source.info
    extras = [
        name for name, has in (("instances", info.has_instances), ("captions", info.has_captions)) if has
    ]
    return (
        f"{info.name}, {data.split}: {len(source):,} images, {info.num_classes} classes"
        f"{', with ' + ' and '.join(extras) if extras else ''}, at {data.size[0]} x {data.size[1]}"
    )


def identity(
    info: Info, edges: bool, rates: np.ndarray | None = None, language: Language | None = None
) -> dict:
    """What of the data the weights depend on."""
    facts: dict[str, Any] = {"classes": list(info.names), "edges": edges}
    if rates is not None:
        facts["rates"] = np.ravel(rates).tolist()
    if isinstance(language, Vocabulary):
        facts["words"] = list(language.words)
    elif language is not None:
        facts["encoder"] = {"name": language.name, "digest": language.digest}
    return facts


def language_of(facts: dict) -> Language | None:
    """The other way round."""
    if "words" in facts:
        return Vocabulary(tuple(facts["words"]))
    return Encoder(**facts["encoder"]) if "encoder" in facts else None


def language(config: Experiment, source: Source, workdir: Path) -> Language | None:
    """What a network reads that is told of captions: states of the encoder of config.data.prompts, or the words of the
    training split, in WORKDIR/vocabulary.json where it is there, else counted and written there.

    None for a network that is not told of captions. Process 0 counts.
    """
    if not isinstance(config.model, JointUNet):
        return None
    if config.data.prompts:
        return states(config, prompts_folder(config)).encoder
    path = prepare_workdir(workdir) / "vocabulary.json"
    if parallel.is_main() and not path.exists():
        write_json(path, {"words": list(counted_words(source).words)})
    found = parallel.from_main(path.read_bytes() if path.exists() else b"")
    try:
        return Vocabulary(tuple(json.loads(found)["words"]))
    except (ValueError, KeyError, TypeError) as error:
        raise ConfigError(
            f"{path} is damaged ({error}): remove it, and the words are counted anew"
        ) from error


def counted_words(source: Source) -> Vocabulary:
    """Of all captions of a source."""
    progress = logs.Progress(len(source), unit="caption")

    def each():
        for i in range(len(source)):
            yield from captions_of(source[i])
            if (i + 1) % 1024 == 0 or i + 1 == len(source):
                progress.report(i + 1, "counting words")

    return Vocabulary.of(each())


def told(config: Experiment, source: Source, language: Language | None, training: bool = False) -> Source:
    """The source with its captions as ids of words, or as an encoder's states, for a network that is told of them."""
    share = config.data.captioned if training else 1.0
    if isinstance(config.model, JointUNet) and isinstance(language, Vocabulary):
        return Told(source, language, config.model.text_length, share)
    if not config.data.prompts or not isinstance(config.model, (ControlUNet, JointUNet)):
        return source
    found = states(config, prompts_folder(config), language)
    return Prompted(source, found.folder, share) if found.captions else source


def captions(config: Experiment, info: Info, language: Language, written: str, key: str) -> Source:
    """A file of captions, or a folder of their states: examples of a name and a caption, as the network reads it."""
    path = local_path(written, key)
    if isinstance(language, Vocabulary):
        assert isinstance(config.model, JointUNet)
        return Told(Captions(read_captions(path), info), language, config.model.text_length)
    if path.is_file():
        raise ConfigError(
            f"{key} is {path}, but this model reads captions as states of {language}. Encode them by `python -m "
            f"semdiff.prompts DIRECTORY STATES --captions {path}`, and set {key}=STATES"
        )
    return Stated(states(config, path, language), info)


def encoded(config: Experiment, source: Source) -> Source:
    """The source with its images' latents, where config.data.latents has them."""
    if not config.data.latents:
        return source
    if not isinstance(config.space, Latents):
        raise ConfigError("config.data.latents is set, but config.space.kind is pixels: leave it empty")
    if config.data.max_scale != 1:
        raise ConfigError(
            f"config.data.max_scale is {config.data.max_scale:g}, but latents are of one crop: set it to 1, or leave "
            "config.data.latents empty"
        )
    return Encoded(source, local_path(config.data.latents, "config.data.latents"))


def prompts(config: Experiment) -> Prompts | None:
    """Those of config.data.prompts, for a network that has a place for them."""
    if not isinstance(config.model, ControlUNet) or not config.data.prompts:
        return None
    found = states(config, prompts_folder(config))
    if found.table is None:
        raise ConfigError(
            f"{found.folder}: has captions alone, but a ControlNet is told something of every image: encode them again with "
            "--prompt"
        )
    return found


def states(config: Experiment, folder: Path, language: Language | None = None) -> Prompts:
    """Texts that were encoded beforehand, fitting the network, and of the encoder that it was trained with."""
    c, found = config.model, read_prompts(folder)
    assert isinstance(c, (ControlUNet, JointUNet))
    if found.shape != (c.text_length, c.text_width):
        raise ConfigError(
            f"config.model.text_length is {c.text_length} and text_width {c.text_width}, but the texts of {folder} have "
            f"{found.shape[0]} states of {found.shape[1]}: set these keys to that, or encode with --length={c.text_length}"
        )
    if isinstance(language, Encoder) and language.digest and language != found.encoder:
        raise ConfigError(
            f"{folder}: its states are of {found.encoder}, but the network was trained with those of {language}: encode "
            "the texts with that"
        )
    return found


def prompts_folder(config: Experiment) -> Path:
    return local_path(config.data.prompts, "config.data.prompts")


def class_rates(config: Experiment, source: Source, workdir: Path) -> np.ndarray | None:
    """What config.layout.rates names: psi phi per class, or a table of gamma; None where no schedule asks for it."""
    if measures_rates(config):
        return measured_rates(config, source, workdir)
    return named_rates(config, source.info)


def measures_rates(config: Experiment) -> bool:
    """Whether class rates are those of the training split."""
    c = config.layout
    return c.transition != "none" and c.schedule == "classwise" and c.rates == "data"


def named_rates(config: Experiment, info: Info) -> np.ndarray | None:
    """Those of a release, or of a file."""
    c = config.layout
    if c.transition == "none" or c.schedule not in ("classwise", "table"):
        return None
    if c.rates in RELEASED_RATES and c.schedule == "classwise":
        rates = statistics.released_rates(c.rates)
    else:
        rates = statistics.read_rates(local_path(c.rates, "config.layout.rates"))
    if rates.shape[-1:] != (info.num_classes,):
        raise ConfigError(
            f"config.layout.rates={c.rates} has {rates.shape[-1] if rates.ndim else 0} classes; {info.name} has "
            f"{info.num_classes}. Give one number per class, in the order of the classes, or set it to data"
        )
    return rates


def measured_rates(config: Experiment, source: Source, workdir: Path) -> np.ndarray:
    """psi phi of the training split: WORKDIR/class_rates.json where it is there, else counted and written there.

    The processes of a run share the counting, and all go by what process 0 finds in the workdir.
    """
    path = prepare_workdir(workdir) / "class_rates.json"
    found = parallel.from_main(path.read_bytes() if path.exists() else b"")
    if found:
        try:
            written = json.loads(found)
        except ValueError as error:
            raise ConfigError(f"{path} is damaged ({error}): remove it, and it is measured anew") from error
        if written["fingerprint"] != statistics.fingerprint(source):
            raise ConfigError(
                f"{path} was measured on other data: {written['data']}, {written['split']}, {written['images']} images. "
                "Use another workdir, or name that file in config.layout.rates to use it nevertheless."
            )
    else:
        written = statistics.as_json(count_classes(source), source, config.data.split)
        if jax.process_index() == 0:
            write_json(path, written)
            say_absent(written)
    return np.asarray([entry["rate"] for entry in written["classes"]])


def count_classes(source: Source) -> statistics.Counts:
    """Over the whole source, each process a share."""
    mine = parallel.share(range(len(source)))
    progress = logs.Progress(len(mine), unit="layout", active=jax.process_index() == 0)

    def report(done: int):
        if done == len(mine) or done % 1024 == 0:
            progress.report(done, "counting classes")

    counts = statistics.count(source, mine, report)
    images, showing, pixels = parallel.summed((counts.images, counts.showing, counts.pixels))
    return statistics.Counts(int(images), showing, pixels)


def say_absent(written: dict):
    absent = [entry["name"] for entry in written["classes"] if not entry["images"]]
    if absent:
        logs.say(
            f"classes without a pixel in the {written['split']} split: {', '.join(absent)}. They get the largest rate of "
            "the others: masked last, like the rarest."
        )


def check_same_classes(trained: Info, other: Info, edges: bool):
    """A split to evaluate on must have the classes trained on, and instances where the network wants them."""
    if trained.num_classes != other.num_classes or (edges and not other.has_instances):
        raise ConfigError(
            f"the evaluation split has {other.num_classes} classes (instances: {other.has_instances}), the training split "
            f"{trained.num_classes} (instances: {trained.has_instances}). Set config.data.num_classes, or complete it."
        )
