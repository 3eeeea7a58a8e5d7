"""--mode=segment: photographs to layouts, by a model of both halves: the image is held, the layout drawn."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np

from semdiff import draw, inputs
from semdiff.config import ConfigError
from semdiff.data import augment, classes
from semdiff.data.images import IMAGE_SUFFIXES, read_image
from semdiff.data.readers.folder import list_files
from semdiff.machine import logs, parallel
from semdiff.machine.paths import local_path, prepare_workdir, write_json
from semdiff.sampling import chains
from semdiff.sampling.outputs import label_dtype
from semdiff.sampling.tasks import Runner, Task, batched, held, unconditional
from semdiff.trained import Trained


def segment(model: Trained, workdir: Path) -> Path:
    """Every photograph of config.segment.images -> labels/NAME.png of class ids, and in the classes' colours beside it."""
    config, method, info, c = model.config, model.method, model.info, model.config.segment
    if method.process.layout is None:
        raise ConfigError(
            "this model makes images of layouts and no layouts of images: --mode=segment needs one that generates both"
        )
    if not c.images:
        raise ConfigError("config.segment.images is empty: name the folder of photographs")
    folder = prepare_workdir(
        local_path(c.output or workdir / "segmented" / model.name, "config.segment.output")
    )
    files = list_files(local_path(c.images, "config.segment.images"), IMAGE_SUFFIXES)
    if not files:
        raise ConfigError(
            f"{c.images}: no photographs. Expected {', '.join(IMAGE_SUFFIXES)} files in this very folder"
        )
    texts = captions_asked_for(model)
    mine = parallel.share(list(files))
    run = Runner(
        method, replace(config.sample, guidance=config.sample.guidance if texts else 1.0), c.resample
    )
    params = run.placed(model.params)
    write_json(folder / "dataset.json", classes.as_json(info))
    logs.say(
        f"chains:  {chains.num_steps(config.sample)} steps of {config.sample.sampler}, {c.draws} draws an image"
    )
    progress = logs.Progress(len(mine), unit="image", active=parallel.is_main())
    votes: dict[str, list[np.ndarray]] = {}
    done = 0
    for batch in batched(tasks_of(model, files, mine, texts), run.batch_size):
        for task, made in zip(batch, run(params, batch)):
            votes.setdefault(task.name, []).append(made.layout)
            if len(votes[task.name]) == c.draws:
                shares = counted(votes.pop(task.name), info.num_classes)
                write(folder, task.name, shares, read_image(files[task.name]), model)
                done += 1
        progress.report(done)
    logs.say(f"{len(mine)} layouts in {folder}")
    return folder


def captions_asked_for(model: Trained) -> dict[str, dict]:
    """What is said of photographs, by their names."""
    written, language = model.config.segment.captions, model.language
    if not written:
        return {}
    assert language is not None  # a method of both halves reads captions
    found = inputs.captions(model.config, model.info, language, written, "config.segment.captions")
    return {example["name"]: example for example in (found[i] for i in range(len(found)))}


def tasks_of(model: Trained, files: dict[str, str], names, texts: dict[str, dict]) -> Iterator[Task]:
    """One task a draw: the photograph at the size trained at, held."""
    config, method = model.config, model.method
    size = config.data.size
    for name in names:
        photo = augment.squash({"image": read_image(files[name]), "layout": np.zeros(size, np.uint8)}, size)[
            "image"
        ]
        for copy in range(config.segment.draws):
            task = unconditional(method, name, size, config.sample.seed, copy, photo)
            if name in texts:
                task = replace(task, given=method.given.read(texts[name]))
            yield held(task, method, image=photo)


def counted(layouts: list[np.ndarray], num_classes: int) -> np.ndarray:
    """[H, W, K]: how often each pixel was drawn as each class, as a share."""
    return np.mean([layout[..., None] == np.arange(num_classes) for layout in layouts], axis=0)


def write(folder: Path, name: str, shares: np.ndarray, photo: np.ndarray, model: Trained):
    """At the photograph's own size."""
    layout = augment.nearest(shares.argmax(-1), photo.shape[:2])
    draw.save_png(folder / "labels" / f"{name}.png", layout.astype(label_dtype(layout)))
    coloured = draw.colourise(layout, model.info.palette)
    draw.save_png(folder / "coloured" / f"{name}.png", np.concatenate([photo, coloured], axis=1))
    if model.config.segment.probabilities:
        (folder / "probabilities").mkdir(exist_ok=True)
        np.savez_compressed(folder / "probabilities" / f"{name}.npz", shares=shares.astype(np.float16))
