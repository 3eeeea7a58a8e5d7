"""What a stranger's folder of images and label maps holds: facts of every file, and what they mean for a training.

Nothing is raised for a bad file: it becomes a finding, which says what to do about it.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from semdiff.data.captions import read_captions
from semdiff.data.classes import Description, read_description
from semdiff.data.image_file import DataError
from semdiff.data.images import IMAGE_SUFFIXES, read_instances, read_photo, read_raw_labels
from semdiff.data.orientation import UPRIGHT, same_shape
from semdiff.data.readers.folder import list_files

MOST_COLOURS = 256  # more in one label map: they are blended
NEAR = 2  # bits that the looks of near-duplicates differ by, of 64
RARE_IMAGES, RARE_SHARE = 5, 1e-4
THREADS = 4


@dataclass(frozen=True)
class Finding:
    """what: in words, with what to do. stops: whether a training would end with an error."""

    what: str
    stops: bool = False
    files: tuple[str, ...] = ()


@dataclass(frozen=True)
class Facts:
    """Of one example. values: pixels of each raw value, or of each colour r + 256 g + 65536 b where `colours`; of more than
    MOST_COLOURS the first of them.
    """

    name: str
    image: str
    label: str
    size: tuple[int, int] = (0, 0)
    label_size: tuple[int, int] = (0, 0)
    turned: bool = False
    digest: bytes = b""
    look: int = 0
    colours: bool = False
    palette: tuple[tuple[int, int, int], ...] = ()
    values: dict[int, int] = field(default_factory=dict)
    errors: tuple[str, ...] = ()


@dataclass
class Survey:
    root: Path
    splits: dict[str, list[Facts]]
    findings: list[Finding]

    @property
    def all(self) -> list[Facts]:
        return [facts for split in self.splits.values() for facts in split]

    @cached_property
    def readable(self) -> list[Facts]:
        return [facts for facts in self.all if not facts.errors]

    @property
    def colours(self) -> bool:
        return any(facts.colours for facts in self.readable)

    @cached_property
    def description(self) -> Description | None:
        """dataset.json, where it is there and can be read."""
        try:
            path = self.root / "dataset.json"
            return read_description(path) if path.is_file() else None
        except DataError:
            return None

    def named(self, value: int) -> str:
        """A value with the name of its class, or a colour in words."""
        colour = (value % 256, value // 256 % 256, value // 65536)
        if self.description is None:
            return str(colour if self.colours else value)
        classes, ids = self.description.info.classes, self.description.labels.ids
        if self.colours:
            return next((c.name for c in classes if tuple(c.color) == colour), str(colour))
        known = value < len(ids) and ids[value] >= 0
        return f"{value} {classes[ids[value]].name}" if known else str(value)

    @cached_property
    def pixels(self) -> Counter:
        """Of each raw value or colour, in all files."""
        total: Counter = Counter()
        for facts in self.readable:
            total.update(facts.values)
        return total

    @cached_property
    def images(self) -> Counter:
        """That show each."""
        return Counter(value for facts in self.readable for value in facts.values)


def survey(root: Path, report: Callable[[int, int], None] = lambda done, total: None) -> Survey:
    """Looks at every file. report(done, total): called on the way."""
    findings: list[Finding] = []
    listed = {split: list(_pairs(root, split, findings)) for split in _splits(root)}
    total, done = sum(map(len, listed.values())), 0
    splits: dict[str, list[Facts]] = {}
    with ThreadPoolExecutor(THREADS) as pool:
        for split, pairs in listed.items():
            splits[split] = []
            for facts in pool.map(lambda pair: facts_of(*pair), pairs):
                splits[split].append(facts)
                done += 1
                report(done, total)
    found = Survey(root, splits, findings)
    for look in (_unreadable, _sizes, _labels, _described, _classes, _captions, _twins):
        findings.extend(look(found))
    return found


def _splits(root: Path) -> list[str]:
    """The names of the splits; "" where files lie in images/ itself."""
    images, labels = root / "images", root / "labels"
    if not (images.is_dir() and labels.is_dir()):
        raise DataError(f"{root}: has no images/ and labels/. {_guess(root)}")
    folders = sorted(p.name for p in images.iterdir() if p.is_dir() and not p.name.startswith("."))
    if not folders and not list_files(images, IMAGE_SUFFIXES):
        raise DataError(
            f"{images}: is empty. Expected {', '.join(IMAGE_SUFFIXES)} files, or a folder of them for each split"
        )
    return folders or [""]


def _guess(root: Path) -> str:
    """Which folders could be meant, and the commands that make the structure of them."""
    expected = "Expected ROOT/images/SPLIT/NAME.jpg and ROOT/labels/SPLIT/NAME.png, or the same without SPLIT"
    if not root.is_dir():
        return f"There is no such folder. {expected}"
    folders = {}
    for folder in sorted(p for p in [root, *root.glob("*"), *root.glob("*/*")] if p.is_dir()):
        stems = {p.stem for p in folder.iterdir() if p.suffix.lower() in IMAGE_SUFFIXES}
        if stems:
            folders[folder] = stems
    best, most = None, 0
    for photos in folders:
        for masks in folders:
            common = len(folders[photos] & folders[masks])
            if (
                photos != masks
                and common > most
                and _looks_like_labels(masks)
                and not _looks_like_labels(photos)
            ):
                best, most = (photos, masks), common
    if best is None:
        have = ", ".join(f"{path} ({len(stems)} files)" for path, stems in list(folders.items())[:6])
        return f"{expected}. {'Files lie in ' + have if have else 'There are no images in it'}"
    photos, masks = best
    return (
        f"{expected}. {photos} and {masks} have {most} names in common and look like images and label maps: "
        f"`mkdir NEW && ln -s {photos.resolve()} NEW/images && ln -s {masks.resolve()} NEW/labels` makes that structure"
    )


def _looks_like_labels(folder: Path) -> bool:
    """Its first file is a PNG of few values."""
    path = next(p for p in sorted(folder.iterdir()) if p.suffix.lower() in IMAGE_SUFFIXES)
    if path.suffix.lower() != ".png":
        return False
    try:
        return len(_values(path)[1]) <= MOST_COLOURS
    except DataError:
        return False


def _pairs(root: Path, split: str, findings: list[Finding]) -> Iterator[tuple[str, str, str, str | None]]:
    """(name, image, label, instances)."""
    where = f"split {split}: " if split else ""
    try:
        images = list_files(root / "images" / split, IMAGE_SUFFIXES)
        labels = list_files(root / "labels" / split, (".png",))
    except DataError as error:
        findings.append(Finding(f"{where}{error}", stops=True))
        return
    lossy = [p.name for p in (root / "labels" / split).iterdir() if p.suffix.lower() in (".jpg", ".jpeg")]
    if lossy:
        remedy = "which blends neighbouring classes: make them again from the original, as PNG"
        findings.append(
            Finding(f"{where}{len(lossy)} label maps are JPEG, {remedy}", True, tuple(sorted(lossy)))
        )
    folder = root / "instances" / split
    instances = list_files(folder, (".png",)) if folder.is_dir() else None
    kinds = [("images without a label map", images, labels), ("label maps without an image", labels, images)]
    if instances is not None:
        kinds += [("label maps without an instance map", labels, instances)]
    for what, here, there in kinds:
        if alone := sorted(set(here) - set(there)):
            remedy = "Add their partners (the same name, .png), or remove them"
            findings.append(Finding(f"{where}{len(alone)} {what}. {remedy}", True, tuple(alone)))
    for name in images:
        if name in labels:
            yield name, images[name], labels[name], (instances or {}).get(name)


def facts_of(name: str, image: str, label: str, instance: str | None = None) -> Facts:
    errors: list[str] = []
    facts: dict[str, Any] = {}
    try:
        photo = read_photo(image)
        facts |= {"size": photo.pixels.shape[:2], "turned": photo.orientation != UPRIGHT}
        facts |= {"digest": hashlib.sha256(photo.pixels.tobytes()).digest(), "look": look_of(photo.pixels)}
    except DataError as error:
        errors.append(str(error))
    try:
        shape, values, colours, palette = *_values(Path(label)), *_kind(Path(label))
        facts |= {"label_size": shape, "values": values, "colours": colours, "palette": palette}
    except DataError as error:
        errors.append(str(error))
    if instance is not None:
        try:
            borders = read_instances(instance)
            if borders.shape != facts.get("label_size", borders.shape):
                errors.append(
                    f"{instance}: is {_size(borders.shape)}, its label map {_size(facts['label_size'])}"
                )
        except DataError as error:
            errors.append(str(error))
    return Facts(name, image, label, errors=tuple(errors), **facts)


def look_of(pixels: np.ndarray) -> int:
    """64 bits of whether a place is brighter than its right neighbour, at 8 x 9: alike for images that look alike."""
    grey = np.asarray(Image.fromarray(pixels).convert("L").resize((9, 8), Image.Resampling.BOX), np.int16)
    return int.from_bytes(np.packbits(grey[:, 1:] > grey[:, :-1]).tobytes(), "big")


def _kind(path: Path) -> tuple[bool, tuple]:
    """(whether colours tell the class, the palette of a palette file)."""
    with Image.open(path, formats=("PNG",)) as image:
        stored = image.getpalette("RGB") if image.mode == "P" else None
        colours = image.mode in ("RGB", "RGBA")
    rows = np.reshape(stored or [], (-1, 3)).astype(int)
    return colours, tuple(tuple(row) for row in rows.tolist())


def _values(path: Path) -> tuple[tuple[int, int], dict[int, int]]:
    """(height and width, how many pixels have each value, or each colour r + 256 g + 65536 b)."""
    raw = raw_values(path)
    found, counts = np.unique(raw, return_counts=True)
    height, width, kept = *raw.shape, MOST_COLOURS + 1
    return (height, width), dict(zip(found[:kept].tolist(), counts[:kept].tolist()))


def raw_values(path: Path) -> np.ndarray:
    """Ids and palette indices as stored; of colours r + 256 g + 65536 b."""
    try:
        return read_raw_labels(path)
    except DataError:
        return read_instances(path)  # which packs colours so, and says what is no map at all


def _size(shape) -> str:
    return f"{shape[0]} x {shape[1]}"


# What facts mean


def _unreadable(found: Survey) -> Iterator[Finding]:
    for facts in found.all:
        for error in facts.errors:
            yield Finding(error, stops=True, files=(facts.name,))


def of_other_size(found: Survey, scaled: bool) -> list[Facts]:
    """Examples whose label map is not of the image's size: it differs in scale alone, or it does not. One that lies as the
    pixels of a turned image are stored is turned by the reader."""
    as_stored = lambda f: f.turned and f.size[::-1] == f.label_size  # noqa: E731
    apart = (f for f in found.readable if f.size != f.label_size and not as_stored(f))
    return [f for f in apart if same_shape(f.size, f.label_size) is scaled]


def _sizes(found: Survey) -> Iterator[Finding]:
    scaled = ("size", "Set config.data.mismatch=resize_label, or make them of one size")
    others = ("shape", "They belong to something else, or lie on their side: correct these files")
    for examples, (what, remedy) in (
        (of_other_size(found, True), scaled),
        (of_other_size(found, False), others),
    ):
        if examples:
            one = examples[0]
            sizes = f"{one.name}: {_size(one.label_size)}, the image {_size(one.size)}"
            words = f"{len(examples)} label maps have another {what} than their image ({sizes}). {remedy}"
            yield Finding(words, True, tuple(f.name for f in examples))
    if marked := [f for f in found.readable if f.turned]:
        yield Finding(
            f"{len(marked)} images carry an EXIF orientation: they are turned upright when they are read, with their label "
            "maps where sizes tell how these lie",
            files=tuple(f.name for f in marked),
        )


def _labels(found: Survey) -> Iterator[Finding]:
    blended = [f for f in found.readable if f.colours and len(f.values) > MOST_COLOURS]
    if blended:
        one = blended[0]
        yield Finding(
            f"{len(blended)} label maps hold more than {MOST_COLOURS} colours ({one.name}, ...): they were "
            "resized with smoothing, stored as JPEG, or are photographs. Make them again with nearest-neighbour sampling, "
            "as PNG",
            stops=True,
            files=tuple(f.name for f in blended),
        )
    kinds = Counter("colours" if f.colours else "ids" for f in found.readable)
    if len(kinds) > 1:
        fewer = min(kinds, key=lambda kind: kinds[kind])
        odd = tuple(f.name for f in found.readable if f.colours == (fewer == "colours"))
        yield Finding(
            f"label maps are of two kinds: {kinds['ids']} of ids, {kinds['colours']} of colours. Convert the fewer",
            stops=True,
            files=odd,
        )


def _described(found: Survey) -> Iterator[Finding]:
    """Whether dataset.json fits."""
    path = found.root / "dataset.json"
    if not path.is_file():
        return
    try:
        description = read_description(path)
    except DataError as error:
        yield Finding(str(error), stops=True)
        return
    ids, colours = description.labels.ids, {tuple(c.color) for c in description.info.classes}
    for value in sorted(found.pixels):
        if found.colours:
            known = (value % 256, value // 256 % 256, value // 65536) in colours
        else:
            known = value < len(ids) and ids[value] >= 0
        if not known:
            files = tuple(f.name for f in found.readable if value in f.values)
            yield Finding(
                f"{path} has no class for {found.named(value)} ({len(files)} images). Add it there, or send it to a class: "
                f'"ignore_id_map": {{"{value}": CLASS}}',
                stops=True,
                files=files,
            )
    names, pairs = description.info.names, description.info.flip_pairs
    sides = [
        n
        for n in names
        if "left" in n.lower() and n.lower().replace("left", "right") in map(str.lower, names)
    ]
    if sides and not pairs:
        yield Finding(
            f"{path} has classes of the left and of the right ({', '.join(sides[:5])}): name them in flip_pairs, since "
            "config.data.flip mirrors images"
        )


def _captions(found: Survey) -> Iterator[Finding]:
    for split, examples in found.splits.items():
        path = found.root / "captions" / f"{split or 'train'}.jsonl"
        if not path.is_file():
            continue
        try:
            told = {name for name, _ in read_captions(path, several=True)}
        except DataError as error:
            yield Finding(str(error), stops=True)
            continue
        if missing := sorted({f.name for f in examples} - told):
            yield Finding(f"{path}: {len(missing)} images have no caption. Add them", True, tuple(missing))


def _classes(found: Survey) -> Iterator[Finding]:
    images, pixels, total = found.images, found.pixels, sum(found.pixels.values())
    rare = [v for v in sorted(pixels) if images[v] < RARE_IMAGES or pixels[v] < RARE_SHARE * total]
    if rare and len(pixels) <= MOST_COLOURS:
        names = ", ".join(found.named(v) for v in rare[:20])
        yield Finding(
            f"rarely seen (in less than {RARE_IMAGES} images, or {RARE_SHARE:.2%} of the pixels): {names}. A network will "
            "hardly learn them: more examples, or one class of several",
        )
    for split, examples in found.splits.items():
        missing = sorted(set(pixels) - {v for f in examples for v in f.values})
        if missing and len(found.splits) > 1 and examples and len(pixels) <= MOST_COLOURS:
            names = ", ".join(found.named(v) for v in missing[:10])
            yield Finding(f"split {split} never shows {names}")


def _twins(found: Survey) -> Iterator[Finding]:
    """Images of one split that are in another too: what is measured there is remembered, not generated."""
    splits = sorted(found.splits.items(), key=lambda item: -len(item[1]))  # the training split first
    for i, (split, examples) in enumerate(splits):
        same = [facts for group in _by_digest(examples).values() for facts in group[1:]]
        if same:
            yield Finding(
                f"split {split}: {len(same)} images are there twice", files=tuple(f.name for f in same)
            )
        for other, others in splits[i + 1 :]:
            near = near_duplicates(examples, others)
            if near:
                shown = ", ".join(f"{a} and {b}" for a, b in near[:5])
                count = len({b for _, b in near})
                yield Finding(
                    f"{count} of {len(others)} images of {other} look like one of {split} ({shown}): what is measured there "
                    "is partly remembered. Take them out of one of the two",
                    files=tuple(b for _, b in near),
                )


def _by_digest(examples: list[Facts]) -> dict[bytes, list[Facts]]:
    groups: dict[bytes, list[Facts]] = {}
    for facts in examples:
        if facts.digest:
            groups.setdefault(facts.digest, []).append(facts)
    return groups


def near_duplicates(here: list[Facts], there: list[Facts]) -> list[tuple[str, str]]:
    """(name here, name there) of images whose looks differ by at most `NEAR` bits; flat ones look like each other and do not
    count."""
    a, b = ([f for f in side if f.digest and 8 <= f.look.bit_count() <= 56] for side in (here, there))
    looks = np.array([f.look for f in a], np.uint64)
    pairs = []
    for other in b:
        if len(looks):
            apart = np.bitwise_count(looks ^ np.uint64(other.look))
            if apart.min() <= NEAR:
                pairs.append((a[int(apart.argmin())].name, other.name))
    return pairs


# What to write


def described(found: Survey) -> dict:
    """A dataset.json that fits what the label maps hold; {} where there is one, or none would."""
    if (found.root / "dataset.json").is_file():
        return {}
    values = sorted(found.pixels)
    if not values or len(values) > MOST_COLOURS:
        return {}
    if found.colours:
        split = [[v % 256, v // 256 % 256, v // 65536] for v in values]
        return {"classes": [{"id": i, "name": f"class {i}", "color": c} for i, c in enumerate(split)]}
    count = len(values)
    if values == list(range(count)):
        return {"num_classes": count}
    if values[-1] == 255 and values[:-1] == list(range(count - 1)) and count > 2:
        return {"num_classes": count - 1, "void_id": count - 1, "ignore_id_map": {"255": count - 1}}
    sent = {str(v): i for i, v in enumerate(values)}
    classes = [{"id": i, "name": f"value {v}"} for i, v in enumerate(values)]
    return {"classes": classes, "ignore_id_map": sent}
