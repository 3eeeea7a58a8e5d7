"""Evaluation: how much of its layout does a segmenter, trained on real pairs, read back from a generated image?"""

import contextlib
import math
from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import jax
import numpy as np

from semdiff import draw, inputs
from semdiff.config import ConfigError, Experiment, Sample
from semdiff.convert import weights
from semdiff.data import augment, corruptions, pipeline, statistics
from semdiff.data.source import Info
from semdiff.data.text import named_classes
from semdiff.diffusion.joint import ByHalf
from semdiff.machine import logs, parallel
from semdiff.machine.paths import local_path, prepare_workdir, write_json
from semdiff.methods.method import Method
from semdiff.metrics import frechet, segmenter
from semdiff.metrics.looks import Looks
from semdiff.metrics.segmentation import Confusion
from semdiff.parser import as_dict, fingerprint
from semdiff.sampling.tasks import Grid, Runner, Task, batched, held, tasks_of
from semdiff.trained import Trained

# Column of the table -> digits after the point.
DIGITS = {
    "mIoU": 1,
    "mIoU rare": 1,
    "accuracy": 1,
    "Frechet": 2,
    "Frechet layouts": 3,
    "named": 1,
    "grain": 2,
    "frame": 2,
    "colour": 1,
}


@dataclass(frozen=True)
class Row:
    """One line of the table."""

    name: str
    confusion: Confusion
    frechet: float = math.nan
    frechet_layouts: float = math.nan
    named: float = math.nan
    grain: float = math.nan
    frame: float = math.nan
    colour: float = math.nan

    def values(self, rare: np.ndarray) -> dict[str, float]:
        """mIoU over the classes present, over the rarest third of them, and pixel accuracy, all in percent; the distances;
        the share of the classes named in captions that are read from the images, in percent; grain and frame over those of
        real images, and how far classes are from their real colours (metrics/looks.py)."""
        c = self.confusion
        return {
            "mIoU": 100 * c.mean_iou,
            "mIoU rare": 100 * float(np.mean(c.iou[rare])),
            "accuracy": 100 * c.accuracy,
            "Frechet": self.frechet,
            "Frechet layouts": self.frechet_layouts,
            "named": self.named,
            "grain": self.grain,
            "frame": self.frame,
            "colour": self.colour,
        }


@dataclass(frozen=True)
class Judge:
    """Compares images with the true layouts of some examples, and with their real images.

    Each process of a run has its share of the layouts and images; what it finds is that of all.
    """

    reader: segmenter.Reader
    info: Info
    layouts: np.ndarray
    real: np.ndarray
    total: int

    def row(self, name: str, images: np.ndarray, layouts: np.ndarray | None = None) -> Row:
        true = self.layouts if layouts is None else layouts
        mine = Confusion.of(true, self.reader(images), self.info.num_classes, self.info.ignored)
        return Row(name, Confusion(parallel.summed(mine.counts)))

    def measured(self, name: str, images: np.ndarray, layouts: np.ndarray | None = None) -> Row:
        """With the distance to the real images, and how they look beside them; layouts: what the images should show, if not
        the true ones."""
        seen, real = self.looks(images, self.layouts if layouts is None else layouts), self.real_looks
        return replace(
            self.row(name, images, layouts),
            frechet=frechet.distance(self.moments(images), self.reference),
            grain=seen.grain_over(real),
            frame=seen.frame_over(real),
            colour=seen.colours_off(real),
        )

    def looks(self, images: np.ndarray, layouts: np.ndarray) -> Looks:
        return Looks(*parallel.summed(Looks.of(images, layouts, self.info.num_classes).parts))

    @cached_property
    def real_looks(self) -> Looks:
        return self.looks(self.real, self.layouts)

    def drawn(self, name: str, layouts: np.ndarray) -> Row:
        """Layouts that were drawn of the real images, against the true ones."""
        mine = Confusion.of(self.layouts, layouts, self.info.num_classes, self.info.ignored)
        return Row(name, Confusion(parallel.summed(mine.counts)))

    def pairs(self, name: str, images: np.ndarray, layouts: np.ndarray, captions: list[str]) -> Row:
        """Images against the layouts made with them; layouts against the real ones by how much of them each class has; and
        whether what the captions name is there."""
        mine, real = (
            frechet.Moments.of(parallel.joined(self.shares(a), self.total)) for a in (layouts, self.layouts)
        )
        seen = parallel.summed(self.recalled(images, captions))
        return replace(
            self.measured(name, images, layouts),
            frechet_layouts=frechet.distance(mine, real),
            named=100 * seen[0] / seen[1] if seen[1] else math.nan,
        )

    def shares(self, layouts: np.ndarray) -> np.ndarray:
        """[N, K]: how much of a layout each class has."""
        return np.stack([(layouts == c).mean((1, 2)) for c in range(self.info.num_classes)], axis=1)

    def recalled(self, images: np.ndarray, captions: list[str]) -> np.ndarray:
        """(how many of the classes that captions name are read from their images, how many are named)."""
        least = self.layouts[0].size / 1500 if len(self.layouts) else 0
        counts = np.zeros(2, np.int64)
        for read, caption in zip(self.reader(images), captions, strict=True):
            named = named_classes(caption, self.info.names)
            counts += [sum((read == c).sum() >= least for c in named), len(named)]
        return counts

    def moments(self, images: np.ndarray) -> frechet.Moments:
        return frechet.Moments.of(parallel.joined(self.reader.features(images), self.total))

    @cached_property
    def reference(self) -> frechet.Moments:
        return self.moments(self.real)


def evaluate(model: Trained, workdir: Path) -> Path:
    """Writes table.md, metrics.json and pictures to WORKDIR/evaluation/WEIGHTS, prints the table.

    Images are generated from the layouts as they are and from corrupted ones (config.evaluate.corruptions), and always
    compared with the true layouts. The Frechet distance is to the real images of those layouts, in the segmenter's
    features. The processes of a run share the layouts; process 0 writes.
    """
    config, method, info = model.config, model.method, model.info
    c, size = config.evaluate, config.data.size
    for kind in c.corruptions:
        corruptions.parse(kind)
    if c.corruptions and method.process.layout is not None:
        raise ConfigError(
            f"config.evaluate.corruptions is {c.corruptions}, but this model generates layouts: corrupted ones are for "
            "models that are given them. Leave it empty"
        )
    reader = build_reader(config, info, prepare_workdir(workdir))
    source = inputs.told(config, inputs.evaluation_source(config.data, config.seed), model.language)
    inputs.check_same_classes(info, source.info, model.edges)
    chosen = inputs.spread(source, c.limit)
    examples = {i: augment.squash(source[i], size) for i in parallel.share(chosen)}
    layouts = np.array([e["layout"] for e in examples.values()], np.int32).reshape(-1, *size)
    judge = Judge(reader, info, layouts, pixels([e["image"] for e in examples.values()], size), len(chosen))
    given = {"": list(examples.values())} | {
        kind: [corruptions.corrupt(e, kind, info, config.sample.seed) for e in examples.values()]
        for kind in c.corruptions
    }

    rows = [judge.row("real images (upper bound)", judge.real)]
    settings = replace(config.sample, per_layout=1)
    run = Runner(method, settings)
    params = run.placed(model.params)
    made: dict[str, np.ndarray] = {}
    for weight in c.guidance or (config.sample.guidance,):
        guided = run.guided(weight)
        if method.process.layout is not None:
            rows += pair_rows(guided, method, params, given[""], settings, judge, f"guidance {weight:g}")
            continue
        for kind, from_these in given.items():
            name = f"guidance {weight:g}" + (f", {kind}" if kind else "")
            tasks = (t for e in from_these for t in tasks_of(method, e, settings))
            made[kind], _ = arrays(generate(guided, params, tasks, len(from_these), name), size)
            rows.append(judge.measured(f"generated, {name}", made[kind]))
    others = parallel.share([chosen[-1], *chosen[:-1]])
    theirs = [(examples.get(i) or augment.squash(source[i], size))["layout"] for i in others]
    shuffled = np.array(theirs, np.int32).reshape(-1, *size)
    rows.append(judge.row("real images, layouts shuffled (lower bound)", judge.real, shuffled))

    pictures = {}
    if c.grid:
        pictures["grid"] = Grid(method, source, config.sample, config.data, c.grid, run)(params)
    if c.grid and c.corruptions and made:
        pictures["corrupted"] = corrupted_grid(given, made, info, c.grid, judge)
    folder = workdir / "evaluation" / model.name
    if jax.process_index() == 0:
        report(rows, info, len(chosen), config.data.eval_split, folder)
        save(pictures, info, folder)
    return folder


def pixels(images: list[np.ndarray], size: tuple[int, int]) -> np.ndarray:
    """[N, H, W, 3]; a process may have none."""
    return np.array(images, np.uint8).reshape(-1, *size, 3)


def save(pictures: dict[str, np.ndarray], info: Info, folder: Path):
    for name, picture in pictures.items():
        legend = draw.legend(info.names, info.palette, picture.shape[1])
        draw.save_png(folder / f"{name}.png", np.concatenate([picture, legend]))
        logs.say(f"picture:  {folder / name}.png")


def report(rows: list[Row], info: Info, count: int, split: str, folder: Path):
    """The table on paper, in numbers and on the screen."""
    rare = rarest_third(rows[0].confusion)
    values = {r.name: r.values(rare) for r in rows}
    rare_names = [info.names[i] for i in rare]
    facts = {
        "rows": {n: {k: None if math.isnan(v) else v for k, v in row.items()} for n, row in values.items()},
        "layouts": count,
        "rare": rare_names,
        "iou": {r.name: named_iou(r, info) for r in rows},
    }
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / "metrics.json", facts)
    table = markdown(values)
    (folder / "table.md").write_text(table + "\n")
    logs.say(f"\n{table}\n\n{count} layouts of the {split} split; rare: {', '.join(rare_names)}")
    logs.say(f"table:    {folder / 'table.md'}")


def corrupted_grid(given: dict, made: dict, info: Info, rows: int, judge: Judge) -> np.ndarray:
    """A picture of `rows` examples: real | layout, generated | the same for each corruption."""
    headers = ["real"] + [title for kind in given for title in (kind or "layout", "generated")]
    mine, shown = parallel.share(range(judge.total)), inputs.spread(range(judge.total), rows)
    table = np.zeros((len(shown), len(headers), *judge.real.shape[1:]), np.uint8)
    for row, position in enumerate(shown):
        if position in mine:
            i = mine.index(position)
            pairs = [(draw.colourise(given[k][i]["layout"], info.palette), made[k][i]) for k in given]
            table[row] = [judge.real[i], *(image for pair in pairs for image in pair)]
    table = parallel.of_all(table).max(0)  # black where a row is another process's
    return draw.grid(list(table), headers=headers, scale=max(1, 96 // table.shape[2]))


def generate(run: Runner, params, tasks: Iterable[Task], total: int, name: str) -> list[ByHalf]:
    """What is made of each task, in order."""
    progress = logs.Progress(total, unit="image", active=jax.process_index() == 0)
    made: dict[int, ByHalf] = {}
    numbered = (replace(task, copy=i) for i, task in enumerate(tasks))
    for batch in batched(numbered, run.batch_size):
        made |= {task.copy: state for task, state in zip(batch, run(params, batch))}
        progress.report(len(made), name)
    return [made[i] for i in range(len(made))]


def arrays(made: list[ByHalf], size: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    """(images, layouts); a process may have none, and a method may make no layouts."""
    layouts = np.array([state.layout for state in made if state.layout is not None], np.int32)
    return pixels([state.image for state in made], size), layouts.reshape(-1, *size)


def pair_rows(
    run: Runner, method: Method, params, examples: list[dict], settings: Sample, judge: Judge, name: str
) -> list[Row]:
    """A method of both halves: pairs of captions, images of layouts, layouts of images."""
    tasks = [task for e in examples for task in tasks_of(method, e, settings)]
    halves = {
        "pairs": tasks,
        "images of layouts": [held(t, method, layout=t.layout) for t in tasks],
        "layouts of images": [
            held(t, method, image=e["image"]) for t, e in zip(tasks, examples, strict=True)
        ],
    }
    size = judge.real.shape[1:3]
    made = {
        what: arrays(generate(run, params, of, len(of), f"{what}, {name}"), size)
        for what, of in halves.items()
    }
    captions = [task.caption for task in tasks]
    return [
        judge.pairs(f"generated pairs, {name}", *made["pairs"], captions),
        judge.measured(f"images of layouts, {name}", made["images of layouts"][0]),
        judge.drawn(f"layouts of images, {name}", made["layouts of images"][1]),
    ]


COUNTED = 512  # label maps that the segmenter's class weights are counted on


def build_reader(config: Experiment, info: Info, workdir: Path) -> segmenter.Reader:
    """The segmenter of this workdir: trained once on the real training split, by process 0, then kept."""
    c = config.evaluate
    facts = {
        "classes": list(info.names),
        "data": {
            k: v
            for k, v in as_dict(config.data).items()
            if k not in ("eval_split", "cache", "workers", "edges")
        },
        "seed": config.seed,
        "training": [
            f"balanced up to {segmenter.LARGEST_RATIO:g}x",
            list(info.ignored),
            c.segmenter_steps,
            c.segmenter_batch,
            c.segmenter_width,
        ],
    }
    model = segmenter.Segmenter(info.num_classes, c.segmenter_width)
    path = local_path(
        c.segmenter or workdir / f"segmenter-{fingerprint(facts)}.safetensors", "config.evaluate.segmenter"
    )
    if jax.process_index() == 0 and not c.segmenter and not path.exists():
        weights.save_weights(path, trained_segmenter(model, config, info), facts)
    parallel.meet()
    return load_reader(path, info, c.segmenter_width)


def load_reader(path: Path, info: Info, width: int = 0) -> segmenter.Reader:
    """The segmenter in a file, which must be of these classes and, where that is not 0, of this width."""
    params, known = weights.load_weights(path)
    reads = {key: known.get(key) for key in ("classes", "training")}
    found = (reads["training"] or [0])[-1]
    if reads["classes"] != list(info.names) or found != (width or found) or not found:
        raise ConfigError(
            f"{path} is not a segmenter of {info.name}'s {info.num_classes} classes at "
            f"config.evaluate.segmenter_width={width}: {reads}"
        )
    return segmenter.Reader(segmenter.Segmenter(info.num_classes, found), jax.device_put(params))


def kept_reader(folder: Path, info: Info) -> segmenter.Reader:
    """The segmenter that lies in a workdir or a model folder."""
    found = sorted(folder.glob("segmenter*.safetensors"))
    if not found:
        raise ConfigError(
            f"{folder} holds no segmenter (segmenter*.safetensors): --mode=evaluate trains one in the workdir, and "
            "--mode=export takes it along"
        )
    return load_reader(found[-1], info)


def trained_segmenter(model: segmenter.Segmenter, config: Experiment, info: Info):
    c = config.evaluate
    source = inputs.training_source(config.data, config.seed)
    options = inputs.training_options(config) | {"batch_size": c.segmenter_batch, "edges": False}
    progress = logs.Progress(c.segmenter_steps)

    def report(step: int, loss: float):
        progress.report(step, f"segmenter loss {loss:.3f}")

    counts = statistics.count(source, inputs.spread(source, COUNTED))
    class_weights = segmenter.balanced(counts.pixels, info.ignored)
    with contextlib.closing(pipeline.train_iterator(source, **options)) as batches:
        return segmenter.train(model, batches, c.segmenter_steps, config.seed, class_weights, report=report)


def rarest_third(real: Confusion) -> np.ndarray:
    """The third of the present classes with the fewest pixels."""
    pixels = real.counts.sum(1)
    present = np.flatnonzero(real.present)
    return present[np.argsort(pixels[present])][: max(1, len(present) // 3)]


def named_iou(row: Row, info: Info) -> dict[str, float | None]:
    return {
        name: None if np.isnan(iou) else round(100 * float(iou), 2)
        for name, iou in zip(info.names, row.confusion.iou)
    }


def markdown(values: dict[str, dict[str, float]]) -> str:
    columns = [c for c in DIGITS if not all(math.isnan(row[c]) for row in values.values())]
    width = max(len(name) for name in values)
    lines = [f"| {'images':{width}} | " + " | ".join(f"{c:>9}" for c in columns) + " |"]
    lines.append(f"|{'-' * (width + 2)}|" + "|".join("-" * 10 + ":" for _ in columns) + "|")
    for name, row in values.items():
        lines.append(f"| {name:{width}} | " + " | ".join(cell(row[c], c) for c in columns) + " |")
    return "\n".join(lines)


def cell(value: float, column: str) -> str:
    return " " * 9 if math.isnan(value) else f"{value:9.{DIGITS[column]}f}"
