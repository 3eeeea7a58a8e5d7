"""Prompts that were encoded beforehand."""

import json
import pickle

import numpy as np
import pytest

from semdiff.data import prompts
from semdiff.data.images import DataError
from semdiff.data.source import ClassInfo, Info

SAID = {"prompt": "a street", "negative": "", "encoder": "toy"}


class Named:
    info = Info("named", (ClassInfo("", (0, 0, 0)),))

    def __init__(self, *names):
        self.names = names

    def __len__(self):
        return len(self.names)

    def __getitem__(self, index):
        return {"name": self.names[index]}


@pytest.fixture
def folder(tmp_path):
    table = np.arange(24.0).reshape(2, 3, 4)
    captions = np.stack([np.full((3, 4), value) for value in (1, 2, 3)])
    prompts.write(tmp_path / "prompts", table, captions, ["a", "b", "a"], SAID)
    return tmp_path / "prompts"


def test_what_is_written_is_read(folder):
    found = prompts.read(folder)
    np.testing.assert_array_equal(found.table, np.arange(24.0).reshape(2, 3, 4))
    assert (found.shape, found.rows) == ((3, 4), {"a": [0, 2], "b": [1]})


def test_examples_have_the_states_of_their_captions(folder):
    source = pickle.loads(
        pickle.dumps(prompts.Prompted(Named("b", "a", "c"), folder))
    )  # as workers are given it
    assert [source[i]["states"].shape for i in range(3)] == [(1, 3, 4), (2, 3, 4), (1, 3, 4)]
    assert [source[i]["states"][:, 0, 0].tolist() for i in range(3)] == [[2], [1, 3], [0]]
    half = prompts.Prompted(Named("a", "a", "a", "a"), folder, share=0.5)
    assert [bool(half[i]["states"].any()) for i in range(4)] == [False, True, False, True]


def test_captions_of_other_images_are_refused(folder):
    with pytest.raises(DataError, match=r"none of its captions is of an image here.*of a, b.*called c"):
        prompts.Prompted(Named("c"), folder)


def test_damaged_folders_are_refused(folder):
    np.save(folder / prompts.TABLE, np.zeros((3, 3, 4)))
    with pytest.raises(DataError, match=r"prompts\.npy: is of shape \(3, 3, 4\)"):
        prompts.read(folder)
    np.save(folder / prompts.TABLE, np.zeros((2, 3, 4)))
    np.save(folder / prompts.CAPTIONS, np.zeros((2, 3, 4)))
    with pytest.raises(DataError, match=r"captions\.npy: is of shape \(2, 3, 4\), not \(3, 3, 4\)"):
        prompts.read(folder)
    np.save(folder / prompts.TABLE, np.array([object()]), allow_pickle=True)
    with pytest.raises(DataError, match=r"cannot be read \(Object arrays cannot be loaded"):
        prompts.read(folder)
    (folder / prompts.ABOUT).write_text(json.dumps({"format": "another"}))
    with pytest.raises(DataError, match=r"its format is not semdiff\.prompts\.1"):
        prompts.read(folder)
