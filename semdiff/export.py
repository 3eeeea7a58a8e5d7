"""--mode=export: a model folder, which is sampled from, edited with and trained on from anywhere, its data not needed."""

import json
import shutil
from pathlib import Path

import jax
import numpy as np

from semdiff import checkpoint, draw, inputs, logs, parallel
from semdiff.config import as_dict
from semdiff.convert import weights
from semdiff.data import classes
from semdiff.paths import local_path
from semdiff.trained import ABOUT, CARD, CLASSES, FORMAT, SEGMENTER, WEIGHTS, Trained

# Keys that say where things lie on the machine of whoever trained, not what was trained.
HERE = {
    "data": ("root",),
    "sample": ("weights", "layouts", "output"),
    "train": ("init",),
    "export": ("output",),
}


def export(model: Trained, workdir: Path) -> Path:
    """Writes the folder that config.export.output names, else WORKDIR/model-STEP-ema; process 0 does."""
    c = model.config.export
    default = workdir / f"model-{model.name.replace('/', '-')}"
    folder = local_path(c.output or default, "config.export.output")
    if not parallel.is_main():
        return folder
    checkpoint.prepare_workdir(folder)
    weights.save_weights(folder / WEIGHTS, jax.tree.map(np.asarray, model.params))
    checkpoint.write_json(folder / CLASSES, classes.as_json(model.info))
    checkpoint.write_json(folder / ABOUT, facts(model))
    if segmenters := sorted(workdir.glob("segmenter-*.safetensors")):
        shutil.copyfile(segmenters[-1], folder / SEGMENTER)
    (folder / CARD).write_text(card(model, folder, measured(model, workdir)), encoding="utf-8")
    legend = draw.legend(model.info.names, model.info.palette, 512)
    draw.save_png(folder / "classes.png", legend)
    logs.say(f"model:   {folder}\nto sample: --config=configs/model.py:{folder} --mode=sample")
    return folder


def facts(model: Trained) -> dict:
    """config.json."""
    config = as_dict(model.config)
    if model.about:  # the weights' own: what this run was told to do is no part of them
        config |= {
            part: model.about[part]
            for part in ("train", "optimizer", "loss", "data", "seed")
            if part in model.about
        }
    for part, keys in HERE.items():
        config[part] |= dict.fromkeys(keys, "")
    return {
        "format": FORMAT,
        "weights": model.name,
        "config": config,
        "data": inputs.identity(model.info, model.edges, model.rates),
        "times": list(model.times),
    }


def measured(model: Trained, workdir: Path) -> dict | None:
    """What --mode=evaluate found of these weights."""
    path = workdir / "evaluation" / model.name / "metrics.json"
    return json.loads(path.read_text()) if path.exists() else None


def card(model: Trained, folder: Path, metrics: dict | None) -> str:
    """README.md, with the head that model hubs read."""
    config, info, c = model.config, model.info, model.config.export
    made = model.about or as_dict(config)
    name, (height, width) = c.name or folder.name, config.data.size
    kind = "SDM" if config.layout.transition == "none" else "SCDM"
    paper = {"SDM": "2207.00050", "SCDM": "2402.16506"}[kind]
    head = [
        "---",
        "library_name: semdiff",
        f"license: {c.licence or 'unknown'}",
        "pipeline_tag: image-to-image",
    ]
    head += ["tags:", "- semantic-image-synthesis", "- diffusion", "- jax", f"- arxiv:{paper}", "---"]
    s, weight = config.sample, config.sample.guidance
    lines = [
        *head,
        f"# {name}",
        f"{kind} ([{paper}](https://arxiv.org/abs/{paper})): a layout of {info.num_classes} classes in, an image of "
        f"{height} x {width} out. Trained with semdiff on {info.name}.",
        "```python",
        "import semdiff",
        f'model = semdiff.load("{folder.name}")',
        "images = model.sample(layouts)  # layouts: class ids, [N, H, W]",
        "```",
        "or, for a folder of label PNGs,",
        "```sh",
        f"python -m semdiff.main --config=configs/model.py:{folder.name} --workdir=out --mode=sample \\\n"
        "    --config.sample.layouts=LAYOUTS",
        "```",
        "| | |\n|---|---|",
        f"| data | {info.name}, split {made['data']['split']} |",
        f"| weights | {model.name} |",
        f"| trained for | {made['train']['steps']:,} steps of {made['train']['batch_size']} |",
        f"| sampled by default with | {len(s.times) or s.steps} steps of {s.sampler}, guidance {weight:g} |",
        f"| borders between instances | {'given: instance maps are needed' if model.edges else 'not used'} |",
        f"| licence | {c.licence or 'not said'} |",
        "",
        f"Classes: {', '.join(f'{i} {n}' for i, n in enumerate(info.names))}.",
        "",
    ]
    if metrics:
        lines += [
            f"Measured with `--mode=evaluate` on {metrics['layouts']} layouts:",
            "",
            table(metrics["rows"]),
        ]
    return "\n".join(lines).rstrip() + "\n"


def table(rows: dict[str, dict[str, float | None]]) -> str:
    columns = list(next(iter(rows.values())))
    lines = [f"| images | {' | '.join(columns)} |", "|---|" + "---:|" * len(columns)]
    for name, row in rows.items():
        lines.append(
            f"| {name} | " + " | ".join("" if row[k] is None else f"{row[k]:.2f}" for k in columns) + " |"
        )
    return "\n".join(lines)
