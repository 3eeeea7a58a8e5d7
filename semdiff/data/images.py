"""Reading images, label maps and instance maps. Every failure names the file and what to do."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image

from semdiff.data.colours import ids_of_colours, is_reordered
from semdiff.data.image_file import EXACT, PHOTOS, DataError, load
from semdiff.data.orientation import UPRIGHT, Photo, orientation_of, upright

IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg")
_DEEP_MODES = ("I", "I;16", "I;16B", "I;16L", "I;16N")  # more than 8 bits per pixel
_SHOWN = 8  # values listed in a message before it says "and more"


@dataclass(frozen=True)
class LabelFormat:
    """How the pixels of a label file become class ids.

    `ids[raw]` is the class of the raw value `raw`; -1, or a raw value past the end, is an error.
    `palette` decodes colour-coded files: the colour in row i is the raw value i. Palette files hold raw
    values, unless their own palette has these colours in another order.
    """

    ids: tuple[int, ...]
    palette: tuple[tuple[int, int, int], ...] | None = None
    advice: str = ""

    @property
    def num_classes(self) -> int:
        return max(self.ids) + 1


def _load_exact(path: str | os.PathLike, what: str) -> Image.Image:
    """A file of numbers. One that asks to be turned may have been drawn either way: it is refused."""
    image = load(path, what, EXACT)
    if (orientation := orientation_of(image)) != UPRIGHT:
        raise DataError(
            f"{path}: its EXIF orientation is {orientation} (shown turned or mirrored). Expected {what} that"
            f" is stored upright. Turn it so (`mogrify -auto-orient {path}`), or where its pixels lie right as"
            f" they are stored, remove the tag (`exiftool -Orientation= {path}`)."
        )
    return image


def _wrong_mode(path: str | os.PathLike, what: str, mode: str, expected: str) -> DataError:
    return DataError(
        f"{path}: {what} is stored in the pixel mode {mode!r}. Expected {expected}. Convert the file."
    )


def read_image(path: str | os.PathLike) -> np.ndarray:
    """uint8 [H,W,3], upright. 16-bit grey is scaled to 8 bits; transparent pixels are laid over white."""
    return read_photo(path).pixels


def read_photo(path: str | os.PathLike) -> Photo:
    """`read_image`, for those who have label maps to lay on it."""
    image = load(path, "an image", PHOTOS)
    orientation = orientation_of(image)
    return Photo(path, upright(_rgb(path, image), orientation), orientation)


def _rgb(path: str | os.PathLike, image: Image.Image) -> np.ndarray:
    if image.mode in _DEEP_MODES:
        grey = _eight_bits(path, np.asarray(image))
        return np.repeat(grey[:, :, None], 3, axis=2)
    if image.mode == "F":
        raise _wrong_mode(path, "the image", image.mode, "grey, RGB, RGBA, CMYK or 16-bit grey")
    if "A" in image.mode or "a" in image.mode or "transparency" in image.info:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return np.asarray(image.convert("RGB"))


def _eight_bits(path: str | os.PathLike, deep: np.ndarray) -> np.ndarray:
    deep = deep.astype(np.int64)
    if deep.min() < 0 or deep.max() > 0xFFFF:
        raise DataError(
            f"{path}: grey values from {deep.min()} to {deep.max()}. Expected 0..65535 (16 bits)."
            " Rescale the image to 8 or 16 bits."
        )
    return ((deep + 128) // 257).astype(np.uint8)


def _integers(image: Image.Image) -> np.ndarray:
    """Single-channel pixels at their full precision, in native byte order; palettes as indices."""
    array = np.asarray(image)
    if array.dtype == bool:
        return array.astype(np.uint8)
    return array.astype(array.dtype.newbyteorder("="), copy=False)


def describe_values(values: np.ndarray) -> str:
    """`12 (345 pixels), 255 (3 pixels)`."""
    found, pixels = np.unique(values, return_counts=True)
    shown = ", ".join(
        f"{value} ({count} pixel{'s' if count != 1 else ''})"
        for value, count in zip(found[:_SHOWN], pixels[:_SHOWN])
    )
    return shown + (f" and {len(found) - _SHOWN} more" if len(found) > _SHOWN else "")


def read_raw_labels(path: str | os.PathLike, labels: LabelFormat | None = None) -> np.ndarray:
    """The label values [H,W]: ids and palette indices as stored; rows of `labels.palette` where colours tell."""
    image = _load_exact(path, "a label map")
    colours = labels.palette if labels else None
    if image.mode in ("RGB", "RGBA"):
        return ids_of_colours(path, np.asarray(image)[:, :, :3], colours)
    if image.mode not in ("1", "L", "P", *_DEEP_MODES):
        raise _wrong_mode(path, "the label map", image.mode, "8- or 16-bit ids, a palette PNG or RGB colours")
    raw = _integers(image)
    if image.mode == "P" and labels and colours:
        own = np.zeros((256, 3), np.int32)  # black where the file says nothing, as viewers show it
        stored = image.getpalette("RGB") or []
        own.flat[: len(stored)] = stored
        if is_reordered(path, raw, own, labels.ids, colours):
            return ids_of_colours(path, own[raw], colours)
    return raw


def read_layout(path: str | os.PathLike, labels: LabelFormat) -> np.ndarray:
    """Class ids [H,W], uint8 where they fit, else uint16."""
    raw = read_raw_labels(path, labels)
    # The entry after the last one catches every larger value (mode="clip").
    table = np.asarray([*labels.ids, -1], np.int32)
    ids = np.take(table, raw, mode="clip")
    bad = ids < 0
    if raw.dtype.kind == "i":
        bad |= raw < 0  # "clip" would turn these into 0
    if bad.any():
        known = [raw_id for raw_id, class_id in enumerate(labels.ids) if class_id >= 0]
        raise DataError(
            f"{path}: label ids that belong to no class: {describe_values(raw[bad])}. Expected"
            f" {_ranges(known)} ({labels.num_classes} classes). {labels.advice}".rstrip()
        )
    return ids.astype(np.uint8 if labels.num_classes <= 256 else np.uint16)


def _ranges(values: Sequence[int]) -> str:
    """`0..11 or 255` for 0, 1, ..., 11, 255 (sorted)."""
    parts, start = [], 0
    for i, value in enumerate(values):
        if i + 1 == len(values) or values[i + 1] != value + 1:
            parts.append(f"{values[start]}..{value}" if i > start else f"{value}")
            start = i + 1
    return " or ".join(parts)


def read_instances(path: str | os.PathLike) -> np.ndarray:
    """int32 [H,W] at full precision; RGB is the panoptic packing r + 256 g + 65536 b."""
    image = _load_exact(path, "an instance map")
    if image.mode in ("RGB", "RGBA"):
        r, g, b = np.moveaxis(np.asarray(image)[:, :, :3].astype(np.int32), 2, 0)
        return r + 256 * g + 65536 * b
    if image.mode not in ("1", "L", "P", *_DEEP_MODES):
        raise _wrong_mode(
            path, "the instance map", image.mode, "8- or 16-bit ids, or RGB as r + 256 g + 65536 b"
        )
    ids = _integers(image).astype(np.int32)
    if ids.min() < 0:
        raise DataError(
            f"{path}: negative instance ids: {describe_values(ids[ids < 0])}. Expected 0 (no"
            " instance) or a positive id. Store the map as a 16-bit PNG."
        )
    return ids


def read_mask(path: str | os.PathLike) -> np.ndarray:
    """bool [H,W]: where a part mask is not black."""
    return np.asarray(_load_exact(path, "a part mask").convert("L")) > 0
