"""What an eye sees first and a segmenter forgives: grain, a frame around the image, colours that are off.

Whole numbers are counted, which processes add up; a `Looks` is compared with that of real images of the same layouts.
"""

from dataclasses import dataclass, fields

import numpy as np

_BINS = 4 * 255 + 1  # of |4 a - b - c - d - e| of 8 bits
_AT_ONCE = 32  # images


@dataclass(frozen=True)
class Looks:
    """laplacians: how often each |Laplacian| of a channel is seen. saturation: [[sum, number] of the outermost ring of
    pixels, of the rest]. colours [K, 4]: sums of the three channels over each class, and its pixels."""

    laplacians: np.ndarray
    saturation: np.ndarray
    colours: np.ndarray

    @classmethod
    def of(cls, images: np.ndarray, layouts: np.ndarray, num_classes: int) -> "Looks":
        """images uint8 [N, H, W, 3], layouts [N, H, W]."""
        total = cls(
            np.zeros(_BINS, np.int64), np.zeros((2, 2), np.int64), np.zeros((num_classes, 4), np.int64)
        )
        for first in range(0, len(images), _AT_ONCE):
            part = slice(first, first + _AT_ONCE)
            some = cls._of_some(images[part].astype(np.int32), layouts[part], num_classes)
            total = cls(*(one + other for one, other in zip(total.parts, some.parts)))
        return total

    @classmethod
    def _of_some(cls, x: np.ndarray, layouts: np.ndarray, num_classes: int) -> "Looks":
        around = x[:, :-2, 1:-1] + x[:, 2:, 1:-1] + x[:, 1:-1, :-2] + x[:, 1:-1, 2:]
        laplacians = np.bincount(np.abs(4 * x[:, 1:-1, 1:-1] - around).ravel(), minlength=_BINS)
        saturation = x.max(-1) - x.min(-1)
        inside = saturation[:, 1:-1, 1:-1]
        ring = saturation.sum() - inside.sum(), saturation.size - inside.size
        known = (layouts >= 0) & (layouts < num_classes)
        ids, pixels = layouts[known], np.pad(x[known], ((0, 0), (0, 1)), constant_values=1)
        colours = [np.bincount(ids, weights=channel, minlength=num_classes) for channel in pixels.T]
        return cls(
            laplacians,
            np.array([ring, (inside.sum(), inside.size)], np.int64),
            np.stack(colours, axis=-1).astype(np.int64),
        )

    @property
    def parts(self) -> list[np.ndarray]:
        return [getattr(self, field.name) for field in fields(self)]

    @property
    def grain(self) -> float:
        """The median |Laplacian|: half of the pixels differ from their neighbours by less."""
        below = np.cumsum(self.laplacians)
        middle = below[-1] / 2
        at = int(np.searchsorted(below, middle))
        return at - 0.5 + (middle - (below[at] - self.laplacians[at])) / max(self.laplacians[at], 1)

    @property
    def frame(self) -> float:
        """The saturation of the outermost ring over that of the rest."""
        ring, rest = (total / max(number, 1) for total, number in self.saturation)
        return ring / rest if rest else float("nan")

    def grain_over(self, real: "Looks") -> float:
        return self.grain / real.grain if real.grain > 0 else float("nan")

    def frame_over(self, real: "Looks") -> float:
        return self.frame / real.frame if real.frame > 0 else float("nan")

    def colours_off(self, real: "Looks") -> float:
        """How far the mean colours of classes are from the real ones, root mean square over classes and channels, of 255."""
        seen = (self.colours[:, 3] > 0) & (real.colours[:, 3] > 0)
        mine, theirs = (c[seen, :3] / c[seen, 3:] for c in (self.colours, real.colours))
        return float(np.sqrt(np.mean((mine - theirs) ** 2))) if seen.any() else float("nan")
