"""Semantic editing: regenerate what a mask frees, under a new layout; the rest stays, bit for bit.

The chain ends at t = 0, where what is held is the image itself, and 8-bit pixels survive the way there and back.
"""

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from semdiff import inputs
from semdiff.config import ConfigError, Edit, Sample
from semdiff.data.images import read_mask, read_photo
from semdiff.machine import parallel
from semdiff.machine.paths import local_path
from semdiff.methods.method import Method
from semdiff.sampling.outputs import Output, run_tasks, settings_of
from semdiff.sampling.tasks import Runner, Task, held, tasks_of
from semdiff.trained import Trained

IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg")
DRAWN = ("layout", "instance")  # what of an example was drawn on the image


def edit(model: Trained, workdir: Path) -> Path:
    """Every layout of config.edit.layouts drawn into the image of the same name."""
    config, method, info, c = model.config, model.method, model.info, model.config.edit
    folder = local_path(c.output or workdir / "edits" / model.name, "config.edit.output")
    for key in ("images", "layouts"):
        if not getattr(c, key):
            raise ConfigError(f"config.edit.{key} is empty: name the folder of {key}")
    if bool(c.masks) == bool(c.old_layouts):
        raise ConfigError("give either config.edit.masks or config.edit.old_layouts: they say where to edit")
    new = inputs.layouts_source(c.layouts, info, model.edges, config.sample.unlabelled, "config.edit.layouts")
    old = None
    if c.old_layouts:
        source = inputs.layouts_source(
            c.old_layouts, info, False, config.sample.unlabelled, "config.edit.old_layouts"
        )
        old = {example["name"]: example["layout"] for example in map(source.__getitem__, range(len(source)))}
    settings = settings_of(config, model.name) | {"margin": c.margin, "resample": c.resample}
    output = Output(folder, settings, info)
    mine = parallel.share(range(len(new)))
    tasks = (task for i in mine for task in edit_tasks(method, new[i], old, c, config.sample))
    runner = Runner(method, config.sample, c.resample)
    params = runner.placed(model.params)
    total = len(mine) * config.sample.per_layout

    run_tasks(lambda batch: runner(params, batch), runner.batch_size, tasks, total, output, c.layouts)
    return output.folder


def edit_tasks(method: Method, example: dict, old: dict | None, c: Edit, s: Sample) -> Iterator[Task]:
    name = example["name"]
    photo = read_photo(find(local_path(c.images, "config.edit.images"), name, IMAGE_SUFFIXES))
    drawn = {key: photo.align(example[key], f"{c.layouts}/{name}.png") for key in DRAWN if key in example}
    layout = drawn["layout"]
    if old is None:
        mask = find(local_path(c.masks, "config.edit.masks"), name, (".png",))
        path, free = str(mask), photo.align(read_mask(mask), mask)
    elif name in old:
        path = f"{c.old_layouts}/{name}.png"
        free = photo.align(old[name], path)
        if free.shape == layout.shape:
            free = widened(free != layout, c.margin)
    else:
        raise ConfigError(
            f"{c.old_layouts} has no {name}.png, which {c.layouts} has: give every new layout its old one"
        )
    if not photo.pixels.shape[:2] == layout.shape == free.shape:
        raise ConfigError(
            f"{name}: image {photo.pixels.shape[:2]}, new layout {layout.shape} and {path} {free.shape} differ in size; "
            "they must be the same, in pixels"
        )
    for task in tasks_of(method, example | drawn, s):
        drawn_too = layout if method.process.layout is not None else None
        yield held(task, method, image=photo.pixels, free_image=free, layout=drawn_too)


def find(folder: Path, name: str, suffixes: tuple[str, ...]) -> Path:
    for suffix in suffixes:
        if (path := folder / f"{name}{suffix}").exists():
            return path
    raise ConfigError(
        f"{folder} has no {name} with suffix {' or '.join(suffixes)}: every layout needs its file there"
    )


def widened(mask: np.ndarray, margin: int) -> np.ndarray:
    """The mask grown by `margin` pixels (4-neighbours)."""
    for _ in range(margin):
        grown = mask.copy()
        grown[1:] |= mask[:-1]
        grown[:-1] |= mask[1:]
        grown[:, 1:] |= mask[:, :-1]
        grown[:, :-1] |= mask[:, 1:]
        mask = grown
    return mask
