"""Label maps whose colours say which class a pixel is of: RGB files, and palettes that were reordered."""

from __future__ import annotations

import os
from collections.abc import Sequence

import numpy as np

from semdiff.data.image_file import DataError

_BLACK = 0
_SHOWN = 8  # values listed in a message before it says "and more"


def ids_of_colours(
    path: str | os.PathLike, rgb: np.ndarray, palette: Sequence[Sequence[int]] | None
) -> np.ndarray:
    """The row of `palette` that each pixel's colour is."""
    if not palette:
        raise DataError(
            f"{path}: the label map is colour-coded (RGB) but no colours are known for the classes."
            ' Expected a PNG of class ids; or give every class a "color" in dataset.json.'
        )
    table = _pack(np.asarray(palette, np.int32))
    order = np.argsort(table, kind="stable")
    twins = order[1:][table[order][1:] == table[order][:-1]]
    if len(twins):
        colour = tuple(palette[twins[0]])
        classes = [i for i, other in enumerate(palette) if tuple(other) == colour]
        raise DataError(
            f"{path}: the label map is colour-coded, and classes {classes} share the colour"
            f" {colour}. Expected one colour per class. Correct the colours in dataset.json, or"
            " store the labels as class ids."
        )
    pixels = _pack(rgb.astype(np.int32))
    place = np.minimum(np.searchsorted(table[order], pixels), len(table) - 1)
    ids = order[place]
    unknown = pixels[table[ids] != pixels]
    if unknown.size:
        found, counts = np.unique(unknown, return_counts=True)
        shown = ", ".join(
            f"{_unpack(v)} ({n} pixel{'s' if n != 1 else ''})"
            for v, n in zip(found[:_SHOWN].tolist(), counts[:_SHOWN].tolist())
        )
        more = f" and {len(found) - _SHOWN} more" if len(found) > _SHOWN else ""
        raise DataError(
            f"{path}: colours that no class has: {shown}{more}. Expected only the"
            f" {len(table)} colours of dataset.json. Add the missing classes there; if the colours"
            " look blended, the file was resized or stored as JPEG: make it again from the original"
            " with nearest-neighbour sampling, as PNG."
        )
    return ids.astype(np.int32)


def is_reordered(
    path: str | os.PathLike,
    indices: np.ndarray,
    own: np.ndarray,
    ids: Sequence[int],
    palette: Sequence[Sequence[int]],
) -> bool:
    """Whether the palette `own` of a file has the classes' colours at other indices than their ids.

    A palette of other colours is decoration, and the indices are ids. Black tells nothing where another
    colour does: most palettes begin with it and are filled up with it.
    """
    colours, classes = _pack(own), _pack(np.asarray(palette, np.int32))
    used = np.isin(np.arange(len(colours)), indices)
    known = np.isin(colours, classes)
    moved = known & ~_at_home(colours, classes, ids)
    lit = colours != _BLACK
    foreign = ~known & lit
    if (used & lit).any():
        reordered = (moved & used & lit).any()
        contradictory = reordered and foreign.any()
    else:
        reordered = (moved & lit).any() and not foreign.any()
        contradictory = False
    black_moved = (moved & used & ~lit)[: len(classes)].any()
    if contradictory or (black_moved and not reordered and not foreign.any()):
        raise _contradiction(path, colours, classes, moved & used, foreign)
    return bool(reordered)


def _at_home(colours: np.ndarray, classes: np.ndarray, ids: Sequence[int]) -> np.ndarray:
    """Which indices have the colour of the class of that id, or of the class that they are sent to."""
    home = np.zeros(len(colours), bool)
    for index, colour in enumerate(colours):
        meant = {index, ids[index] if index < len(ids) else -1}
        home[index] = any(0 <= i < len(classes) and classes[i] == colour for i in meant)
    return home


def _contradiction(path, colours, classes, moved: np.ndarray, foreign: np.ndarray) -> DataError:
    words = [
        f"index {i} is {_unpack(colours[i])}, the colour of class {np.flatnonzero(classes == colours[i])[0]}"
        for i in np.flatnonzero(moved)[:_SHOWN]
    ]
    words += [f"index {i} is {_unpack(colours[i])}, of no class" for i in np.flatnonzero(foreign)[:1]]
    return DataError(
        f"{path}: its palette contradicts itself: {', '.join(words)}. Expected the classes' colours in the"
        " order of the ids, or in any order and no others (the colours then tell the class), or other colours"
        " (the indices are then ids). Store the label map as 8-bit ids without a palette, or as RGB."
    )


def _unpack(colour: int) -> tuple[int, int, int]:
    return int(colour) >> 16, int(colour) >> 8 & 255, int(colour) & 255


def _pack(rgb: np.ndarray) -> np.ndarray:
    return rgb[..., 0] << 16 | rgb[..., 1] << 8 | rgb[..., 2]
