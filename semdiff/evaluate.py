"""Evaluation: how much of its layout does a segmenter, trained on real pairs, read back from a generated image?"""

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from semdiff import checkpoint, draw, inputs, logs
from semdiff.config import Experiment, as_dict, fingerprint
from semdiff.convert import weights
from semdiff.data import augment, pipeline
from semdiff.data.source import Info
from semdiff.method import Method
from semdiff.metrics import segmenter
from semdiff.metrics.segmentation import Confusion
from semdiff.sample import Grid, Runner, batched, tasks_of


@dataclass(frozen=True)
class Row:
    """One line of the table."""

    name: str
    confusion: Confusion

    def values(self, rare: np.ndarray) -> dict[str, float]:
        """mIoU over the classes present, over the rarest third of them, and pixel accuracy, all in percent."""
        c = self.confusion
        return {
            "mIoU": 100 * c.mean_iou,
            "mIoU rare": 100 * float(np.mean(c.iou[rare])),
            "accuracy": 100 * c.accuracy,
        }


def evaluate(config: Experiment, method: Method, params, step: str, info: Info, workdir: Path) -> Path:
    """Writes table.md, metrics.json and grid.png to WORKDIR/evaluation/STEP, prints the table."""
    c = config.evaluate
    read = build_reader(config, info, checkpoint.prepare_workdir(workdir))
    source = inputs.evaluation_source(config.data, config.seed)
    inputs.check_same_classes(info, source.info, method.edges)
    examples = [augment.squash(source[i], config.data.size) for i in inputs.spread(source, c.limit)]
    layouts = np.stack([e["layout"] for e in examples])

    def row(name: str, images: np.ndarray, true: np.ndarray = layouts) -> Row:
        reading = np.concatenate([read(part) for part in np.array_split(images, -(-len(images) // 32))])
        return Row(name, Confusion.of(true, reading, info.num_classes, info.void_id))

    real = np.stack([e["image"] for e in examples])
    rows = [row("real images (upper bound)", real)]
    for weight in c.guidance or (config.sample.guidance,):
        rows.append(
            row(f"generated, guidance {weight:g}", generate(config, method, params, examples, weight))
        )
    rows.append(row("real images, layouts shuffled (lower bound)", real, np.roll(layouts, 1, axis=0)))

    folder = workdir / "evaluation" / step
    folder.mkdir(parents=True, exist_ok=True)
    if c.grid:
        picture = Grid(method, source, config.sample, config.data, c.grid)(params)
        legend = draw.legend(info.names, info.palette, picture.shape[1])
        draw.save_png(folder / "grid.png", np.concatenate([picture, legend]))
    values = {r.name: r.values(rarest_third(rows[0].confusion)) for r in rows}
    details = {"layouts": len(examples), "iou": {r.name: named_iou(r, info) for r in rows}}
    checkpoint.write_json(folder / "metrics.json", {"rows": values, **details})
    table = markdown(values)
    (folder / "table.md").write_text(table + "\n")
    logs.say(f"\n{table}\n\n{len(examples)} layouts of the {config.data.eval_split} split")
    if c.grid:
        logs.say(f"pictures: {folder / 'grid.png'}")
    logs.say(f"table:    {folder / 'table.md'}")
    return folder


def generate(config: Experiment, method: Method, params, examples: list[dict], guidance: float) -> np.ndarray:
    """One image per layout, in order."""
    settings = replace(config.sample, guidance=guidance, per_layout=1)
    run = Runner(method, settings)
    progress = logs.Progress(len(examples), unit="image")
    images = {}
    for batch in batched((t for e in examples for t in tasks_of(method, e, settings)), run.batch_size):
        images |= {task.name: image for task, image in zip(batch, run(params, batch))}
        progress.report(len(images), f"guidance {guidance:g}")
    return np.stack([images[e["name"]] for e in examples])


def build_reader(config: Experiment, info: Info, workdir: Path):
    """The segmenter of this workdir: trained once on the real training split, then kept."""
    c = config.evaluate
    model = segmenter.Segmenter(info.num_classes, c.segmenter_width)
    facts = {
        "classes": list(info.names),
        "data": {
            k: v
            for k, v in as_dict(config.data).items()
            if k not in ("eval_split", "cache", "workers", "edges")
        },
        "seed": config.seed,
        "training": [c.segmenter_steps, c.segmenter_batch, c.segmenter_width],
    }
    path = workdir / f"segmenter-{fingerprint(facts)}.safetensors"
    if path.exists():
        params, _ = weights.load_weights(path)
        return segmenter.build_reader(model, params)
    source = inputs.training_source(config.data, config.seed)
    options = inputs.training_options(config) | {"batch_size": c.segmenter_batch, "edges": False}
    batches = pipeline.train_iterator(source, **options)
    progress = logs.Progress(c.segmenter_steps)

    def report(step: int, loss: float):
        progress.report(step, f"segmenter loss {loss:.3f}")

    params = segmenter.train(model, batches, c.segmenter_steps, config.seed, info.void_id, report=report)
    batches.close()
    weights.save_weights(path, params, facts)
    return segmenter.build_reader(model, params)


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
    columns = list(next(iter(values.values())))
    width = max(len(name) for name in values)
    lines = [f"| {'images':{width}} | " + " | ".join(f"{c:>9}" for c in columns) + " |"]
    lines.append(f"|{'-' * (width + 2)}|" + "|".join("-" * 10 + ":" for _ in columns) + "|")
    for name, row in values.items():
        lines.append(f"| {name:{width}} | " + " | ".join(f"{row[c]:9.1f}" for c in columns) + " |")
    return "\n".join(lines)
