import json
import pickle
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageOps

from semdiff.data import make_source
from semdiff.data.images import DataError
from semdiff.data.readers.folder import Folder, Layouts
from semdiff.data.source import ClassInfo, Info

REAL = Path(__file__).parents[3].parent / "shared" / "data"
COLOURS = [(0, 0, 0), (255, 0, 0), (10, 20, 30)]


def write(path, array, **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.asarray(array)).save(path, **options)
    return path


def picture(height=6, width=8, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def make_tree(root, splits=("train",), classes=3, count=3, description=None, size=(6, 8)):
    rng = np.random.default_rng(0)
    for split in splits:
        for i in range(count):
            write(root / "images" / split / f"s{i}.png", picture(*size, seed=i))
            layout = rng.integers(0, classes, size, dtype=np.uint8)
            layout[0, 0] = classes - 1
            write(root / "labels" / split / f"s{i}.png", layout)
    if description is not None:
        (root / "dataset.json").write_text(json.dumps(description))
    return root


def described(**more):
    classes = [{"id": i, "name": f"n{i}", "color": list(c)} for i, c in enumerate(COLOURS)]
    return {"num_classes": 3, "void_id": None, "classes": classes, **more}


# --- folders ------------------------------------------------------------------------------------


def test_folder_with_everything(tmp_path):
    root = make_tree(
        tmp_path,
        ("train", "val"),
        description=described(name="toy", flip_pairs=[["n1", 2]], scored=["n1", 0]),
    )
    ids = np.arange(48, dtype=np.uint16).reshape(6, 8) * 1000
    for i in range(3):
        write(root / "instances" / "train" / f"s{i}.png", ids)
    (root / "captions").mkdir()
    lines = [{"image": s, "caption": f"about {s}"} for s in ("s0", "s1.png", "s2")]
    (root / "captions" / "train.jsonl").write_text("\n".join(map(json.dumps, lines)) + "\n")
    source = Folder(root, "train")
    assert source.info == Info(
        "toy",
        tuple(ClassInfo(f"n{i}", c) for i, c in enumerate(COLOURS)),
        has_instances=True,
        has_captions=True,
        flip_pairs=((1, 2),),
        scored=(1, 0),
    )
    assert [e["name"] for e in source] == ["s0", "s1", "s2"]
    example = pickle.loads(pickle.dumps(source))[1]
    assert np.array_equal(example["image"], picture(seed=1))
    assert example["layout"].dtype == np.uint8
    assert np.array_equal(example["instance"], ids)
    assert example["caption"] == "about s1.png"
    held_out = Folder(root, "val")
    assert not held_out.info.has_instances
    assert not held_out.info.has_captions
    assert held_out[0].keys() == {"name", "image", "layout"}
    with pytest.raises(IndexError):
        source[3]


def test_void_counts_as_one_more_class_and_raw_ids_are_mapped(tmp_path):
    written = described(num_classes=2, void_id=2, ignore_id_map={"255": 2, "7": 0})
    root = make_tree(tmp_path, description=written)
    write(root / "labels" / "train" / "s0.png", np.full((6, 8), 255, np.uint8))
    write(root / "labels" / "train" / "s1.png", np.full((6, 8), 7, np.uint8))
    write(root / "labels" / "train" / "s2.png", np.full((6, 8), 9, np.uint8))
    source = Folder(root, "train")
    assert source.info.num_classes == 3
    assert source.info.void_id == 2
    assert (source[0]["layout"] == 2).all()
    assert (source[1]["layout"] == 0).all()
    expected = r"s2\.png: label ids that belong to no class: 9 \(48 pixels\)\. Expected 0\.\.2 or 7 or 255 \(3 classes\)"
    with pytest.raises(DataError, match=expected):
        source[2]


def test_void_without_an_entry_gets_one(tmp_path):
    written = {"num_classes": 2, "void_id": 2, "classes": [{"name": "a"}, {"name": "b"}]}
    source = Folder(make_tree(tmp_path, description=written), "train")
    assert source.info.names == ("a", "b", "void")


def test_a_reordered_palette_goes_by_the_colours_of_the_classes(tmp_path):
    root = make_tree(tmp_path, description=described())
    ids = np.arange(48, dtype=np.uint8).reshape(6, 8) % 3
    image = Image.fromarray(np.array(COLOURS, np.uint8)[ids]).convert("P", palette=Image.Palette.ADAPTIVE)
    assert not np.array_equal(np.asarray(image), ids)
    image.save(root / "labels" / "train" / "s0.png")
    assert np.array_equal(Folder(root, "train")[0]["layout"], ids)
    assert np.array_equal(Layouts(root / "labels" / "train")[0]["layout"], ids)


def test_labels_beyond_the_classes_are_named_and_counted(tmp_path):
    root = make_tree(tmp_path, classes=3)
    layout = np.zeros((6, 8), np.uint8)
    layout[0, :3] = 255
    layout[1, 0] = 2
    write(root / "labels" / "train" / "s1.png", layout)
    source = Folder(root, "train", num_classes=2)
    expected = (
        r"s1\.png: .* 2 \(1 pixel\), 255 \(3 pixels\)\. Expected 0\.\.1 \(2 classes\)\. .*ignore_id_map.*255"
    )
    with pytest.raises(DataError, match=expected):
        source[1]


@pytest.mark.parametrize("name", ["train", "all"])
def test_plain_folders_without_splits(tmp_path, name):
    for i in range(2):
        write(tmp_path / "images" / f"s{i}.JPG", picture(seed=i), format="JPEG")
        write(tmp_path / "labels" / f"s{i}.png", np.full((6, 8), 3 + i, np.uint8))
        write(tmp_path / "instances" / f"s{i}.png", np.full((6, 8), 300, np.uint16))
    (tmp_path / "images" / ".DS_Store").write_text("")
    source = Folder(tmp_path, name)
    assert source.info.num_classes == 5
    assert len(set(map(tuple, source.info.palette.tolist()))) == 5
    assert source[1]["layout"].max() == 4
    assert source[1]["instance"].max() == 300
    assert Folder(tmp_path, name, num_classes=9, void_id=8).info.names[8] == "void"
    with pytest.raises(
        DataError, match=r"no split 'val'; the images lie in this folder itself.*\"train\" or \"all\""
    ):
        Folder(tmp_path, "val")


def test_classes_are_counted_over_all_splits(tmp_path):
    root = make_tree(tmp_path, ("train", "val"), classes=3)
    write(root / "labels" / "val" / "s1.png", np.full((6, 8), 300, np.uint16))
    assert Folder(root, "train").info.num_classes == 301
    write(root / "labels" / "val" / "s1.png", np.full((6, 8), 255, np.uint8))
    with pytest.raises(
        DataError,
        match=r'hold 255 beside ids below 3.*"ignore_id_map": \{"255": 3\}.*config.data.num_classes=256',
    ):
        Folder(root, "train")


def test_missing_folders_and_splits(tmp_path):
    with pytest.raises(
        DataError, match=r"nowhere: no such folder\. Expected:\n.*ROOT/images/SPLIT/STEM\.png"
    ):
        Folder(tmp_path / "nowhere", "train")
    root = make_tree(tmp_path, ("train", "val"))
    with pytest.raises(DataError, match=r"test: no such split\. Splits that exist: train \(3 images\), val"):
        Folder(root, "test")
    for path in (root / "images" / "val").iterdir():
        path.unlink()
        (root / "labels" / "val" / path.name).unlink()
    with pytest.raises(DataError, match=r"'val' has no images.*train \(3 images\), val \(0 images\)"):
        Folder(root, "val")


def test_lonely_files_are_listed(tmp_path):
    root = make_tree(tmp_path, count=9)
    for i in range(7):
        (root / "labels" / "train" / f"s{i}.png").unlink()
    (root / "images" / "train" / "s8.png").unlink()
    expected = (
        r"7 images without a label map \(s0, s1, s2, s3, s4, \.\.\.\);"
        r" 1 label maps without an image \(s8\)\. Expected one of each.*remove"
    )
    with pytest.raises(DataError, match=expected):
        Folder(root, "train")


def test_instances_must_be_there_for_all(tmp_path):
    root = make_tree(tmp_path)
    write(root / "instances" / "train" / "s0.png", np.zeros((6, 8), np.uint16))
    with pytest.raises(DataError, match=r"2 label maps without an instance map \(s1, s2\)"):
        Folder(root, "train")


def test_two_files_of_one_stem(tmp_path):
    root = make_tree(tmp_path)
    write(root / "images" / "train" / "s1.jpg", picture())
    with pytest.raises(DataError, match=r"s1\.png: a second file with the stem 's1'"):
        Folder(root, "train")


def test_sizes_that_differ(tmp_path):
    root = make_tree(tmp_path)
    ids = np.arange(12, dtype=np.uint8).reshape(3, 4) % 3
    write(root / "labels" / "train" / "s0.png", ids)
    expected = r's0: sizes differ.*image 8x6 \(.*s0\.png\), layout 4x3 \(.*\)\. .*config.data.mismatch="resize_label"'
    with pytest.raises(DataError, match=expected):
        Folder(root, "train")[0]
    resized = Folder(root, "train", mismatch="resize_label")[0]
    assert np.array_equal(resized["layout"], ids.repeat(2, 0).repeat(2, 1))
    assert np.array_equal(resized["image"], picture())
    reduced = Folder(root, "train", mismatch="resize_image")[0]
    assert np.array_equal(reduced["layout"], ids)
    blocks = picture().reshape(3, 2, 4, 2, 3).mean((1, 3))
    assert np.abs(reduced["image"] - blocks).max() <= 1  # rounded twice
    with pytest.raises(DataError, match=r"mismatch is 'crop'\. Expected one of error, resize_label"):
        Folder(root, "train", mismatch="crop")


def test_a_picture_on_its_side_is_never_resampled(tmp_path):
    root = make_tree(tmp_path)
    write(root / "labels" / "train" / "s0.png", np.zeros((8, 6), np.uint8))
    with pytest.raises(DataError, match="turned on its side"):
        Folder(root, "train", mismatch="resize_label")[0]


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("{", r"line 2: '\{'.*Expected \{\"image\": STEM, \"caption\": TEXT\}"),
        ('{"image": "s1"}', r"line 2: .*KeyError"),
        ('{"image": "s0", "caption": "again"}', r"line 2: a second caption for 's0'"),
        ("", r"2 images without a caption \(s1, s2\)"),
    ],
)
def test_bad_captions(tmp_path, line, words):
    root = make_tree(tmp_path)
    (root / "captions").mkdir()
    (root / "captions" / "train.jsonl").write_text('{"image": "s0", "caption": "c"}\n' + line)
    with pytest.raises(DataError, match=r"train\.jsonl.*" + words):
        Folder(root, "train")


@pytest.mark.parametrize(
    ("written", "words"),
    [
        ("{", r"not readable as JSON"),
        ("[]", r"expected a JSON object"),
        ({}, r'neither "classes" nor a positive "num_classes"'),
        (described(num_classes=5), r'"num_classes" is 5 but "classes" has 3 entries\. Expected 5'),
        (described(num_classes=5, void_id=5), r"Expected 6 \(the void class counts as one more\)"),
        (described(void_id=255), r'"void_id" is 255\. Expected null or one of 0\.\.2.*ignore_id_map'),
        (described(classes=[{"id": 1}, {"id": 2}]), r"are \[1, 2\]\. Expected 0\.\.1, each once"),
        (described(classes=[{"color": [1, 2]}]), r'"color" of "classes"\[0\] is \[1, 2\]\. Expected three'),
        (described(flip_pairs=[["n1", "eye"]]), r"\"flip_pairs\" is \[\['n1', 'eye'\]\]\. Expected pairs"),
        (described(flip_pairs=[[0, 1], [1, 2]]), r"no class twice"),
        (described(scored=["eye"]), r"\"scored\" is \['eye'\]\. Expected the classes that metrics count"),
        (described(scored=[]), r"\"scored\" is \[\]"),
        (described(scored=[0, 0]), r"no class twice"),
        (described(scored={"0": 1}), r"\"scored\" is \{'0': 1\}"),
        (described(ignore_id_map={"255": 3}), r"\"ignore_id_map\" has '255': 3\. .* a class id 0\.\.2"),
        (described(ignore_id_map={"-1": 0}), r"\"ignore_id_map\" has '-1': 0"),
        (described(ignore_id_map=255), r"\"ignore_id_map\" has 255"),
        (described(void_id="2"), r"\"void_id\" is '2'\. Expected an integer or null"),
    ],
)
def test_bad_descriptions(tmp_path, written, words):
    root = make_tree(tmp_path)
    (root / "dataset.json").write_text(written if isinstance(written, str) else json.dumps(written))
    with pytest.raises(DataError, match=r"dataset\.json: .*" + words):
        Folder(root, "train")


def test_options_must_agree_with_the_description(tmp_path):
    root = make_tree(tmp_path, description=described())
    assert Folder(root, "train", num_classes=3).info.num_classes == 3
    with pytest.raises(DataError, match=r"dataset\.json: num_classes is 3 here .* but 4 was asked"):
        Folder(root, "train", num_classes=4)
    with pytest.raises(DataError, match=r"void_id is None here .* but 1 was asked"):
        Folder(root, "train", void_id=1)


# --- images that a camera wants turned ------------------------------------------------------------


def turned_tree(root, orientation, label, size=(6, 8), instance=None):
    exif = Image.Exif()
    exif[0x0112] = orientation
    write(root / "images" / "s.png", picture(*size), exif=exif)
    write(root / "labels" / "s.png", label)
    if instance is not None:
        write(root / "instances" / "s.png", instance)
    return root


def numbered(height, width):
    return np.arange(height * width, dtype=np.uint8).reshape(height, width)


def viewed(array, orientation):
    """The array as any viewer shows it."""
    image = Image.fromarray(array)
    image.getexif()[0x0112] = orientation
    return np.asarray(ImageOps.exif_transpose(image))


@pytest.mark.parametrize("orientation", [5, 6, 7, 8])
@pytest.mark.parametrize("mismatch", ["error", "resize_label"])
def test_labels_drawn_on_stored_pixels_are_turned_with_their_image(tmp_path, orientation, mismatch):
    root = turned_tree(tmp_path, orientation, numbered(6, 8), instance=numbered(6, 8) + np.uint16(500))
    example = Folder(root, "train", num_classes=48, mismatch=mismatch)[0]
    assert np.array_equal(example["image"], viewed(picture(), orientation))
    assert np.array_equal(example["layout"], viewed(numbered(6, 8), orientation))
    assert np.array_equal(example["instance"], 500 + viewed(numbered(6, 8), orientation).astype(int))


@pytest.mark.parametrize("orientation", [5, 6, 7, 8])
def test_labels_drawn_on_the_upright_picture_stay(tmp_path, orientation):
    root = turned_tree(tmp_path, orientation, numbered(8, 6), instance=numbered(6, 8))
    example = Folder(root, "train", num_classes=48)[0]
    assert np.array_equal(example["layout"], numbered(8, 6))
    assert np.array_equal(example["instance"], viewed(numbered(6, 8), orientation))


def test_labels_of_another_size_are_turned_before_they_are_resized(tmp_path):
    small = np.arange(12, dtype=np.uint8).reshape(3, 4)
    example = Folder(turned_tree(tmp_path, 6, small), "train", num_classes=12, mismatch="resize_label")[0]
    assert np.array_equal(example["layout"], np.rot90(small, -1).repeat(2, 0).repeat(2, 1))


@pytest.mark.parametrize(
    ("orientation", "size"), [(2, (6, 8)), (3, (6, 8)), (4, (6, 8)), (6, (8, 8)), (3, (8, 8))]
)
def test_labels_that_fit_either_way_are_refused(tmp_path, orientation, size):
    root = turned_tree(tmp_path, orientation, numbered(*size), size)
    expected = (
        rf"labels/s\.png: .*images/s\.png, whose EXIF orientation is {orientation} .*auto-orient.*exiftool"
    )
    with pytest.raises(DataError, match=expected):
        Folder(root, "train", num_classes=64)[0]


def test_an_instance_map_that_fits_either_way_is_refused(tmp_path):
    root = turned_tree(tmp_path, 6, numbered(6, 8), instance=np.zeros((7, 7), np.uint16))
    with pytest.raises(DataError, match="s: sizes differ"):
        Folder(root, "train", num_classes=64)[0]
    root = turned_tree(tmp_path, 6, numbered(99, 1)[:, :1].repeat(100, 1), (99, 100), numbered(10, 10))
    with pytest.raises(DataError, match=r"instances/s\.png: .*images/s\.png, whose EXIF orientation is 6"):
        Folder(root, "train", num_classes=99, mismatch="resize_label")[0]


# --- layouts ------------------------------------------------------------------------------------


def test_layouts_alone(tmp_path):
    root = make_tree(tmp_path, description=described())
    ids = np.full((6, 8), 70000 % 65536, np.uint16)
    for i in range(3):
        write(tmp_path / "inst" / f"s{i}.png", ids)
    source = Layouts(root / "labels" / "train", instances=tmp_path / "inst")
    assert source.info.names == ("n0", "n1", "n2")
    assert source[2].keys() == {"name", "layout", "instance"}
    assert np.array_equal(source[2]["layout"], Folder(root, "train")[2]["layout"])
    # The same by the classes of a model that was trained elsewhere.
    trained = Info("elsewhere", Folder(root, "train").info.classes[:2])
    other = Layouts(root / "labels" / "train", info=trained)
    with pytest.raises(DataError, match=r"belong to no class: 2 .* Expected 0\.\.1 \(2 classes\)"):
        other[0]
    with pytest.raises(DataError, match=r"no such folder"):
        Layouts(tmp_path / "nowhere")
    with pytest.raises(DataError, match=r"no label maps"):
        Layouts(root / "labels")
    with pytest.raises(DataError, match=r"either info or num_classes"):
        Layouts(root / "labels" / "train", info=trained, num_classes=2)


# --- by name ------------------------------------------------------------------------------------


def test_make_source(tmp_path):
    root = make_tree(tmp_path)
    assert make_source("folder", root=root, split="train", num_classes=4).info.num_classes == 4
    with pytest.raises(ValueError, match=r"no source 'nope'. Expected one of scenes, folder, ade20k"):
        make_source("nope")
    expected = r"'folder' cannot use length=3, seed=1 and needs split\. Its options are root, split"
    with pytest.raises(ValueError, match=expected):
        make_source("folder", root=root, length=3, seed=1)
    with pytest.raises(ValueError, match=r"'scenes' cannot use root="):
        make_source("scenes", root=root)
    scenes = make_source("scenes", split="val", size=(16, 24), length=5, seed=3)
    assert len(scenes) == 5
    assert scenes[4]["image"].shape == (16, 24, 3)


# --- real data ----------------------------------------------------------------------------------


def real(name):
    if not (REAL / name).is_dir():
        pytest.skip(f"no {name} here")
    return REAL / name


def test_camvid():
    source = Folder(real("camvid64"), "val")
    assert (len(source), source.info.num_classes, source.info.void_id) == (101, 12, 11)
    assert source.info.names[11] == "Unlabelled"
    assert source[5]["image"].shape[:2] == source[5]["layout"].shape
    assert Layouts(real("camvid64") / "labels" / "val").info.classes == source.info.classes


def test_nuclei():
    source = Folder(real("nuclei64"), "test")
    assert source.info.has_instances
    assert len(source) == 66
    for example in (source[i] for i in range(0, 66, 11)):
        assert ((example["instance"] > 0) == (example["layout"] == 1)).all()


def test_clothes():
    source = Folder(real("ccp64"), "val")
    assert source.info.has_captions
    assert (len(source), source.info.num_classes) == (100, 59)
    assert source[0]["caption"].startswith("a street fashion photo")
