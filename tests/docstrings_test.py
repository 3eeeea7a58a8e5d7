"""What a dataclass says of its fields is said of fields that it has."""

import dataclasses
import importlib
import pkgutil
import re

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
    return {
        name for value in values if isinstance(value, tuple | dict) for name in value if isinstance(name, str)
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
