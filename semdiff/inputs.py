"""From a configuration to sources of data, and what a checkpoint remembers of them."""

from pathlib import Path

from semdiff.config import ConfigError, Data, Experiment
from semdiff.data import make_source
from semdiff.data.folder import Layouts
from semdiff.data.source import Info, Source


def training_source(data: Data, seed: int) -> Source:
    return _source(data, data.split, seed, length=data.length or None)


def evaluation_source(data: Data, seed: int) -> Source:
    return _source(data, data.eval_split, seed)


def _source(data: Data, split: str, seed: int, **options) -> Source:
    if data.source == "scenes":
        options |= {"size": data.size, "seed": seed}
    if data.source == "folder":
        options["mismatch"] = data.mismatch
    if data.root:
        options["root"] = Path(data.root).expanduser()
    if data.num_classes:
        options["num_classes"] = data.num_classes
    return make_source(data.source, split=split, **{k: v for k, v in options.items() if v is not None})


def layouts_source(folder: str, info: Info, edges: bool) -> Source:
    """Layouts to sample from. A network with an edge channel wants instance maps too: FOLDER/../instances, or where a
    data set has them, ROOT/instances/SPLIT beside ROOT/labels/SPLIT."""
    path = Path(folder).expanduser()
    split = path.parent.name == "labels"
    instances = path.parents[1] / "instances" / path.name if split else path.parent / "instances"
    if edges and not instances.is_dir():
        raise ConfigError(
            f"this network was trained with borders between instances, but {instances} does not exist. Put instance maps "
            f"(PNG of 8 or 16 bits, the names of the layouts in {folder}, 0 where there is no instance) there; where the "
            "borders are those between classes (CelebAMask-HQ), copies of the layouts do."
        )
    return Layouts(path, info=info, instances=instances if edges else None)


def spread(source: Source, count: int) -> list[int]:
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


def identity(info: Info, edges: bool) -> dict:
    """What of the data the weights depend on."""
    return {"classes": list(info.names), "edges": edges}


def check_same_classes(trained: Info, other: Info, edges: bool):
    """A split to evaluate on must have the classes trained on, and instances where the network wants them."""
    if trained.num_classes != other.num_classes or (edges and not other.has_instances):
        raise ConfigError(
            f"the evaluation split has {other.num_classes} classes (instances: {other.has_instances}), the training split "
            f"{trained.num_classes} (instances: {trained.has_instances}). Set config.data.num_classes, or complete it."
        )
