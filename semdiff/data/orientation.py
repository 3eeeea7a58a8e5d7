"""Images that are stored turned or mirrored, as cameras do, and the label maps that were drawn on them."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from PIL import ExifTags, Image

from semdiff.data.image_file import DataError

UPRIGHT = 1
Turn = Callable[[np.ndarray], np.ndarray]
_TURNS: dict[int, Turn] = {  # EXIF orientation -> what turns stored pixels upright
    2: lambda pixels: pixels[:, ::-1],
    3: lambda pixels: pixels[::-1, ::-1],
    4: lambda pixels: pixels[::-1],
    5: lambda pixels: pixels.swapaxes(0, 1),
    6: lambda pixels: np.rot90(pixels, -1),
    7: lambda pixels: np.rot90(pixels, 2).swapaxes(0, 1),
    8: np.rot90,
}
_ON_THE_SIDE = (5, 6, 7, 8)  # height and width change places
_ASPECT_TOLERANCE = 0.02  # more than rounding: another picture, or one turned on its side


def orientation_of(image: Image.Image) -> int:
    """The EXIF orientation of an opened file; UPRIGHT where there is none, or one that means nothing."""
    found = image.getexif().get(ExifTags.Base.Orientation)
    return found if found in _TURNS else UPRIGHT


def upright(pixels: np.ndarray, orientation: int) -> np.ndarray:
    return pixels if orientation == UPRIGHT else np.ascontiguousarray(_TURNS[orientation](pixels))


def same_shape(one: tuple[int, ...], other: tuple[int, ...]) -> bool:
    """Whether sizes (height, width) differ in scale alone."""
    return abs(one[1] * other[0] / (one[0] * other[1]) - 1) <= _ASPECT_TOLERANCE


@dataclass(frozen=True)
class Photo:
    """An image as it is shown: `pixels` are upright, `orientation` tells how the file has them."""

    path: str | os.PathLike
    pixels: np.ndarray
    orientation: int

    def align(self, labels: np.ndarray, path: str | os.PathLike) -> np.ndarray:
        """The numbers [H,W] of the file `path`, upright as well, whichever way round they were drawn.

        Their size tells, where it does: numbers that fit the stored pixels alone are turned with them.
        """
        shown = self.pixels.shape[:2]
        stored = shown[::-1] if self.orientation in _ON_THE_SIDE else shown
        if self.orientation == UPRIGHT:
            return labels
        for fits in (tuple.__eq__, same_shape):
            fits_shown, fits_stored = fits(labels.shape, shown), fits(labels.shape, stored)
            if fits_shown and fits_stored:
                raise self._ambiguous(path)
            if fits_shown or fits_stored:
                return labels if fits_shown else upright(labels, self.orientation)
        return labels  # of another shape, which is not a matter of turning

    def _ambiguous(self, path: str | os.PathLike) -> DataError:
        return DataError(
            f"{path}: belongs to {self.path}, whose EXIF orientation is {self.orientation} (shown turned or"
            " mirrored), and fits it both as it is stored and as it is shown. Expected a pair that agrees"
            " without that tag. If this file was drawn on the image as viewers show it, bake the orientation"
            f" in: `mogrify -auto-orient {self.path}`; if it was drawn on the stored pixels, remove the tag:"
            f" `exiftool -Orientation= {self.path}`."
        )
