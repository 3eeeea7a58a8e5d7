"""Images as an autoencoder has encoded them, once: `--mode=latents` writes such a folder of ArrayRecords.

Of each image a record holds mean and deviation of its latents, as it is and mirrored: float16 [2, h, w, 2C]. latents.json
says of what data and which autoencoder they are.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from array_record.python import array_record_data_source, array_record_module

from semdiff.data import augment
from semdiff.data.images import DataError
from semdiff.data.source import Example, Info, Source

FORMAT = "semdiff.latents.1"
ABOUT = "latents.json"
IN_A_FILE = 1024  # images


def about(
    space: str, fingerprint: str, size: Sequence[int], shape: Sequence[int], images: int
) -> dict[str, Any]:
    """space: which autoencoder; fingerprint: of the source; shape: of one image's latents, [h, w, C]."""
    return {
        "format": FORMAT,
        "space": space,
        "fingerprint": fingerprint,
        "size": list(size),
        "shape": list(shape),
        "images": images,
    }


def files(folder: Path, images: int) -> list[Path]:
    """One for every so many images, in their order."""
    count = -(-images // IN_A_FILE)
    return [folder / f"latents-{i:05}-of-{count:05}.array_record" for i in range(count)]


def of_file(number: int, images: int) -> range:
    """The images of a file."""
    return range(number * IN_A_FILE, min((number + 1) * IN_A_FILE, images))


def write_file(path: Path, records: Iterator[np.ndarray]):
    """Whole, or not at all."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    writer = array_record_module.ArrayRecordWriter(str(temporary), "group_size:1")
    try:
        for record in records:
            writer.write(np.asarray(record, np.float16).tobytes())
        writer.close()
        os.replace(temporary, path)
    finally:
        if writer.is_open():
            writer.close()
        temporary.unlink(missing_ok=True)


def fitted(example: Example, size: augment.Size) -> np.ndarray:
    """The image at `size`, where there is only one way to crop it so."""
    shape = example["layout"].shape[:2]
    if augment.covering(shape, size) != tuple(size):
        raise DataError(
            f"{example['name']}: is of {shape[0]} x {shape[1]}, of which {size[0]} x {size[1]} is cropped in many ways, and "
            "latents are of one. Give images of these proportions, or train without config.data.latents"
        )
    return augment.squash({"image": example["image"], "layout": example["layout"]}, size)["image"]


class Encoded:
    """A source whose examples have "latents", float32 [2, h, w, 2C]: mean and deviation, as they are and mirrored."""

    def __init__(self, source: Source, folder: Path):
        self.source, self.folder = source, folder
        self.info: Info = source.info
        self.about = read_about(folder)
        self._records: Any = None
        missing = [path.name for path in files(folder, self.about["images"]) if not path.exists()]
        if missing:
            raise DataError(
                f"{folder}: {missing[0]} and {len(missing) - 1} others are missing. Run --mode=latents again: it goes on "
                "where it was"
            )

    def check(self, wanted: dict[str, Any]):
        """That these latents are what would be computed."""
        for key, here in wanted.items():
            if self.about.get(key) != here:
                raise DataError(
                    f"{self.folder / ABOUT}: {key} is {self.about.get(key)!r}, but this run's is {here!r}. Encode the "
                    "images again, into another folder: --mode=latents"
                )

    def __len__(self) -> int:
        return len(self.source)

    def __getitem__(self, index: int) -> Example:
        if self._records is None:
            paths = [str(path) for path in files(self.folder, self.about["images"])]
            self._records = array_record_data_source.ArrayRecordDataSource(paths)
        height, width, channels = self.about["shape"]
        content = self._records[index]
        if len(content) != 2 * height * width * 2 * channels * 2:
            raise DataError(
                f"{self.folder}: record {index} is damaged. Remove its file and run --mode=latents again"
            )
        latents = np.frombuffer(content, np.float16).reshape(2, height, width, 2 * channels)
        return {**self.source[index], "latents": latents.astype(np.float32)}

    def __reduce__(self):
        return Encoded, (self.source, self.folder)


def read_about(folder: Path) -> dict[str, Any]:
    expected = "Expected a folder that --mode=latents wrote"
    try:
        written = json.loads((folder / ABOUT).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DataError(f"{folder / ABOUT}: cannot be read ({str(error)[:80]}). {expected}") from error
    if not isinstance(written, dict) or written.get("format") != FORMAT:
        raise DataError(f"{folder / ABOUT}: its format is not {FORMAT}. {expected}")
    return written
