"""Official releases, read where their archives unpack. Opening one only lists its files."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from semdiff.data import classes
from semdiff.data.images import IMAGE_SUFFIXES, DataError, LabelFormat, read_mask
from semdiff.data.readers.folder import Files, Paired, list_files, pair_files


def _folder(path: Path, structure: str) -> Path:
    if not path.is_dir():
        raise DataError(f"{path}: no such folder. Expected\n{structure}")
    return path


def _choose(root: Path, split: str, splits: Mapping[str, object], structure: str) -> None:
    if split not in splits:
        known = ", ".join(splits) or "none"
        raise DataError(f"{root}: no split {split!r}. Splits: {known}. Expected\n{structure}")


def _paired(
    where: Path,
    structure: str,
    images: Mapping[str, str],
    labels: Mapping[str, str],
    instances: Mapping[str, str] | None = None,
) -> list[Files]:
    try:
        files = pair_files(images, labels, instances, str(where))
    except DataError as error:
        raise DataError(f"{error} The structure is\n{structure}") from None
    if not files:
        raise DataError(f"{where}: no images and no label maps. Expected\n{structure}")
    return files


def _strict(ids: Sequence[int], unlabelled: int | None = None) -> LabelFormat:
    """Raw value i is the class ids[i], 255 is `unlabelled`, and nothing else may occur."""
    if unlabelled is not None:
        ids = (*ids, *[-1] * (255 - len(ids)), unlabelled)
    advice = "These are not label maps of the official release: unpack its annotations again."
    return LabelFormat(tuple(ids), advice=advice)


# What a split may be called -> its folder.
_ADE20K_SPLITS = {
    "train": "training",
    "val": "validation",
    "training": "training",
    "validation": "validation",
}
_COCO_SPLITS = {
    "train": "train2017",
    "val": "val2017",
    "train2017": "train2017",
    "val2017": "val2017",
}


class ADE20K(Paired):
    """The scene parsing benchmark: raw 0 (unlabelled) is class 150, raw 1..150 are 0..149."""

    STRUCTURE = """    ROOT/[ADEChallengeData2016/]images/{training,validation}/ADE_*.jpg
    ROOT/[ADEChallengeData2016/]annotations/{training,validation}/ADE_*.png"""

    def __init__(self, root: str | Path, split: str):
        root = _inside(root, "ADEChallengeData2016")
        _choose(root, split, _ADE20K_SPLITS, self.STRUCTURE)
        images, labels = (
            _folder(root / kind / _ADE20K_SPLITS[split], self.STRUCTURE) for kind in ("images", "annotations")
        )
        files = _paired(
            images,
            self.STRUCTURE,
            list_files(images, IMAGE_SUFFIXES),
            list_files(labels, (".png",)),
        )
        super().__init__(classes.ADE20K, files, _strict((150, *range(150))))


class Cityscapes(Paired):
    """Fine annotations as label ids 0..33, with instance ids at their full 16 bits.

    Official label files leave license plates (id -1) undrawn: such pixels hold what is behind them.
    Where a tool drew them as 255 they count as unlabeled, class 0. With num_classes=35, SPADE's
    number, they are class 34.
    """

    STRUCTURE = """    ROOT/leftImg8bit/SPLIT/CITY/*_leftImg8bit.png
    ROOT/gtFine/SPLIT/CITY/*_gtFine_labelIds.png
    ROOT/gtFine/SPLIT/CITY/*_gtFine_instanceIds.png"""

    def __init__(self, root: str | Path, split: str, *, num_classes: int = 34):
        root = Path(root)
        if num_classes not in (34, 35):
            raise DataError(
                f"{root}: num_classes is {num_classes}. Expected 34 (label ids 0..33, as SDM) or 35"
                " (license plates as class 34, as SPADE)."
            )
        _folder(root / "gtFine", self.STRUCTURE)
        pictures = _folder(root / "leftImg8bit", self.STRUCTURE)
        splits = {path.name: path for path in sorted(pictures.iterdir()) if path.is_dir()}
        _choose(pictures, split, splits, self.STRUCTURE)
        truth = _folder(root / "gtFine" / split, self.STRUCTURE)
        files = _paired(
            splits[split],
            self.STRUCTURE,
            _in_cities(splits[split], "_leftImg8bit.png"),
            _in_cities(truth, "_gtFine_labelIds.png"),
            _in_cities(truth, "_gtFine_instanceIds.png"),
        )
        plate = 34 if num_classes == 35 else 0
        info = classes.CITYSCAPES_35 if num_classes == 35 else classes.CITYSCAPES
        super().__init__(info, files, _strict(range(34), unlabelled=plate))


def _in_cities(folder: Path, ending: str) -> dict[str, str]:
    """`aachen_000000_000019` -> path, of the files with this ending in every city's folder."""
    paths = sorted(folder.glob(f"*/*{ending}"), key=lambda path: path.name)
    return {path.name.removesuffix(ending): str(path) for path in paths if not path.name.startswith(".")}


class COCOStuff(Paired):
    """Things and stuff: raw 0..181, and 255 (unlabelled) is class 182.

    Instance maps are no part of the release. Where there are maps as SPADE makes them, in
    train_inst/ and val_inst/, they are read.
    """

    STRUCTURE = """    ROOT/images/{train2017,val2017}/*.jpg
    ROOT/annotations/{train2017,val2017}/*.png (or stuffthingmaps/ for annotations/)
    optional: ROOT/{train_inst,val_inst}/*.png"""

    def __init__(self, root: str | Path, split: str):
        root = Path(root)
        _choose(root, split, _COCO_SPLITS, self.STRUCTURE)
        folder = _COCO_SPLITS[split]
        images = _folder(root / "images" / folder, self.STRUCTURE)
        unpacked = root / "stuffthingmaps" / folder
        labels = unpacked if unpacked.is_dir() else root / "annotations" / folder
        instances = root / f"{folder.removesuffix('2017')}_inst"
        files = _paired(
            images,
            self.STRUCTURE,
            list_files(images, IMAGE_SUFFIXES),
            list_files(_folder(labels, self.STRUCTURE), (".png",)),
            list_files(instances, (".png",)) if instances.is_dir() else None,
        )
        info = dataclasses.replace(classes.COCO_STUFF, has_instances=instances.is_dir())
        super().__init__(info, files, _strict(range(182), unlabelled=182))


class CelebAMaskHQ(Paired):
    """Faces with 19 classes: the official archive, or label maps merged beforehand.

    The archive holds masks of 512 x 512 pixels, one per part, and images of 1024 x 1024: the parts
    are painted in the official order and the image is reduced to the size of the masks. Edges are
    drawn between classes, for there are no instances.

    Splits of the archive: with CelebA-HQ-to-CelebA-mapping.txt (it is in the archive) those of
    CelebA, "train", "val", "test" (24183, 2993, 2824), from list_eval_partition.txt where it lies
    beside, else from CelebA's known ranges. Without the mapping, by index: "train" below 28000 and
    "val" from there on.
    """

    STRUCTURE = """    ROOT/[CelebAMask-HQ/]CelebA-HQ-img/ID.jpg
    ROOT/[CelebAMask-HQ/]CelebAMask-HQ-mask-anno/{0..14}/XXXXX_PART.png
    optional: ROOT/[CelebAMask-HQ/]CelebA-HQ-to-CelebA-mapping.txt and list_eval_partition.txt
or, merged beforehand,
    ROOT/SPLIT/images/STEM.jpg   ROOT/SPLIT/labels/STEM.png (ids 0..18)"""

    def __init__(self, root: str | Path, split: str):
        root = _inside(root, "CelebAMask-HQ")
        _folder(root, self.STRUCTURE)
        self._parts = (root / "CelebA-HQ-img").is_dir()
        files = self._archive(root, split) if self._parts else self._merged(root, split)
        labels = _strict(range(classes.CELEBAMASK_HQ.num_classes))
        super().__init__(classes.CELEBAMASK_HQ, files, labels, mismatch="resize_image")

    def _archive(self, root: Path, split: str) -> list[Files]:
        annotations = _folder(root / "CelebAMask-HQ-mask-anno", self.STRUCTURE)
        images = {
            int(stem): path
            for stem, path in list_files(root / "CelebA-HQ-img", IMAGE_SUFFIXES).items()
            if stem.isdecimal()
        }
        splits = _celeba_splits(root, sorted(images))
        _choose(root, split, splits, self.STRUCTURE)
        if not splits[split]:
            raise DataError(
                f"{root / 'CelebA-HQ-img'}: no image of the split {split!r} among {len(images)}"
                f" images. Expected ID.jpg with ID from 0 to 29999, in\n{self.STRUCTURE}"
            )
        return [
            Files(str(i), images[i], str(annotations / str(i // 2000) / f"{i:05d}_")) for i in splits[split]
        ]

    def _merged(self, root: Path, split: str) -> list[Files]:
        splits = {path.parent.name: path for path in sorted(root.glob("*/images"))}
        _choose(root, split, splits, self.STRUCTURE)
        labels = _folder(root / split / "labels", self.STRUCTURE)
        return _paired(
            root / split,
            self.STRUCTURE,
            list_files(splits[split], IMAGE_SUFFIXES),
            list_files(labels, (".png",)),
        )

    def _layout(self, files: Files) -> np.ndarray:
        return _painted(files.label) if self._parts else super()._layout(files)

    def _instance(self, files: Files, layout: np.ndarray) -> np.ndarray:
        return layout.astype(np.int32)


def _painted(prefix: str) -> np.ndarray:
    """The parts at `prefix`_PART.png over each other, a later one over an earlier one."""
    layout: np.ndarray | None = None
    for class_id, part in enumerate(classes.CELEBAMASK_HQ_PARTS, start=1):
        path = Path(f"{prefix}{part}.png")
        if not path.is_file():
            continue
        mask = read_mask(path)
        if layout is None:
            layout = np.zeros(mask.shape, np.uint8)
        elif layout.shape != mask.shape:
            raise DataError(
                f"{path}: this mask is {mask.shape[1]}x{mask.shape[0]}, others of its image are"
                f" {layout.shape[1]}x{layout.shape[0]}. Expected one size. Unpack it again."
            )
        layout[mask] = class_id
    if layout is None:
        raise DataError(
            f"{prefix}*.png: no part masks. Expected some of {', '.join(classes.CELEBAMASK_HQ_PARTS)}."
            " Unpack CelebAMask-HQ-mask-anno again, or remove the image."
        )
    return layout


def _celeba_splits(root: Path, ids: Sequence[int]) -> dict[str, list[int]]:
    mapping, partition = (
        root / name for name in ("CelebA-HQ-to-CelebA-mapping.txt", "list_eval_partition.txt")
    )
    if not mapping.is_file():
        if partition.is_file():
            raise DataError(
                f"{partition}: names images of CelebA, and {mapping.name} is missing, which says"
                " which image of CelebA-HQ each one is. Add it (it is in the official archive) or"
                " remove this list to split by index."
            )
        return {"train": [i for i in ids if i < 28000], "val": [i for i in ids if i >= 28000]}
    origins = {int(row[0]): row[2] for row in _rows(mapping, 3, header=True)}
    unknown = [i for i in ids if i not in origins]
    if unknown:
        raise DataError(
            f"{mapping}: no line for {len(unknown)} images ({unknown[:5]}). Expected"
            " `idx orig_idx orig_file` for each. Unpack it again."
        )
    parts = dict(_rows(partition, 2)) if partition.is_file() else None
    splits: dict[str, list[int]] = {"train": [], "val": [], "test": []}
    for i in ids:
        origin = origins[i]
        part = _celeba_part(origin) if parts is None else parts.get(origin)
        if part not in ("0", "1", "2"):
            raise DataError(
                f"{mapping if parts is None else partition}: {origin} (image {i}) is in part {part!r}. Expected 0 (train), 1"
                " (val) or 2 (test) for every image. Download the list again."
            )
        splits[("train", "val", "test")[int(part)]].append(i)
    return splits


def _celeba_part(origin: str) -> str | None:
    """CelebA's partition by file number: 1..162770, ..182637, ..202599."""
    stem = origin.split(".")[0]
    if not stem.isdecimal():
        return None
    number = int(stem)
    return "0" if number <= 162770 else "1" if number <= 182637 else "2"


def _rows(path: Path, columns: int, header: bool = False) -> list[list[str]]:
    rows = []
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        row = line.split()
        if not row or (header and number == 1):
            continue
        if len(row) != columns or not row[0].split(".")[0].isdecimal():
            raise DataError(
                f"{path}, line {number}: {line[:80]!r}. Expected {columns} columns, the first a"
                " number or a numbered file. Download the list again."
            )
        rows.append(row)
    return rows


def _inside(root: str | Path, name: str) -> Path:
    """ROOT/NAME where the archive brought its own folder, else ROOT."""
    root = Path(root)
    return root / name if (root / name).is_dir() else root
