import numpy as np
import pytest

from semdiff.data import moments
from semdiff.data.images import DataError
from semdiff.data.moments import Moments, Spread

CLASSES, SHAPE = 3, (4, 5, 2)


def examples(count: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Images that differ by class and place, far from 0; one layout in ten has pixels of no class."""
    rng = np.random.default_rng(seed)
    layouts = rng.integers(0, CLASSES, (count, *SHAPE[:2]))
    layouts[::10, 0] = 255
    places = np.arange(SHAPE[0] * SHAPE[1]).reshape(*SHAPE[:2], 1)
    return 1e3 + layouts[..., None] % 7 + places + rng.normal(size=(count, *SHAPE)), layouts


def counted(images, layouts) -> Moments:
    result = Moments.none(CLASSES, *SHAPE)
    for image, layout in zip(images, layouts):
        result.add(image, layout)
    return result


def numpys(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    return values.mean(0), values.var(0)


def test_moments_are_numpys_over_all_the_data():
    images, layouts = examples(200)
    found = counted(images, layouts)
    assert found.images == 200
    for c in range(CLASSES):
        for i, j in np.ndindex(*SHAPE[:2]):
            own = layouts[:, i, j] == c
            mean, variance = numpys(images[own, i, j])
            np.testing.assert_allclose(found.mean[c, i, j], mean, rtol=1e-13)
            np.testing.assert_allclose(found.variance[c, i, j], variance, rtol=1e-9)
            assert found.count[c, i, j] == own.sum()
        mean, variance = numpys(images[layouts == c])
        np.testing.assert_allclose(found.by_class().mean[c, 0, 0], mean, rtol=1e-13)
        np.testing.assert_allclose(found.by_class().variance[c, 0, 0], variance, rtol=1e-9)
    mean, variance = numpys(images)
    np.testing.assert_allclose(found.by_place().mean[0], mean, rtol=1e-13)
    np.testing.assert_allclose(found.by_place().variance[0], variance, rtol=1e-9)
    np.testing.assert_array_equal(found.count[CLASSES], (layouts == 255).sum(0))
    shares = (
        np.stack([(layouts == c).sum(0) for c in range(CLASSES)], -1) / (layouts != 255).sum(0)[..., None]
    )
    np.testing.assert_allclose(found.shares(), shares)


def test_parts_give_the_whole_in_any_order():
    images, layouts = examples(60)
    whole = counted(images, layouts)
    a, b, c = (counted(images[s], layouts[s]) for s in (slice(0, 7), slice(7, 31), slice(31, 60)))
    for total in ((a + b) + c, c + (b + a), b + (c + a), Moments.none(CLASSES, *SHAPE) + whole):
        for got, want in zip(total.parts, whole.parts):
            np.testing.assert_allclose(got, want, rtol=1e-9)


def test_what_was_never_seen_looks_like_its_fallback_and_what_was_seen_once_has_a_spread():
    images, layouts = examples(40)
    layouts[:, 1, 1] = 0
    layouts[0, 1, 1] = 1  # once, there
    layouts[layouts == 2] = 0  # never
    found = counted(images, layouts)
    place, klass = moments.spatial(found), moments.categorical(found, 1.0)
    by_place, by_class = moments.joint(found, 1.0), moments.joint(found, 1.0, "categorical")
    np.testing.assert_array_equal(by_place.mean[2, 0, 0], place.mean[0, 0, 0])
    np.testing.assert_array_equal(by_place.variance[2, 0, 0], place.variance[0, 0, 0])
    np.testing.assert_array_equal(by_class.mean[2, 0, 0], klass.mean[2, 0, 0])
    overall = images.reshape(-1, SHAPE[2])
    np.testing.assert_allclose(klass.mean[2, 0, 0], overall.mean(0), rtol=1e-12)
    np.testing.assert_allclose(klass.variance[2, 0, 0], overall.var(0), rtol=1e-9)

    once, there = images[0, 1, 1], numpys(images[:, 1, 1])
    assert moments.joint(found, 0.0).variance[1, 1, 1].max() == 0
    np.testing.assert_allclose(by_place.mean[1, 1, 1], (once + there[0]) / 2, rtol=1e-12)
    want = there[1] / 2 + (once - there[0]) ** 2 / 4  # of a draw from either, as often
    np.testing.assert_allclose(by_place.variance[1, 1, 1], want, rtol=1e-8)
    for c, i, j in [(0, 2, 2), (1, 3, 1)]:
        near = moments.joint(found, 1e-6)
        np.testing.assert_allclose(near.variance[c, i, j], found.variance[c, i, j], rtol=1e-4)


def test_a_mixture_is_a_draw_from_one_of_its_parts():
    rng = np.random.default_rng(0)
    parts = [Spread(np.full((1, 1, 1, 1), m), np.full((1, 1, 1, 1), v)) for m, v in ((0.0, 1.0), (5.0, 0.25))]
    got = moments.mixed(parts, (3.0, 1.0))
    which = rng.random(200_000) < 0.75
    drawn = np.where(which, rng.normal(0, 1, which.size), rng.normal(5, 0.5, which.size))
    np.testing.assert_allclose(got.mean.item(), drawn.mean(), atol=0.02)
    np.testing.assert_allclose(got.variance.item(), drawn.var(), rtol=0.02)
    np.testing.assert_allclose(moments.mixed(parts, (0.0, 2.0)).variance.item(), 0.25)


def test_statistics_are_kept_whole_and_refused_where_they_are_others():
    found = counted(*examples(30))
    names = ["road", "sky", "car"]
    about = moments.about(names, "pixels", "streets", "train", "abc")
    again = moments.of_tree(moments.as_tree(found), about, "x")
    np.testing.assert_allclose(again.mean, found.mean, rtol=1e-6)
    np.testing.assert_allclose(again.variance, found.variance, rtol=1e-5, atol=1e-12)
    moments.check(again, about, "x", names, SHAPE, "pixels")
    for wrong, said in [
        ((["road", "sky"], SHAPE, "pixels"), "other classes"),
        ((names, (8, 5, 2), "pixels"), "measured at 4 x 5 x 2, but the model's images are 8 x 5 x 2"),
        ((names, SHAPE, "latents"), "measured in pixels, but the model's images are in latents"),
    ]:
        with pytest.raises(DataError, match=said):
            moments.check(again, about, "x.safetensors", *wrong)
    tree = moments.as_tree(found)
    for broken in (
        {"count": tree["count"]},
        tree | {"mean": tree["mean"][:2]},
        tree | {"deviation": tree["deviation"] * np.nan},
    ):
        with pytest.raises(DataError, match=r"x\.safetensors.*--mode=prior"):
            moments.of_tree(broken, about, "x.safetensors")
    nothing = moments.of_tree(moments.as_tree(Moments.none(CLASSES, *SHAPE)), about, "x")
    with pytest.raises(DataError, match="no image"):
        moments.check(nothing, about, "x", names, SHAPE, "pixels")
