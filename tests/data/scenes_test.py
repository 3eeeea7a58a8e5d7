import pickle
import random
import re
import subprocess
import sys
from functools import cache

import numpy as np
import pytest
from PIL import Image

from semdiff.data.scenes import Scenes, plan
from semdiff.data.scenes.__main__ import main
from semdiff.data.scenes.draw import render
from semdiff.data.scenes.places import compose
from semdiff.data.scenes.world import NUMBERS, PLURALS, caption, visible

COUNT = 300
KINDS = {info.name: kind for kind, info in enumerate(plan.CLASSES)}


@cache
def many():
    source = Scenes(size=(32, 32), length=COUNT)
    return [source[i] for i in range(COUNT)]


def same(a, b):
    return a.keys() == b.keys() and all(np.array_equal(a[key], b[key]) for key in a)


def test_example_is_what_a_source_promises():
    source = Scenes()
    info, example = source.info, source[0]
    assert (info.num_classes, info.palette.shape, info.palette.dtype) == (16, (16, 3), np.uint8)
    assert len(set(info.names)) == len(set(map(tuple, info.palette.tolist()))) == info.num_classes
    assert (info.has_instances, info.has_captions, info.void_id) == (True, True, None)
    assert (example["image"].shape, example["image"].dtype) == ((64, 64, 3), np.uint8)
    assert (example["layout"].shape, example["layout"].dtype) == ((64, 64), np.uint8)
    assert (example["instance"].shape, example["instance"].dtype) == ((64, 64), np.int32)
    assert example["name"] == "train_000000"
    assert isinstance(example["caption"], str)


def test_example_depends_on_seed_split_and_index_alone():
    source = Scenes(length=10)
    first = [source[i] for i in (7, 3)]
    again = Scenes(length=2000)
    assert same(first[1], again[3])
    assert same(first[0], again[7])
    assert same(first[0], pickle.loads(pickle.dumps(source))[np.int64(7)])
    others = [again[8], Scenes(seed=1)[7], Scenes("val")[7]]
    for other in others:
        assert np.mean(other["image"] != first[0]["image"]) > 0.5


def test_lengths_and_bounds():
    assert [len(Scenes(split)) for split in ("train", "val", "test")] == [4096, 256, 256]
    source = Scenes(length=2)
    assert len(list(source)) == 2
    for index in (2, -1):
        with pytest.raises(IndexError, match=rf"no example {index}"):
            source[index]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"split": "dev"}, "unknown split 'dev'"),
        ({"size": (4, 64)}, "at least 8"),
        ({"size": 64}, r"\(height, width\)"),
        ({"size": (64.5, 64)}, "integers"),
        ({"length": -1}, "-1"),
    ],
)
def test_bad_arguments_are_named(arguments, message):
    with pytest.raises(ValueError, match=message):
        Scenes(**arguments)


@pytest.mark.parametrize("size", [(8, 8), (37, 53), (32, 96), (90, 30), (160, 128)])
def test_any_size(size):
    source = Scenes(size=size, length=6)
    for example in source:
        assert example["image"].shape == (*size, 3)
        assert example["layout"].shape == example["instance"].shape == size
        assert example["layout"].max() < source.info.num_classes


def test_another_size_is_the_same_scene():
    for i in range(12):
        small, large = Scenes(size=(48, 48))[i], Scenes(size=(144, 144))[i]
        assert np.mean(small["layout"] == large["layout"][1::3, 1::3]) > 0.95
        shrunk = np.asarray(Image.fromarray(large["image"]).reduce(3)).astype(float)
        assert np.abs(shrunk - small["image"]).mean() < 6


def test_instances_are_things_and_of_one_class():
    for example in many():
        layout, instance = example["layout"], example["instance"]
        assert layout.max() < len(plan.CLASSES)
        np.testing.assert_array_equal(instance > 0, np.isin(layout, plan.THINGS))
        for i in np.unique(instance[instance > 0]):
            assert len(np.unique(layout[instance == i])) == 1


def test_two_things_of_a_class_have_two_ids():
    cars = [e["instance"][e["layout"] == KINDS["car"]] for e in many()]
    assert sum(len(np.unique(ids)) > 1 for ids in cars) > 0.1 * COUNT


def test_classes_have_a_long_tail():
    counts = np.stack([np.bincount(e["layout"].ravel(), minlength=16) for e in many()])
    images, pixels = (counts > 0).mean(0), counts.sum(0) / counts.sum()
    assert images[KINDS["sky"]] > 0.97
    assert np.all(images > 0.01), dict(zip(KINDS, images))
    assert 0.01 < images.min() < 0.1
    assert pixels.max() > 1000 * pixels.min()
    assert pixels[KINDS["person"]] < 0.01 < pixels[KINDS["building"]]
    for name, low, high in (("road", 0.7, 0.95), ("car", 0.35, 0.7), ("sign", 0.05, 0.2)):
        assert low < images[KINDS[name]] < high, name


def test_colours_tell_the_classes():
    """In daylight grass and trees are green, water and sky blue, asphalt grey."""
    means = {}
    for kind in ("grass", "tree", "water", "sky", "road"):
        found = [e["image"][e["layout"] == KINDS[kind]] for e in many() if "in daylight" in e["caption"]]
        means[kind] = np.concatenate(found).mean(0)
    for kind in ("grass", "tree"):
        assert means[kind][1] > means[kind][0] + 10 > means[kind][2] + 10
    for kind in ("water", "sky"):
        assert means[kind][2] > means[kind][1] > means[kind][0]
    assert np.ptp(means["road"]) < 20
    assert means["road"].mean() < 150 < means["sky"].mean()


def scene_with(things, light=plan.DAY):
    camera = plan.Camera(horizon=0.4, metre=0.15, vanish=0.5, aspect=1.0)
    scene = plan.Scene("street", light, camera, sun=0.0, cloud=0.0, haze=0.02, seed=3)
    scene.patches.append(plan.Patch(plan.GRASS, (110, 160, 66), ((-900, 0.9), (900, 0.9), (0, 400))))
    scene.things.extend(things)
    return scene


@pytest.mark.parametrize("kind", list(plan.THINGS))
@pytest.mark.parametrize("size", [(32, 32), (64, 64), (128, 128)])
def test_layout_covers_what_a_thing_changes(kind, size):
    style = {plan.TREE: "round", plan.CAR: "side", plan.BUILDING: "gable", plan.SIGN: "stop"}
    style |= {plan.TRAFFIC_LIGHT: "red", plan.BOAT: "sail"}
    # In the air, where nothing casts a shadow.
    thing = plan.Thing(kind, 0, 1.9, 2.2, 3.0, (150, 60, 60), style.get(kind, ""), 5, up=0.8)
    with_it, layout, instance = render(scene_with([thing]), size)
    without, *_ = render(scene_with([]), size)
    mask = layout == kind
    np.testing.assert_array_equal(mask, instance == 1)
    near = np.pad(mask, 1)
    near = np.any([near[y : y + size[0], x : x + size[1]] for y in range(3) for x in range(3)], 0)
    change = np.abs(with_it.astype(int) - without).max(-1)
    assert mask.sum() > 4
    assert change[mask].min() > 4
    assert change[~near].max() < 30  # the tip of an ear may fall between two samples


def test_nearer_things_hide_farther_ones():
    far = plan.Thing(plan.BUILDING, 0, 1.8, 8, 6, (180, 100, 80), "flat", 1)
    near = plan.Thing(plan.PERSON, 0, 1.5, 0.6, 1.8, (60, 90, 190), "", 2)
    _, layout, instance = render(scene_with([far, near]), (64, 64))
    assert {plan.BUILDING, plan.PERSON} <= set(np.unique(layout))
    x, y = scene_with([]).camera.point(0, 1.5, 1.2)
    assert instance[int(y * 64), int(x * 64)] == 2


def test_scenes_are_drawn_from_far_to_near():
    for i in range(40):
        things = compose(random.Random(i), 1.0).things
        walls = [thing for thing in things if thing.far]
        assert things[: len(walls)] == walls  # they are beside the road, behind all that is on it
        for part in (walls, things[len(walls) :]):
            assert [thing.z for thing in part] == sorted((thing.z for thing in part), reverse=True)


def test_light_changes_the_image_and_not_the_layout():
    things = [plan.Thing(plan.LAMP, 0, 1.6, 1.3, 3.0, (74, 78, 84), "", 1)]
    pictures = [render(scene_with(things, light), (64, 64)) for light, _ in plan.TIMES]
    for image, layout, _ in pictures[1:]:
        assert np.abs(image.astype(int) - pictures[0][0]).mean() > 8
        np.testing.assert_array_equal(layout, pictures[0][1])
    assert pictures[-1][0].mean() < 0.6 * pictures[0][0].mean()
    lamp = pictures[-1][1] == plan.LAMP
    assert pictures[-1][0][lamp].max() > 220


def test_captions_say_what_is_there():
    for example in many():
        text, counts = example["caption"], visible(example["layout"], example["instance"])
        if re.search("street|road", text.split(" with ")[0]):
            assert KINDS["road"] in example["layout"]
        if re.match("a (lake|shore)", text):
            assert KINDS["water"] in example["layout"]
        listed = text.partition(" with ")[2]
        for kind in plan.THINGS:
            name, count = plan.CLASSES[kind].name, counts.get(kind, 0)
            number = NUMBERS[count] if count < len(NUMBERS) else "many"
            phrase = f"{number} {name if count == 1 else PLURALS.get(kind, name + 's')}"
            words = re.split(r", | and ", listed)
            assert (phrase in words) == (count > 0), (text, phrase)
        assert text.isascii()
    assert len({example["caption"] for example in many()}) > COUNT / 2


def test_caption_wording():
    layout, instance = np.zeros((30, 30), np.uint8), np.zeros((30, 30), np.int32)
    assert caption("lake", "at dawn", layout, instance) == "a lake at dawn"
    for i, (name, column) in enumerate((("car", 0), ("car", 3), ("tree", 6), ("person", 9)), start=1):
        layout[:5, column : column + 2], instance[:5, column : column + 2] = KINDS[name], i
    text = caption("city street", "at dusk", layout, instance)
    assert text == "a city street at dusk with two cars, a person and a tree"


def test_sheet_from_the_command_line(tmp_path):
    main(["--out", str(tmp_path / "deep" / "sheet.png"), "--size", "16", "32", "--count", "3"])
    with Image.open(tmp_path / "deep" / "sheet.png") as picture:
        assert picture.format == "PNG"
        colors = {color for _, color in picture.getcolors(1 << 20)}
    assert {info.color for info in plan.CLASSES} <= colors


def test_import_is_light():
    """Worker processes import this: no jax, no flax."""
    code = "import sys, semdiff.data.scenes; print({'jax', 'flax', 'tensorflow'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
