"""Prompts as an encoder of text states them, computed beforehand: `python -m semdiff.prompts` writes such a folder.

prompts.json says what they are of; prompts.npy [2, L, W] has the negative prompt, then the one of all images; captions.npy
[N, L, W], where there are captions, those of images, whose names stand in prompts.json.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from semdiff.data.images import DataError
from semdiff.data.source import Example, Info, Source

FORMAT = "semdiff.prompts.1"
ABOUT, TABLE, CAPTIONS = "prompts.json", "prompts.npy", "captions.npy"


@dataclass(frozen=True)
class Prompts:
    """table [2, L, W]; captions [N, L, W], a row of them for each of an image's, or None."""

    table: np.ndarray
    captions: np.ndarray | None = None
    rows: dict[str, list[int]] = field(default_factory=dict)

    @property
    def shape(self) -> tuple[int, int]:
        """Of a prompt: its length, and numbers in a state."""
        return self.table.shape[1], self.table.shape[2]


def read(folder: Path) -> Prompts:
    expected = "Expected a folder that `python -m semdiff.prompts` wrote"
    try:
        about = json.loads((folder / ABOUT).read_text(encoding="utf-8"))
        if about["format"] != FORMAT:
            raise ValueError(f"its format is not {FORMAT}")
        table = np.load(folder / TABLE, allow_pickle=False)
        names = about["names"]
        captions = np.load(folder / CAPTIONS, mmap_mode="r", allow_pickle=False) if names else None
    except (OSError, ValueError, KeyError, TypeError, EOFError) as error:
        raise DataError(f"{folder}: cannot be read ({str(error)[:120]}). {expected}") from error
    if table.ndim != 3 or len(table) != 2 or not np.isfinite(table).all():
        raise DataError(
            f"{folder / TABLE}: is of shape {table.shape}, or not finite. Expected (2, length, width). {expected}"
        )
    if captions is not None and captions.shape != (len(names), *table.shape[1:]):
        want = (len(names), *table.shape[1:])
        raise DataError(f"{folder / CAPTIONS}: is of shape {captions.shape}, not {want}. {expected}")
    rows: dict[str, list[int]] = {}
    for row, name in enumerate(names):
        rows.setdefault(str(name), []).append(row)
    return Prompts(table, captions, rows)


def write(
    folder: Path,
    table: np.ndarray,
    captions: np.ndarray | None,
    names: Sequence[str],
    said: dict[str, str],
):
    """said: the texts and the encoder, for whoever looks."""
    folder.mkdir(parents=True, exist_ok=True)
    np.save(folder / TABLE, table.astype(np.float32))
    if captions is not None:
        np.save(folder / CAPTIONS, captions.astype(np.float16))
    about = {"format": FORMAT, **said, "names": list(names)}
    (folder / ABOUT).write_text(json.dumps(about, indent=1) + "\n", encoding="utf-8")


class Prompted:
    """A source whose examples have "states", float16 [n, L, W], of their own captions; zeros [1, L, W] where they have none.

    share: only so many of the examples have theirs, chosen once by their numbers.
    """

    def __init__(self, source: Source, folder: Path, share: float = 1.0):
        self.source, self.folder, self.share = source, folder, share
        self.info: Info = source.info
        self._prompts: Prompts | None = None
        if not any(name in self.prompts.rows for name in _names(source)):
            first = ", ".join(list(self.prompts.rows)[:3])
            raise DataError(
                f"{folder}: none of its captions is of an image here. They are of {first}, ...; the images are called "
                f"{', '.join(_names(source))}, ..."
            )

    @property
    def prompts(self) -> Prompts:
        if self._prompts is None:
            self._prompts = read(self.folder)
        return self._prompts

    def __len__(self) -> int:
        return len(self.source)

    def __getitem__(self, index: int) -> Example:
        example = self.source[index]
        told = int((index + 1) * self.share) > int(index * self.share)
        rows = self.prompts.rows.get(example["name"], []) if told else []
        captions = self.prompts.captions
        if captions is None or not rows:
            return {**example, "states": np.zeros((1, *self.prompts.shape), np.float16)}
        return {**example, "states": np.asarray(captions[rows], np.float16)}

    def __reduce__(self):
        return Prompted, (self.source, self.folder, self.share)


def _names(source: Source, most: int = 8) -> list[str]:
    """Of some examples from all over."""
    count = len(source)
    return [
        source[i]["name"] for i in sorted({round(k * (count - 1) / max(most - 1, 1)) for k in range(most)})
    ]
