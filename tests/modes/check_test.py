"""--mode=check_data: what it says of folders of every kind, and that what it writes can be trained with."""

import json
import runpy
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image
from tiny import tiny_experiment

from semdiff import inputs
from semdiff.config import ConfigError
from semdiff.data import survey
from semdiff.data.images import DataError
from semdiff.modes import check
from semdiff.parser import parse

RNG = np.random.default_rng(0)
SIZE = (24, 32)


def photo(seed):
    """Smooth, so that photographs of different seeds look different."""
    coarse = np.random.default_rng(seed).integers(0, 256, (6, 8, 3), np.uint8)
    return np.asarray(Image.fromarray(coarse).resize(SIZE[::-1], Image.Resampling.BILINEAR))


def tree(root, splits, values=(0, 1, 2), colours=None, palette=None):
    """images/ and labels/ of so many examples in each split; labels of ids, of colours, or palette files."""
    seed = 0
    for split, count in splits.items():
        for kind in ("images", "labels"):
            (root / kind / split).mkdir(parents=True, exist_ok=True)
        for i in range(count):
            seed += 1
            Image.fromarray(photo(seed)).save(root / "images" / split / f"{split}{i}.png")
            places = np.arange(SIZE[0] * SIZE[1]).reshape(SIZE) // 40 % len(values)
            raw = np.array(values)[places]
            label = Image.fromarray(np.array(colours, np.uint8)[places] if colours else raw.astype(np.uint8))
            if palette:
                label.putpalette(sum(palette, ()))
            label.save(root / "labels" / split / f"{split}{i}.png")
    return root


def said(found):
    return {("stops " if finding.stops else "") + finding.what for finding in found.findings}


def one_of(found, words):
    [what] = [what for what in said(found) if words in what]
    return what


def test_a_folder_without_fault_has_none(tmp_path):
    found = survey.survey(tree(tmp_path, {"train": 6, "test": 6}))
    assert said(found) == set()
    assert {split: len(facts) for split, facts in found.splits.items()} == {"train": 6, "test": 6}
    assert survey.described(found) == {"num_classes": 3}
    assert sum(found.pixels.values()) == 12 * SIZE[0] * SIZE[1]
    assert dict(found.images) == {0: 12, 1: 12, 2: 12}


@pytest.mark.parametrize(
    ("labels", "wanted"),
    [
        ({"values": (0, 1, 255)}, {"num_classes": 2, "void_id": 2, "ignore_id_map": {"255": 2}}),
        ({"values": (0, 255)}, {"classes": [{"id": 0, "name": "value 0"}, {"id": 1, "name": "value 255"}],
                                "ignore_id_map": {"0": 0, "255": 1}}),
        ({"values": (7, 11)}, {"classes": [{"id": 0, "name": "value 7"}, {"id": 1, "name": "value 11"}],
                               "ignore_id_map": {"7": 0, "11": 1}}),
        ({"values": (0, 1), "colours": [(9, 0, 0), (0, 0, 200)]},
         {"classes": [{"id": i, "name": f"class {i}", "color": c} for i, c in enumerate([[9, 0, 0], [0, 0, 200]])]}),
        ({"values": (0, 1), "palette": [(9, 0, 0), (0, 0, 200)]}, {"num_classes": 2}),
    ],
    ids=["void", "binary", "gaps", "colours", "palette"],
)  # fmt: skip
def test_what_is_proposed_can_be_read_and_trained_with(tmp_path, labels, wanted):
    root = tree(tmp_path / "data", {"train": 5, "test": 5}, **labels)
    config = tiny_experiment()
    config = replace(config, data=replace(config.data, source="folder", root=str(root)))
    report = check.check(config, tmp_path)
    written = json.loads((tmp_path / "check" / "dataset.json").read_text())
    assert written == wanted
    (root / "dataset.json").write_text(json.dumps(written))
    made = parse(runpy.run_path(str(tmp_path / "check" / "config.py"))["get_config"]())
    assert made.data.size == (64, 80)
    source = inputs.training_source(made.data, 0)
    assert sorted(np.unique(source[0]["layout"])) == list(range(len(labels["values"])))
    again = survey.survey(root)
    assert said(again) == set()
    assert survey.described(again) == {}
    text = report.read_text()
    assert text.count("<img src='data:image/png;base64,") == 10
    assert "nothing to mend" in text


def test_faults_are_named_with_what_to_do(tmp_path):
    root = tree(tmp_path, {"train": 9, "test": 3})
    images, labels = root / "images" / "train", root / "labels" / "train"
    (images / "train0.png").write_bytes(b"GIF89a")
    (labels / "train1.png").rename(labels / "train1.jpg")
    Image.new("L", (16, 12)).save(labels / "train2.png")
    Image.new("L", (24, 32)).save(labels / "train3.png")
    Image.fromarray(RNG.integers(0, 256, (*SIZE, 3), np.uint8)).save(labels / "train4.png")
    Image.fromarray(photo(6)).save(root / "images" / "test" / "test1.png")  # that of train5
    Image.fromarray(photo(7)).save(images / "train8.png")  # that of train6
    found = survey.survey(root)
    assert "train0.png: this is a GIF file" in one_of(found, "GIF")
    assert one_of(found, "without a label map").startswith(
        "stops split train: 1 images without a label map. Add"
    )
    assert "1 label maps are JPEG, which blends" in one_of(found, "JPEG, which")
    assert "train2: 12 x 16, the image 24 x 32). Set config.data.mismatch=resize_label" in one_of(
        found, "another size"
    )
    assert "train3: 32 x 24, the image 24 x 32). They belong to something else" in one_of(
        found, "another shape"
    )
    assert "hold more than 256 colours (train4, " in one_of(found, "more than 256")
    assert one_of(found, "two kinds").startswith("stops label maps are of two kinds: ")
    assert "1 of 3 images of test look like one of train (train5 and test1)" in one_of(found, "look like")
    assert one_of(found, "twice") == "split train: 1 images are there twice"
    assert check.size_for(found) == (64, 80)
    assert 'mismatch = "resize_label"' in check.configuration(found, root)


def test_a_description_that_does_not_fit_is_said(tmp_path):
    root = tree(tmp_path, {"train": 6}, values=(0, 1, 9))
    classes = [{"id": 0, "name": "left eye"}, {"id": 1, "name": "Right Eye"}]
    (root / "dataset.json").write_text(json.dumps({"classes": classes}))
    (root / "captions").mkdir()
    (root / "captions" / "train.jsonl").write_text('{"image": "train0", "caption": "a face"}\n')
    found = survey.survey(root)
    assert "has no class for 9 (6 images). Add it there, or send it" in one_of(found, "no class for")
    assert "of the left and of the right (left eye): name them in flip_pairs" in one_of(found, "flip_pairs")
    assert "train.jsonl: 5 images have no caption" in one_of(found, "caption")
    assert found.named(1) == "1 Right Eye"
    (root / "dataset.json").write_text("{")
    assert "not readable as JSON" in one_of(survey.survey(root), "JSON")


def test_rare_classes_and_those_of_one_split_are_named(tmp_path):
    root = tree(tmp_path, {"train": 6, "test": 6})
    path = root / "labels" / "train" / "train0.png"
    label = np.asarray(Image.open(path)).copy()
    label[0, 0] = 3
    Image.fromarray(label).save(path)
    found = survey.survey(root)
    assert "rarely seen (in less than 5 images" in one_of(found, "rarely")
    assert one_of(found, "never shows") == "split test never shows 3"


def test_another_structure_is_recognised(tmp_path):
    tree(tmp_path / "x", {"train": 3})
    (tmp_path / "x" / "images" / "train").rename(tmp_path / "x" / "photos")
    (tmp_path / "x" / "labels" / "train").rename(tmp_path / "x" / "masks")
    for kind in ("images", "labels"):
        (tmp_path / "x" / kind).rmdir()
    (tmp_path / "empty").mkdir()
    with pytest.raises(
        DataError, match=r"photos and .*masks have 3 names in common.*ln -s .*photos NEW/images"
    ):
        survey.survey(tmp_path / "x")
    with pytest.raises(
        DataError, match=r"has no images/ and labels/\. Expected ROOT/images.* no images in it"
    ):
        survey.survey(tmp_path / "empty")
    with pytest.raises(DataError, match="There is no such folder"):
        survey.survey(tmp_path / "nowhere")


def test_it_is_for_folders(tmp_path):
    config = tiny_experiment()
    with pytest.raises(ConfigError, match=r"data\.source is scenes, but --mode=check_data looks at folders"):
        check.check(config, tmp_path)
    with pytest.raises(ConfigError, match=r"config\.data\.root is empty"):
        check.check(replace(config, data=replace(config.data, source="folder")), tmp_path)


def test_looks_differ_by_few_bits_where_images_do_by_little():
    a = photo(1)
    noisy = np.clip(a.astype(int) + np.random.default_rng(0).integers(-3, 4, a.shape), 0, 255).astype(
        np.uint8
    )
    assert (survey.look_of(a) ^ survey.look_of(noisy)).bit_count() <= survey.NEAR + 2
    assert (survey.look_of(a) ^ survey.look_of(photo(2))).bit_count() > 10
