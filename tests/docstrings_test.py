"""What a dataclass says of its fields is said of fields that it has; what the documents name is there."""

import dataclasses
import importlib
import pkgutil
import re
from pathlib import Path
from typing import Literal, get_args, get_origin

import pytest

import semdiff

ITEM = re.compile(r"(?:^|\.[ \n]\s*|\n\s*)([a-z][a-z0-9]*(?:_[a-z0-9]+)*): ")


def dataclasses_of_semdiff():
    for module in pkgutil.walk_packages(semdiff.__path__, "semdiff."):
        if module.name.endswith("__main__"):
            continue
        for value in vars(importlib.import_module(module.name)).values():
            if (
                dataclasses.is_dataclass(value)
                and isinstance(value, type)
                and value.__module__ == module.name
            ):
                yield value


def documented(docstring):
    """`name: ...` where a line or a sentence starts."""
    return ITEM.findall(docstring)


def test_items_are_found_where_lines_and_sentences_start():
    text = "What it is: so.\n\n    first: one, and so: on. second_one: two.\n    third: see e.g. this.\n"
    assert documented(text) == ["first", "second_one", "third"]


def choices(module_name):
    """The names that a module offers to choose from: such a list in a docstring is of a field's values."""
    values = vars(importlib.import_module(module_name)).values()
    offered = [get_args(value) if get_origin(value) is Literal else value for value in values]
    return {
        name
        for value in offered
        if isinstance(value, tuple | dict)
        for name in value
        if isinstance(name, str)
    }


@pytest.mark.parametrize(
    "kind", sorted(set(dataclasses_of_semdiff()), key=repr), ids=lambda kind: kind.__qualname__
)
def test_documented_fields_exist(kind):
    known = {field.name for field in dataclasses.fields(kind)} | choices(kind.__module__)
    unknown = [
        name for name in documented(kind.__doc__ or "") if name not in known and not hasattr(kind, name)
    ]
    assert not unknown, f"{kind.__module__}.{kind.__qualname__} documents {unknown}, which it does not have"


ROOT = Path(semdiff.__file__).parents[1]
DOCS = sorted((ROOT / "docs").glob("*.md"))
NAME = r"[A-Za-z_]+(?:\.(?!py`)[A-Za-z_]+)*"
NAMED = re.compile(rf"`([a-z_/]+\.py)(?::({NAME}))?`((?:, `{NAME}`)*)")


def named(text):
    """(file, a dotted name in it or "") of `file.py:name`, `another`."""
    for path, name, more in NAMED.findall(text):
        yield path, name
        yield from ((path, other) for other in re.findall(r"`([A-Za-z_.]+)`", more))


def test_names_are_found_with_those_that_follow():
    text = "so `a/b.py:f`, `g`, and `c.py`; or `d.py:C.m`, `h`, `e.py`"
    found = [("a/b.py", "f"), ("a/b.py", "g"), ("c.py", ""), ("d.py", "C.m"), ("d.py", "h"), ("e.py", "")]
    assert list(named(text)) == found


def holds(module, name: str) -> bool:
    """Whether a module has that name, or one of its classes has a method of it."""
    first, *rest = name.split(".")
    for owner in (module, *(value for value in vars(module).values() if isinstance(value, type))):
        value = getattr(owner, first, None)
        for part in rest:
            value = getattr(value, part, None)
        if value is not None:
            return True
    return False


@pytest.mark.parametrize("document", DOCS, ids=lambda path: path.name)
def test_what_documents_name_exists(document):
    """Files below semdiff/, where it is not said otherwise."""
    for path, name in named(document.read_text()):
        inner = path.removeprefix("semdiff/")
        assert (ROOT / path).is_file() or (ROOT / "semdiff" / inner).is_file(), f"{document.name}: {path}"
        if name:
            module = importlib.import_module("semdiff." + inner.removesuffix(".py").replace("/", "."))
            assert holds(module, name), f"{document.name} names {path}:{name}, which does not exist"


FOLDERS = "semdiff|configs|tests|docs|colabs|benchmarks|launch|requirements"
MODULES = "|".join(folder.name for folder in (ROOT / "semdiff").iterdir() if folder.is_dir())
PATH = re.compile(rf"(?<![\w/.-])(?:(?:{FOLDERS})/[\w.*/-]*|(?:{MODULES})/[\w/]+\.py)")
LINK = re.compile(r"\]\((?!https?:|#)([^)#]+)")
PLACEHOLDERS = {
    "configs/NAME.py",
    "configs/nope.py",
    "configs/model",
}  # to be written, missing on purpose, escaped


def paths_in(text: str) -> set[str]:
    """What looks like a path of this project, from its root or from semdiff/; * stands for several."""
    return {found.rstrip(".,:") for found in PATH.findall(text)} - PLACEHOLDERS


def test_paths_are_found_in_text():
    text = "see `tests/doors_test.py`, (docs/data.md). and semdiff/data/: `data/text.py:X`; runs/x and a/configs/b are not"
    assert paths_in(text) == {"tests/doors_test.py", "docs/data.md", "semdiff/data/", "data/text.py"}


TEXTS = [*ROOT.glob("*.md"), *DOCS, ROOT / "launch" / "README.md", *(ROOT / "colabs").glob("*.py")]
CODE = sorted(path for folder in FOLDERS.split("|") for path in (ROOT / folder).rglob("*.py"))


@pytest.mark.parametrize("document", [*TEXTS, *CODE], ids=lambda path: str(path.relative_to(ROOT)))
def test_every_path_that_is_named_exists(document):
    text = document.read_text(encoding="utf-8")
    for path in paths_in(text):
        found = any(list(root.glob(path)) for root in (ROOT, ROOT / "semdiff"))
        assert found, f"{document.relative_to(ROOT)} names {path}, which does not exist"
    for link in LINK.findall(text) if document.suffix == ".md" else ():
        assert (document.parent / link).exists(), (
            f"{document.relative_to(ROOT)} links to {link}, which does not exist"
        )
