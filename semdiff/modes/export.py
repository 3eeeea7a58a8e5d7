"""--mode=export: a model folder, which is sampled from, edited with and trained on from anywhere, its data not needed."""

import json
import shutil
from pathlib import Path

import jax
import numpy as np

from semdiff import draw, inputs
from semdiff.convert import weights
from semdiff.data import classes
from semdiff.machine import logs, parallel
from semdiff.machine.paths import local_path, prepare_workdir, write_json
from semdiff.methods import build
from semdiff.parser import as_dict
from semdiff.trained import ABOUT, CARD, CLASSES, FORMAT, PRIOR, SEGMENTER, WEIGHTS, Trained, digest

PICTURE = "samples.png"
# Keys that say where things lie on the machine of whoever trained, not what was trained.
HERE = {
    "data": ("root", "captions", "prompts", "latents"),
    "space": ("weights",),
    "sample": ("weights", "layouts", "captions", "upscale", "output", "prior_file"),
    "train": ("init",),
    "edit": ("images", "layouts", "old_layouts", "masks", "output"),
    "evaluate": ("segmenter",),
    "export": ("output",),
}


def export(model: Trained, workdir: Path) -> Path:
    """Writes the folder that config.export.output names, else WORKDIR/model-STEP-ema; process 0 does."""
    c = model.config.export
    default = workdir / f"model-{model.name.replace('/', '-')}"
    folder = local_path(c.output or default, "config.export.output")
    if not parallel.is_main():
        return folder
    prepare_workdir(folder)
    kept = jax.tree.map(lambda a: kept_as(np.asarray(a), c.dtype), model.params)
    weights.save_weights(folder / WEIGHTS, kept)
    write_json(folder / CLASSES, classes.as_json(model.info))
    write_json(folder / ABOUT, facts(model))
    if segmenters := sorted(workdir.glob("segmenter-*.safetensors")):
        shutil.copyfile(segmenters[-1], folder / SEGMENTER)
    if model.folder and (model.folder / PRIOR).exists() and model.folder != folder:
        shutil.copyfile(model.folder / PRIOR, folder / PRIOR)
    measured = workdir / "evaluation" / model.name
    if (measured / "grid.png").exists():
        shutil.copyfile(measured / "grid.png", folder / PICTURE)
    draw.save_png(folder / "classes.png", draw.legend(model.info.names, model.info.palette, 512))
    text = card(model, folder, made_on(workdir), metrics_of(measured))
    (folder / CARD).write_text(text, encoding="utf-8")
    logs.say(f"model:   {folder}\nto sample: --config=configs/model.py:{folder} --mode=sample")
    return folder


def kept_as(weight: np.ndarray, dtype: str) -> np.ndarray:
    """A weight as the file has it: of another type where it is of full precision."""
    return weight.astype(dtype) if weight.dtype == np.float32 else weight


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
        config[part] |= {key: "" for key in keys if key in config[part]}
    return {
        "format": FORMAT,
        "weights": model.name,
        "config": config,
        "data": inputs.identity(model.info, model.edges, model.rates, model.language),
        "times": list(model.times),
    }


def metrics_of(evaluation: Path) -> dict | None:
    """What --mode=evaluate found of these weights."""
    path = evaluation / "metrics.json"
    return json.loads(path.read_text()) if path.exists() else None


def made_on(workdir: Path) -> str:
    """The machine of a training and what its steps took, as far as its workdir tells."""
    path, hours = workdir / "config.json", logs.hours_of(workdir)
    machine = json.loads(path.read_text()).get("machine", "") if path.exists() else ""
    return ", ".join(part for part in (machine, hours and f"about {logs.duration(3600 * hours)}") if part)


def card(model: Trained, folder: Path, made_on: str, metrics: dict | None) -> str:
    """README.md, with the head that model hubs read."""
    config, info, c, s = model.config, model.info, model.config.export, model.config.sample
    made, (height, width) = model.about or as_dict(config), config.data.size
    kind, paper = build.paper_of(config)
    given = "layouts, instances=instances" if model.edges else "layouts"
    use = f"images = model.sample({given})  # class ids, [N, H, W]"
    takes, asks = f"a layout of {info.num_classes} classes in, an image of", "layouts=LAYOUTS"
    if kind == "GCDP":
        use = 'images, layouts = model.pairs(["a street at night"])'
        takes, asks = (
            f"words in; a layout of {info.num_classes} classes and an image out, of",
            "captions=CAPTIONS",
        )
    facts = {
        "data": f"{info.name}, split {made['data']['split']}",
        "weights": f"{model.name}, sha256 {digest(folder / WEIGHTS)}...",
        "command": f"`{c.command}`" if c.command else "",
        "trained for": f"{made['train']['steps']:,} steps of {made['train']['batch_size']}, seed {made['seed']}",
        "on": made_on,
        "sampled by default with": f"{len(s.times) or s.steps} steps of {s.sampler}, guidance {s.guidance:g}",
        "borders between instances": "given: instance maps are needed" if model.edges else "not used",
        "licence": c.licence or "not said",
    }
    rows = "\n".join(f"| {name} | {fact} |" for name, fact in facts.items() if fact)
    text = f"""---
library_name: semdiff
license: {c.licence.lower() or "unknown"}
pipeline_tag: image-to-image
tags:
- semantic-image-synthesis
- diffusion
- jax
- arxiv:{paper}
---
# {c.name or folder.name}

{kind} ([{paper}](https://arxiv.org/abs/{paper})): {takes}
{height} x {width}. Trained with semdiff on {info.name}.

```python
import semdiff

model = semdiff.load("{folder.name}")
{use}
```

or, from files,

```sh
python -m semdiff.main --config=configs/model.py:{folder.name} --workdir=out --mode=sample \\
    --config.sample.{asks}
```

| | |
|---|---|
{rows}

Classes: {", ".join(f"{i} {name}" for i, name in enumerate(info.names))}.
"""
    if (folder / PICTURE).exists():
        text += f"\n![layouts, real and generated images]({PICTURE})\n"
    if metrics:
        text += f"\nMeasured with `--mode=evaluate` on {metrics['layouts']} layouts:\n\n{table(metrics['rows'])}\n"
    return text


def table(rows: dict[str, dict[str, float | None]]) -> str:
    columns = [
        name for name in next(iter(rows.values())) if any(row[name] is not None for row in rows.values())
    ]
    lines = [f"| images | {' | '.join(columns)} |", "|---|" + "---:|" * len(columns)]
    for name, row in rows.items():
        cells = ("" if row[k] is None else f"{row[k]:.2f}" for k in columns)
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines)
