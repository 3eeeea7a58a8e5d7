"""The notebooks: their text runs as it stands, at toy size, and is what the .ipynb holds."""

import json
import re
from pathlib import Path

import jupytext
import pytest
from tiny import tiny_config

from semdiff import presets

COLABS = Path(__file__).parents[1] / "colabs"
TEXTS = sorted(COLABS.glob("*.py"))


def cells(notebook):
    return [(cell.cell_type, cell.source) for cell in notebook.cells]


@pytest.mark.parametrize("text", TEXTS, ids=lambda path: path.stem)
def test_a_notebook_is_its_text_with_pictures(text):
    notebook = text.with_suffix(".ipynb")
    assert cells(jupytext.read(notebook)) == cells(jupytext.read(text)), "run `make notebooks`"
    written = json.loads(notebook.read_text())
    outputs = [output for cell in written["cells"] for output in cell.get("outputs", [])]
    assert not [output for output in outputs if output["output_type"] == "error"]
    assert sum("image/png" in output.get("data", {}) for output in outputs) >= 3
    assert str(COLABS.parent) not in notebook.read_text()


def run(text: Path, **parameters):
    """The notebook's code in one go, its parameters set to others; what it left behind."""
    source = text.read_text()
    for name, value in parameters.items():
        source, found = re.subn(rf"^{name} = .*$", f"{name} = {value!r}", source, count=1, flags=re.MULTILINE)
        assert found, f"{text.name} has no parameter {name}"
    left = {}
    exec(compile(source, str(text), "exec"), left)
    return left


def toy():
    """One level without attention, and nothing looked at while it trains: few and small programs."""
    config = tiny_config()
    config.model.multipliers, config.model.attention = (1,), ()
    config.train.grid = config.train.eval_batches = 0
    return config


def test_sampling(tmp_path, monkeypatch):
    monkeypatch.setattr(presets, "scenes", toy)
    left = run(COLABS / "sampling.py", MODEL="", STEPS=2, WORKDIR=str(tmp_path))
    assert left["images"].shape == (3, 4, 8, 8, 3)
    for name in ("sheet", "by_guidance", "by_steps", "by_seed", "edited"):
        assert left[name].width > 256
    assert (left["folder"] / "model.safetensors").exists()
