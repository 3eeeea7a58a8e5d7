"""Confusion counts, against pixel-by-pixel loops; the segmenter, on colours that say the class."""

from dataclasses import replace

import jax
import numpy as np
import pytest

from semdiff.data import classes
from semdiff.metrics import segmenter
from semdiff.metrics.segmentation import Confusion


def test_iou_by_hand():
    true = np.array([[0, 0, 1], [1, 2, 2]])
    read = np.array([[0, 1, 1], [1, 2, 0]])
    confusion = Confusion.of(true, read, 4)
    np.testing.assert_allclose(confusion.iou, [1 / 3, 2 / 3, 1 / 2, np.nan])
    assert confusion.mean_iou == pytest.approx((1 / 3 + 2 / 3 + 1 / 2) / 3)
    assert confusion.accuracy == pytest.approx(4 / 6)


def test_against_loops_with_an_ignored_class():
    rng = np.random.default_rng(0)
    true, read = rng.integers(0, 5, (2, 9, 7)), rng.integers(0, 5, (2, 9, 7))
    confusion = Confusion.of(true, read, 5, ignore=(3,))
    kept = true != 3
    for c in range(5):
        hit = ((true == c) & (read == c) & kept).sum()
        union = (((true == c) | (read == c)) & kept).sum()
        np.testing.assert_allclose(confusion.iou[c], hit / union)
    assert not confusion.present[3]
    assert confusion.mean_iou == pytest.approx(np.mean(confusion.iou[[0, 1, 2, 4]]))


def test_a_class_read_but_never_true_costs_the_others_only():
    confusion = Confusion.of(np.zeros(4, int), np.array([0, 0, 0, 1]), 2)
    assert confusion.iou[1] == 0
    assert confusion.mean_iou == pytest.approx(3 / 4)


def test_the_segmenter_learns_classes_from_colours():
    colours = np.array([[250, 20, 20], [20, 250, 20], [20, 20, 250]], np.uint8)

    def batches():
        rng = np.random.default_rng(0)
        while True:
            layout = rng.integers(0, 3, (4, 3, 3)).repeat(3, 1).repeat(3, 2)
            yield {"image": colours[layout], "layout": layout.astype(np.int32)}

    model = segmenter.Segmenter(num_classes=3, width=8)
    params = segmenter.train(model, batches(), steps=40, seed=0, class_weights=np.ones(3), rate=5e-3)
    batch = next(batches())
    reader = segmenter.Reader(model, params, batch=3)
    read = reader(batch["image"])
    assert read.shape == (4, 9, 9)
    assert Confusion.of(batch["layout"], read, 3).mean_iou > 0.8
    assert reader.features(batch["image"]).shape == (4, 32)


def test_classes_of_weight_0_teach_nothing():
    """Pixels of class 1 or of class 2: the same parameters, when neither counts."""
    rng = np.random.default_rng(0)
    image = rng.integers(0, 256, (2, 8, 8, 3), dtype=np.uint8)
    uncounted = rng.random((2, 8, 8)) < 0.5
    model = segmenter.Segmenter(num_classes=3, width=8)
    trained = []
    for other in (1, 2):
        batches = [{"image": image, "layout": np.where(uncounted, other, 0)}] * 3
        params = segmenter.train(model, batches, 3, 0, np.array([1.0, 0.0, 0.0]))
        trained.append(segmenter.Reader(model, params).features(image))
    np.testing.assert_array_equal(*trained)


def test_balanced_weights_are_inverse_roots_of_the_shares():
    weights = segmenter.balanced(np.array([900, 100, 400]))
    np.testing.assert_allclose(weights, [1 / 3, 1, 1 / 2])
    np.testing.assert_allclose(segmenter.balanced(np.array([900, 1, 400]), ignore=(1,)), [2 / 3, 0, 1])


def test_a_class_that_was_not_counted_has_the_largest_weight_and_none_is_boundless():
    np.testing.assert_allclose(segmenter.balanced(np.array([900, 100, 0, 0]), ignore=(3,)), [1 / 3, 1, 1, 0])
    weights = segmenter.balanced(np.array([10**8, 1, 0, 10**6]))
    assert segmenter.LARGEST_RATIO == weights[1] / weights[0] == weights[2] / weights[0]
    np.testing.assert_allclose(weights[3] / weights[0], 10)
    np.testing.assert_array_equal(segmenter.balanced(np.array([0, 0, 5]), ignore=(2,)), [1, 1, 0])


def test_a_benchmark_may_count_some_classes_alone():
    """Pixels of other classes are left out; a counted pixel that is read as one of them is a miss."""
    info = replace(classes.CITYSCAPES, void_id=None)
    assert len(info.scored) == 19
    assert set(info.ignored) == set(range(34)) - set(info.scored)
    assert 0 in classes.CITYSCAPES.ignored
    true, read = np.array([7, 7, 6, 6, 26]), np.array([7, 9, 26, 6, 26])
    confusion = Confusion.of(true, read, 34, info.ignored)
    assert confusion.mean_iou == pytest.approx((1 / 2 + 1) / 2)
    assert confusion.accuracy == pytest.approx(2 / 3)
    assert set(np.flatnonzero(confusion.present)) == {7, 26}
    assert replace(info, scored=None).ignored == ()


def test_a_reader_is_compiled_once_and_reads_parts_as_it_reads_the_whole():
    images = np.random.default_rng(0).integers(0, 256, (7, 8, 8, 3), dtype=np.uint8)
    model = segmenter.Segmenter(num_classes=3, width=8)
    reader = segmenter.Reader(model, model.init(jax.random.key(0), images[:1])["params"], batch=3)
    features = reader.features(images)
    ones = np.concatenate([reader.features(images[i : i + 1]) for i in range(7)])
    np.testing.assert_array_equal(features, ones)
    assert features.shape == (7, 32)
    reader(images)
    assert reader(images[:0]).shape == (0, 8, 8)
    assert reader.features(images[:0]).shape == (0, 32)
    assert (reader._ids._cache_size(), reader._features._cache_size()) == (1, 1)
