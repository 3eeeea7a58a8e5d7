import numpy as np
import pytest

from semdiff.data import augment


def example(height, width, classes=7, seed=0):
    rng = np.random.default_rng(seed)
    return {
        "image": rng.integers(0, 256, (height, width, 3), dtype=np.uint8),
        "layout": rng.integers(0, classes, (height, width), dtype=np.uint8),
        "instance": rng.integers(0, 40000, (height, width), dtype=np.int32),
        "name": "a",
    }


def ramp(height, width):
    """Image, layout and instance that all say where their pixel centre is: (row, column)."""
    rows, columns = np.meshgrid(np.arange(height), np.arange(width), indexing="ij")
    image = np.stack([rows * 255 / height, columns * 255 / width, 0 * rows], -1)
    return {
        "image": image.round().astype(np.uint8),
        "layout": rows.astype(np.uint16),
        "instance": columns.astype(np.int32),
        "name": "ramp",
    }


def same(a, b):
    return a.keys() == b.keys() and all(np.array_equal(a[k], b[k]) for k in a)


def test_edges_by_brute_force():
    instance = np.random.default_rng(1).integers(0, 3, (7, 9))
    expected = np.zeros((7, 9), np.uint8)
    for i, j in np.ndindex(7, 9):
        for di, dj in ((0, 1), (1, 0), (0, -1), (-1, 0)):
            if 0 <= i + di < 7 and 0 <= j + dj < 9 and instance[i + di, j + dj] != instance[i, j]:
                expected[i, j] = 1
    found = augment.edges(instance)
    assert found.dtype == np.uint8
    assert np.array_equal(found, expected)
    assert not augment.edges(np.full((4, 4), 5)).any()


@pytest.mark.parametrize("pairs", [(), ((4, 5), (0, 6))])
def test_flip_twice_is_identity(pairs):
    original = example(6, 8)
    assert same(augment.flip(augment.flip(original, pairs), pairs), original)


def test_flip_mirrors_and_swaps_sides():
    original = example(3, 4)
    original["layout"] = np.array([[4, 5, 0, 1], [4, 4, 4, 4], [2, 2, 2, 3]], np.uint8)
    mirrored = augment.flip(original, ((4, 5),))
    assert mirrored["layout"].tolist() == [[1, 0, 4, 5], [5, 5, 5, 5], [3, 2, 2, 2]]
    assert mirrored["layout"].dtype == np.uint8
    assert np.array_equal(mirrored["image"], original["image"][:, ::-1])
    assert np.array_equal(mirrored["instance"], original["instance"][:, ::-1])
    edges_then_flip = augment.edges(original["instance"])[:, ::-1]
    assert np.array_equal(augment.edges(mirrored["instance"]), edges_then_flip)


def test_flip_where_a_paired_class_is_above_all_ids_present():
    original = {"layout": np.array([[0, 1]], np.uint8), "name": "a"}
    assert augment.flip(original, ((1, 200),))["layout"].tolist() == [[200, 0]]


def test_an_example_of_the_right_size_is_untouched():
    original = example(16, 24)
    rng = np.random.default_rng(0)
    assert same(augment.train_crop(original, (16, 24), 1.0, rng), original)
    assert same(augment.squash(original, (16, 24)), original)


def test_a_crop_without_resize_is_a_window_of_the_original():
    original = example(16, 40)
    lefts = set()
    for seed in range(20):
        crop = augment.train_crop(original, (16, 16), 1.0, np.random.default_rng(seed))
        windows = [
            left
            for left in range(25)
            if np.array_equal(original["image"][:, left : left + 16], crop["image"])
        ]
        assert len(windows) == 1
        assert np.array_equal(original["layout"][:, windows[0] : windows[0] + 16], crop["layout"])
        assert np.array_equal(original["instance"][:, windows[0] : windows[0] + 16], crop["instance"])
        lefts.update(windows)
    assert len(lefts) > 8


@pytest.mark.parametrize("shape", [(50, 80), (80, 50), (200, 130), (33, 31), (20, 20)])
def test_image_layout_and_instance_stay_aligned(shape):
    original = ramp(*shape)
    for seed in range(10):
        crop = augment.train_crop(original, (32, 32), 1.25, np.random.default_rng(seed))
        assert crop["image"].shape == (32, 32, 3)
        assert crop["layout"].shape == crop["instance"].shape == (32, 32)
        # Away from the border, where a filter has no pixels on one side, the ramp says where it is.
        inside = np.s_[4:-4, 4:-4]
        rows = crop["image"][inside][..., 0].astype(float) * shape[0] / 255
        columns = crop["image"][inside][..., 1].astype(float) * shape[1] / 255
        slack = 0.6 + max(shape) / 255  # half a source pixel, and the rounding to 8 bits
        assert np.abs(rows - crop["layout"][inside]).max() <= slack
        assert np.abs(columns - crop["instance"][inside]).max() <= slack


def test_scale_stays_between_one_and_max_scale():
    original = ramp(128, 128)
    spans = []
    for seed in range(200):
        crop = augment.train_crop(original, (32, 32), 1.25, np.random.default_rng(seed))
        spans.append(int(crop["layout"].max()) - int(crop["layout"].min()))
    # 32 pixels cover 128 source pixels at scale 1, and 102.4 at scale 1.25.
    assert 97 <= min(spans) <= 102
    assert 122 <= max(spans) <= 127


def test_nearest_takes_the_pixel_under_the_centre():
    values = np.arange(10)[None].repeat(2, 0)
    assert augment.nearest(values, (2, 5))[0].tolist() == [1, 3, 5, 7, 9]
    assert augment.nearest(values, (1, 3))[0].tolist() == [1, 5, 8]
    assert augment.nearest(values[:, :3], (1, 9))[0].tolist() == [0, 0, 0, 1, 1, 1, 2, 2, 2]
    assert (
        augment.nearest(np.array([[26001, 26002]], np.int32), (3, 4)).tolist()
        == [[26001, 26001, 26002, 26002]] * 3
    )


def test_reduction_does_not_alias():
    stripes = np.zeros((64, 64, 3), np.uint8)
    stripes[:, ::2] = 255
    board = {"image": stripes, "layout": np.zeros((64, 64), np.uint8), "name": "stripes"}
    for size in ((16, 16), (20, 20)):
        small = augment.squash(board, size)["image"].astype(int)[:, 2:-2]
        assert np.abs(small - 127.5).max() < 20


def test_a_window_equals_the_crop_of_the_resized_whole():
    smooth = augment.squash(example(9, 13), (90, 130))
    whole = augment.squash(smooth, (45, 65))
    crop = augment._window(smooth, (45, 65), (7, 11), (32, 32))
    for key in ("image", "layout", "instance"):
        difference = whole[key][7:39, 11:43].astype(int) - crop[key]
        assert np.abs(difference).max() <= (3 if key == "image" else 0)


def test_squash_is_whole():
    original = ramp(40, 80)
    squashed = augment.squash(original, (20, 20))
    assert squashed["instance"].min() == 2
    assert squashed["instance"].max() == 78
    assert augment.squash({"layout": original["layout"], "name": "a"}, (4, 4)).keys() == {"layout", "name"}
