"""Mean and spread of images, by class and place: what noise priors are drawn from (SCP-Diff, 2403.09638).

All is kept per (class, row, column, channel), over every image, in float64; what is asked for by place or by class alone is
merged from that, so one pass serves all. Row K counts pixels that have no class.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from semdiff.data.images import DataError

FORMAT = "semdiff.prior.1"


@dataclass(frozen=True)
class Moments:
    """count [K + 1, H, W], mean and squares [K + 1, H, W, C]: how many values, their mean, their squared distances to it."""

    count: np.ndarray
    mean: np.ndarray
    squares: np.ndarray

    @classmethod
    def none(cls, num_classes: int, height: int, width: int, channels: int) -> "Moments":
        shape = (num_classes + 1, height, width)
        return cls(np.zeros(shape, np.int64), *np.zeros((2, *shape, channels)))

    @property
    def images(self) -> int:
        """How many were seen."""
        return int(self.count[:, 0, 0].sum())

    @property
    def variance(self) -> np.ndarray:
        """Of the values seen; 0 where there are none."""
        return self.squares / np.maximum(self.count, 1)[..., None]

    def add(self, image: np.ndarray, layout: np.ndarray) -> None:
        """One more image [H, W, C] with its layout [H, W], here (Welford: each place has one class)."""
        known = (layout >= 0) & (layout < len(self.count) - 1)
        at = (np.where(known, layout, len(self.count) - 1), *np.indices(layout.shape, sparse=True))
        self.count[at] += 1
        step = image - self.mean[at]
        self.mean[at] += step / self.count[at][..., None]
        self.squares[at] += step * (image - self.mean[at])

    def __add__(self, other: "Moments") -> "Moments":
        """Of the images of both."""
        pair = [np.stack(both) for both in zip(self.parts, other.parts, strict=True)]
        return _merged(Moments(*pair), (0,))

    @property
    def parts(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        return self.count, self.mean, self.squares

    def by_place(self) -> "Moments":
        """Whatever the class: [1, H, W]."""
        return _merged(self, (0,), keep=True)

    def by_class(self) -> "Moments":
        """Wherever it is: [K + 1, 1, 1]."""
        return _merged(self, (1, 2), keep=True)

    def shares(self) -> np.ndarray:
        """[H, W, K]: how often each place has each class; all alike where it never has one."""
        seen = np.moveaxis(self.count[:-1], 0, -1).astype(np.float64)
        total = seen.sum(-1, keepdims=True)
        return np.where(total > 0, seen / np.maximum(total, 1), 1 / seen.shape[-1])


def _merged(parts: Moments, axes: tuple[int, ...], keep: bool = False) -> Moments:
    """Of all along these axes: the spread within each and between them."""
    weight = parts.count[..., None]
    count = parts.count.sum(axes, keepdims=True)
    total = np.maximum(count, 1)[..., None]
    mean = (weight * parts.mean).sum(axes, keepdims=True) / total
    squares = (parts.squares + weight * (parts.mean - mean) ** 2).sum(axes, keepdims=True)
    return (
        Moments(count, mean, squares) if keep else Moments(*(a.squeeze(axes) for a in (count, mean, squares)))
    )


@dataclass(frozen=True)
class Spread:
    """Mean and variance [classes or 1, rows or 1, columns or 1, C]."""

    mean: np.ndarray
    variance: np.ndarray

    def __post_init__(self):
        assert self.mean.shape == self.variance.shape

    def over(self, moments: Moments, strength: float) -> "Spread":
        """What the moments say, shrunk towards this as if it had been seen `strength` times: this alone where they say
        nothing, nearly what they say where they have seen much."""
        seen = moments.count[..., None].astype(np.float64)
        total = np.where(seen > 0, seen + strength, 1.0)
        own = seen / total
        mean = np.where(seen > 0, own * moments.mean + (1 - own) * self.mean, self.mean)
        between = own * (1 - own) * (moments.mean - self.mean) ** 2
        variance = own * moments.variance + (1 - own) * self.variance + between
        return Spread(mean, np.where(seen > 0, variance, self.variance))


def mixed(parts: Sequence[Spread], weights: Sequence[float]) -> Spread:
    """Of a draw from one of them, with chances in proportion to the weights."""
    chances = np.asarray(weights, np.float64) / np.sum(weights)
    mean = sum(p * part.mean for p, part in zip(chances, parts, strict=True))
    square = sum(p * (part.variance + part.mean**2) for p, part in zip(chances, parts, strict=True))
    return Spread(np.asarray(mean), np.maximum(square - mean**2, 0))


def spatial(moments: Moments) -> Spread:
    place = moments.by_place()
    return Spread(place.mean, place.variance)


def categorical(moments: Moments, strength: float) -> Spread:
    """A class that was never seen looks like any."""
    overall = _merged(moments, (0, 1, 2), keep=True)
    return Spread(overall.mean, overall.variance).over(moments.by_class(), strength)


def joint(moments: Moments, strength: float, fallback: str = "spatial") -> Spread:
    """By class and place; a pair that was seen rarely is shrunk towards its place, or its class."""
    other = spatial(moments) if fallback == "spatial" else categorical(moments, strength)
    return other.over(moments, strength)


def as_tree(moments: Moments) -> dict[str, np.ndarray]:
    """To be kept in a file: of the squares the deviation, which float32 holds."""
    return {
        "count": moments.count.astype(np.int32),
        "mean": moments.mean.astype(np.float32),
        "deviation": np.sqrt(moments.variance).astype(np.float32),
    }


def about(names: Sequence[str], space: str, data: str, split: str, fingerprint: str) -> dict[str, Any]:
    """What statistics are of."""
    return {
        "format": FORMAT,
        "classes": list(names),
        "space": space,
        "data": data,
        "split": split,
        "fingerprint": fingerprint,
    }


def of_tree(tree: Mapping[str, Any], written: Mapping[str, Any], path: Any) -> Moments:
    """What `as_tree` made, checked; `path` is named in errors."""
    expected = "Expected statistics as --mode=prior writes them"
    if written.get("format") != FORMAT or not {"count", "mean", "deviation"} <= tree.keys():
        raise DataError(f"{path}: holds no statistics of images ({FORMAT}). {expected}")
    count, mean, deviation = (np.asarray(tree[name]) for name in ("count", "mean", "deviation"))
    if count.ndim != 3 or mean.shape[:-1] != count.shape or deviation.shape != mean.shape:
        raise DataError(
            f"{path}: its parts are of shapes {count.shape}, {mean.shape} and {deviation.shape}. {expected}"
        )
    if (count < 0).any() or not (np.isfinite(mean).all() and np.isfinite(deviation).all()):
        raise DataError(f"{path}: has negative counts or numbers that are not finite. {expected}")
    count = count.astype(np.int64)
    mean = mean.astype(np.float64)
    return Moments(count, mean, count[..., None] * deviation.astype(np.float64) ** 2)


def check(
    moments: Moments,
    written: Mapping[str, Any],
    path: Any,
    names: Sequence[str],
    shape: Sequence[int],
    space: str,
) -> None:
    """That statistics are of these classes, of images [H, W, C] of this shape in this space."""
    remedy = "Measure them with this configuration: --mode=prior"
    if list(written.get("classes", ())) != list(names):
        have = ", ".join(map(str, written.get("classes", ())[:5]))
        raise DataError(
            f"{path}: was measured on other classes ({have}, ...) than the model's ({', '.join(names[:5])}, ...). {remedy}"
        )
    if written.get("space") != space:
        raise DataError(
            f"{path}: was measured in {written.get('space')}, but the model's images are in {space}. {remedy}"
        )
    if moments.mean.shape[1:] != tuple(shape):
        have, want = (" x ".join(map(str, s)) for s in (moments.mean.shape[1:], shape))
        raise DataError(f"{path}: was measured at {have}, but the model's images are {want}. {remedy}")
    if moments.images == 0:
        raise DataError(f"{path}: was measured on no image. {remedy}")
