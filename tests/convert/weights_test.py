"""Weight files and the command line."""

import runpy
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import safetensors.numpy

from semdiff.convert import __main__ as command
from semdiff.convert import weights

FIXTURES = Path(__file__).parent / "fixtures"
RECIPE = SimpleNamespace(**runpy.run_path(str(FIXTURES / "recipe.py")))
PARAMS = {
    "a": {"kernel": np.arange(6.0, dtype=np.float32).reshape(2, 3).T, "bias": np.ones(2, np.float32)},
    "b": np.float32(3),
}


def shaped(shape, dtype=np.float32):
    return SimpleNamespace(shape=shape, dtype=np.dtype(dtype))


EXPECTED = {"a": {"kernel": shaped((3, 2)), "bias": shaped((2,))}, "b": shaped(())}


def test_saved_weights_are_read_back(tmp_path):
    path = tmp_path / "w.safetensors"
    weights.save_weights(path, PARAMS, {"step": 3, "multipliers": [1, 2]})
    params, metadata = weights.load_weights(path)
    assert metadata == {"step": 3, "multipliers": [1, 2]}
    np.testing.assert_array_equal(params["a"]["kernel"], PARAMS["a"]["kernel"])
    weights.check_tree(params, EXPECTED, path)
    assert [p.name for p in tmp_path.iterdir()] == ["w.safetensors"]


def test_failed_write_keeps_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "w.safetensors"
    weights.save_weights(path, PARAMS)
    before = path.read_bytes()

    beside = []

    def full(*_):
        beside.extend(tmp_path.iterdir())
        raise OSError("no space left")

    monkeypatch.setattr(weights.os, "fsync", full)
    with pytest.raises(OSError, match="no space"):
        weights.save_weights(path, {"b": np.zeros(9)})
    assert len(beside) == 2  # on the same file system, where replacing is atomic
    assert path.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["w.safetensors"]


def test_other_files_are_told(tmp_path):
    path = tmp_path / "x.safetensors"
    safetensors.numpy.save_file({"a": np.zeros(1)}, path)
    with pytest.raises(ValueError, match=r"x\.safetensors: .*not semdiff's weights.*import"):
        weights.load_weights(path)
    weights.save_weights(path, PARAMS)
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(ValueError, match=r"x\.safetensors: not a whole safetensors file"):
        weights.load_weights(path)
    with pytest.raises(ValueError, match="no such file"):
        weights.load_weights(tmp_path / "missing.safetensors")


def test_names_with_slashes():
    with pytest.raises(ValueError, match="'a/b'"):
        weights.flatten({"a/b": np.zeros(1)})
    with pytest.raises(ValueError, match="both a tensor and a group"):
        weights.unflatten({"a": 1, "a/b": 2})
    with pytest.raises(ValueError, match="both a tensor and a group"):
        weights.unflatten({"a/b": 2, "a": 1})


def test_tree_that_differs():
    found = {"a": {"kernel": np.zeros((3, 4), np.float32), "scale": np.zeros(2)}, "b": np.float16(0)}
    with pytest.raises(ValueError) as caught:
        weights.check_tree(found, EXPECTED, "w.safetensors")
    message = str(caught.value)
    assert message.startswith("w.safetensors: the weights do not fit the network: ")
    assert "1 missing: a/bias float32[2]" in message
    assert "1 unexpected: a/scale float64[2]" in message
    assert "2 of another shape or type: a/kernel is float32[3,4], expected float32[3,2]" in message
    assert "b is float16[], expected float32[]" in message


@pytest.fixture(scope="module")
def released_file(tmp_path_factory):
    path = tmp_path_factory.mktemp("released") / "released.safetensors"
    lines = np.load(FIXTURES / "released_plain.npz")["shapes"].tobytes().decode().splitlines()
    shapes = {name: tuple(map(int, s.split(","))) for name, s in map(str.split, lines)}
    safetensors.numpy.save_file({n: RECIPE.weight(n, s) for n, s in shapes.items()}, path)
    return path


def test_import_inspect_export(tmp_path, released_file, capsys):
    ours, theirs = str(tmp_path / "w.safetensors"), str(tmp_path / "r.safetensors")
    assert command.main(["import", str(released_file), ours, "--head-width", "16"]) == 0
    assert weights.load_weights(ours)[1]["network"]["multipliers"] == [1, 2, 2]
    assert weights.load_weights(ours)[1]["network"]["head_width"] == 16
    assert command.main(["export", ours, theirs]) == 0
    before, after = (safetensors.numpy.load_file(p) for p in (released_file, theirs))
    assert set(before) == set(after)
    assert all(np.array_equal(before[name], after[name]) for name in before)
    for path in (released_file, ours):
        capsys.readouterr()
        assert command.main(["inspect", str(path)]) == 0
        shown = capsys.readouterr().out
        assert "multipliers = (1, 2, 2)" in shown
        assert "label_channels = 5" in shown
        assert "learned_sigma = True" in shown


def test_inspect_of_nested_and_foreign_files(capsys):
    assert command.main(["inspect", str(FIXTURES / "nested.pt")]) == 0
    shown = capsys.readouterr().out
    assert "model.weight" in shown
    assert "3x2" in shown
    assert "no network recognised" in shown
    assert command.main(["inspect", str(FIXTURES / "nested.pt"), "--key", "model"]) == 0


def test_command_refuses_in_words(tmp_path, released_file, capsys):
    target = tmp_path / "w.safetensors"
    target.write_bytes(b"precious")
    assert command.main(["import", str(released_file), str(target)]) == 1
    assert "already exists" in capsys.readouterr().err
    assert target.read_bytes() == b"precious"
    assert command.main(["import", str(released_file), str(target), "--force"]) == 0
    assert command.main(["import", str(released_file), str(tmp_path / "w.pt")]) == 1
    assert "ends in .safetensors" in capsys.readouterr().err
    assert command.main(["import", str(FIXTURES / "zip.pt"), str(tmp_path / "v.safetensors")]) == 1
    assert "not the network of SDM" in capsys.readouterr().err
    assert command.main(["export", str(released_file), str(tmp_path / "v.safetensors")]) == 1
    assert "not semdiff's weights" in capsys.readouterr().err
    assert not (tmp_path / "v.safetensors").exists()
