"""Plain folders of images, label maps, instance maps and captions."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from semdiff.data.augment import nearest
from semdiff.data.classes import Description, generated_classes, make_description, read_description
from semdiff.data.images import (
    IMAGE_SUFFIXES,
    DataError,
    LabelFormat,
    read_instances,
    read_layout,
    read_photo,
    read_raw_labels,
)
from semdiff.data.orientation import Photo, same_shape
from semdiff.data.source import Example, Info

MISMATCH = ("error", "resize_label", "resize_image")
WITHOUT_SPLITS = ("train", "all")  # what the only split of a plain folder may be called
_EXPECTED = """Expected:
    ROOT/images/SPLIT/STEM.png (or .jpg, .jpeg)   ROOT/labels/SPLIT/STEM.png
    optional: ROOT/instances/SPLIT/STEM.png   ROOT/captions/SPLIT.jsonl   ROOT/dataset.json
or the same without SPLIT folders (the split is then called "train" or "all")."""
_UNLABELLED = (
    "If one of them means that a pixel has no label, set config.sample.unlabelled to it: the network is"
    " then given no class there."
)


@dataclass(frozen=True)
class Files:
    """Where one example lies. A path is a str: thousands of them travel to worker processes."""

    name: str
    image: str | None
    label: str
    instance: str | None = None
    caption: str | None = None


class Paired:
    """A source that reads one image and one label map per example, when asked for it."""

    def __init__(self, info: Info, files: Sequence[Files], labels: LabelFormat, mismatch: str = "error"):
        if mismatch not in MISMATCH:
            raise DataError(f"mismatch is {mismatch!r}. Expected one of {', '.join(MISMATCH)}.")
        self.info = info
        self.files = tuple(files)
        self._labels = labels
        self._mismatch = mismatch

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> Example:
        files = self.files[index]
        example: Example = {"name": files.name}
        example["layout"] = self._layout(files)
        if self.info.has_instances:
            example["instance"] = self._instance(files, example["layout"])
        if files.image is not None:
            example |= _upright(read_photo(files.image), example, files)
        if files.caption is not None:
            example["caption"] = files.caption
        return _same_size(example, files, self._mismatch)

    def layout(self, index: int) -> np.ndarray:
        """The label map alone, as its file has it."""
        return self._layout(self.files[index])

    def _layout(self, files: Files) -> np.ndarray:
        return read_layout(files.label, self._labels)

    def _instance(self, files: Files, layout: np.ndarray) -> np.ndarray:
        assert files.instance is not None, f"{files.name}: a source with instances lists their files"
        return read_instances(files.instance)


class Folder(Paired):
    """One split of a data set in a folder; see `_EXPECTED`. Only lists files when opened.

    Without dataset.json the classes are counted: from `num_classes`, else by reading every label.
    `mismatch` says what to do when a label map has another size than its image.
    """

    def __init__(
        self,
        root: str | Path,
        split: str,
        *,
        num_classes: int | None = None,
        void_id: int | None = None,
        mismatch: str = "error",
    ):
        root = Path(root)
        images, labels, instances = _split_folders(root, split)
        files = pair_files(
            list_files(images, IMAGE_SUFFIXES),
            list_files(labels, (".png",)),
            list_files(instances, (".png",)) if instances else None,
            where=f"{root}, split {split!r}",
        )
        if not files:
            raise DataError(
                f"{images}: the split {split!r} has no images. Expected"
                f" {', '.join(IMAGE_SUFFIXES)} files. {_splits_that_exist(root)}"
            )
        captions = _read_captions(root, split, [f.name for f in files])
        if captions is not None:
            files = [dataclasses.replace(f, caption=captions[f.name]) for f in files]
        description = describe(root, root / "labels", num_classes, void_id)
        info = dataclasses.replace(
            description.info,
            has_instances=instances is not None,
            has_captions=captions is not None,
        )
        super().__init__(info, files, description.labels, mismatch)


class Layouts(Paired):
    """Label maps alone, from one folder of PNG files: what to draw, with no image to compare with.

    The classes are `info` (say, those of the training data), else those of the dataset.json beside
    the files or above their labels/ folder, else counted. `instances` is a folder with the same
    names. `unlabelled` is a value in the files that means no label: it is read as the id K, one more
    than the classes have.
    """

    def __init__(
        self,
        root: str | Path,
        *,
        info: Info | None = None,
        num_classes: int | None = None,
        void_id: int | None = None,
        instances: str | Path | None = None,
        unlabelled: int = -1,
    ):
        root = Path(root)
        if not root.is_dir():
            raise DataError(f"{root}: no such folder. Expected a folder of label maps, STEM.png.")
        labels = list_files(root, (".png",))
        if not labels:
            raise DataError(f"{root}: no label maps. Expected STEM.png files in this very folder.")
        if info is not None and (num_classes, void_id) != (None, None):
            raise DataError("Give either info or num_classes and void_id: info holds them both.")
        edges = list_files(Path(instances), (".png",)) if instances is not None else None
        files = pair_files(None, labels, edges, where=str(root))
        if info is not None:
            sent = {} if unlabelled < 0 else {unlabelled: info.num_classes}
            description = make_description(info, sent, palette=[c.color for c in info.classes])
            advice = f"The classes: {listed(info)}. {_UNLABELLED}"
            advised = dataclasses.replace(description.labels, advice=advice)
            description = dataclasses.replace(description, labels=advised)
        else:
            description = describe(_described_at(root), root, num_classes, void_id)
        info = dataclasses.replace(description.info, has_instances=edges is not None, has_captions=False)
        super().__init__(info, files, description.labels)


def listed(info: Info, most: int = 40) -> str:
    """`0 sky, 1 road, ...`, for errors."""
    named = [f"{i} {name}" for i, name in enumerate(info.names)]
    return ", ".join(named[:most]) + (f", ... {named[-1]}" if len(named) > most else "")


def _described_at(labels: Path) -> Path:
    """The folder whose dataset.json describes labels/ or labels/SPLIT."""
    above = [p.parent for p in (labels, labels.parent) if p.name == "labels"]
    return next((p for p in (labels, *above) if (p / "dataset.json").is_file()), labels)


def list_files(folder: Path, suffixes: Sequence[str]) -> dict[str, str]:
    """Stem -> path of the files with such a suffix (in either case), in the order of the stems."""
    if not folder.is_dir():
        raise DataError(f"{folder}: no such folder. Expected {' or '.join(suffixes)} files in it.")
    found: dict[str, str] = {}
    for path in sorted(folder.iterdir()):
        if path.suffix.lower() not in suffixes or path.name.startswith("."):
            continue
        if path.stem in found:
            raise DataError(
                f"{path}: a second file with the stem {path.stem!r}, after {found[path.stem]}."
                " Expected one file per stem. Remove one of them."
            )
        found[path.stem] = str(path)
    return dict(sorted(found.items()))


def pair_files(
    images: Mapping[str, str] | None,
    labels: Mapping[str, str],
    instances: Mapping[str, str] | None,
    where: str,
) -> list[Files]:
    """Joins what has the same stem. Whatever stays alone is an error."""
    images_or_none = dict.fromkeys(labels) if images is None else images
    lonely = [
        _alone("images without a label map", images_or_none, labels),
        _alone("label maps without an image", labels, images_or_none),
    ]
    if instances is not None:
        lonely.append(_alone("label maps without an instance map", labels, instances))
        lonely.append(_alone("instance maps without a label map", instances, labels))
    lonely = [words for words in lonely if words]
    if lonely:
        raise DataError(
            f"{where}: {'; '.join(lonely)}. Expected one of each for every stem. Add the missing"
            " files or remove their partners."
        )
    return [
        Files(stem, images_or_none[stem], labels[stem], instances[stem] if instances else None)
        for stem in labels
    ]


def _alone(what: str, here: Iterable[str], there: Mapping[str, object]) -> str:
    stems = [stem for stem in here if stem not in there]
    if not stems:
        return ""
    return f"{len(stems)} {what} ({', '.join(stems[:5])}{', ...' if len(stems) > 5 else ''})"


def _subfolders(folder: Path) -> list[Path]:
    return sorted(p for p in folder.iterdir() if p.is_dir() and not p.name.startswith("."))


def _splits_that_exist(root: Path) -> str:
    counts = [f"{p.name} ({len(list_files(p, IMAGE_SUFFIXES))} images)" for p in _subfolders(root / "images")]
    return f"Splits that exist: {', '.join(counts)}." if counts else "There are no split folders."


def _split_folders(root: Path, split: str) -> tuple[Path, Path, Path | None]:
    """The folders of images, labels and, where there are any, instances."""
    for folder in (root, root / "images", root / "labels"):
        if not folder.is_dir():
            raise DataError(f"{folder}: no such folder. {_EXPECTED}")
    if (root / "images" / split).is_dir():
        parts = [root / kind / split for kind in ("images", "labels", "instances")]
    elif list_files(root / "images", IMAGE_SUFFIXES):
        if split not in WITHOUT_SPLITS:
            raise DataError(
                f"{root / 'images'}: there is no split {split!r}; the images lie in this folder"
                f' itself, so the only split is called "train" or "all". {_splits_that_exist(root)}'
            )
        parts = [root / kind for kind in ("images", "labels", "instances")]
    else:
        raise DataError(f"{root / 'images' / split}: no such split. {_splits_that_exist(root)}\n{_EXPECTED}")
    return parts[0], parts[1], parts[2] if parts[2].is_dir() else None


def describe(root: Path, labels: Path, num_classes: int | None, void_id: int | None) -> Description:
    """dataset.json in `root` where it exists (arguments must then agree), else generated classes."""
    path = root / "dataset.json"
    if path.is_file():
        description = read_description(path)
        _must_agree(path, "num_classes", num_classes, description.info.num_classes)
        _must_agree(path, "void_id", void_id, description.info.void_id)
        return description
    count = _count_classes(labels) if num_classes is None else num_classes
    if count < 1 or (void_id is not None and not 0 <= void_id < count):
        raise DataError(
            f"{root}: num_classes is {count} and void_id is {void_id}. Expected at least one class,"
            f" and void_id None or one of 0..{count - 1} (the void class counts in num_classes)."
            " Files with another void value need a dataset.json with"
            ' {"num_classes": K, "void_id": V, "ignore_id_map": {"255": V}}.'
        )
    return make_description(Info(root.name, generated_classes(count, void_id), void_id))


def _must_agree(path: Path, key: str, asked: int | None, written: int | None) -> None:
    if asked is not None and asked != written:
        raise DataError(
            f"{path}: {key} is {written} here (a void class counted as a class) but {asked} was"
            " asked for. Leave the option out or correct the file."
        )


def _count_classes(labels: Path) -> int:
    """1 + the largest id in any label map below `labels`, in every split, so that splits agree."""
    seen: set[int] = set()
    for path in sorted(labels.rglob("*.png")):
        if not path.name.startswith("."):
            seen.update(np.unique(read_raw_labels(path)).tolist())
    if not seen:
        raise DataError(f"{labels}: no label maps (.png) to count the classes of.")
    if 255 in seen and 254 not in seen:
        others = max(seen - {255}, default=0) + 1
        raise DataError(
            f"{labels}: the label maps hold 255 beside ids below {others}, which may mean void or"
            f" white. Write a dataset.json above them: for void, {{"
            f'"num_classes": {others}, "void_id": {others}, "ignore_id_map": {{"255": {others}}}}};'
            f" or set config.data.num_classes=256 if these really are 256 classes."
        )
    return max(seen) + 1


def _read_captions(root: Path, split: str, stems: Sequence[str]) -> dict[str, str] | None:
    """Stem -> caption, from lines {"image": STEM, "caption": TEXT}; None where there is no file."""
    path = root / "captions" / f"{split}.jsonl"
    if not path.is_file():
        return None
    captions: dict[str, str] = {}
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        if not line.strip():
            continue
        try:
            entry = json.loads(line)
            stem, caption = str(entry["image"]), entry["caption"]
        except (ValueError, KeyError, TypeError) as error:
            raise DataError(
                f"{path}, line {number}: {line[:80]!r} ({error!r}). Expected"
                ' {"image": STEM, "caption": TEXT}.'
            ) from None
        if stem.lower().endswith(IMAGE_SUFFIXES):
            stem = stem.rsplit(".", 1)[0]
        if stem in captions or not isinstance(caption, str):
            raise DataError(
                f"{path}, line {number}: a second caption for {stem!r}, or one that is no text."
                " Expected one text per image."
            )
        captions[stem] = caption
    missing = _alone("images without a caption", stems, captions)
    if missing:
        raise DataError(f"{path}: {missing}. Expected a line for every image. Add them.")
    return captions


def _upright(photo: Photo, example: Example, files: Files) -> Example:
    """The image, and the label map and the instance map as they lie on it."""
    paths = {"layout": files.label, "instance": files.instance or files.label}
    laid = {key: photo.align(example[key], path) for key, path in paths.items() if key in example}
    return {"image": photo.pixels, **laid}


def _same_size(example: Example, files: Files, mismatch: str) -> Example:
    """The example with image, layout and instance of one size, resampled only if asked to."""
    maps = ("image", "layout", "instance")
    sizes: dict[str, tuple[int, int]] = {key: example[key].shape[:2] for key in maps if key in example}
    if len(set(sizes.values())) == 1:
        return example
    keep = "layout" if mismatch == "resize_image" or "image" not in example else "image"
    height, width = sizes[keep]
    if mismatch == "error" or not all(same_shape(size, sizes[keep]) for size in sizes.values()):
        paths = {"image": files.image, "layout": files.label, "instance": files.instance}
        listed = ", ".join(f"{key} {w}x{h} ({paths[key]})" for key, (h, w) in sizes.items())
        raise DataError(
            f"{files.name}: sizes differ (width x height): {listed}. Expected one size. Correct the"
            ' files; or, where the shapes agree, set config.data.mismatch="resize_label" (labels are sampled'
            ' at the image\'s pixels) or mismatch="resize_image". Shapes that differ (a picture'
            " turned on its side) are never resampled."
        )
    for key in sizes:
        if sizes[key] == (height, width):
            continue
        if key == "image":
            resized = Image.fromarray(example[key]).resize((width, height), Image.Resampling.BOX)
            example[key] = np.asarray(resized)
        else:
            example[key] = nearest(example[key], (height, width))
    return example
