"""Corrupted layouts: what coarse maps and careless annotators do to an example.

The first three are the benchmark of noisy layouts of SCDM (arXiv 2402.16506), in its strengths for
256 x 256 pixels; the other two are errors that people make. An unlabelled pixel has the void class
where the data have one, else an id that is no class.

Every corruption maps an int32 layout and its instances (or None) to new ones and leaves its input alone.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable

import numpy as np
from scipy import ndimage

from semdiff.data import augment
from semdiff.data.images import DataError
from semdiff.data.source import Example, Info

Instances = np.ndarray | None
Pair = tuple[np.ndarray, Instances]


def corrupt(example: Example, kind: str, info: Info, seed: int) -> Example:
    """The example with its layout, now int32, and its instances corrupted by `kind`: "ds", or "ds:2" for
    another strength (see STRENGTHS).

    The same layout is always corrupted in the same way, whatever its name or place in a source.
    """
    name, strength = parse(kind)
    layout = example["layout"].astype(np.int32)
    unlabelled = info.num_classes if info.void_id is None else info.void_id
    rng = _generator(layout, name, seed)
    layout, instance = CORRUPTIONS[name](layout, example.get("instance"), unlabelled, rng, **strength)
    corrupted = {**example, "layout": layout}
    if instance is not None:
        corrupted["instance"] = instance
    return corrupted


def parse(kind: str) -> tuple[str, dict[str, float]]:
    """ "edge:1" -> ("edge", {"radius": 1})."""
    name, colon, text = kind.partition(":")
    if name not in CORRUPTIONS:
        raise DataError(f"no corruption {kind!r} of layouts. Expected one of {', '.join(CORRUPTIONS)}.")
    if not colon:
        return name, {}
    parameter, number, low, high = STRENGTHS[name]
    try:
        strength = number(text)
    except ValueError:
        strength = None
    if strength is None or not low <= strength <= high:
        raise DataError(
            f"the strength in {kind!r} is {text!r}. Expected the {parameter} of {name}, {low} to {high}."
        )
    return name, {parameter: strength}


def downsample(
    layout: np.ndarray, instance: Instances, unlabelled: int, rng: np.random.Generator, *, factor: int = 4
) -> Pair:
    """Every `factor`-th pixel, enlarged again: what is thin or small is torn or lost."""
    height, width = layout.shape
    coarse = max(1, height // factor), max(1, width // factor)

    def blocky(values: np.ndarray) -> np.ndarray:
        return augment.nearest(augment.nearest(values, coarse), (height, width))

    return blocky(layout), None if instance is None else blocky(instance)


def edge(
    layout: np.ndarray, instance: Instances, unlabelled: int, rng: np.random.Generator, *, radius: int = 2
) -> Pair:
    """Unlabelled up to the L1 distance `radius` from every pixel that borders on another class."""
    steps = np.abs(np.arange(-radius, radius + 1))
    ball = steps[:, None] + steps <= radius
    near = ndimage.binary_dilation(augment.edges(layout), ball)
    return np.where(near, unlabelled, layout), instance


def random(
    layout: np.ndarray, instance: Instances, unlabelled: int, rng: np.random.Generator, *, share: float = 0.1
) -> Pair:
    """Every pixel unlabelled with probability `share`."""
    return np.where(rng.random(layout.shape) < share, unlabelled, layout), instance


def wrong_class(
    layout: np.ndarray,
    instance: Instances,
    unlabelled: int,
    rng: np.random.Generator,
    *,
    share: float = 0.3,
    largest: float = 0.25,
) -> Pair:
    """Objects, with probability `share`, in a class of the layout that they have no pixel of.

    Those above the share `largest` of the image (sky, road) keep theirs; so do unlabelled pixels.
    """
    objects = _objects(layout, instance, unlabelled)
    drawn = _draw(objects, largest, share, rng)
    present = np.setdiff1d(layout, [unlabelled])
    corrupted = layout.copy()
    for number, box in enumerate(ndimage.find_objects(objects), 1):
        if drawn[number]:
            labelled = (objects[box] == number) & (layout[box] != unlabelled)
            others = np.setdiff1d(present, layout[box][labelled])
            if others.size:
                corrupted[box][labelled] = rng.choice(others)
    return corrupted, instance


def dropped(
    layout: np.ndarray,
    instance: Instances,
    unlabelled: int,
    rng: np.random.Generator,
    *,
    share: float = 0.5,
    area: float = 0.02,
) -> Pair:
    """Objects up to the share `area` of the image, with probability `share`, overgrown by what is around.

    Their pixels become the nearest pixel that stays; where none would stay, all do.
    """
    objects = _objects(layout, instance, unlabelled)
    gone = _draw(objects, area, share, rng)[objects]
    if gone.all():
        gone[:] = False
    rows, columns = ndimage.distance_transform_edt(gone, return_distances=False, return_indices=True)
    return layout[rows, columns], None if instance is None else instance[rows, columns]


CORRUPTIONS: dict[str, Callable[..., Pair]] = {
    "ds": downsample,
    "edge": edge,
    "random": random,
    "wrong_class": wrong_class,
    "dropped": dropped,
}

# Corruption -> what a strength after the colon is: parameter, type and range.
STRENGTHS = {
    "ds": ("factor", int, 1, 1024),
    "edge": ("radius", int, 0, 1024),
    "random": ("share", float, 0.0, 1.0),
    "wrong_class": ("share", float, 0.0, 1.0),
    "dropped": ("share", float, 0.0, 1.0),
}


def _generator(layout: np.ndarray, kind: str, seed: int) -> np.random.Generator:
    digest = hashlib.sha256(f"{seed} {kind} {layout.shape} ".encode() + layout.tobytes()).digest()
    return np.random.default_rng(int.from_bytes(digest))


def _objects(layout: np.ndarray, instance: Instances, unlabelled: int) -> np.ndarray:
    """int32 [H,W]: the objects numbered from 1, 0 elsewhere; none is wholly unlabelled.

    Without instances they are the 4-connected components of each class.
    """
    labelled = layout != unlabelled
    numbers = np.zeros(layout.shape, np.int32)
    if instance is not None:
        ids = np.unique(instance[labelled & (instance > 0)])
        numbers[:] = np.searchsorted(ids, instance) + 1
        numbers[~np.isin(instance, ids)] = 0
        return numbers
    count = 0
    for label in np.unique(layout[labelled]):
        parts, found = ndimage.label(layout == label)
        numbers += np.where(parts > 0, parts + count, 0)
        count += found
    return numbers


def _draw(objects: np.ndarray, area: float, share: float, rng: np.random.Generator) -> np.ndarray:
    """bool [number + 1]: the objects of at most `area` of the image, each with probability `share`."""
    areas = np.bincount(objects.ravel())
    drawn = (rng.random(areas.size) < share) & (areas <= area * objects.size)
    drawn[0] = False
    return drawn
