"""The doors between the wings: who may import whom."""

import ast
import os
import subprocess
import sys
from importlib.util import resolve_name
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parent.parent / "semdiff"
# The wings, each above all that it may import; a file at the top of semdiff/ is a wing of its own. Not here: __init__.
#   wing        may import, beside itself
WINGS = {
    "config":    "",
    "draw":      "",
    "diffusion": "",
    "models":    "",
    "convert":   "",
    "data":      "draw",
    "metrics":   "",
    "shipped":   "",
    "parser":    "config",
    "machine":   "config draw",
    "presets":   "config parser",
    "cli":       "config parser",
    "inputs":    "config machine data",
    "methods":   "config parser inputs data diffusion models",
    "sampling":  "config parser draw machine inputs data diffusion methods",
    "training":  "config parser machine diffusion methods",
    "prompts":   "machine data",
    "stable_diffusion":
                 "config convert data machine methods training",
    "trained":   "config parser machine inputs data convert methods sampling training shipped "
                 "stable_diffusion",
    "pretrained":
                 "config machine inputs data convert methods training shipped stable_diffusion trained",
    "arrays":    "config data methods trained",
    "modes":     "config parser draw machine inputs data diffusion metrics convert models methods sampling training trained "
                 "pretrained",
    "api":       "config parser draw machine data diffusion metrics sampling shipped trained arrays modes",
    "main":      "config parser machine cli trained modes",
}  # fmt: skip
# Wing -> the libraries that it may use beside Python's own; a wing that is not here is free.
LIBRARIES = {
    "diffusion": {"jax", "numpy", "jaxtyping"},
    "data": {
        "numpy",
        "PIL",
        "grain",
        "absl",
        "scipy",
        "array_record",
    },  # no jax: reading files starts fast without it
    "convert": {"numpy", "ml_dtypes", "safetensors"},
    "draw": {"numpy", "PIL"},
    "config": set(),
    "parser": {"ml_collections"},
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


def wing_of(name: str) -> str:
    """Of a path below semdiff/, or of a dotted name in semdiff."""
    return name.removesuffix(".py").removeprefix("semdiff.").replace("/", ".").split(".")[0]


def modules_of(wing: str) -> dict[str, set[str]]:
    return {module: names for module, names in MODULES.items() if wing_of(module) == wing}


def test_imports_are_found_wherever_they_stand():
    source = "import a.b\nfrom c import d as e\ndef f():\n    from .. import g\n    from .h import i\n"
    assert imports_of(source, "semdiff.data") == {"a.b", "c.d", "semdiff.g", "semdiff.data.h.i"}


def test_the_table_names_all_wings_each_below_those_that_import_it():
    assert set(WINGS) == {wing_of(module) for module in MODULES} - {"__init__"}
    wings = list(WINGS)
    for wing, below in WINGS.items():
        assert set(below.split()) <= set(wings[: wings.index(wing)]), f"{wing} imports what is above it"


@pytest.mark.parametrize("wing", WINGS)
def test_wings_import_what_the_table_says_and_no_more(wing):
    imported: set[str] = set()
    for module, names in modules_of(wing).items():
        used = {wing_of(name) for name in names if is_within(name, ("semdiff",))} - {wing}
        closed = used - set(WINGS[wing].split())
        assert not closed, f"semdiff/{module} may not import {closed}"
        imported |= used
    idle = set(WINGS[wing].split()) - imported
    assert not idle, f"{wing} may import {idle} and does not: take it from the table"


def test_modes_do_not_import_each_other():
    for module, names in modules_of("modes").items():
        others = {name for name in names if is_within(name, ("semdiff.modes",))}
        assert not others, f"semdiff/{module} imports {others}"


def test_every_package_says_what_lives_there_and_what_may_not():
    for package in PACKAGE.rglob("__init__.py"):
        said = ast.get_docstring(ast.parse(package.read_text(encoding="utf-8"))) or ""
        assert said.count(".") >= 2, f"{package.relative_to(PACKAGE)}: two sentences"


@pytest.mark.parametrize("wing", LIBRARIES)
def test_wings_use_few_libraries(wing):
    for module, names in modules_of(wing).items():
        roots = {name.split(".")[0] for name in names} - {"semdiff", "__future__"}
        others = roots - sys.stdlib_module_names - LIBRARIES[wing]
        assert not others, f"semdiff/{module} may not import {others}"


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
