"""How large and how frequent each class of a data set is, and what SCDM's schedule makes of it: psi and phi."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, is_dataclass
from pathlib import Path

import numpy as np

from semdiff.data.images import DataError
from semdiff.data.source import Source

# psi phi of ADE20K, COCO-Stuff and CelebAMask-HQ as SCDM released them (github.com/mlvlab/SCDM, *_psiphi.npy), with the
# unlabelled class of the first two at 0.5, as that code sets it.
RELEASED = Path(__file__).with_name("released_rates.json")
RARITY = 0.288  # phi = RARITY (-ln f): fits the released vector of ADE20K
_THREADS = 4
_CHUNK = 64


@dataclass(frozen=True)
class Counts:
    """Over `images` label maps: how many show each class, and how many of its pixels there are."""

    images: int
    showing: np.ndarray  # [K] int64
    pixels: np.ndarray  # [K] int64

    def __add__(self, other: Counts) -> Counts:
        return Counts(self.images + other.images, self.showing + other.showing, self.pixels + other.pixels)

    @property
    def absent(self) -> np.ndarray:
        """Ids of classes without a pixel."""
        return np.flatnonzero(self.pixels == 0)

    @property
    def psi(self) -> np.ndarray:
        """Inverse share of the pixels: large where a class covers little. Absent classes have the largest."""
        return self._of_present(lambda seen: self.pixels.sum() / self.pixels[seen])

    @property
    def phi(self) -> np.ndarray:
        """RARITY ln((N + 1) / n_c), n_c of N images showing the class: large where it is rare, never 0."""
        return self._of_present(lambda seen: RARITY * np.log((self.images + 1) / self.showing[seen]))

    @property
    def rates(self) -> np.ndarray:
        """psi phi (2402.16506): lambda of SCDM's schedule, before eta."""
        return self._of_present(lambda seen: self.psi[seen] * self.phi[seen])

    def _of_present(self, value: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
        seen = self.pixels > 0
        values = np.empty(len(seen))
        values[seen] = value(seen)
        values[~seen] = values[seen].max()
        return values


def count(source: Source, indices: Sequence[int], report: Callable[[int], None] | None = None) -> Counts:
    """One pass over these examples' label maps, several at a time."""
    classes = source.info.num_classes
    total = Counts(0, np.zeros(classes, np.int64), np.zeros(classes, np.int64))
    # A source that can read labels alone spares the images.
    read = getattr(source, "layout", lambda index: source[index]["layout"])

    def of_one(index: int) -> Counts:
        pixels = np.bincount(np.asarray(read(index)).ravel(), minlength=classes)
        return Counts(1, (pixels > 0).astype(np.int64), pixels.astype(np.int64))

    with ThreadPoolExecutor(_THREADS) as threads:
        for start in range(0, len(indices), _CHUNK):
            total = sum(threads.map(of_one, indices[start : start + _CHUNK]), total)
            if report:
                report(total.images)
    return total


def fingerprint(source: Source) -> str:
    """A short hash of what a source lists: its classes and the names of its files (without opening them) or its settings."""
    contents: list[str] | str
    while hasattr(source, "source"):  # what examples are given beside their own
        source = source.source
    if hasattr(source, "files"):
        contents = [f.name for f in source.files]
    else:
        contents = repr(source) if is_dataclass(source) else ""
    facts = [source.info.name, list(source.info.names), len(source), contents]
    return hashlib.sha256(json.dumps(facts).encode()).hexdigest()[:12]


def as_json(counts: Counts, source: Source, split: str) -> dict:
    """The statistics of a split, for people and for `read_rates`."""
    columns = zip(source.info.names, counts.showing, counts.pixels, counts.psi, counts.phi, counts.rates)
    return {
        "data": source.info.name,
        "split": split,
        "images": counts.images,
        "fingerprint": fingerprint(source),
        "classes": [
            {
                "name": name,
                "images": int(showing),
                "pixels": int(pixels),
                "psi": float(psi),
                "phi": float(phi),
                "rate": float(rate),
            }
            for name, showing, pixels, psi, phi, rate in columns
        ],
    }


def released_rates(name: str) -> np.ndarray:
    return np.asarray(json.loads(RELEASED.read_text())[name])


def read_rates(path: str | Path) -> np.ndarray:
    """psi phi per class from a .npy, a JSON list or a file that `as_json` made; a .npy may hold a table of gamma."""
    path = Path(path).expanduser()
    expected = (
        "Expected a .npy of one number per class, a JSON list, or the class_rates.json of --mode=stats."
    )
    try:
        if path.suffix == ".npy":
            return np.asarray(np.load(path, allow_pickle=False), np.float64)
        written = json.loads(path.read_text(encoding="utf-8"))
        values = [entry["rate"] for entry in written["classes"]] if isinstance(written, dict) else written
        return np.asarray(values, np.float64)
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror or error}). {expected}") from error
    except (ValueError, KeyError, TypeError, EOFError) as error:
        raise DataError(f"{path}: holds no class rates ({error!r}). {expected}") from error
