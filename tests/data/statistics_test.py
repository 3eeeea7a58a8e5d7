"""Counts by hand, on label maps of a few pixels; what is written is read again; what is no list of rates is refused."""

import json
import os
import pickle
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest

from semdiff.data import statistics
from semdiff.data.images import DataError, LabelFormat
from semdiff.data.readers.folder import Files, Paired
from semdiff.data.scenes import Scenes
from semdiff.data.source import ClassInfo, Info

INFO = Info(
    "toy", tuple(ClassInfo(name, (i, i, i)) for i, name in enumerate(["sky", "road", "car", "bird", "boat"]))
)
# Of 16 pixels in 4 images: sky 7 in 4, road 6 in 3, car 3 in 1; no bird, no boat.
MAPS = [[[0, 0], [0, 1]], [[0, 1], [1, 1]], [[0, 1], [1, 0]], [[2, 2], [2, 0]]]


class Maps:
    """Label maps in memory."""

    def __init__(self, maps=MAPS, info=INFO, dtype=np.uint8):
        self.maps, self.info = [np.array(m, dtype) for m in maps], info

    def __len__(self):
        return len(self.maps)

    def __getitem__(self, index):
        return {"image": np.zeros((2, 2, 3), np.uint8), "layout": self.maps[index]}


class LabelsAlone(Maps):
    """Its label maps can be read without the images."""

    def __getitem__(self, index):
        raise AssertionError("the image need not be read")

    def layout(self, index):
        return self.maps[index]


def counts_of(source=None, indices=None):
    source = source or Maps()
    return statistics.count(source, range(len(source)) if indices is None else indices)


@pytest.mark.parametrize("kind", [Maps, LabelsAlone])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.int32])
def test_images_and_pixels_are_counted_by_class(kind, dtype):
    counts = counts_of(kind(dtype=dtype))
    assert counts.images == 4
    assert counts.showing.tolist() == [4, 3, 1, 0, 0]
    assert counts.pixels.tolist() == [7, 6, 3, 0, 0]
    assert counts.showing.dtype == counts.pixels.dtype == np.int64
    assert counts.absent.tolist() == [3, 4]


def test_only_the_images_asked_for_are_counted():
    counts = counts_of(indices=[3, 1])
    assert (counts.images, counts.showing.tolist(), counts.pixels.tolist()) == (
        2,
        [2, 1, 1, 0, 0],
        [2, 3, 3, 0, 0],
    )


def test_rates_by_their_formulas():
    """psi = 1 / (share of the pixels), phi = 0.288 ln((N + 1) / n): by hand."""
    counts = counts_of()
    psi, phi = [16 / 7, 16 / 6, 16 / 3], [0.288 * np.log(5 / n) for n in (4, 3, 1)]
    np.testing.assert_allclose(counts.psi[:3], psi)
    np.testing.assert_allclose(counts.phi[:3], phi)
    np.testing.assert_allclose(counts.rates[:3], [16 / 7 * phi[0], 16 / 6 * phi[1], 16 / 3 * phi[2]])


def test_absent_classes_get_the_largest_of_the_present():
    """Of the rates, the largest product; not the product of the largest."""
    counts = statistics.Counts(
        9, np.array([5, 1, 0]), np.array([10, 90, 0])
    )  # small but frequent; large but rare
    np.testing.assert_allclose(counts.psi, [10, 10 / 9, 10])
    np.testing.assert_allclose(counts.phi, 0.288 * np.log([2, 10, 10]))
    np.testing.assert_allclose(
        counts.rates, 0.288 * np.array([10 * np.log(2), 10 / 9 * np.log(10), 10 * np.log(2)])
    )
    assert counts_of().rates[3:].tolist() == [counts_of().rates[2]] * 2


def test_a_class_in_every_image_keeps_a_positive_rate():
    counts = counts_of(Maps([np.zeros((2, 2))] * 3))
    np.testing.assert_allclose(counts.rates[0], 0.288 * np.log(4 / 3))
    assert (counts.rates > 0).all()


def test_counts_over_shards_add_up():
    source = Maps(np.random.default_rng(0).integers(0, 5, (150, 3, 4)))  # more than is read at once
    whole = counts_of(source)
    shards = [counts_of(source, range(rank, 150, 4)) for rank in range(4)]
    total = shards[0] + shards[1] + shards[2] + shards[3]
    assert total.images == whole.images == 150
    np.testing.assert_array_equal(total.showing, whole.showing)
    np.testing.assert_array_equal(total.pixels, whole.pixels)
    np.testing.assert_array_equal(whole.pixels, np.bincount(np.ravel(source.maps), minlength=5))
    np.testing.assert_array_equal(total.rates, whole.rates)


def test_progress_is_told_to_the_end():
    told = []
    statistics.count(Maps(MAPS * 40), range(160), told.append)
    assert told[-1] == 160
    assert told == sorted(set(told))


def fingerprint_of(maps=MAPS, **changes):
    return statistics.fingerprint(Maps(maps, replace(INFO, **changes)))


def test_fingerprints_tell_sources_apart():
    others = [
        fingerprint_of(name="other"),
        fingerprint_of(classes=INFO.classes[:-1]),
        fingerprint_of(classes=INFO.classes[::-1]),
        fingerprint_of(MAPS[:3]),
    ]
    assert fingerprint_of() == fingerprint_of()
    assert len({fingerprint_of(), *others}) == 5
    assert len(fingerprint_of()) == 12


def paired(*names, folder="a"):
    files = [Files(name, f"{folder}/{name}.jpg", f"{folder}/{name}.png") for name in names]
    return Paired(INFO, files, LabelFormat(tuple(range(5))))


def test_fingerprints_of_files_go_by_their_names_not_by_where_they_lie():
    """Nothing is opened: these files do not exist."""
    found = statistics.fingerprint(paired("x", "y"))
    assert found == statistics.fingerprint(paired("x", "y", folder="b"))
    assert found != statistics.fingerprint(paired("x", "z"))
    assert found != statistics.fingerprint(paired("y", "x"))
    assert found != statistics.fingerprint(paired("x"))


def test_fingerprints_of_drawn_worlds_go_by_their_settings():
    settings = [{}, {"seed": 1}, {"split": "val", "length": 4096}, {"size": (32, 32)}, {"length": 5}]
    assert len({statistics.fingerprint(Scenes(**s)) for s in settings}) == len(settings)
    assert statistics.fingerprint(Scenes()) == statistics.fingerprint(Scenes())


def test_fingerprints_are_the_same_in_every_process():
    code = "from semdiff.data import statistics, scenes; print(statistics.fingerprint(scenes.Scenes()))"
    environment = dict(os.environ, PYTHONPATH=os.pathsep.join(p for p in sys.path if p))
    for seed in ("1", "2"):
        out = subprocess.run(
            [sys.executable, "-c", code],
            env=environment | {"PYTHONHASHSEED": seed},
            capture_output=True,
            text=True,
            check=True,
        )
        assert out.stdout.strip() == statistics.fingerprint(Scenes())


def test_what_is_written_is_read_again(tmp_path):
    counts, path = counts_of(), tmp_path / "class_rates.json"
    written = statistics.as_json(counts, Maps(), "train")
    path.write_text(json.dumps(written))
    np.testing.assert_array_equal(statistics.read_rates(path), counts.rates)
    np.testing.assert_array_equal(statistics.read_rates(str(path)), counts.rates)
    assert (written["data"], written["split"], written["images"]) == ("toy", "train", 4)
    assert written["fingerprint"] == fingerprint_of()
    assert written["classes"][1] == {
        "name": "road",
        "images": 3,
        "pixels": 6,
        "psi": counts.psi[1],
        "phi": counts.phi[1],
        "rate": counts.rates[1],
    }
    assert [entry["name"] for entry in written["classes"]] == list(INFO.names)


def test_lists_and_arrays_are_read(tmp_path):
    (tmp_path / "list.json").write_text("[1, 2.5, 3e3]")
    np.save(tmp_path / "array.npy", np.array([1, 2.5, 3e3], np.float32))
    np.save(tmp_path / "table.npy", np.ones((4, 3)))
    for name in ("list.json", "array.npy"):
        rates = statistics.read_rates(tmp_path / name)
        assert rates.dtype == np.float64
        assert rates.tolist() == [1, 2.5, 3000]
    assert statistics.read_rates(tmp_path / "table.npy").shape == (4, 3)


def test_a_file_at_home_is_found(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "rates.json").write_text("[1]")
    assert statistics.read_rates("~/rates.json").tolist() == [1]


def refused(path):
    with pytest.raises(DataError) as error:
        statistics.read_rates(path)
    text = str(error.value)
    assert text.startswith(f"{path}: ")
    assert "a .npy of one number per class, a JSON list, or the class_rates.json of --mode=stats" in text
    return text


class Unpickled:
    """Whoever loads it has run code of the file's choosing."""

    def __reduce__(self):
        return os.mkdir, (os.environ["UNPICKLED"],)


def test_pickles_are_refused_and_never_loaded(tmp_path, monkeypatch):
    trace = tmp_path / "trace"
    monkeypatch.setenv("UNPICKLED", str(trace))
    np.save(tmp_path / "objects.npy", np.array([Unpickled(), 1], object), allow_pickle=True)
    (tmp_path / "bare.npy").write_bytes(pickle.dumps(Unpickled()))
    for name in ("objects.npy", "bare.npy"):
        assert "holds no class rates" in refused(tmp_path / name)
        assert not trace.exists()
    np.load(tmp_path / "objects.npy", allow_pickle=True)
    assert trace.exists()  # the trap works


@pytest.mark.parametrize("name", ["none.json", "none.npy", "none"])
def test_a_missing_file_is_refused(tmp_path, name):
    assert "cannot be read (No such file or directory)" in refused(tmp_path / name)


def test_a_folder_is_refused(tmp_path):
    assert "cannot be read (Is a directory)" in refused(tmp_path)


@pytest.mark.parametrize(
    "text",
    [
        "sky 1\nroad 2",
        "",
        "{}",
        '{"rates": [1, 2]}',
        '{"classes": 3}',
        '{"classes": [1, 2]}',
        '{"classes": [{"name": "sky"}]}',
        '["sky"]',
        '[1, "a"]',
        "[1, [2, 3]]",
        "[1, {}]",
    ],
)
def test_other_text_is_refused(tmp_path, text):
    for name in ("rates.json", "rates.txt"):
        (tmp_path / name).write_text(text)
        assert "holds no class rates" in refused(tmp_path / name)


@pytest.mark.parametrize("contents", [b"", b"1 2 3", b"\x93NUMPY", b"\x93NUMPY\x01\x00"])
def test_files_that_are_no_array_are_refused(tmp_path, contents):
    (tmp_path / "rates.npy").write_bytes(contents)
    assert "holds no class rates" in refused(tmp_path / "rates.npy")


def test_unfinished_and_wordy_arrays_are_refused(tmp_path):
    np.save(tmp_path / "words.npy", np.array(["sky", "road"]))
    np.save(tmp_path / "whole.npy", np.arange(9.0))
    (tmp_path / "part.npy").write_bytes((tmp_path / "whole.npy").read_bytes()[:-20])
    for name in ("words.npy", "part.npy"):
        assert "holds no class rates" in refused(tmp_path / name)


def test_bytes_that_are_no_text_are_refused(tmp_path):
    (tmp_path / "rates.json").write_bytes(b"\xff\xfe\x00[")
    assert "holds no class rates" in refused(tmp_path / "rates.json")


@pytest.mark.parametrize(
    ("name", "classes", "smallest", "largest", "last"),
    [
        ("ade20k", 151, 0.5, 5752.2, 0.5),
        ("coco_stuff", 183, 0.5, 862.24, 0.5),
        ("celebamask_hq", 19, 3.1006, 820.51, 17.458),
    ],
)
def test_released_rates(name, classes, smallest, largest, last):
    """The unlabelled class of the first two is at 0.5, as the released code sets it."""
    rates = statistics.released_rates(name)
    assert rates.shape == (classes,)
    assert np.isfinite(rates).all()
    assert (rates > 0).all()
    np.testing.assert_allclose([rates.min(), rates.max(), rates[-1]], [smallest, largest, last], rtol=1e-3)
