"""Prompts that were encoded beforehand."""

import json
import pickle

import numpy as np
import pytest

from semdiff.data import prompts
from semdiff.data.images import DataError
from semdiff.data.source import ClassInfo, Info


class Named:
    info = Info("named", (ClassInfo("", (0, 0, 0)),))

    def __init__(self, *names):
        self.names = names

    def __len__(self):
        return len(self.names)

    def __getitem__(self, index):
        return {"name": self.names[index]}


ENCODER = prompts.Encoder("toy", "abc")
LENGTHS = (3, 1, 2)


@pytest.fixture(params=[2, 1024], ids=["shards", "one"])
def folder(tmp_path, monkeypatch, request):
    monkeypatch.setattr(prompts, "SHARD", request.param)
    captions = [("a", "first"), ("b", "second"), ("a", "third")]
    states = [np.full((length, 4), value) for value, length in enumerate(LENGTHS, start=1)]
    target = tmp_path / "prompts"
    target.mkdir()
    for shard in range(0, len(states), request.param):
        prompts.write_shard(target, shard // request.param, states[shard : shard + request.param])
    table = np.arange(24.0).reshape(2, 3, 4)
    prompts.write_about(target, ENCODER, (3, 4), captions, table, prompt="a street", negative="")
    return target


def test_what_is_written_is_read(folder):
    found = prompts.read(folder)
    np.testing.assert_array_equal(found.table, np.arange(24.0).reshape(2, 3, 4))
    assert (found.shape, found.rows, found.encoder) == ((3, 4), {"a": [0, 2], "b": [1]}, ENCODER)
    for row, length in enumerate(LENGTHS):
        np.testing.assert_array_equal(found.of_row(row)[:, 0], [row + 1] * length + [0] * (3 - length))


def test_examples_have_the_states_of_their_captions(folder):
    source = pickle.loads(
        pickle.dumps(prompts.Prompted(Named("b", "a", "c"), folder))
    )  # as workers are given it
    assert [source[i]["states"].shape for i in range(3)] == [(1, 3, 4), (2, 3, 4), (1, 3, 4)]
    assert [source[i]["states"][:, 0, 0].tolist() for i in range(3)] == [[2], [1, 3], [0]]
    half = prompts.Prompted(Named("a", "a", "a", "a"), folder, share=0.5)
    assert [bool(half[i]["states"].any()) for i in range(4)] == [False, True, False, True]


def test_captions_are_examples_of_their_own(folder):
    source = prompts.Stated(prompts.read(folder), Named.info)
    assert [source[i]["name"] for i in range(len(source))] == ["a", "b", "a_1"]
    assert [source[i]["caption"] for i in range(len(source))] == ["first", "second", "third"]
    assert source[2]["states"][0, :, 0].tolist() == [3, 3, 0]


def test_captions_of_other_images_are_refused(folder):
    with pytest.raises(DataError, match=r"none of its captions is of an image here.*of a, b.*called c"):
        prompts.Prompted(Named("c"), folder)


def test_damaged_folders_are_refused(folder):
    prompts.write_shard(folder, 0, [np.zeros((4, 4))])
    with pytest.raises(DataError, match=r"lengths-00000\.npy or the \d captions"):
        prompts.read(folder)
    (folder / prompts.states_name(0)).unlink()
    with pytest.raises(DataError, match=r"cannot be read .*states-00000\.npy"):
        prompts.read(folder)
    prompts.write_about(folder, ENCODER, (3, 4))
    np.save(folder / prompts.TABLE, np.zeros((3, 3, 4)))
    with pytest.raises(DataError, match=r"prompts\.npy: is of shape \(3, 3, 4\)"):
        prompts.read(folder)
    np.save(folder / prompts.TABLE, np.array([object()]), allow_pickle=True)
    with pytest.raises(DataError, match=r"cannot be read \(Object arrays cannot be loaded"):
        prompts.read(folder)
    (folder / prompts.ABOUT).write_text(json.dumps({"format": "another"}))
    with pytest.raises(DataError, match=r"its format is not semdiff\.prompts\.2"):
        prompts.read(folder)
