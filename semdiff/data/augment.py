"""Crops, flips and edges of examples, as pure functions on arrays.

Images are resampled with Pillow's bicubic filter, whose support grows with the reduction, so that
nothing aliases; beyond a reduction by `_REDUCING_GAP` whole blocks are averaged first, for speed.
Labels and instances are the value at the nearest source pixel centre, in integer arithmetic. A
crop is resampled from its own window of the source; the rest of the image is never computed.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from PIL import Image

from semdiff.data.source import Example

Size = tuple[int, int]  # height, width
_REDUCING_GAP = 2.0


def edges(instance: np.ndarray) -> np.ndarray:
    """uint8 [H,W]: 1 where any of the four neighbours has another instance id."""
    found = np.zeros(instance.shape, np.uint8)
    below = instance[1:] != instance[:-1]
    right = instance[:, 1:] != instance[:, :-1]
    found[1:] |= below
    found[:-1] |= below
    found[:, 1:] |= right
    found[:, :-1] |= right
    return found


def flip(example: Example, flip_pairs: Sequence[tuple[int, int]] = ()) -> Example:
    """The mirror image; classes that name a side change places with their partners."""
    mirrored = dict(example)
    for key in ("image", "layout", "instance"):
        if key in example:
            mirrored[key] = np.ascontiguousarray(example[key][:, ::-1])
    if flip_pairs:
        layout = mirrored["layout"]
        ids = np.arange(max(int(layout.max()), *map(max, flip_pairs)) + 1, dtype=layout.dtype)
        for left, right in flip_pairs:
            ids[left], ids[right] = right, left
        mirrored["layout"] = ids[layout]
    return mirrored


def train_crop(example: Example, size: Size, max_scale: float, rng: np.random.Generator) -> Example:
    """A random window: the short side to U[1, max_scale] times what just covers `size`."""
    scale = rng.uniform(1.0, max_scale)
    height, width = _cover(_shape(example), size, scale)
    top = int(rng.integers(0, height - size[0], endpoint=True))
    left = int(rng.integers(0, width - size[1], endpoint=True))
    return _window(example, (height, width), (top, left), size)


def squash(example: Example, size: Size) -> Example:
    """The whole example at `size`, whatever happens to its proportions."""
    return _window(example, size, (0, 0), size)


def padded(array: np.ndarray | None, multiple: int) -> np.ndarray | None:
    """Extended at the lower and right border by repetition, to multiples of what a network needs."""
    if array is None:
        return None
    after = [(0, -n % multiple) for n in array.shape[:2]]
    return np.pad(array, after + [(0, 0)] * (array.ndim - 2), mode="edge")


def nearest(values: np.ndarray, size: Size) -> np.ndarray:
    """`values` [H,W,...] sampled at the pixel centres of a grid of `size`."""
    return _nearest(values, size, (0, 0), size)


def covering(shape: Size, size: Size) -> Size:
    """`shape` reduced or enlarged to the least that covers `size`."""
    return _cover(shape, size, 1.0)


def _shape(example: Example) -> Size:
    return example["layout"].shape[:2]


def _cover(shape: Size, size: Size, scale: float) -> Size:
    """`shape` times one factor (up to rounding): `scale` times the least that covers `size`."""
    factor = scale * max(size[0] / shape[0], size[1] / shape[1])
    return max(size[0], round(shape[0] * factor)), max(size[1], round(shape[1] * factor))


def _window(example: Example, resized: Size, corner: Size, size: Size) -> Example:
    """The example resized to `resized`, of which only the window at `corner` is computed."""
    window = dict(example)
    if "image" in example:
        window["image"] = _smooth(example["image"], resized, corner, size)
    for key in ("layout", "instance"):
        if key in example:
            window[key] = _nearest(example[key], resized, corner, size)
    return window


def _cut(values: np.ndarray, corner: Size, size: Size) -> np.ndarray:
    (top, left), (height, width) = corner, size
    return np.ascontiguousarray(values[top : top + height, left : left + width])


def _nearest(values: np.ndarray, resized: Size, corner: Size, size: Size) -> np.ndarray:
    if values.shape[:2] == tuple(resized):
        return _cut(values, corner, size)
    # Pixel i of n covers the source from i m / n to (i + 1) m / n; its centre is (2i + 1) m / 2n.
    rows, columns = (
        (2 * (first + np.arange(count)) + 1) * there // (2 * here)
        for first, count, there, here in zip(corner, size, values.shape, resized)
    )
    return values[rows[:, None], columns]


def _smooth(image: np.ndarray, resized: Size, corner: Size, size: Size) -> np.ndarray:
    if image.shape[:2] == tuple(resized):
        return _cut(image, corner, size)
    down, across = (there / here for there, here in zip(image.shape, resized))
    (top, left), (height, width) = corner, size
    box = (left * across, top * down, (left + width) * across, (top + height) * down)
    # Rounding must not push the window past the image: Pillow refuses such a box.
    box = (box[0], box[1], min(box[2], image.shape[1]), min(box[3], image.shape[0]))
    small = Image.fromarray(image).resize(
        (width, height), Image.Resampling.BICUBIC, box=box, reducing_gap=_REDUCING_GAP
    )
    return np.asarray(small)
