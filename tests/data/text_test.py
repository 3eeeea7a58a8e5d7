"""Words: what a vocabulary knows, which captions an example is told, and files of captions."""

import numpy as np
import pytest

from semdiff.data.pipeline import eval_batches, train_iterator
from semdiff.data.scenes import Scenes
from semdiff.data.text import (
    PAD,
    UNKNOWN,
    Told,
    Vocabulary,
    captions_of,
    named_classes,
    words_of,
)

CAPTIONS = ("A car, and a dog.", "a dog's car at night", "A tree")


def test_words_are_small_and_marks_stand_alone():
    assert words_of("A Dog's  car, T-shirt (red)!") == [
        "a",
        "dog's",
        "car",
        ",",
        "t-shirt",
        "(",
        "red",
        ")",
        "!",
    ]


def test_a_vocabulary_has_the_most_frequent_words_first():
    words = Vocabulary.of(CAPTIONS)
    assert words.words[:4] == ("", "?", "a", "car")
    assert len(Vocabulary.of(CAPTIONS, most=5)) == 5
    assert words.encode("A zebra car", 5).tolist() == [2, UNKNOWN, 3, PAD, PAD]
    assert words.encode("a car a car a car", 3).tolist() == [2, 3, 2]
    assert words.unknown("a zebra, a car") == ["zebra"]
    assert words == Vocabulary.of(reversed(CAPTIONS)) != Vocabulary.of(CAPTIONS[:2])


class Several:
    """Two captions for even examples, one for odd ones, none for the last."""

    info = Scenes.info

    def __len__(self):
        return 8

    def __getitem__(self, index):
        captions = {7: {}}.get(index, {"caption": CAPTIONS[:2] if index % 2 == 0 else CAPTIONS[2]})
        return {
            "name": str(index),
            "image": np.zeros((8, 8, 3), np.uint8),
            "layout": np.zeros((8, 8), np.uint8),
        } | captions


def test_examples_are_told_their_captions():
    words = Vocabulary.of(CAPTIONS)
    told = Told(Several(), words, 6)
    assert [len(told[i]["texts"]) for i in range(8)] == [2, 1, 2, 1, 2, 1, 2, 1]
    assert not told[7]["texts"].any()
    np.testing.assert_array_equal(told[0]["texts"][1], words.encode(CAPTIONS[1], 6))
    assert captions_of(Several()[1]) == (CAPTIONS[2],)


@pytest.mark.parametrize("share", [0.0, 0.25, 0.5, 1.0])
def test_a_share_of_the_examples_is_told(share):
    told = Told(Scenes(size=(8, 8), length=64), Vocabulary.of(CAPTIONS), 6, share)
    assert sum(map(told.is_told, range(64))) == 64 * share
    assert bool(told[3]["texts"].any()) is told.is_told(3)


def test_batches_have_one_text_an_example_and_all_of_them_in_time():
    told = Told(Several(), Vocabulary.of(CAPTIONS), 6)
    options = {"batch_size": 4, "size": (8, 8), "max_scale": 1.0, "flip": True, "seed": 0}
    seen, batches = set(), train_iterator(told, **options)
    for _ in range(12):
        batch = next(batches)
        assert (batch["text"].shape, batch["text"].dtype) == ((4, 6), np.int32)
        seen |= {tuple(text) for text in batch["text"].tolist()}
    batches.close()
    assert len(seen) == 4  # three captions, and none
    again = train_iterator(told, **options)
    for _ in range(12):
        last = next(again)
    again.close()
    np.testing.assert_array_equal(last["text"], batch["text"])
    [whole] = eval_batches(told, batch_size=8, size=(8, 8))
    np.testing.assert_array_equal(whole["text"][0], told[0]["texts"][0])


def test_classes_are_found_in_captions_by_their_names():
    names = ("sky", "car", "person", "street lamp", "bus", "sea")
    assert named_classes("Two cars, people and a street lamp by the bus", names) == [1, 2, 3, 4]
    assert named_classes("a season of scars", names) == []
