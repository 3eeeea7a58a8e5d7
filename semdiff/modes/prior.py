"""--mode=prior: what images of the training split look like by class and place, for chains that start from it.

Writes WORKDIR/prior.safetensors, which sampling finds there and export takes along, and pictures of it.
"""

import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np

from semdiff import draw, inputs, pretrained
from semdiff.config import Experiment
from semdiff.convert import weights
from semdiff.data import augment, moments, statistics
from semdiff.data.moments import Moments
from semdiff.data.source import Source
from semdiff.diffusion import priors
from semdiff.machine import logs, parallel
from semdiff.machine.paths import prepare_workdir
from semdiff.methods import build, scp
from semdiff.methods.method import Method
from semdiff.methods.space import called
from semdiff.trained import PRIOR

PARTS = "prior-parts"  # a folder of what each process has counted so far
KEEP_EVERY = 60.0  # seconds
SHOWN = 4  # layouts in the picture of draws
CLASSES_SHOWN, COLUMNS = 12, 6  # in the picture of means
KINDS: tuple[Literal["spatial", "categorical", "joint"], ...] = ("spatial", "categorical", "joint")


def prior(config: Experiment, workdir: Path) -> Path:
    """One pass over all images, shared by the processes of a run; a pass that was interrupted goes on where it was."""
    opened = build.opened(config, workdir)
    source, method, size = opened.source, opened.method, config.data.size
    folder = prepare_workdir(workdir)
    params = pretrained.space_params(config, opened, workdir)
    about = moments.about(
        source.info.names,
        called(method.space, params),
        source.info.name,
        config.data.split,
        statistics.fingerprint(source),
    )
    mine = parallel.share(range(len(source)))
    part = folder / PARTS / f"{jax.process_index()}-of-{jax.process_count()}.safetensors"
    counted = counted_on(source, method, size, mine, part, about, params)
    total = counted
    for other in others(counted):
        total = total + other
    path = folder / PRIOR
    if parallel.is_main():
        weights.save_weights(path, moments.as_tree(total), about)
        pictures(config, source, method, params, total, folder / "pictures")
        absent = [source.info.names[c] for c in np.flatnonzero(total.by_class().count[:-1] == 0)]
        logs.say(f"never seen, so they start as any class does: {', '.join(absent)}" if absent else "")
        logs.say(f"prior:    {path}; to start from it: --config.sample.prior=joint --config.sample.start=0.8")
    parallel.meet()
    part.unlink(missing_ok=True)
    return path


def counted_on(
    source: Source, method: Method, size, mine, part: Path, about: dict, params: dict | None = None
) -> Moments:
    """This process's share; every minute what was counted so far is kept in `part`."""
    shape = method.space.shape(size)
    about = about | {"shape": list(shape)}
    done, counted = kept(part, about)
    if counted is None:
        done, counted = 0, Moments.none(source.info.num_classes, *shape)
    elif done:
        logs.say(f"goes on after {done} of {len(mine)} images, {part}")
    progress, last = logs.Progress(len(mine), done, "image", active=parallel.is_main()), time.monotonic()
    encode = jax.jit(lambda params, image: method.space.encode(params, image[None])[0])
    for place in range(done, len(mine)):
        example = augment.squash(source[mine[place]], size)
        image = np.asarray(encode(params or {}, example["image"]), np.float64)
        stride = size[0] // image.shape[0]
        counted.add(image, example["layout"][::stride, ::stride])
        if time.monotonic() - last > KEEP_EVERY:
            keep(part, counted, place + 1, about)
            progress.report(place + 1)
            last = time.monotonic()
    progress.report(len(mine))
    return counted


def keep(part: Path, counted: Moments, done: int, about: dict):
    part.parent.mkdir(exist_ok=True)
    weights.save_weights(part, dict(zip(("count", "mean", "squares"), counted.parts)), about | {"done": done})


def kept(part: Path, about: dict) -> tuple[int, Moments | None]:
    """What an interrupted pass over the same data had counted."""
    if not part.exists():
        return 0, None
    tree, written = weights.load_weights(part)
    if {name: value for name, value in written.items() if name != "done"} != about:
        return 0, None
    return written["done"], Moments(*(np.array(tree[name]) for name in ("count", "mean", "squares")))


def others(mine: Moments) -> Iterator[Moments]:
    """What each of the other processes counted."""
    every = [parallel.of_all(part) for part in mine.parts]
    for process in range(jax.process_count()):
        if process != jax.process_index():
            yield Moments(*(part[process] for part in every))


def pictures(config: Experiment, source: Source, method: Method, params: dict, total: Moments, folder: Path):
    """What each class looks like where it is, and draws for some layouts."""
    info = source.info
    seen = total.by_class().count[:-1, 0, 0]
    common = np.argsort(-seen, kind="stable")[: min(CLASSES_SHOWN, int((seen > 0).sum()))]
    mean = moments.joint(total, config.sample.prior_strength).mean
    shown = np.where(total.count[common, ..., None] > 0, mean[common], 0)
    decode = lambda x: np.asarray(method.space.decode(params, jnp.asarray(x, jnp.float32)))  # noqa: E731
    scale = max(1, 128 // config.data.size[1])
    images, names = decode(shown), [info.names[c] for c in common]
    rows = [
        draw.grid([list(images[i : i + COLUMNS])], headers=names[i : i + COLUMNS], scale=scale)
        for i in range(0, len(common), COLUMNS)
    ]
    rows[-1] = np.pad(
        rows[-1], ((0, 0), (0, rows[0].shape[1] - rows[-1].shape[1]), (0, 0)), constant_values=255
    )
    draw.save_png(folder / "prior_means.png", np.concatenate(rows))
    draw.save_png(folder / "prior_draws.png", draws(config, source, method, total, decode, scale))
    logs.say(f"pictures: {folder / 'prior_means.png'}")
    logs.say(f"          {folder / 'prior_draws.png'}")


def draws(
    config: Experiment, source: Source, method: Method, total: Moments, decode, scale: int
) -> np.ndarray:
    """layout | real | z by place | by class | by both."""
    examples = [augment.squash(source[i], config.data.size) for i in inputs.spread(source, SHOWN)]
    layouts = np.stack([e["layout"] for e in examples]).astype(np.int32)
    like = jnp.zeros((len(examples), *method.space.shape(config.data.size)))
    keys = jax.random.split(jax.random.key(config.seed), len(examples))
    columns = []
    for kind in KINDS:
        c = replace(config.sample, prior=kind)
        tables = scp.tables_of(scp.spread_of(total, c))
        columns.append(decode(priors.drawn_image(tables, layouts, like, keys)))
    rows = [
        [draw.colourise(e["layout"], source.info.palette), e["image"], *(column[i] for column in columns)]
        for i, e in enumerate(examples)
    ]
    return draw.grid(rows, headers=["layout", "real", *KINDS], scale=scale)
