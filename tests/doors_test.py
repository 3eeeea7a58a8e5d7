"""The doors between the rooms: who may import whom."""

import ast
import os
import subprocess
import sys
from importlib.util import resolve_name
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parent.parent / "semdiff"
ROOMS = ("diffusion", "models", "data", "metrics", "convert")
# What may use more than one room: what a method is and is built by, what a model is, tasks and their folders, the modes.
JOINERS = ("method", "given", "networks", "build", "trained", "tasks", "outputs")
JOINERS += ("main", "api", "train", "sample", "segment", "edit", "evaluate", "stats", "tune", "export")

# Room -> the modules of semdiff that it may use. `draw` is a leaf: it uses none.
OPEN_TO = {
    "diffusion": ("semdiff.diffusion",),
    "models": ("semdiff.models",),
    "data": ("semdiff.data", "semdiff.draw"),
    "metrics": ("semdiff.metrics", "semdiff.draw"),
    "convert": ("semdiff.convert",),
    "draw": (),
}
# Room -> the libraries that it may use beside Python's own; a room that is not here is free.
LIBRARIES = {
    "diffusion": {"jax", "numpy", "jaxtyping"},
    "data": {"numpy", "PIL", "grain", "absl", "scipy"},  # no jax: reading files starts fast without it
    "convert": {"numpy", "ml_dtypes", "safetensors"},
    "draw": {"numpy", "PIL"},
}
# TensorFlow, PyTorch, and the parts of clu that import TensorFlow.
HEAVY = ("tensorflow", "torch", "clu.metric_writers", "clu.periodic_actions")


def is_within(name: str, parents) -> bool:
    return any(name == parent or name.startswith(f"{parent}.") for parent in parents)


def imports_of(source: str, package: str) -> set[str]:
    """Dotted names of all that a module imports, at any depth; `from a import b` counts as a.b."""
    names = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            origin = resolve_name("." * node.level + (node.module or ""), package)
            names |= {f"{origin}.{alias.name}" for alias in node.names}
    return names


def read_package() -> dict[str, set[str]]:
    """Module, as a path below semdiff/ -> what it imports."""
    modules = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        inner = path.relative_to(PACKAGE)
        package = ".".join(("semdiff", *inner.parent.parts))
        modules[str(inner)] = imports_of(path.read_text(encoding="utf-8"), package)
    return modules


MODULES = read_package()


def modules_of(room: str) -> dict[str, set[str]]:
    return {m: names for m, names in MODULES.items() if m.startswith(f"{room}/") or m == f"{room}.py"}


def test_imports_are_found_wherever_they_stand():
    source = "import a.b\nfrom c import d as e\ndef f():\n    from .. import g\n    from .h import i\n"
    assert imports_of(source, "semdiff.data") == {"a.b", "c.d", "semdiff.g", "semdiff.data.h.i"}


@pytest.mark.parametrize("room", OPEN_TO)
def test_rooms_use_only_what_is_open_to_them(room):
    modules = modules_of(room)
    assert modules
    for module, names in modules.items():
        ours = {name for name in names if is_within(name, ("semdiff",))}
        closed = {name for name in ours if not is_within(name, OPEN_TO[room])}
        assert not closed, f"semdiff/{module} may not import {closed}"


@pytest.mark.parametrize("room", LIBRARIES)
def test_rooms_use_few_libraries(room):
    for module, names in modules_of(room).items():
        roots = {name.split(".")[0] for name in names} - {"semdiff", "__future__"}
        others = roots - sys.stdlib_module_names - LIBRARIES[room]
        assert not others, f"semdiff/{module} may not import {others}"


def test_few_modules_join_rooms():
    for module, names in MODULES.items():
        if "/" in module or module.removesuffix(".py") in JOINERS:
            continue
        used = {room for room in ROOMS if any(is_within(name, (f"semdiff.{room}",)) for name in names)}
        assert len(used) <= 1, f"semdiff/{module} joins {used}: only {JOINERS} may"


def test_nothing_imports_configs_or_heavy_libraries():
    for module, names in MODULES.items():
        wrong = {name for name in names if is_within(name, ("configs", "semdiff.configs", *HEAVY))}
        assert not wrong, f"semdiff/{module} may not import {wrong}"


LOADED = """
import sys
import semdiff.data, semdiff.data.scenes, semdiff.data.readers.folder, semdiff.data.readers.official
assert "jax" not in sys.modules, "reading data loads jax"
import semdiff.main
heavy = [name for name in sys.modules if name.split(".")[0] in ("tensorflow", "torch", "configs")]
assert not heavy, heavy
"""


def test_the_program_loads_no_heavy_library():
    environment = dict(os.environ, JAX_PLATFORMS="cpu", PYTHONPATH=str(PACKAGE.parent))
    command = [sys.executable, "-c", LOADED]
    process = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120)
    assert process.returncode == 0, process.stderr[-2000:]
