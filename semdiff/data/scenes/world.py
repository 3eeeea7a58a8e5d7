"""An endless drawn world of streets, country roads and lakes: a data set that needs no files.

Layouts are exact, classes long-tailed: the sky is in every image, a bird in a few of a hundred.
"""

import operator
import random
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from semdiff.data.scenes import plan
from semdiff.data.scenes.draw import render
from semdiff.data.scenes.places import compose
from semdiff.data.source import Example, Info

LENGTHS = {"train": 4096, "val": 256, "test": 256}
NUMBERS = ("no", "a", "two", "three", "four", "five", "six")
PLURALS = {plan.PERSON: "people"}


@dataclass(frozen=True)
class Scenes:
    """Image i is a function of (seed, split, i); `size` = (H, W) is how large it is drawn."""

    split: str = "train"
    size: tuple[int, int] = (64, 64)
    length: int | None = None
    seed: int = 0

    info: ClassVar[Info] = Info(name="scenes", classes=plan.CLASSES, has_instances=True, has_captions=True)

    def __post_init__(self):
        if self.split not in LENGTHS:
            raise ValueError(f"scenes: unknown split {self.split!r}; use one of {list(LENGTHS)}")
        size = tuple(np.ravel(self.size).tolist())
        if len(size) != 2 or not all(isinstance(n, int) and n >= 8 for n in size):
            raise ValueError(f"scenes: size is (height, width), integers of at least 8; got {self.size!r}")
        length = LENGTHS[self.split] if self.length is None else int(self.length)
        if length < 0:
            raise ValueError(f"scenes: length must not be negative, got {self.length}")
        object.__setattr__(self, "size", size)
        object.__setattr__(self, "length", length)

    def __len__(self) -> int:
        assert self.length is not None  # __post_init__ has set it
        return self.length

    def __getitem__(self, index: int) -> Example:
        index = operator.index(index)
        if not 0 <= index < len(self):
            raise IndexError(f"scenes {self.split}: no example {index}, there are {self.length}")
        rng = random.Random(f"{self.seed}/{self.split}/{index}")
        scene = compose(rng, self.size[1] / self.size[0])
        image, layout, instance = render(scene, self.size)
        return {
            "image": image,
            "layout": layout,
            "instance": instance,
            "caption": caption(scene.place, scene.light.words, layout, instance),
            "name": f"{self.split}_{index:06d}",
        }


def visible(layout: np.ndarray, instance: np.ndarray) -> dict[int, int]:
    """How many instances of each class can be made out: those that cover 1/1500 of the image."""
    pixels = np.bincount(instance.ravel())
    ids = np.flatnonzero(pixels >= max(1, instance.size / 1500))
    kinds = np.zeros(len(pixels), np.int64)
    kinds[instance.ravel()] = layout.ravel()
    found = np.bincount(kinds[ids[ids > 0]], minlength=len(plan.CLASSES))
    return {kind: int(found[kind]) for kind in plan.THINGS if found[kind]}


def caption(place: str, light: str, layout: np.ndarray, instance: np.ndarray) -> str:
    """What the picture shows: "a city street at dusk with two cars, a tree and a person"."""
    article = "an" if place[0] in "aeiou" else "a"
    counts = visible(layout, instance)
    order: tuple[int, ...] = (plan.CAR, plan.PERSON, plan.BOAT, plan.DOG, plan.BIRD, plan.SIGN)
    order += (plan.TRAFFIC_LIGHT, plan.LAMP, plan.TREE, plan.BUILDING)
    parts = [_counted(kind, counts[kind]) for kind in order if kind in counts]
    if len(parts) > 1:
        parts[-2:] = [f"{parts[-2]} and {parts[-1]}"]
    return f"{article} {place} {light}" + (f" with {', '.join(parts)}" if parts else "")


def _counted(kind: int, count: int) -> str:
    name = plan.CLASSES[kind].name
    number = NUMBERS[count] if count < len(NUMBERS) else "many"
    return f"{number} {name if count == 1 else PLURALS.get(kind, name + 's')}"
