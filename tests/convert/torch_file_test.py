"""Reading PyTorch's files: what genuine files hold, and what hostile or broken ones do not get."""

import io
import os
import pickle
import struct
import sys
import tracemalloc
import zipfile
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
import safetensors.numpy

from semdiff.convert import torch_file

FIXTURES = Path(__file__).parent / "fixtures"
WHOLE = np.arange(12.0, dtype=np.float32).reshape(3, 4)
SAMPLE = {
    "weight": np.arange(6.0, dtype=np.float32).reshape(3, 2),
    "bias": np.array([-1, 0, 1], np.float32),
    "whole": WHOLE,
    "transposed": WHOLE.T,
    "window": WHOLE[1:, 1::2],
    "parameter": np.array([0.25, -0.5], np.float32),
    "half": np.array([1.5, -65504], np.float16),
    "bfloat": np.array([1.5, 3e38], ml_dtypes.bfloat16),
    "double": np.array([1 / 3]),
    "long": np.array(2**40 + 1),
    "byte": np.array([0, 255], np.uint8),
    "flags": np.array([True, False]),
    "empty": np.zeros((0, 3), np.float32),
}


@pytest.mark.parametrize("name", ["zip.pt", "zip_protocol4.pt", "legacy.pt"])
def test_genuine_file(name):
    tensors = torch_file.load(FIXTURES / name)
    assert list(tensors) == list(SAMPLE)
    for key, expected in SAMPLE.items():
        assert tensors[key].dtype == expected.dtype, key
        np.testing.assert_array_equal(tensors[key], expected, err_msg=key)
        assert tensors[key].size == 0 or not tensors[key].flags.writeable
    assert np.shares_memory(tensors["whole"], tensors["transposed"])
    assert "torch" not in sys.modules


@pytest.mark.parametrize("name", ["nested.pt", "nested_legacy.pt"])
def test_nested_file(name):
    inner = torch_file.load(FIXTURES / name, key="model")
    assert list(inner) == ["weight", "bias"]
    everything = torch_file.load(FIXTURES / name, flatten=True)
    assert list(everything) == ["model.weight", "model.bias", "optimizer.state.0.exp_avg"]
    np.testing.assert_array_equal(everything["optimizer.state.0.exp_avg"], [0.5, 0.5])
    with pytest.raises(ValueError, match=rf"{name}: its tensors are nested .*'model': dict"):
        torch_file.load(FIXTURES / name)
    with pytest.raises(ValueError, match=rf"{name}: no entry 'ema'; it holds 'model'"):
        torch_file.load(FIXTURES / name, key="ema")
    with pytest.raises(ValueError, match="expected tensors by name; it holds a int"):
        torch_file.load(FIXTURES / name, key="step")


def test_safetensors(tmp_path):
    safetensors.numpy.save_file({"a": SAMPLE["bfloat"], "b": SAMPLE["byte"]}, tmp_path / "x.safetensors")
    tensors = torch_file.load(tmp_path / "x.safetensors")
    assert tensors["a"].dtype == ml_dtypes.bfloat16
    np.testing.assert_array_equal(tensors["b"], SAMPLE["byte"])


# --- files made by hand


def tensor_pickle(
    type_="FloatStorage", count=4, offset=0, shape=(2, 2), strides=(2, 1), key="0", tail=b""
) -> bytes:
    """{"t": tensor}, opcode by opcode, so that any number in it can be a lie."""

    def text(value):
        return b"X" + struct.pack("<I", len(value)) + value.encode()

    def number(value):
        raw = value.to_bytes(9, "little", signed=True)
        return b"\x8a" + bytes([len(raw)]) + raw

    def numbers(values):
        return b"(" + b"".join(map(number, values)) + b"t"

    storage = b"(" + text("storage") + f"ctorch\n{type_}\n".encode() + text(key) + text("cpu")
    storage += number(count) + tail + b"tQ"
    call = b"ctorch._utils\n_rebuild_tensor_v2\n(" + storage + number(offset)
    call += numbers(shape) + numbers(strides) + b"\x89ccollections\nOrderedDict\n)RtR"
    return b"\x80\x02}" + text("t") + call + b"s."


def zip_file(path: Path, data: bytes, storages: dict | None = None, **extra: bytes) -> Path:
    contents = np.arange(4, dtype="<f4").tobytes()
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/data.pkl", data)
        for name, content in extra.items():
            archive.writestr(f"archive/{name}", content)
        for key, content in ({"0": contents} if storages is None else storages).items():
            archive.writestr(f"archive/data/{key}", content)
    return path


def legacy_file(path: Path, data: bytes, storages: bytes | None = None, keys=("0",)) -> Path:
    header = [pickle.dumps(part, 2) for part in (torch_file.LEGACY_MAGIC, 1001, {"little_endian": True})]
    if storages is None:
        storages = struct.pack("<q", 4) + np.arange(4, dtype="<f4").tobytes()
    path.write_bytes(b"".join([*header, data, pickle.dumps(list(keys), 2), storages]))
    return path


WRITERS = [zip_file, legacy_file]


@pytest.mark.parametrize("write", WRITERS)
def test_hand_made_file_is_read(tmp_path, write):
    tail = b"N" if write is legacy_file else b""
    path = write(tmp_path / "x.pt", tensor_pickle(tail=tail))
    np.testing.assert_array_equal(torch_file.load(path)["t"], [[0, 1], [2, 3]])


def test_big_endian_zip(tmp_path):
    values = np.array([[1, 2], [3, 1e5]], np.float32)
    path = zip_file(
        tmp_path / "x.pt", tensor_pickle(), {"0": values.astype(">f4").tobytes()}, byteorder=b"big"
    )
    np.testing.assert_array_equal(torch_file.load(path)["t"], values)


class Attack:
    def __init__(self, function, *arguments):
        self.call = (function, arguments)

    def __reduce__(self):
        return self.call


@pytest.mark.parametrize("write", WRITERS)
@pytest.mark.parametrize("protocol", [2, 4])
@pytest.mark.parametrize(
    ("attack", "named"),
    [
        (lambda mark: Attack(os.system, f"touch {mark}"), r"(posix|nt)\.system"),
        (lambda mark: Attack(eval, f"open({str(mark)!r}, 'w')"), r"builtins\.eval"),
        (lambda mark: Attack(getattr, os, "system"), "builtins.getattr"),
        (lambda mark: io.BytesIO(b""), "_io.BytesIO"),
    ],
)
def test_code_is_refused_by_name_and_not_run(tmp_path, write, protocol, attack, named):
    mark = tmp_path / "ran"
    try:
        hostile = pickle.dumps({"t": attack(mark)}, protocol)
    except TypeError:  # a module is not picklable: say what its pickle would say
        hostile = b"\x80\x02cbuiltins\ngetattr\n(cposix\nsystem\nX\x01\x00\x00\x00xtR."
    if protocol == 2:
        hostile = hostile.replace(b"c__builtin__\n", b"cbuiltins\n")
    path = write(tmp_path / "bad.pt", hostile)
    with pytest.raises(ValueError, match=rf"bad.pt: refused the global '{named}'.*state_dict"):
        torch_file.load(path)
    assert not mark.exists()


STRANGE = {
    "call of a number": (b"\x80\x02K\x01)R.", "refused to call 1"),
    "call of a string": (b"\x80\x02X\x0a\x00\x00\x00torch.Size)R.", "refused to call 'torch.Size'"),
    "call of a type name": (b"\x80\x02ctorch\nFloatStorage\n)R.", "refused to call 'torch.Float"),
    "state on a function": (b"\x80\x02ctorch\nSize\n}b.", "treats a Global as a dict"),
    "state on a tuple": (b"\x80\x02)}b.", "treats a tuple as a dict"),
    "object without init": (b"\x80\x02ctorch\nSize\n)\x81.", "opcode NEWOBJ"),
    "extension registry": (b"\x80\x02\x82\x01.", "opcode EXT1"),
    "instance": (b"\x80\x02(icollections\nOrderedDict\n.", "opcode INST"),
    "text opcodes": (b"I1\n.", "opcode INT"),
    "key that is a container": (b"\x80\x02}))s.", "dictionary key a tuple"),
    "ordered pairs": (b"\x80\x02ccollections\nOrderedDict\n(]])aatR.", "entries that are not"),
    "persistent string": (b"\x80\x02X\x01\x00\x00\x00xQ.", "not a storage"),
    "storage of tuples": (b"\x80\x02(X\x07\x00\x00\x00storage)))K\x01tQ.", "storage of type a tup"),
    "unknown memo": (b"\x80\x02h\x05.", "recalls entry 5"),
    "huge memo": (b"\x80\x02Nr\xff\xff\xff\xff.", "it holds a NoneType"),
    "empty stack": (b"\x80\x02.", "stack unbalanced"),
    "underflow": (b"\x80\x02s.", "more from its stack"),
    "mark": (b"\x80\x02t.", "closes a mark"),
    "claimed string": (b"\x80\x04\x8d\xff\xff\xff\xff\xff\xff\xff\x7fx.", "cut short or damaged"),
    "no end": (b"\x80\x02}", "cut short or damaged"),
}


@pytest.mark.parametrize("case", STRANGE)
def test_strange_pickles(tmp_path, case):
    data, words = STRANGE[case]
    path = zip_file(tmp_path / "bad.pt", data)
    with pytest.raises(ValueError, match=words) as caught:
        torch_file.load(path)
    assert str(path) in str(caught.value)


LIES = {
    "storage larger than the file": ({"count": 5}, "claims 20 bytes, the file holds 16"),
    "storage beyond any file": ({"count": 1 << 61}, "claims .* bytes, the file holds 16"),
    "offset outside": ({"offset": 1}, r"offset 1 reach beyond its storage of 4 elements"),
    "shape outside": ({"shape": (3, 2)}, r"shape \(3, 2\), .* reach beyond"),
    "stride outside": ({"strides": (3, 1)}, r"strides \(3, 1\) .* reach beyond"),
    "negative stride": ({"strides": (-2, 1)}, "found -2"),
    "negative offset": ({"offset": -1}, "found -1"),
    "expanded without end": ({"shape": (1 << 40,), "strides": (0,)}, "reach beyond"),
    "empty without end": ({"shape": (0, 1 << 60), "strides": (1, 1)}, "absurd shape"),
    "other rank": ({"shape": (4,)}, "shape and strides"),
    "unknown type": ({"type_": "QInt8Storage"}, "refused the global 'torch.QInt8Storage'"),
    "no such storage": ({"key": "../../0"}, r"lacks '(archive/data/\.\./\.\./0)'"),
}


@pytest.mark.parametrize("case", LIES)
def test_sizes_that_lie(tmp_path, case):
    arguments, words = LIES[case]
    path = zip_file(tmp_path / "bad.pt", tensor_pickle(**arguments))
    with pytest.raises(ValueError, match=words) as caught:
        torch_file.load(path)
    assert str(path) in str(caught.value)


def test_legacy_sizes_that_lie(tmp_path):
    data = tensor_pickle(tail=b"N")
    with pytest.raises(ValueError, match=r"claims 5 x 4 bytes where 16 are left"):
        torch_file.load(legacy_file(tmp_path / "a.pt", data, struct.pack("<q", 5) + bytes(16)))
    with pytest.raises(ValueError, match=r"reach beyond|claims 16 bytes, the file holds 12"):
        torch_file.load(legacy_file(tmp_path / "b.pt", data, struct.pack("<q", 3) + bytes(12)))
    with pytest.raises(ValueError, match="claims -1 x 4 bytes"):
        torch_file.load(legacy_file(tmp_path / "c.pt", data, struct.pack("<q", -1)))
    with pytest.raises(ValueError, match="'0' belongs to no tensor"):
        torch_file.load(legacy_file(tmp_path / "d.pt", tensor_pickle(tail=b"N", key="9")))
    with pytest.raises(ValueError, match="'0' belongs to no tensor, or is there twice"):
        torch_file.load(legacy_file(tmp_path / "e.pt", data, keys=("0", "0")))


def test_containers_that_never_end(tmp_path):
    doubling = b")" + b"".join(b"q%ch%c\x86" % (i, i) for i in range(40))
    itself = b"]q\x00h\x00a"
    for data in (doubling, itself):
        wrapped = b"\x80\x02}X\x01\x00\x00\x00a" + data + b"s."
        with pytest.raises(ValueError, match="levels of nesting"):
            torch_file.load(zip_file(tmp_path / "x.pt", wrapped))


# --- small files that would grow


def text(value):
    return b"X" + struct.pack("<I", len(value)) + value.encode()


def stored(item, place):
    """Puts the item into the memo, and takes it off the stack."""
    return b"(" + item + b"r" + struct.pack("<I", place) + b"1"


def recalled(place):
    return b"j" + struct.pack("<I", place)


def several(items):
    return b"](" + b"".join(items) + b"e"


def many_calls(function, item, count=1000):
    """{"x": [function(item), function(item), ...]}, with one item in the file."""
    module, _, name = function.rpartition(".")
    call = f"c{module}\n{name}\n".encode()
    call = several([call + recalled(0) + b"\x85R" for _ in range(count)])
    return b"\x80\x02" + stored(item, 0) + b"}" + text("x") + call + b"s."


def pairs(count):
    return several([text(f"{i:04d}") + b"K\x01\x86" for i in range(count)])


def numbers(count):
    return b"(" + b"K\x01" * count + b"t"


def many_tensors(rank=32, count=2000):
    """Tensors that share one storage and one shape of 32 dimensions."""
    storage = b"(" + text("storage") + b"ctorch\nFloatStorage\n" + text("0") + text("cpu") + b"K\x04tQ"
    arguments = b"(" + storage + b"K\0" + numbers(rank) + numbers(rank) + b"\x89Nt"
    tensor = b"ctorch._utils\n_rebuild_tensor_v2\n" + recalled(0) + b"R"
    return (
        b"\x80\x02"
        + stored(arguments, 0)
        + b"}"
        + text("x")
        + several([tensor for _ in range(count)])
        + b"s."
    )


GROWING = {
    "dictionaries of one list": many_calls("collections.OrderedDict", pairs(1000)),
    "sizes of one tuple": many_calls("torch.Size", numbers(4000)),
    "tensors of one shape": many_tensors(),
}


def peak_of(action):
    tracemalloc.start()
    try:
        action()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("case", GROWING)
@pytest.mark.parametrize("write", WRITERS)
def test_what_a_file_says_once_is_not_built_a_thousand_times(tmp_path, write, case):
    path = write(tmp_path / "grow.pt", GROWING[case])

    def refused():
        with pytest.raises(
            ValueError, match=r"grow\.pt: refused a pickle that would grow: .*more than the pickle itself"
        ):
            torch_file.load(path, flatten=True)

    assert peak_of(refused) < 100 * path.stat().st_size


def long_names(depth=60, width=2, count=200):
    """The same tensors again and again under names that get longer: dictionaries that share what they hold."""
    tensor = tensor_pickle()[2:-1]  # {"t": tensor}
    inner = b"}(" + b"".join(text(f"{i:03d}") + recalled(0) for i in range(count)) + b"u"
    parts = stored(tensor, 0) + stored(inner, 1)
    for level in range(depth):
        names = [text(str(i) * 1000) + recalled(level + 1) for i in range(width if level < 8 else 1)]
        parts += stored(b"}(" + b"".join(names) + b"u", level + 2)
    return b"\x80\x02" + parts + recalled(depth + 1) + b"."


def test_names_do_not_outgrow_the_file(tmp_path):
    path = zip_file(tmp_path / "names.pt", long_names())

    def refused():
        with pytest.raises(
            ValueError, match=r"names\.pt: refused tensors whose names take more room than the file"
        ):
            torch_file.load(path, flatten=True)

    assert peak_of(refused) < 100 * path.stat().st_size


def test_lists_that_share_what_they_hold_are_walked_in_little_memory(tmp_path, monkeypatch):
    monkeypatch.setattr(torch_file, "MAX_ENTRIES", 100_000)
    parts = stored(b"]", 0)
    for level in range(60):
        parts += stored(several([recalled(level)] * 1000), level + 1)
    path = zip_file(tmp_path / "wide.pt", b"\x80\x02}" + text("x") + parts + recalled(60) + b"s.")

    def refused():
        with pytest.raises(ValueError, match=r"wide\.pt: refused more than 100000 entries"):
            torch_file.load(path, flatten=True)

    assert peak_of(refused) < 20 * path.stat().st_size


def test_compressed_entry_is_refused(tmp_path):
    path = tmp_path / "bomb.pt"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/data.pkl", tensor_pickle())
        archive.writestr("archive/data/0", bytes(16))
    with pytest.raises(ValueError, match=r"bomb.pt: 'archive/data.pkl' is compressed"):
        torch_file.load(path)


def test_flipped_bit_is_found(tmp_path):
    content = bytearray((FIXTURES / "zip.pt").read_bytes())
    content[content.index(WHOLE.tobytes()) + 5] ^= 1
    (tmp_path / "x.pt").write_bytes(content)
    with pytest.raises(ValueError, match=r"tensor 'whole': 'zip/data/\d+' cannot be read"):
        torch_file.load(tmp_path / "x.pt")


@pytest.mark.parametrize("name", ["zip.pt", "legacy.pt", "nested.pt"])
def test_every_truncation_is_told(tmp_path, name):
    content = (FIXTURES / name).read_bytes()
    path = tmp_path / "cut.pt"
    for length in range(0, len(content), 13):
        path.write_bytes(content[:length])
        with pytest.raises(ValueError) as caught:
            torch_file.load(path, flatten=True)
        assert str(path) in str(caught.value)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "the file is empty"),
        (b"<!DOCTYPE html><html>", "web page"),
        (b"version https://git-lfs.github.com/spec/v1\n", "git lfs pull"),
        (b"\x89PNG\r\n", "not a PyTorch or safetensors file"),
        (pickle.dumps({"a": 1}, 2), "not one that PyTorch's save wrote"),
        (b"\xff\0\0\0\0\0\0\0{", "not a whole safetensors file"),
    ],
)
def test_other_files(tmp_path, content, words):
    path = tmp_path / "x.pt"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=words) as caught:
        torch_file.load(path)
    assert str(path) in str(caught.value)


def test_no_file_and_folder(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"missing\.pt"):
        torch_file.load(tmp_path / "missing.pt")
    with pytest.raises(ValueError, match="is a folder"):
        torch_file.load(tmp_path)


def test_torchscript_and_other_archives(tmp_path):
    path = zip_file(tmp_path / "x.pt", tensor_pickle(), **{"constants.pkl": b""})
    with pytest.raises(ValueError, match="TorchScript"):
        torch_file.load(path)
    with zipfile.ZipFile(tmp_path / "y.pt", "w") as archive:
        archive.writestr("notes.txt", b"")
    with pytest.raises(ValueError, match=r"0 data.pkl"):
        torch_file.load(tmp_path / "y.pt")


def test_no_tensors(tmp_path):
    with pytest.raises(ValueError, match="no tensors to be found; it holds 'a': int"):
        torch_file.load(zip_file(tmp_path / "x.pt", pickle.dumps({"a": 1}, 2)))


@pytest.mark.parametrize("name", ["zip.pt", "legacy.pt"])
def test_garbled_bytes_never_surprise(tmp_path, name):
    content = (FIXTURES / name).read_bytes()
    path = tmp_path / "garbled.pt"
    rng = np.random.default_rng(0)
    told = []
    for _ in range(300):
        garbled = bytearray(content)
        for place in rng.integers(0, len(content), rng.integers(1, 12)):
            garbled[place] = rng.integers(0, 256)
        path.write_bytes(garbled)
        try:
            torch_file.load(path, flatten=True)
        except ValueError as error:
            told.append(str(error))
    assert len(told) > 100
    assert all(str(path) in message for message in told)
