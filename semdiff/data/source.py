"""What every source of images and layouts looks like, whatever it reads."""

from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

# "image" uint8 [H,W,3]; "layout" uint8, uint16 or int32 [H,W], class ids below num_classes;
# optional "instance" int32 [H,W], 0 where there is none; optional "caption" str; "name" str, a stem.
Example = dict[str, Any]


@dataclass(frozen=True)
class ClassInfo:
    """One class of a layout: its name and the colour it is shown in."""

    name: str
    color: tuple[int, int, int]


@dataclass(frozen=True)
class Info:
    """What the layouts of a source mean: class i is `classes[i]`.

    `void_id` is left out by the metrics and is a class like any other to the network; so are all others but those of
    `scored`, where a benchmark counts but some.
    `flip_pairs` are the classes that change places when an image is mirrored (left eye, right eye).
    """

    name: str
    classes: tuple[ClassInfo, ...]
    void_id: int | None = None
    has_instances: bool = False
    has_captions: bool = False
    flip_pairs: tuple[tuple[int, int], ...] = ()
    scored: tuple[int, ...] | None = None

    @property
    def ignored(self) -> tuple[int, ...]:
        """Ids whose pixels the metrics leave out."""
        counted = range(self.num_classes) if self.scored is None else self.scored
        return tuple(i for i in range(self.num_classes) if i == self.void_id or i not in counted)

    @property
    def num_classes(self) -> int:
        return len(self.classes)

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(c.name for c in self.classes)

    @property
    def palette(self) -> np.ndarray:
        """The colours as uint8 [K,3]."""
        return np.array([c.color for c in self.classes], np.uint8).reshape(-1, 3)


class Source(Protocol):
    """Random access to examples: picklable, and the same example for the same index, always."""

    @property
    def info(self) -> Info: ...

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> Example: ...


def some_names(source: Source, most: int = 8) -> list[str]:
    """Of examples from all over."""
    last, gaps = len(source) - 1, max(most - 1, 1)
    return [source[i]["name"] for i in sorted({round(k * last / gaps) for k in range(most)})]
