"""Folders of results: images, the layouts that they were made from, and a manifest of what is done."""

import contextlib
import json
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import jax
import numpy as np

from semdiff import draw
from semdiff.config import ConfigError, Experiment
from semdiff.data import classes
from semdiff.data.source import Info
from semdiff.diffusion.joint import ByHalf
from semdiff.machine import logs
from semdiff.parser import as_dict, fingerprint
from semdiff.sampling.chains import num_steps
from semdiff.sampling.tasks import Task, batched


class Output:
    """A folder of results: images/, labels/, dataset.json and manifest.jsonl; what the manifest lists is done."""

    def __init__(self, folder: Path, settings: dict, info: Info):
        self.folder, self.settings = Path(folder), settings
        (self.folder / "images").mkdir(parents=True, exist_ok=True)
        several = jax.process_count() > 1
        self.manifest = self.folder / f"manifest{f'-{jax.process_index()}' if several else ''}.jsonl"
        self.done: dict[str, str] = {}
        for path in sorted(self.folder.glob("manifest*.jsonl")):
            self.done |= self._read(path)
        about = classes.as_json(info) | {"name": f"generated from {info.name}"}
        if info.void_id is not None:
            about["ignore_id_map"] = {str(info.num_classes): info.void_id}  # pixels without a label
        (self.folder / "dataset.json").write_text(json.dumps(about, indent=1))

    def _read(self, path: Path) -> dict[str, str]:
        """Image -> what it was made from; lines without their image are taken out, so that each image has one."""
        done, kept = {}, ""
        for line, entry in entries_of(path):
            if entry["settings"] != self.settings:
                raise ConfigError(
                    f"{path} was written with other settings ({entry['settings']}; now {self.settings}). "
                    "Choose another config.sample.output, or remove that folder."
                )
            if (self.folder / entry["image"]).exists():
                done[entry["image"]] = entry["contents"]
                kept += line + "\n"
        if path == self.manifest:  # another process's file is its own to mend
            temporary = path.with_suffix(".tmp")
            temporary.write_text(kept)
            temporary.replace(path)
        return done

    @staticmethod
    def name_of(task: Task) -> str:
        return f"images/{task.name}_{task.copy}.png"

    def is_done(self, task: Task) -> bool:
        """Whether the image is there; an error if it was made from something else."""
        made_from = self.done.get(self.name_of(task), task.contents)
        if made_from != task.contents:
            raise ConfigError(
                f"{self.folder / self.name_of(task)} was made from another layout, image or mask of the same name. "
                "Choose another output folder, or remove that one."
            )
        return self.name_of(task) in self.done

    def write(self, task: Task, made: ByHalf, origin: str):
        """The image, and its layout: that which was made with it, else that which it was made from."""
        name = self.name_of(task)
        layout = task.layout if made.layout is None else made.layout
        if layout is not None:
            path = self.folder / name.replace("images/", "labels/", 1)
            draw.save_png(path, layout.astype(label_dtype(layout)))
        draw.save_png(self.folder / name, made.image)
        entry = {
            "image": name,
            "layout": origin,
            "copy": task.copy,
            "contents": task.contents,
            "settings": self.settings,
        }
        if task.caption:
            entry["caption"] = task.caption
        with self.manifest.open("a") as file:
            file.write(json.dumps(entry) + "\n")

    def finish(self):
        """captions/train.jsonl, where every image has a caption: the folder can then be trained on as it is."""
        manifests = sorted(self.folder.glob("manifest*.jsonl"))
        entries = [entry for path in manifests for _, entry in entries_of(path)]
        if entries and all(entry.get("caption") for entry in entries):
            lines = [json.dumps({"image": Path(e["image"]).stem, "caption": e["caption"]}) for e in entries]
            (self.folder / "captions").mkdir(exist_ok=True)
            (self.folder / "captions" / "train.jsonl").write_text("\n".join(lines) + "\n")


def entries_of(manifest: Path) -> Iterator[tuple[str, dict]]:
    """Its lines, and what they say; the torn last line of a killed run is left out: its image is made again."""
    for line in manifest.read_text().splitlines():
        with contextlib.suppress(json.JSONDecodeError):
            yield line, json.loads(line)


def label_dtype(layout: np.ndarray):
    return np.uint8 if layout.max() < 256 else np.uint16


def settings_of(config: Experiment, weights: str) -> dict:
    """What the manifest records of a run: all that an image depends on beside its layout."""
    c = config.sample
    return {
        "seed": c.seed,
        "sampler": c.sampler,
        "steps": num_steps(c),
        "guidance": c.guidance,
        "checkpoint": weights,
        "config": fingerprint(
            {
                "model": as_dict(config.model),
                "process": as_dict(config.process),
                "layout": as_dict(config.layout),
                "sample": {k: v for k, v in as_dict(c).items() if k not in NOT_IN_IMAGE},
            }
        ),
    }


# Keys of `Sample` that choose which images are made and where, not what they look like.
NOT_IN_IMAGE = (
    "batch_size",
    "per_layout",
    "layouts",
    "unlabelled",
    "limit",
    "output",
    "cache_condition",
    "weights",
)


def run_tasks(
    run: Callable[[list[Task]], list[ByHalf]],
    batch_size: int,
    tasks: Iterable[Task],
    total: int,
    output: Output,
    origin: str,
):
    """Make and write what is not there yet, batch by batch; `origin` is where the layouts come from."""
    skipped = made = 0

    def missing():
        nonlocal skipped
        for task in tasks:
            if output.is_done(task):
                skipped += 1
            else:
                yield task

    progress = logs.Progress(total, unit="image")
    for batch in batched(missing(), batch_size):
        for task, made_of_it in zip(batch, run(batch)):
            output.write(task, made_of_it, f"{origin}/{task.name}")
        made += len(batch)
        progress.report(skipped + made)
    output.finish()
