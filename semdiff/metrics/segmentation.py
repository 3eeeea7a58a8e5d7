"""How well a predicted layout agrees with the true one, from confusion counts."""

from collections.abc import Collection
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Confusion:
    """counts[i, j]: pixels of true class i read as class j."""

    counts: np.ndarray  # [K, K] int64

    @classmethod
    def of(
        cls, true: np.ndarray, read: np.ndarray, num_classes: int, ignore: Collection[int] = ()
    ) -> "Confusion":
        """Without the pixels whose true class is one of `ignore`."""
        true, read = np.asarray(true, np.int64).ravel(), np.asarray(read, np.int64).ravel()
        counted = ~np.isin(true, list(ignore))
        true, read = true[counted], read[counted]
        counts = np.bincount(num_classes * true + read, minlength=num_classes**2)
        return cls(counts.reshape(num_classes, num_classes))

    @property
    def iou(self) -> np.ndarray:
        """Intersection over union per class; nan for classes that occur neither in truth nor in reading."""
        hit = np.diag(self.counts)
        union = self.counts.sum(0) + self.counts.sum(1) - hit
        return np.where(union > 0, hit / np.maximum(union, 1), np.nan)

    @property
    def present(self) -> np.ndarray:
        """Classes that occur in the truth."""
        return self.counts.sum(1) > 0

    @property
    def mean_iou(self) -> float:
        """Over the classes that occur in the truth."""
        return float(np.mean(self.iou[self.present]))

    @property
    def accuracy(self) -> float:
        return float(np.diag(self.counts).sum() / max(self.counts.sum(), 1))
