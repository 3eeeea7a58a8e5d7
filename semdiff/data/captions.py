"""Captions in files, by the names of images, and sources that have them."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path, PurePath

from semdiff.data.images import DataError
from semdiff.data.source import Example, Info, Source, some_names
from semdiff.data.text import words_of

_EXPECTED = (
    'Expected a .txt of a caption a line; a .jsonl of {"image": NAME, "caption": TEXT}; captions_*.json as of COCO; or a '
    "folder of NAME.txt, as those of MM-CelebA-HQ"
)


class Captions:
    """Captions alone, without images: examples have a name and a caption."""

    def __init__(self, captions: Sequence[tuple[str, str]], info: Info):
        self.captions, self.info = tuple(captions), info

    def __len__(self) -> int:
        return len(self.captions)

    def __getitem__(self, index: int) -> Example:
        name, caption = self.captions[index]
        return {"name": name, "caption": caption}


class Described:
    """A source whose examples have the captions of their names, as `caption`: one or several texts; some have none."""

    def __init__(self, source: Source, path: Path):
        self.source, self.path = source, path
        self.info: Info = replace(source.info, has_captions=True)
        self.texts: dict[str, list[str]] = {}
        for name, text in read_captions(path, several=True):
            self.texts.setdefault(name, []).append(text)
        names = some_names(source)
        if not self.texts.keys() & set(names):
            raise DataError(
                f"{path}: none of its captions is of an image here. They are of {', '.join(list(self.texts)[:3])}, ...; the "
                f"images are called {', '.join(names)}, ..."
            )

    def __len__(self) -> int:
        return len(self.source)

    def __getitem__(self, index: int) -> Example:
        example = self.source[index]
        return {**example, "caption": tuple(self.texts.get(example["name"], ()))}


def read_captions(path: Path, several: bool = False) -> list[tuple[str, str]]:
    """(name, caption) of all that a file says, or a folder; one of each name, or several."""
    found: list[tuple[str, str]] = []
    seen: set[str] = set()
    for where, name, caption in _entries(path):
        if not words_of(caption):
            raise DataError(
                f"{where}: an empty caption. Write what the image shows, or remove the line; images of no "
                "caption at all are made by config.sample.captions=none"
            )
        if name in seen and not several:
            raise DataError(f"{where}: a second caption for {name!r}. Expected one of each name")
        seen.add(name)
        found.append((name, caption))
    if not found:
        raise DataError(f"{path}: there are no captions in it. {_EXPECTED}")
    return found


def _entries(path: Path) -> Iterator[tuple[str, str, str]]:
    """(where it stands, the image's name without a suffix, the caption)."""
    if path.is_dir():
        for file in sorted(path.glob("*.txt")):
            for number, line in _lines(file):
                if line:
                    yield f"{file}, line {number}", file.stem, line
    elif path.suffix == ".json":
        yield from _coco(path)
    elif path.suffix == ".jsonl":
        for number, line in _lines(path):
            if line:
                yield f"{path}, line {number}", *_entry(path, number, line)
    else:
        for number, line in _lines(path):
            yield f"{path}, line {number}", f"caption_{number:05}", line


def _lines(path: Path) -> Iterator[tuple[int, str]]:
    for number, line in enumerate(_text(path).splitlines(), start=1):
        yield number, line.strip()


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: cannot be read ({error}). {_EXPECTED}") from error


def _entry(path: Path, number: int, line: str) -> tuple[str, str]:
    try:
        entry = json.loads(line)
        return PurePath(str(entry["image"])).stem, str(entry["caption"]).strip()
    except (ValueError, KeyError, TypeError) as error:
        raise DataError(
            f'{path}, line {number}: {line[:80]!r} ({error!r}). Expected {{"image": NAME, "caption": TEXT}}'
        ) from None


def _coco(path: Path) -> Iterator[tuple[str, str, str]]:
    """{"images": [{"id", "file_name"}], "annotations": [{"image_id", "caption"}]}; several captions an image."""
    text = _text(path)
    try:
        written = json.loads(text)
        names = {image["id"]: PurePath(str(image["file_name"])).stem for image in written["images"]}
        found = [(names[a["image_id"]], " ".join(str(a["caption"]).split())) for a in written["annotations"]]
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise DataError(f"{path}: is not what COCO's captions_*.json is ({error!r}). {_EXPECTED}") from None
    for number, (name, caption) in enumerate(found):
        if words_of(caption):  # a few of COCO's are empty
            yield f"{path}, annotation {number}", name, caption
