"""Weight files and the command line."""

import json
import runpy
import struct
from pathlib import Path
from types import SimpleNamespace

import ml_dtypes
import numpy as np
import pytest
import safetensors.numpy

from semdiff.convert import __main__ as command
from semdiff.convert import torch_file, weights

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


# --- safetensors that say strange things


def safetensors_file(path, header, content=b""):
    """From a header as JSON has it (or its bytes) and what follows."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + content)
    return path


def one(dtype="F32", shape=(2,), offsets=(0, 8)):
    return {"dtype": dtype, "shape": list(shape), "data_offsets": list(offsets)}


def marked(**tensors):
    return {"__metadata__": {"semdiff": json.dumps({"format": weights.FORMAT, "metadata": {}})}, **tensors}


FLOATS = {
    "BF16": ml_dtypes.bfloat16,
    "F8_E4M3": ml_dtypes.float8_e4m3fn,
    "F8_E5M2": ml_dtypes.float8_e5m2,
    "F8_E4M3FNUZ": ml_dtypes.float8_e4m3fnuz,
    "F8_E5M2FNUZ": ml_dtypes.float8_e5m2fnuz,
}


@pytest.mark.parametrize("kind", FLOATS)
def test_small_floats_are_read(tmp_path, kind, capsys):
    values = np.array([0.5, -2, 1.75, 0], FLOATS[kind])
    claim = one(kind, (2, 2), (0, values.nbytes))
    ours = safetensors_file(tmp_path / "w.safetensors", marked(**{"a/b": claim}), values.tobytes())
    theirs = safetensors_file(tmp_path / "t.safetensors", {"a.b": claim}, values.tobytes())
    found = weights.load_weights(ours)[0]["a"]["b"]
    assert found.dtype == values.dtype
    np.testing.assert_array_equal(found.astype(np.float32), [[0.5, -2], [1.75, 0]])
    assert torch_file.load(theirs)["a.b"].dtype == values.dtype
    assert command.main(["inspect", str(theirs)]) == 0
    assert values.dtype.name in capsys.readouterr().out
    with pytest.raises(ValueError, match=rf"w\.safetensors: .*b is {values.dtype.name}.*expected float32"):
        weights.check_tree({"b": found}, {"b": shaped((2, 2))}, ours)


def test_every_type_that_the_library_writes_is_read(tmp_path):
    kinds = [
        np.dtype(t) for t in ["f2", "f4", "f8", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", "?", "c8"]
    ]
    tensors = {kind.name: np.arange(6).reshape(2, 3).astype(kind) for kind in kinds}
    tensors |= {"scalar": np.float32(3), "empty": np.zeros((0, 4), np.int8)}
    safetensors.numpy.save_file({k: np.asarray(v) for k, v in tensors.items()}, tmp_path / "x.safetensors")
    found = torch_file.load(tmp_path / "x.safetensors")
    assert set(found) == set(tensors)
    for name, tensor in tensors.items():
        assert found[name].dtype == tensor.dtype
        np.testing.assert_array_equal(found[name], tensor)


TENSOR = b'{"dtype":"F32","shape":[2],"data_offsets":[0,8]}'
STRANGE = {
    "packed": (
        marked(a=one("F4", (4,), (0, 2))),
        b"ab",
        r"tensor 'a' of the type 'F4'; expected one of F64, F32",
    ),
    "no type": (marked(a={}), b"", r"tensor 'a' of the type a NoneType"),
    "no object": (marked(a=3), b"", "tensor 'a' of the type"),
    "type of lists": (marked(a=one([])), bytes(8), "tensor 'a' of the type a list"),
    "twice": (b'{"a":' + TENSOR + b',"a":' + TENSOR + b"}", bytes(8), "its header has 'a' twice"),
    "overlap": (marked(a=one(), b=one()), bytes(8), "tensor 'b' begins at byte 0, where 8 was expected"),
    "gap": (marked(a=one(offsets=(8, 16))), bytes(16), "tensor 'a' begins at byte 8, where 0"),
    "cut short": (marked(a=one()), bytes(7), r"its tensors are 8 bytes, 7 are there"),
    "too long": (marked(a=one()), bytes(9), r"its tensors are 8 bytes, 9 are there"),
    "other size": (marked(a=one(shape=(3,))), bytes(8), "tensor 'a' has 8 bytes, 12 by its shape"),
    "negative": (marked(a=one(shape=(-2,))), bytes(8), "no shape of"),
    "shape of floats": (marked(a=one(shape=(2.0,))), bytes(8), "no shape of"),
    "huge shape": (marked(a=one(shape=(1 << 61,) * 30)), bytes(8), "tensor 'a' has 8 bytes, a int by"),
    "empty without end": (marked(a=one("F32", (0, 1 << 61, 1 << 61), (0, 0))), b"", "absurd shape"),
    "rank": (marked(a=one(shape=(1,) * 99, offsets=(0, 4))), bytes(4), "at most 32 numbers"),
    "offsets": (marked(a=one(offsets=(8,))), bytes(8), "no two offsets"),
    "backwards": (marked(a=one(offsets=(8, 0))), bytes(8), "tensor 'a' has -8 bytes"),
    "no JSON": (b"{]", b"", "header is not JSON"),
    "no text": (b'{"\xff": 1}', b"", "header is not JSON"),
    "deep": (b"[" * 200_000, b"", "header is not JSON"),
    "long number": (b'{"a": ' + b"1" * 9000 + b"}", b"", "header is not JSON"),
    "list": (b"[]", b"", "its header is a list"),
    "metadata": ({"__metadata__": {"semdiff": 3}}, b"", "__metadata__ is not a table of texts"),
    "metadata twice": (b'{"__metadata__":{"a":"","a":""}}', b"", "has 'a' twice"),
}


@pytest.mark.parametrize("case", STRANGE)
def test_strange_safetensors_are_met_with_words(tmp_path, case, capsys):
    header, content, words = STRANGE[case]
    path = safetensors_file(tmp_path / "x.safetensors", header, content)
    for read in (weights.load_weights, torch_file.load):
        with pytest.raises(ValueError, match=rf"x\.safetensors: .*{words}"):
            read(path)
    target = str(tmp_path / "target.safetensors")
    for arguments in (["inspect", str(path)], ["import", str(path), target], ["export", str(path), target]):
        assert command.main(arguments) == 1
        assert "x.safetensors: " in capsys.readouterr().err


@pytest.mark.parametrize("length", [0, 1, 1 << 20, 1 << 62, (1 << 64) - 1])
def test_a_header_of_any_claimed_length(tmp_path, length):
    path = tmp_path / "x.safetensors"
    path.write_bytes(struct.pack("<Q", length) + b"{}")
    for read in (weights.load_weights, torch_file.load):
        with pytest.raises(ValueError, match=rf"a header of {length} bytes in a file of 10"):
            read(path)


def test_every_truncation_of_weights_is_told(tmp_path):
    path = tmp_path / "x.safetensors"
    weights.save_weights(path, PARAMS)
    content = path.read_bytes()
    for length in range(len(content)):
        path.write_bytes(content[:length])
        with pytest.raises(ValueError, match=r"x\.safetensors: "):
            weights.load_weights(path)


@pytest.mark.parametrize(
    ("mark", "words"),
    [
        ("[" * 100_000, "metadata"),
        ("{", "metadata"),
        (json.dumps({"format": weights.FORMAT}), "metadata"),
        (json.dumps({"format": "semdiff.weights.99", "metadata": {}}), "not semdiff's weights"),
    ],
)
def test_marks_that_are_not_ours(tmp_path, mark, words):
    path = safetensors_file(tmp_path / "x.safetensors", {"__metadata__": {"semdiff": mark}})
    with pytest.raises(ValueError, match=rf"x\.safetensors: .*{words}"):
        weights.load_weights(path)


def test_names_that_contradict_each_other_are_told_with_their_file(tmp_path):
    header = marked(**{"a": one("F32", (2,), (0, 8)), "a/b": one("F32", (2,), (8, 16))})
    path = safetensors_file(tmp_path / "x.safetensors", header, bytes(16))
    with pytest.raises(ValueError, match=r"x\.safetensors: parameter 'a/b'.*both a tensor and a group"):
        weights.load_weights(path)


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


def test_8_bit_floats_are_imported_as_float32(tmp_path, released_file):
    tensors = {name: t.astype(ml_dtypes.float8_e4m3fn) for name, t in torch_file.load(released_file).items()}
    header, content = {}, b""
    for name, tensor in tensors.items():
        header[name] = one("F8_E4M3", tensor.shape, (len(content), len(content) + tensor.nbytes))
        content += tensor.tobytes()
    path = safetensors_file(tmp_path / "small.safetensors", header, content)
    assert command.main(["import", str(path), str(tmp_path / "w.safetensors"), "--head-width", "16"]) == 0
    params = weights.flatten(weights.load_weights(tmp_path / "w.safetensors")[0])
    assert {p.dtype for p in params.values()} == {np.dtype(np.float32)}
    kernel = tensors["out.2.weight"].astype(np.float32).transpose(2, 3, 1, 0)
    assert any(p.shape == kernel.shape and np.array_equal(p, kernel) for p in params.values())


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
