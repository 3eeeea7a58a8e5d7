"""Texts as an encoder states them, computed beforehand: `python -m semdiff.prompts` writes such a folder.

prompts.json says what they are of. prompts.npy [2, L, W], where there are prompts: the negative one, that of all images.
states-NNNNN.npy [n, W] and lengths-NNNNN.npy: the states of captions, one after the other, and how many each has.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from semdiff.data.images import DataError
from semdiff.data.source import Example, Info, Source, some_names

FORMAT = "semdiff.prompts.2"
ABOUT, TABLE = "prompts.json", "prompts.npy"
SHARD = 1024  # captions in a file
_EXPECTED = "Expected a folder that `python -m semdiff.prompts` wrote"


@dataclass(frozen=True)
class Encoder:
    """What states are of: its name for people, a digest of its weights for programs; empty: not known."""

    name: str = ""
    digest: str = ""

    def __str__(self) -> str:
        return f"{self.name} ({self.digest})" if self.digest else "an encoder that is not known"


@dataclass(frozen=True)
class Prompts:
    """shape: how many states a text has at most, and numbers in a state. table [2, L, W], or None. captions: (name, text).
    states: the files of them; ends: where each caption's end in its file. rows: of a name its captions'."""

    folder: Path
    encoder: Encoder
    shape: tuple[int, int]
    table: np.ndarray | None
    captions: list[tuple[str, str]] = field(default_factory=list)
    states: list[np.ndarray] = field(default_factory=list)
    ends: list[np.ndarray] = field(default_factory=list)
    rows: dict[str, list[int]] = field(default_factory=dict)

    def of_row(self, row: int) -> np.ndarray:
        """Float16 [L, W], zeros behind a text's end."""
        shard, place = divmod(row, SHARD)
        ends = self.ends[shard]
        own = self.states[shard][ends[place - 1] if place else 0 : ends[place]]
        padded = np.zeros(self.shape, np.float16)
        padded[: len(own)] = own
        return padded


def read(folder: Path) -> Prompts:
    try:
        about = json.loads((folder / ABOUT).read_text(encoding="utf-8"))
        if about["format"] != FORMAT:
            raise ValueError(f"its format is not {FORMAT}")
        names, texts, shape = about["names"], about["texts"], (int(about["length"]), int(about["width"]))
        encoder = Encoder(str(about["encoder"]["name"]), str(about["encoder"]["digest"]))
        captions = [(str(name), str(text)) for name, text in zip(names, texts, strict=True)]
        table = _array(folder / TABLE) if (folder / TABLE).exists() else None
        shards = range(-(-len(captions) // SHARD))
        states = [_array(folder / states_name(i), mmap_mode="r") for i in shards]
        lengths = [_array(folder / lengths_name(i)) for i in shards]
    except (OSError, ValueError, KeyError, TypeError, EOFError) as error:
        raise DataError(f"{folder}: cannot be read ({str(error)[:160]}). {_EXPECTED}") from error
    if table is not None and (table.shape != (2, *shape) or not np.isfinite(table).all()):
        raise DataError(
            f"{folder / TABLE}: is of shape {table.shape}, or not finite. Expected {(2, *shape)}. {_EXPECTED}"
        )
    for i, (found, counts) in enumerate(zip(states, lengths, strict=True)):
        many = min(SHARD, len(captions) - i * SHARD)
        fits = counts.shape == (many,) and counts.dtype.kind in "iu" and counts.min() >= 0
        fits = fits and counts.max() <= shape[0]
        if not fits or found.shape != (counts.sum(), shape[1]) or found.dtype != np.float16:
            raise DataError(
                f"{folder / states_name(i)}: is of shape {found.shape}, {found.dtype}, and does not fit {lengths_name(i)} "
                f"or the {many} captions of {ABOUT}: copy the folder again. {_EXPECTED}"
            )
    rows: dict[str, list[int]] = {}
    for row, (name, _) in enumerate(captions):
        rows.setdefault(name, []).append(row)
    return Prompts(folder, encoder, shape, table, captions, states, [np.cumsum(c) for c in lengths], rows)


def states_name(shard: int) -> str:
    return f"states-{shard:05}.npy"


def lengths_name(shard: int) -> str:
    return f"lengths-{shard:05}.npy"


def _array(path: Path, **options) -> np.ndarray:
    return np.load(path, allow_pickle=False, **options)


def write_shard(folder: Path, shard: int, states: Sequence[np.ndarray]):
    """The states [n, W] of a shard's captions; lengths are written last, and say that all is there."""
    _write(folder / states_name(shard), np.concatenate(states).astype(np.float16))
    _write(folder / lengths_name(shard), np.array([len(own) for own in states], np.int32))


def is_written(folder: Path, shard: int) -> bool:
    return (folder / lengths_name(shard)).exists()


def write_about(
    folder: Path,
    encoder: Encoder,
    shape: tuple[int, int],
    captions: Sequence[tuple[str, str]] = (),
    table: np.ndarray | None = None,
    **said: Any,
):
    """What makes a folder of it. said: what else people may want to know."""
    if table is not None:
        _write(folder / TABLE, table.astype(np.float32))
    about = {
        "format": FORMAT,
        "encoder": {"name": encoder.name, "digest": encoder.digest},
        "length": shape[0],
        "width": shape[1],
        **said,
        "names": [name for name, _ in captions],
        "texts": [text for _, text in captions],
    }
    temporary = folder / f"{ABOUT}.tmp"
    temporary.write_text(json.dumps(about, indent=1) + "\n", encoding="utf-8")
    temporary.replace(folder / ABOUT)


def _write(path: Path, array: np.ndarray):
    """Whole or not at all."""
    temporary = path.with_suffix(".tmp")
    with temporary.open("wb") as file:
        np.save(file, array)
    temporary.replace(path)


class Prompted:
    """A source whose examples have "states", float16 [n, L, W], of their own captions; zeros [1, L, W] where they have none.

    share: only so many of the examples have theirs, chosen once by their numbers.
    """

    def __init__(self, source: Source, folder: Path, share: float = 1.0):
        self.source, self.folder, self.share = source, folder, share
        self.info: Info = source.info
        self._prompts: Prompts | None = None
        if not any(name in self.prompts.rows for name in some_names(source)):
            first = ", ".join(list(self.prompts.rows)[:3])
            raise DataError(
                f"{folder}: none of its captions is of an image here. They are of {first or 'nothing'}, ...; the images are "
                f"called {', '.join(some_names(source))}, ..."
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
        states = [self.prompts.of_row(row) for row in rows] or [np.zeros(self.prompts.shape, np.float16)]
        return {**example, "states": np.stack(states)}

    def __reduce__(self):
        return Prompted, (self.source, self.folder, self.share)


class Stated:
    """Captions and their states alone, without images; further ones of a name are numbered."""

    def __init__(self, prompts: Prompts, info: Info):
        self.prompts, self.info = prompts, info

    def __len__(self) -> int:
        return len(self.prompts.captions)

    def __getitem__(self, index: int) -> Example:
        name, caption = self.prompts.captions[index]
        place = self.prompts.rows[name].index(index)
        states = self.prompts.of_row(index)[None]
        return {"name": f"{name}_{place}" if place else name, "caption": caption, "states": states}
