"""What a configuration's data are like, before anything is trained: class statistics, schedules, corrupted layouts."""

from dataclasses import replace
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from semdiff import draw, inputs
from semdiff.config import Experiment, Layout
from semdiff.data import augment, corruptions
from semdiff.data.source import Source
from semdiff.diffusion import categorical, class_schedules
from semdiff.machine import logs, parallel
from semdiff.machine.paths import prepare_workdir
from semdiff.methods import build, parts
from semdiff.sampling.outputs import label_dtype

STRIP = 7  # times at which a layout is shown being masked
CURVE = 51  # points of a curve
CANDIDATES = 64  # examples among which the one with most classes is shown


def stats(config: Experiment, workdir: Path) -> Path:
    """Counts the classes of the training split (WORKDIR/class_rates.json), prints and draws what the schedule does to them.

    For a configuration without a layout process: what SCDM's would do.
    """
    if config.layout.transition == "none":
        config = replace(config, layout=Layout(transition="absorbing"))
    opened = build.opened(config, workdir)
    source, rates = opened.source, opened.rates
    process = parts.layout_process(config, opened.info.num_classes, rates)
    assert process is not None, "its transition is absorbing"
    if jax.process_index():
        return workdir
    logs.say(table(process, source, rates))
    pictures = prepare_workdir(workdir) / "pictures"
    draw.save_png(pictures / "gamma.png", curves(process, source))
    draw.save_png(pictures / "masking.png", strip(process, source, config))
    logs.say(f"rates:    {workdir / 'class_rates.json'}" if config.layout.rates == "data" else "")
    logs.say(f"pictures: {pictures / 'gamma.png'}\n          {pictures / 'masking.png'}")
    return workdir


def gamma(process: categorical.Categorical, times: np.ndarray) -> np.ndarray:
    """[times, K], in float64."""
    with jax.enable_x64(True):
        schedule = jax.tree.map(lambda a: jnp.asarray(a, jnp.float64), process.schedule)
        return np.asarray(schedule.keep(jnp.asarray(times)))


def table(process: categorical.Categorical, source: Source, rates: np.ndarray | None) -> str:
    """Classes from the one masked first to the one masked last."""
    steps = process.num_steps
    at = [steps // 4, steps // 2, 3 * steps // 4, steps - 1]
    kept = gamma(process, np.array(at))
    rated = rates if rates is not None and rates.ndim == 1 else None
    lines = [f"{'class':24}{'psi phi':>12}" + "".join(f"{f'gamma_{t}':>12}" for t in at)]
    for c in np.argsort(kept[1], kind="stable"):
        rate = " " * 12 if rated is None else f"{rated[c]:12.4g}"
        lines.append(f"{source.info.names[c][:23]:24}{rate}" + "".join(f"{g:12.3f}" for g in kept[:, c]))
    return "\n".join(lines)


def curves(process: categorical.Categorical, source: Source) -> np.ndarray:
    """gamma_{c,t} over t, each class in its colour."""
    times = np.unique(np.round(np.linspace(0, process.num_steps, CURVE)).astype(int))
    values, info = gamma(process, times), source.info
    palette = np.minimum(info.palette, 215)  # white lines would not show
    series = {f"{c} {name}": (times, values[:, c]) for c, name in enumerate(info.names)}
    chart = draw.curve_image(series, "t", "gamma: share of a class that still shows", colors=palette)
    return np.concatenate([chart, draw.legend(info.names, palette, chart.shape[1])])


def strip(process: categorical.Categorical, source: Source, config: Experiment) -> np.ndarray:
    """One layout being masked: by this schedule, and by one that treats all classes alike. MASK is black."""
    steps, info = process.num_steps, source.info
    found = (source[i] for i in inputs.spread(source, CANDIDATES))
    example = augment.squash(max(found, key=lambda e: len(np.unique(e["layout"]))), config.data.size)
    layout = jnp.asarray(example["layout"], jnp.int32)[None]
    linear = categorical.Categorical(class_schedules.linear(steps, info.num_classes))
    times = np.round(np.linspace(0, steps, STRIP)).astype(int)
    rows = []
    for shown in (process, linear):
        chance = categorical.noise(shown, layout, jax.random.split(jax.random.key(config.seed), 1))
        noised = [categorical.diffuse(shown, layout, jnp.array([t]), *chance)[0] for t in times]
        rows.append([draw.colourise(np.asarray(y), info.palette) for y in noised])
    scale = max(1, 128 // layout.shape[1])
    headers = [f"t = {t}" for t in times]
    return draw.grid(rows, headers=headers, titles=[config.layout.schedule, "all alike"], scale=scale)


def corrupt(config: Experiment, workdir: Path) -> Path:
    """Writes the evaluation split's layouts at data.size, spoilt: WORKDIR/corrupted/KIND/labels/SPLIT (and instances/)."""
    source = inputs.evaluation_source(config.data, config.seed)
    kinds = config.evaluate.corruptions or tuple(corruptions.CORRUPTIONS)
    for kind in kinds:
        corruptions.parse(kind)
    folder, info, split = prepare_workdir(workdir) / "corrupted", source.info, config.data.eval_split
    chosen = parallel.share(inputs.spread(source, config.evaluate.limit))
    progress = logs.Progress(len(chosen) * len(kinds), unit="layout")
    unlabelled = 255 if info.num_classes <= 255 else 65535
    done = 0
    for index in chosen:
        example = augment.squash(source[index], config.data.size)
        for kind in kinds:
            changed = corruptions.corrupt(example, kind, info, config.sample.seed)
            layout = np.where(changed["layout"] == info.num_classes, unlabelled, changed["layout"])
            place = folder / kind.replace(":", "_")
            draw.save_png(
                place / "labels" / split / f"{example['name']}.png", layout.astype(label_dtype(layout))
            )
            if "instance" in changed:
                numbered = renumbered(changed["instance"])
                draw.save_png(place / "instances" / split / f"{example['name']}.png", numbered)
            done += 1
        if done % (64 * len(kinds)) == 0 or done == progress.total:
            progress.report(done)
    first = folder / kinds[0].replace(":", "_") / "labels" / split
    reading = "" if info.void_id is not None else f" --config.sample.unlabelled={unlabelled}"
    logs.say(f"{folder}: {', '.join(kinds)}")
    logs.say(f"to sample: --mode=sample --config.sample.layouts={first}{reading}")
    return folder


def renumbered(instance: np.ndarray) -> np.ndarray:
    """The same instances as 1, 2, ...: ids of any size fit 16 bits."""
    ids = np.unique(instance[instance > 0])
    return np.where(instance > 0, np.searchsorted(ids, instance) + 1, 0).astype(np.uint16)
