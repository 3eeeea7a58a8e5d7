from collections import Counter

import numpy as np
import pytest

from semdiff.data import corruptions
from semdiff.data.images import DataError
from semdiff.data.source import ClassInfo, Info

CLASSES = tuple(ClassInfo(f"c{i}", (i, i, i)) for i in range(12))
KNOWN = Info("known", CLASSES, void_id=None)
VOIDED = Info("voided", CLASSES, void_id=5)
VOID = 5
RANDOM_KINDS = ("random", "wrong_class", "dropped")


def rng(seed=0):
    return np.random.default_rng(seed)


def tiles(rows, columns, side, classes, seed=0):
    """A grid of squares of random classes; the instance id is the number of the square plus one."""
    labels = rng(seed).choice(classes, (rows, columns)).astype(np.int32)
    numbers = np.arange(1, rows * columns + 1, dtype=np.int32).reshape(rows, columns)
    square = np.ones((side, side), np.int32)
    return np.kron(labels, square), np.kron(numbers, square)


def example(instances=True, seed=0):
    layout, instance = tiles(10, 10, 3, [0, 1, 2, 5, 7], seed)
    found = {
        "image": rng(seed).integers(0, 256, (30, 30, 3), dtype=np.uint8),
        "layout": layout.astype(np.uint8),
        "caption": "tiles",
        "name": "a",
    }
    return found | ({"instance": instance} if instances else {})


def neighbours(i, j, shape):
    for di, dj in ((0, 1), (1, 0), (0, -1), (-1, 0)):
        if 0 <= i + di < shape[0] and 0 <= j + dj < shape[1]:
            yield i + di, j + dj


def components(layout):
    """Numbers of the 4-connected components from 1 on, by flooding."""
    numbers = np.zeros(layout.shape, np.int32)
    for start in np.ndindex(layout.shape):
        if numbers[start]:
            continue
        number = int(numbers.max()) + 1
        numbers[start] = number
        front = [start]
        while front:
            here = front.pop()
            for there in neighbours(*here, layout.shape):
                if not numbers[there] and layout[there] == layout[here]:
                    numbers[there] = number
                    front.append(there)
    return numbers


# Coarse grids.


@pytest.mark.parametrize("shape", [(16, 16), (17, 30), (3, 9), (1, 1), (2, 2)])
def test_downsample_by_index_arithmetic(shape):
    layout = rng(1).integers(0, 12, shape).astype(np.int32)
    instance = rng(2).integers(0, 40000, shape).astype(np.int32)
    coarse, ids = corruptions.downsample(layout, instance, 12, rng())
    small = [max(1, length // 4) for length in shape]
    for i, j in np.ndindex(shape):
        # The centre of the pixel, in coarse pixels, and the centre of that coarse pixel, in pixels.
        a, b = (int((x + 0.5) * n / m) for x, n, m in zip((i, j), small, shape))
        y, x = (int((c + 0.5) * m / n) for c, n, m in zip((a, b), small, shape))
        assert coarse[i, j] == layout[y, x]
        assert ids[i, j] == instance[y, x]


def test_downsample_makes_blocks_of_the_factor():
    layout = np.arange(64, dtype=np.int32).reshape(8, 8)
    assert (
        corruptions.downsample(layout, None, 0, rng())[0].tolist()
        == [[18] * 4 + [22] * 4] * 4 + [[50] * 4 + [54] * 4] * 4
    )
    fine, none = corruptions.downsample(layout, None, 0, rng(), factor=2)
    assert fine[:2, :4].tolist() == [[9, 9, 11, 11]] * 2
    assert none is None
    assert np.array_equal(corruptions.downsample(layout, None, 0, rng(), factor=1)[0], layout)


# Borders.


@pytest.mark.parametrize("radius", [0, 1, 2, 3])
def test_edge_by_brute_force(radius):
    layout = np.zeros((14, 17), np.int32)
    layout[4:12, 6:] = 3
    layout[7, 9] = 8
    layout[0, 0] = 1
    expected = layout.copy()
    for i, j in np.ndindex(layout.shape):
        if any(layout[p] != layout[i, j] for p in neighbours(i, j, layout.shape)):
            for y, x in np.ndindex(layout.shape):
                if abs(y - i) + abs(x - j) <= radius:
                    expected[y, x] = 11
    found, instance = corruptions.edge(layout, np.arange(14 * 17).reshape(14, 17), 11, rng(), radius=radius)
    assert np.array_equal(found, expected)
    assert (found != 11).any()
    assert np.array_equal(instance, np.arange(14 * 17).reshape(14, 17))


def test_edge_by_hand():
    layout = np.array([[0] * 6 + [1] * 6], np.int32)
    assert corruptions.edge(layout, None, 9, rng())[0].tolist() == [[0] * 3 + [9] * 6 + [1] * 3]
    lone = np.zeros((9, 9), np.int32)
    lone[4, 4] = 1
    # The border is a plus of radius one; with two more steps it is the L1 ball of radius three.
    steps = np.abs(np.arange(9) - 4)
    assert np.array_equal(corruptions.edge(lone, None, 9, rng())[0] == 9, steps[:, None] + steps <= 3)


# Unlabelled at random.


@pytest.mark.parametrize("share", [None, 0.25])
def test_random_has_its_share_and_only_unlabels(share):
    layout, instance = tiles(25, 25, 10, [0, 1, 2])
    options = {} if share is None else {"share": share}
    found, ids = corruptions.random(layout, instance, 12, rng(3), **options)
    hit = found == 12
    assert np.array_equal(found[~hit], layout[~hit])
    assert np.array_equal(ids, instance)
    p, count = share or 0.1, layout.size
    assert abs(hit.sum() - p * count) < 5 * np.sqrt(count * p * (1 - p))
    # Independent pixels: both of two neighbours with the square of the share.
    both, pairs = (hit[:, 1:] & hit[:, :-1]).sum(), layout.size
    assert abs(both - p * p * pairs) < 0.25 * p * p * pairs


# Wrong classes.


def test_wrong_class_changes_whole_instances_to_classes_of_the_layout():
    layout, instance = tiles(100, 100, 3, [0, 2, VOID, 7])
    found, ids = corruptions.wrong_class(layout, instance, VOID, rng(1))
    assert np.array_equal(ids, instance)
    old, new = layout[::3, ::3].ravel(), found[::3, ::3].ravel()
    assert np.array_equal(found, np.kron(new.reshape(100, 100), np.ones((3, 3))))
    assert np.array_equal(new == VOID, old == VOID)
    assert set(new.tolist()) == {0, 2, VOID, 7}
    objects = (old != VOID).sum()
    changed = old != new
    assert abs(changed.sum() - 0.3 * objects) < 5 * np.sqrt(objects * 0.3 * 0.7)
    # Each of the other two classes as often as the other.
    for label in (0, 2, 7):
        counts = Counter(new[changed & (old == label)].tolist())
        total = sum(counts.values())
        assert counts.keys() == {0, 2, 7} - {label}
        assert all(abs(n - total / 2) < 5 * np.sqrt(total) / 2 for n in counts.values())


def test_wrong_class_leaves_large_objects_and_what_is_no_object():
    layout = np.full((8, 8), 3, np.int32)
    layout[:4, :4] = 1  # exactly a quarter
    layout[4:, :4] = layout[7, 4] = 2  # one pixel more
    instance = np.where(layout == 1, 40, np.where(layout == 2, 90, 0)).astype(np.int32)
    seen = set()
    for seed in range(20):
        found, _ = corruptions.wrong_class(layout, instance, 9, rng(seed), share=1.0)
        assert np.array_equal(found[instance != 40], layout[instance != 40])
        assert len(set(found[instance == 40])) == 1
        seen.add(int(found[0, 0]))
    assert seen == {2, 3}
    found, _ = corruptions.wrong_class(layout, instance, 9, rng(), share=1.0, largest=0.24)
    assert np.array_equal(found, layout)
    found, _ = corruptions.wrong_class(layout, instance, 9, rng(), share=1.0, largest=1.0)
    assert not (found[instance == 90] == 2).any()
    assert (found[instance == 0] == 3).all()


def test_wrong_class_takes_an_instance_of_several_classes_as_a_whole():
    layout = np.full((10, 10), 3, np.int32)
    layout[0, 0] = 4
    layout[5, 4:8] = [1, 1, 2, VOID]
    instance = np.zeros((10, 10), np.int32)
    instance[5, 4:8] = 17
    seen = set()
    for seed in range(30):
        found, _ = corruptions.wrong_class(layout, instance, VOID, rng(seed), share=1.0)
        row = found[5, 4:8].tolist()
        assert row[0] == row[1] == row[2]
        assert row[3] == VOID
        assert np.array_equal(found[instance == 0], layout[instance == 0])
        seen.add(row[0])
    assert seen == {3, 4}
    layout[layout == 4] = layout[layout == 3] = 1
    found, _ = corruptions.wrong_class(layout, instance, VOID, rng(), share=1.0)
    assert np.array_equal(found, layout)  # it has all classes there are


def test_wrong_class_without_instances_takes_components():
    layout, _ = tiles(12, 12, 2, [0, 1, 2, VOID], seed=4)
    numbers = components(layout)
    found, none = corruptions.wrong_class(layout, None, VOID, rng(2), share=1.0, largest=0.1)
    assert none is None
    assert len(np.unique(numbers)) > 20
    for number in np.unique(numbers):
        inside = numbers == number
        old, new = set(layout[inside].tolist()), set(found[inside].tolist())
        assert len(new) == 1
        if old == {VOID} or inside.sum() > 0.1 * layout.size:
            assert new == old
        else:
            assert new != old
            assert new <= {0, 1, 2}


def test_wrong_class_without_instances_draws_components_one_by_one():
    layout = np.full((60, 60), 3, np.int32)
    layout[::2, ::2] = 1
    layout[1, 1] = 2
    found, _ = corruptions.wrong_class(layout, None, 12, rng(5))
    changed = (found != layout)[::2, ::2].sum()
    assert abs(changed - 0.3 * 900) < 5 * np.sqrt(900 * 0.3 * 0.7)


# Dropped objects.


def may_fill(layout, instance, gone):
    """The (class, instance) pairs of the pixels that stay and are nearest, for each pixel gone."""
    staying = np.argwhere(~gone)
    for i, j in np.argwhere(gone):
        squared = ((staying - (i, j)) ** 2).sum(1)
        nearest = staying[squared == squared.min()]
        yield (i, j), {(int(layout[y, x]), int(instance[y, x])) for y, x in nearest}


@pytest.mark.parametrize("mapped", [True, False])
def test_dropped_fills_with_the_nearest_pixel_that_stays(mapped):
    layout, instance = tiles(8, 8, 3, [0, 1, 2, VOID], seed=2)
    numbers = instance if mapped else components(layout)
    found, ids = corruptions.dropped(layout, instance if mapped else None, VOID, rng(1))
    gone = np.zeros(layout.shape, bool)
    candidates = 0
    for number in np.unique(numbers):
        inside = numbers == number
        small = inside.sum() <= 0.02 * layout.size and layout[inside][0] != VOID
        candidates += small
        if small and (found[inside] != layout[inside]).any():
            gone |= inside
    if mapped:  # a lost object may be filled with its own class, but never with its own id
        gone = ~np.isin(instance, ids)
        assert np.array_equal(gone, ids != instance)
    else:
        assert ids is None
    assert np.array_equal(found[~gone], layout[~gone])
    assert not (gone & (layout == VOID)).any()
    assert candidates > 5
    assert 2 < len(np.unique(numbers[gone])) < candidates
    for place, allowed in may_fill(layout, numbers, gone):
        if mapped:
            assert (int(found[place]), int(ids[place])) in allowed
        else:
            assert int(found[place]) in {label for label, _ in allowed}


def test_dropped_has_its_share():
    layout, instance = tiles(100, 100, 2, [0, 1])
    for share, options in ((0.5, {}), (0.2, {"share": 0.2})):
        _, ids = corruptions.dropped(layout, instance, 12, rng(1), **options)
        lost = 10000 - len(np.unique(ids))
        assert abs(lost - share * 10000) < 5 * np.sqrt(10000 * share * (1 - share))


def test_dropped_by_hand():
    layout = np.full((10, 10), 3, np.int32)
    layout[1, 1:3] = [1, 2]  # exactly two in a hundred
    layout[4, 1:4] = 1
    layout[7, 1] = VOID
    instance = np.zeros((10, 10), np.int32)
    instance[1, 1:3] = 26001
    instance[4, 1:4] = 26002
    instance[7, 1] = 26003
    expected = layout.copy(), instance.copy()
    expected[0][1, 1:3], expected[1][1, 1:3] = 3, 0
    found = corruptions.dropped(layout, instance, VOID, rng(), share=1.0)
    assert np.array_equal(found, expected)  # no loss of the larger one, nor of the void one
    expected[0][4, 1:4], expected[1][4, 1:4] = 3, 0
    assert np.array_equal(corruptions.dropped(layout, instance, VOID, rng(), share=1.0, area=0.03), expected)
    without, _ = corruptions.dropped(layout, None, VOID, rng(), share=1.0, area=0.03)
    assert np.array_equal(without, expected[0])


def test_dropped_loses_all_pixels_of_an_instance_that_is_void_in_part():
    layout = np.full((10, 10), 3, np.int32)
    layout[5, 4:6] = [1, VOID]
    instance = np.zeros((10, 10), np.int32)
    instance[5, 4:6] = 7
    found, ids = corruptions.dropped(layout, instance, VOID, rng(), share=1.0)
    assert (found == 3).all()
    assert not ids.any()


def test_components_do_not_join_at_corners():
    layout = np.zeros((10, 10), np.int32)
    layout[4, 3:5] = layout[5, 5:7] = 1  # four in a hundred together, two each
    found, _ = corruptions.dropped(layout, None, 12, rng(), share=1.0)
    assert not found.any()


def test_where_all_would_be_dropped_nothing_is():
    layout, instance = tiles(10, 10, 2, [0, 1])
    found, ids = corruptions.dropped(layout, instance, 12, rng(), share=1.0)
    assert np.array_equal(found, layout)
    assert np.array_equal(ids, instance)


# Whole examples.


@pytest.mark.parametrize("kind", corruptions.CORRUPTIONS)
@pytest.mark.parametrize("instances", [True, False])
@pytest.mark.parametrize("info", [KNOWN, VOIDED])
def test_corrupt_replaces_labels_and_leaves_its_input(kind, instances, info):
    original = example(instances)
    before = {k: v.copy() if isinstance(v, np.ndarray) else v for k, v in original.items()}
    for values in original.values():
        if isinstance(values, np.ndarray):
            values.setflags(write=False)
    found = corruptions.corrupt(original, kind, info, 3)
    assert found.keys() == original.keys()
    assert all(np.array_equal(original[k], before[k]) for k in before)
    assert original["layout"].dtype == np.uint8
    assert found["layout"].dtype == np.int32
    assert found["layout"].shape == (30, 30)
    assert not np.array_equal(found["layout"], original["layout"])
    for key in ("image", "caption", "name"):
        assert found[key] is original[key]
    if instances:
        assert found["instance"].dtype == np.int32
        assert np.array_equal(found["instance"], original["instance"]) == (kind not in ("ds", "dropped"))
    # An id that was not there is the one for no label.
    new = set(found["layout"].ravel().tolist()) - {0, 1, 2, 5, 7}
    assert new == ({12} if info.void_id is None and kind in ("edge", "random") else set())


@pytest.mark.parametrize("kind", ["edge", "random"])
def test_unlabelled_is_void_where_the_data_have_one(kind):
    original = example()
    known, voided = (corruptions.corrupt(original, kind, info, 3)["layout"] for info in (KNOWN, VOIDED))
    hit = known == 12
    assert (voided[hit] == VOID).all()
    assert np.array_equal(voided[~hit], known[~hit])


def test_no_label_fits_where_the_layout_is_full_of_classes():
    info = Info("full", tuple(ClassInfo(f"c{i}", (0, 0, 0)) for i in range(256)))
    assert corruptions.corrupt(example(), "edge", info, 0)["layout"].max() == 256


@pytest.mark.parametrize("kind", ["wrong_class", "dropped"])
@pytest.mark.parametrize("instances", [True, False])
def test_void_objects_are_left_alone(kind, instances):
    original = example(instances)
    void = original["layout"] == VOID
    assert void.any()
    for seed in range(5):
        found = corruptions.corrupt(original, kind, VOIDED, seed)
        assert (found["layout"][void] == VOID).all()
        if kind == "wrong_class":
            assert (found["layout"][~void] != VOID).all()


@pytest.mark.parametrize("kind", corruptions.CORRUPTIONS)
@pytest.mark.parametrize("label", [2, VOID])
def test_one_class_has_nothing_to_confuse(kind, label):
    one = {"layout": np.full((16, 16), label, np.uint8), "name": "one"}
    found = corruptions.corrupt(one, kind, VOIDED, 0)["layout"]
    if kind == "random" and label != VOID:
        assert set(found.ravel().tolist()) == {label, VOID}
    else:
        assert (found == label).all()


@pytest.mark.parametrize("kind", RANDOM_KINDS)
@pytest.mark.parametrize("instances", [True, False])
def test_the_seed_and_the_contents_decide(kind, instances):
    original = example(instances)
    found = corruptions.corrupt(original, kind, VOIDED, 3)
    renamed = {**original, "layout": original["layout"].astype(np.int32), "name": "b", "caption": "other"}
    again = corruptions.corrupt(renamed, kind, VOIDED, 3)
    for key in ("layout", "instance")[: 1 + instances]:
        assert np.array_equal(found[key], again[key])
    other = corruptions.corrupt(original, kind, VOIDED, 4)
    assert not np.array_equal(found["layout"], other["layout"])


def test_other_contents_or_shapes_are_hit_elsewhere():
    layout = np.zeros((32, 32), np.uint8)
    changed = layout.copy()
    changed[0, 0] = 1
    hits = [
        corruptions.corrupt({"layout": values}, "random", KNOWN, 0)["layout"].ravel() == 12
        for values in (layout, changed, layout.reshape(16, 64))
    ]
    assert all(not np.array_equal(hits[i], hits[j]) for i, j in ((0, 1), (0, 2), (1, 2)))


def test_kinds_use_independent_randomness(monkeypatch):
    monkeypatch.setitem(corruptions.CORRUPTIONS, "twin", corruptions.random)
    hits = [
        corruptions.corrupt({"layout": np.zeros((100, 100), np.uint8)}, kind, KNOWN, 0)["layout"] == 12
        for kind in ("random", "twin")
    ]
    assert (hits[0] & hits[1]).sum() < 200  # a hundredth of the pixels, not a tenth


def test_an_unknown_kind_is_named_with_the_known_ones():
    with pytest.raises(DataError, match=r"'blur'.*ds, edge, random, wrong_class, dropped"):
        corruptions.corrupt(example(), "blur", KNOWN, 0)


@pytest.mark.parametrize("kind", corruptions.CORRUPTIONS)
def test_a_strength_of_nothing_changes_nothing(kind):
    none = {"ds": "1", "edge": None, "random": "0", "wrong_class": "0", "dropped": "0"}[kind]
    if none is None:
        assert corruptions.parse("edge:0") == ("edge", {"radius": 0})
        return
    original = example()
    np.testing.assert_array_equal(
        corruptions.corrupt(original, f"{kind}:{none}", KNOWN, 0)["layout"], original["layout"]
    )


def test_a_strength_is_that_parameter():
    layout = {"layout": np.zeros((100, 100), np.uint8)}
    half = corruptions.corrupt(layout, "random:0.5", KNOWN, 0)["layout"] == KNOWN.num_classes
    assert abs(half.mean() - 0.5) < 5 * 0.5 / 100
    weak = corruptions.corrupt(layout, "random", KNOWN, 0)["layout"] == KNOWN.num_classes
    assert (half | ~weak).all()  # the same draws: more of the same noise


@pytest.mark.parametrize("kind", ["random:2", "ds:0", "ds:1.5", "edge:", "dropped:much"])
def test_strengths_out_of_range_are_refused(kind):
    with pytest.raises(DataError, match=f"the strength in {kind!r}"):
        corruptions.corrupt(example(), kind, KNOWN, 0)
