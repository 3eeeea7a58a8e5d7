"""A trained model as a Python object, for notebooks and scripts: `semdiff.load`."""

import os
from collections.abc import Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import jax
import numpy as np
from PIL import Image

from semdiff import draw, shipped, trained
from semdiff.arrays import Maps, Said, checked, examples_of, most_frequent, several, shaped, told
from semdiff.config import ConfigError, Edit, Sample
from semdiff.data.classes import make_description
from semdiff.data.images import read_image, read_instances, read_layout
from semdiff.data.readers.folder import listed
from semdiff.diffusion.joint import ByHalf
from semdiff.machine import logs
from semdiff.machine.compilation import use_cache
from semdiff.metrics.segmentation import Confusion
from semdiff.modes import edit, evaluate
from semdiff.parser import as_dict, check_key, from_dict
from semdiff.sampling import tasks
from semdiff.sampling.tasks import Runner, Task
from semdiff.trained import Trained

OWN = "own"  # of a layout: not resized


def load(path: str | os.PathLike, **settings) -> "Model":
    """The model of a folder that `--mode=export` wrote, of the newest checkpoint of a workdir, or one that comes with
    semdiff: load("scenes").

    settings: keys of config.sample (steps, guidance, sampler, batch_size, ...) in place of those it was trained with.
    """
    folder = shipped.or_shipped(Path(path).expanduser())
    if (folder / trained.WEIGHTS).is_file():
        found = trained.opened(trained.folder_config(folder), folder)
    elif (folder / "checkpoints").is_dir():
        config = trained.workdir_config(folder)
        found = trained.opened(replace(config, sample=replace(config.sample, weights="")), folder)
    else:
        raise ConfigError(
            f"{folder} is neither a model folder ({trained.WEIGHTS}, {trained.ABOUT}) nor a workdir (checkpoints/). "
            f"Expected the path of what --mode=export or --mode=train wrote, as runs/demo, or a name: {shipped.known()}"
        )
    use_cache(found.config.compilation_cache)
    return Model(found, folder).with_settings(**settings)


class Model:
    """Layouts in, images out; and what else the method can do.

    Layouts are class ids, integers [H, W], one or several; images are uint8 [H, W, 3]. A layout, the seed and the settings
    give one image, whatever else is made beside it.
    """

    def __init__(self, model: Trained, folder: Path):
        self.trained, self.folder = model, folder
        self._runners: dict[Any, tuple[Runner, dict]] = {}
        self._enlargers: dict[Any, Any] = {}
        self._params = jax.device_put(model.params)

    def __repr__(self) -> str:
        c, (height, width) = self.settings, self.size
        return (
            f"<semdiff model {self.trained.name}: {len(self.classes)} classes of {self.trained.info.name}, {height} x "
            f"{width}, {len(c.times) or c.steps} steps of {c.sampler}, guidance {c.guidance:g}>"
        )

    @property
    def classes(self) -> tuple[str, ...]:
        """Their names; the id of a class is its place."""
        return self.trained.info.names

    @property
    def palette(self) -> np.ndarray:
        """Their colours, uint8 [K, 3]."""
        return self.trained.info.palette

    @property
    def size(self) -> tuple[int, int]:
        """Height and width that it was trained at."""
        return self.trained.config.data.size

    @property
    def settings(self) -> Sample:
        """How it samples where nothing else is asked for: config.sample."""
        return self.trained.config.sample

    def with_settings(self, **settings) -> "Model":
        """The same weights, other settings of config.sample."""
        c = self._settings(settings)
        model = replace(self.trained, config=replace(self.trained.config, sample=c)).ready()
        other = object.__new__(Model)
        vars(other).update(vars(self), trained=model)
        return other

    def sample(
        self,
        layouts: Maps,
        *,
        images: int = 1,
        instances: Maps | None = None,
        captions: Said | None = None,
        size: tuple[int, int] | str | None = None,
        **settings,
    ) -> np.ndarray | list[np.ndarray]:
        """An image for every layout, [N, H, W, 3]; with images > 1 so many of each, [N, images, H, W, 3].

        size: that of the images, (height, width); None: the one trained at; "own": of each layout its own (a list is
        returned where they differ). instances: maps of the layouts' sizes, 0 where there is no instance, for a model that
        was trained with borders between instances. captions: one of each layout, for a model that is told of words. A model
        that makes layouts too holds those given, and draws pixels of no class (K) with the image. settings: keys of
        config.sample, as seed=1, steps=25, guidance=2.0.
        """
        c = self._settings(settings)
        examples = told(self.trained, examples_of(self.trained, layouts, instances), captions)
        todo = self._tasks(examples, replace(c, per_layout=images), size)
        if self.trained.method.process.layout is not None:
            todo = [tasks.held(task, self.trained.method, layout=task.layout) for task in todo]
        return shaped([state.image for state in self._enlarged(todo, self._made(todo, c), c)], images)

    def pairs(self, captions: str | Said, *, images: int = 1, **settings) -> tuple[np.ndarray, np.ndarray]:
        """(images [N, H, W, 3], layouts [N, H, W]) of captions, by a model of both halves; or so many of each caption.

        A model that reads states of an encoder is given these, [N, L, W], in the place of texts. upscale="FOLDER", a model
        of the second stage, makes them larger.
        """
        if self.trained.method.process.layout is None:
            raise ConfigError(
                "this model is given layouts and makes none: pairs needs one that generates both"
            )
        c, asked = self._settings(settings), [captions] if isinstance(captions, str) else list(captions)
        examples = told(self.trained, [{"name": f"caption {i}"} for i in range(len(asked))], asked)
        todo = self._tasks(examples, replace(c, per_layout=images), None)
        made = self._enlarged(todo, self._made(todo, c), c)
        pictures, layouts = ([getattr(state, half) for state in made] for half in ("image", "layout"))
        return np.asarray(shaped(pictures, images)), np.asarray(shaped(layouts, images))

    def edit(
        self,
        images: Maps,
        layouts: Maps,
        *,
        old_layouts: Maps | None = None,
        masks: Maps | None = None,
        instances: Maps | None = None,
        margin: int = Edit.margin,
        resample: int = Edit.resample,
        **settings,
    ) -> list[np.ndarray]:
        """Images again where `masks` are true, or where the new layouts differ from the old ones by `margin` pixels around.

        All other pixels stay as they are. resample: repetitions of each step, for borders that agree better.
        """
        marks = masks if old_layouts is None else old_layouts
        if marks is None or (masks is not None and old_layouts is not None):
            raise ConfigError("give either masks or old_layouts: they say where to edit")
        c, photos = self._settings(settings), several(images, 3)
        examples = examples_of(self.trained, layouts, instances)
        where = several(marks, 2)
        if not len(photos) == len(examples) == len(where):
            raise ConfigError(
                f"{len(photos)} images, {len(examples)} layouts and {len(where)} masks or old layouts: give one of each"
            )
        todo = []
        for photo, example, drawn in zip(photos, examples, where):
            layout = example["layout"]
            free = drawn.astype(bool) if old_layouts is None else edit.widened(drawn != layout, margin)
            if not photo.shape[:2] == layout.shape == free.shape:
                raise ConfigError(
                    f"{example['name']}: image {photo.shape[:2]}, layout {layout.shape} and mask or old layout {free.shape} "
                    "differ in size; they must be the same, in pixels"
                )
            [task] = tasks.tasks_of(self.trained.method, example, replace(c, per_layout=1))
            todo.append(tasks.held(task, self.trained.method, image=photo, free_image=free))
        return [state.image for state in self._made(todo, c, resample)]

    def segment(
        self, images: Maps, *, draws: int = 1, resample: int = 1, **settings
    ) -> np.ndarray | list[np.ndarray]:
        """Layouts of photographs, class ids [N, H, W], by a method of both: the image is held, the layout drawn.

        draws: so many layouts of each, of which each pixel's most frequent class is returned.
        """
        method = self.trained.method
        if method.process.layout is None:
            raise ConfigError(
                "this model makes images of layouts and no layouts of images: segment needs one that generates both"
            )
        c, photos = self._settings(settings), several(images, 3)
        todo = []
        for i, photo in enumerate(photos):
            for copy in range(draws):
                task = tasks.unconditional(method, f"image {i}", photo.shape[:2], c.seed, copy, photo)
                todo.append(tasks.held(task, method, image=photo))
        layouts = [state.layout for state in self._made(todo, c, resample)]
        voted = [most_frequent(layouts[i : i + draws]) for i in range(0, len(layouts), draws)]
        return np.stack(voted) if len({v.shape for v in voted}) == 1 else voted

    def score(self, images: Maps, layouts: Maps) -> dict[str, Any]:
        """How much of the layouts a segmenter reads back from the images, in percent: mIoU, accuracy, IoU per class.

        The segmenter is the one that `--mode=evaluate` trained: it lies in the workdir, and export takes it along.
        """
        reader, info = evaluate.kept_reader(self.folder, self.trained.info), self.trained.info
        true = [checked(layout, self.trained.info) for layout in several(layouts, 2)]
        confusion = Confusion.of(
            np.stack(true), reader(np.stack(several(images, 3))), info.num_classes, info.ignored
        )
        iou = {
            name: float(100 * value) for name, value in zip(info.names, confusion.iou) if not np.isnan(value)
        }
        return {"mIoU": 100 * confusion.mean_iou, "accuracy": 100 * confusion.accuracy, "iou": iou}

    def read_layout(self, path: str | os.PathLike, unlabelled: int = -1) -> np.ndarray:
        """A PNG of class ids, or of the classes' colours, as ids."""
        info = self.trained.info
        sent = {} if unlabelled < 0 else {unlabelled: info.num_classes}
        labels = make_description(info, sent, [c.color for c in info.classes]).labels
        return read_layout(path, replace(labels, advice=f"The classes: {listed(info)}."))

    read_image = staticmethod(read_image)
    read_instances = staticmethod(read_instances)

    def show(
        self, *columns: Maps, headers: Sequence[str] = (), legend: bool = True, scale: int = 0
    ) -> Image.Image:
        """A picture of rows of layouts and images side by side: show(layouts, images). A notebook displays it."""
        shown = [[self._seen(cell) for cell in column] for column in columns]
        scale = scale or max(1, 128 // shown[0][0].shape[1])
        sheet = draw.grid([list(row) for row in zip(*shown, strict=True)], headers=headers, scale=scale)
        if legend:
            sheet = np.concatenate([sheet, draw.legend(self.classes, self.palette, sheet.shape[1])])
        return Image.fromarray(sheet)

    def _seen(self, cell: np.ndarray) -> np.ndarray:
        cell = np.asarray(cell)
        if cell.ndim == 4:  # several images of one layout
            return np.concatenate(list(cell), 1)
        return draw.colourise(cell, self.palette) if cell.ndim == 2 else cell

    def _settings(self, settings: dict) -> Sample:
        known = {f.name for f in fields(Sample)}
        for key in settings:
            if key not in known:
                check_key(f"sample.{key}")
        if settings.keys() & {"steps", "spacing"}:
            settings = {"times": ()} | settings
        config = as_dict(self.trained.config)
        return from_dict(config | {"sample": config["sample"] | settings}).sample

    def _tasks(self, examples: list[dict], c: Sample, size) -> list[Task]:
        size = self.size if size is None else None if size == OWN else size
        return [
            task for example in examples for task in tasks.tasks_of(self.trained.method, example, c, size)
        ]

    def _made(self, todo: list[Task], c: Sample, resample: int = 1) -> list[ByHalf]:
        """Their results, in order; programs are compiled once a setting and shape, and once more for one image alone, which
        need not wait for a batch."""
        if len(todo) == 1:
            c = replace(c, batch_size=1)
        program = replace(c, guidance=1.0, seed=0, per_layout=1), resample
        if program not in self._runners:
            ready = replace(self.trained, config=replace(self.trained.config, sample=c)).ready()
            begin = jax.device_put(ready.tables)
            self._runners[program] = Runner(ready.method, ready.config.sample, resample), begin
        run, begin = self._runners[program]
        run = run.guided(c.guidance)
        numbered = [replace(task, copy=i) for i, task in enumerate(todo)]
        made: dict[int, ByHalf] = {}
        progress = logs.Progress(len(todo), unit="image", active=len(todo) > run.batch_size)
        for batch in tasks.batched(numbered, run.batch_size):
            made |= {task.copy: state for task, state in zip(batch, run(self._params | begin, batch))}
            progress.report(len(made))
        return [made[i] for i in range(len(todo))]

    def _enlarged(self, todo: list[Task], made: list[ByHalf], c: Sample) -> list[ByHalf]:
        """By the second stage, where settings name one."""
        if not c.upscale:
            return made
        program = c.upscale, c.small_noise
        if program not in self._enlargers:
            model = replace(self.trained, config=replace(self.trained.config, sample=c))
            self._enlargers[program] = trained.enlarger(model)
        return self._enlargers[program](todo, made)
