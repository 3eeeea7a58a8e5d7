"""Captions: files of them in several formats, and sources that have them."""

import dataclasses
import json
import pickle

import pytest

from semdiff import inputs
from semdiff.config import Data
from semdiff.data.captions import Captions, Described, read_captions
from semdiff.data.images import DataError
from semdiff.data.scenes import Scenes


def test_files_of_captions(tmp_path):
    (tmp_path / "a.txt").write_text("A dog\na car\n")
    assert read_captions(tmp_path / "a.txt") == [("caption_00001", "A dog"), ("caption_00002", "a car")]
    (tmp_path / "b.jsonl").write_text(
        '{"image": "x.jpg", "caption": "A dog"}\n\n{"image": "y", "caption": "car"}\n'
    )
    found = read_captions(tmp_path / "b.jsonl")
    assert found == [("x", "A dog"), ("y", "car")]
    assert Captions(found[:1], Scenes.info)[0] == {"name": "x", "caption": "A dog"}


@pytest.mark.parametrize(
    ("name", "text", "words"),
    [
        ("a.txt", "a dog\n\nb", r"a\.txt, line 2: an empty caption"),
        ("a.txt", "", "there are no captions"),
        ("a.jsonl", '{"image": "x"}', r"a\.jsonl, line 1: .*KeyError.*Expected"),
        ("a.jsonl", '{"image": "x", "caption": "a"}\n' * 2, "line 2: a second caption for 'x'"),
        ("a.txt", None, "cannot be read"),
        (
            "a.json",
            '{"images": []}',
            r"a\.json: is not what COCO's captions_\*\.json is \(KeyError\('annotations'\)\)",
        ),
        ("a.json", "[", "is not what COCO's"),
    ],
)
def test_bad_files_of_captions_are_said(tmp_path, name, text, words):
    if text is not None:
        (tmp_path / name).write_text(text)
    with pytest.raises(DataError, match=words):
        read_captions(tmp_path / name)


def coco(tmp_path, name="captions_train2017.json"):
    """As COCO writes them: several of an image, in any order, lines broken; one is empty."""
    images = [{"id": 9, "file_name": "000000000009.jpg"}, {"id": 25, "file_name": "train_000001.jpg"}]
    said = [(25, "Two dogs.\n"), (9, "A bowl of\nfruit"), (25, "dogs on a lawn"), (9, "  ")]
    annotations = [{"image_id": i, "id": n, "caption": text} for n, (i, text) in enumerate(said)]
    (tmp_path / name).write_text(json.dumps({"info": {}, "images": images, "annotations": annotations}))
    return tmp_path / name


def test_captions_of_coco(tmp_path):
    found = read_captions(coco(tmp_path), several=True)
    assert found == [
        ("train_000001", "Two dogs."),
        ("000000000009", "A bowl of fruit"),
        ("train_000001", "dogs on a lawn"),
    ]


def test_captions_of_mm_celeba_hq(tmp_path):
    (tmp_path / "0.txt").write_text("She has wavy hair.\nThe woman smiles.\n\n")
    (tmp_path / "10.txt").write_text("He is young.\n")
    found = read_captions(tmp_path, several=True)
    assert found == [("0", "She has wavy hair."), ("0", "The woman smiles."), ("10", "He is young.")]


def test_any_data_set_is_described_by_a_file(tmp_path):
    data = Data(
        source="scenes", size=(8, 8), length=4, captions=str(coco(tmp_path, "captions_train2017.json"))
    )
    data = dataclasses.replace(data, captions=data.captions.replace("train", "{split}", 1))
    source = pickle.loads(pickle.dumps(inputs.training_source(data, 0)))
    assert source.info.has_captions
    assert [source[i]["caption"] for i in range(2)] == [(), ("Two dogs.", "dogs on a lawn")]
    with pytest.raises(DataError, match=r"captions_test2017\.json: cannot be read"):
        inputs.evaluation_source(data, 0)
    (tmp_path / "others.jsonl").write_text('{"image": "x", "caption": "a dog"}')
    with pytest.raises(
        DataError, match=r"none of its captions is of an image here.* of x, .* called train_000000, "
    ):
        Described(Scenes(length=2), tmp_path / "others.jsonl")
