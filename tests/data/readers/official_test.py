import numpy as np
import pytest
from PIL import Image

from semdiff.data import augment, classes, make_source
from semdiff.data.images import DataError
from semdiff.data.readers.official import ADE20K, CelebAMaskHQ, Cityscapes, COCOStuff


def write(path, array, **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.asarray(array)).save(path, **options)
    return path


def picture(height=4, width=6, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


# --- class tables -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("info", "count", "some"),
    [
        (classes.ADE20K, 151, {0: "wall", 12: "person", 149: "flag", 150: "other"}),
        (classes.CITYSCAPES, 34, {0: "unlabeled", 7: "road", 26: "car", 33: "bicycle"}),
        (classes.CITYSCAPES_35, 35, {34: "license plate"}),
        (classes.CELEBAMASK_HQ, 19, {0: "background", 4: "l_eye", 13: "hair", 18: "cloth"}),
        (
            classes.COCO_STUFF,
            183,
            {0: "person", 90: "hair brush", 91: "banner", 181: "wood", 182: "unlabeled"},
        ),
    ],
)
def test_tables(info, count, some):
    assert info.num_classes == len(set(info.names)) == count
    assert {i: info.names[i] for i in some} == some
    assert all(name.strip() == name != "" for name in info.names)


def test_colours():
    assert tuple(classes.CITYSCAPES.palette[26]) == (0, 0, 142)
    assert tuple(classes.CITYSCAPES.palette[23]) == (70, 130, 180)
    for info in (classes.ADE20K, classes.COCO_STUFF, classes.CELEBAMASK_HQ):
        assert len(set(map(tuple, info.palette.tolist()))) == info.num_classes
    many = classes.distinct_colours(65536)
    assert len(set(many)) == 65536
    assert (0, 0, 0) not in many
    steps = np.abs(np.diff(np.array(many[:183]), axis=0)).max(1)
    assert steps.min() > 60
    assert classes.distinct_colours(7) == many[:7]


def test_sides_of_a_face():
    names = classes.CELEBAMASK_HQ.names
    pairs = [(names[a], names[b]) for a, b in classes.CELEBAMASK_HQ.flip_pairs]
    assert pairs == [("l_eye", "r_eye"), ("l_brow", "r_brow"), ("l_ear", "r_ear")]


def test_cityscapes_train_ids():
    names = [classes.CITYSCAPES.names[i] for i in classes.CITYSCAPES_TRAIN_IDS]
    assert names[:3] == ["road", "sidewalk", "building"]
    assert names[-3:] == ["train", "motorcycle", "bicycle"]
    assert len(names) == 19


# --- ADE20K -------------------------------------------------------------------------------------


def make_ade20k(root, count=2):
    for folder, name in (("training", "train"), ("validation", "val")):
        for i in range(count):
            stem = f"ADE_{name}_{i + 1:08d}"
            write(root / "images" / folder / f"{stem}.jpg", picture())
            labels = np.array([[0, 1, 150], [2, 151 if i else 3, 0]], np.uint8).repeat(2, 0).repeat(2, 1)
            write(root / "annotations" / folder / f"{stem}.png", labels)
    return root


@pytest.mark.parametrize("inner", ["", "ADEChallengeData2016"])
def test_ade20k(tmp_path, inner):
    make_ade20k(tmp_path / inner)
    source = make_source("ade20k", root=tmp_path, split="val")
    assert [f.name for f in source.files] == ["ADE_val_00000001", "ADE_val_00000002"]
    assert source[0]["layout"][::2, ::2].tolist() == [[150, 0, 149], [1, 2, 150]]
    assert source.info.void_id == 150
    assert not source.info.has_instances
    with pytest.raises(
        DataError, match=r"00002\.png: .*no class: 151 \(4 pixels\)\. Expected 0\.\.150 .*official"
    ):
        source[1]


def test_ade20k_errors(tmp_path):
    with pytest.raises(
        DataError, match=r"no such folder\. Expected\n(.|\n)*annotations/\{training,validation\}"
    ):
        ADE20K(tmp_path, "train")
    root = make_ade20k(tmp_path)
    with pytest.raises(DataError, match=r"no split 'test'\. Splits: train, val, training, validation"):
        ADE20K(root, "test")
    (root / "annotations" / "training" / "ADE_train_00000002.png").unlink()
    expected = (
        r"1 images without a label map \(ADE_train_00000002\)(.|\n)*ROOT/\[ADEChallengeData2016/\]images"
    )
    with pytest.raises(DataError, match=expected):
        ADE20K(root, "training")
    with pytest.raises(ValueError, match=r"'ade20k' cannot use num_classes=150"):
        make_source("ade20k", root=root, split="val", num_classes=150)


# --- Cityscapes ---------------------------------------------------------------------------------


def make_cityscapes(root, label_ids=None, instance_ids=None):
    for split, cities in (("train", ("zurich", "aachen")), ("val", ("lindau",))):
        for city in cities:
            stem = f"{city}_000000_000019"
            labels = np.full((4, 6), 26, np.uint8) if label_ids is None else label_ids
            instances = np.full((4, 6), 26001, np.uint16) if instance_ids is None else instance_ids
            write(root / "leftImg8bit" / split / city / f"{stem}_leftImg8bit.png", picture())
            truth = root / "gtFine" / split / city
            write(truth / f"{stem}_gtFine_labelIds.png", labels)
            write(truth / f"{stem}_gtFine_instanceIds.png", instances)
            write(truth / f"{stem}_gtFine_color.png", picture())
    return root


def test_cityscapes_tells_two_cars_apart(tmp_path):
    instances = np.full((4, 6), 26001, np.uint16)
    instances[:, 3:] = 26002
    source = make_source("cityscapes", root=make_cityscapes(tmp_path, None, instances), split="train")
    assert [e["name"] for e in source] == ["aachen_000000_000019", "zurich_000000_000019"]
    example = source[0]
    assert set(example["instance"].ravel().tolist()) == {26001, 26002}
    assert augment.edges(example["instance"])[0].tolist() == [0, 0, 1, 1, 0, 0]
    # What a conversion to 8 bits makes of them: both are clipped to 255, and the edge is gone.
    assert not augment.edges(np.minimum(example["instance"], 255)).any()
    assert (example["layout"] == 26).all()
    assert len(Cityscapes(tmp_path, "val")) == 1


def test_cityscapes_license_plates(tmp_path):
    labels = np.full((4, 6), 26, np.uint8)
    labels[0, 0] = 255
    root = make_cityscapes(tmp_path, labels)
    assert Cityscapes(root, "val")[0]["layout"][0, 0] == 0
    spade = make_source("cityscapes", root=root, split="val", num_classes=35)
    assert spade.info.num_classes == 35
    assert spade[0]["layout"][0, 0] == 34
    with pytest.raises(DataError, match=r"num_classes is 19\. Expected 34 .* or 35"):
        Cityscapes(root, "val", num_classes=19)


def test_cityscapes_errors(tmp_path):
    with pytest.raises(DataError, match=r"gtFine: no such folder(.|\n)*_gtFine_instanceIds\.png"):
        Cityscapes(tmp_path, "train")
    root = make_cityscapes(tmp_path, np.full((4, 6), 34, np.uint8))
    with pytest.raises(DataError, match=r"no split 'test'\. Splits: train, val\."):
        Cityscapes(root, "test")
    with pytest.raises(DataError, match=r"labelIds\.png: .* 34 \(24 pixels\)\. Expected 0\.\.33 or 255 "):
        Cityscapes(root, "val")[0]
    (root / "gtFine/train/aachen/aachen_000000_000019_gtFine_instanceIds.png").unlink()
    with pytest.raises(DataError, match=r"1 label maps without an instance map \(aachen_000000_000019\)"):
        Cityscapes(root, "train")


# --- COCO-Stuff ---------------------------------------------------------------------------------


def make_coco(root, annotations="annotations", instances=False):
    labels = np.array([[0, 181, 255]] * 2, np.uint8).repeat(2, 0).repeat(2, 1)
    for split in ("train2017", "val2017"):
        write(root / "images" / split / "000000000009.jpg", Image.fromarray(picture()).convert("L"))
        write(root / annotations / split / "000000000009.png", labels)
    if instances:
        write(root / "val_inst" / "000000000009.png", np.full((4, 6), 300, np.uint16))
    return root


@pytest.mark.parametrize("annotations", ["annotations", "stuffthingmaps"])
def test_coco(tmp_path, annotations):
    source = make_source("coco_stuff", root=make_coco(tmp_path, annotations), split="train")
    example = source[0]
    assert example["layout"][0, ::2].tolist() == [0, 181, 182]
    assert example["image"].shape == (4, 6, 3)
    assert source.info.num_classes == 183
    assert not source.info.has_instances
    assert COCOStuff(tmp_path, "train2017").files == source.files


def test_coco_instances(tmp_path):
    root = make_coco(tmp_path, instances=True)
    assert not COCOStuff(root, "train").info.has_instances
    source = COCOStuff(root, "val")
    assert source.info.has_instances
    assert (source[0]["instance"] == 300).all()


def test_coco_errors(tmp_path):
    with pytest.raises(DataError, match=r"train2017: no such folder(.|\n)*stuffthingmaps"):
        COCOStuff(tmp_path, "train")
    root = make_coco(tmp_path)
    with pytest.raises(DataError, match=r"no split 'test'\. Splits: train, val"):
        COCOStuff(root, "test")
    write(root / "annotations/val2017/000000000009.png", np.full((4, 6), 182, np.uint8))
    with pytest.raises(DataError, match=r"182 \(24 pixels\)\. Expected 0\.\.181 or 255 \(183 classes\)"):
        COCOStuff(root, "val")[0]


# --- CelebAMask-HQ ------------------------------------------------------------------------------


def make_celeba(root, ids=(0, 1, 2, 2000, 28001)):
    for i in ids:
        write(root / "CelebA-HQ-img" / f"{i}.jpg", picture(16, 16, seed=i), quality=95)
        masks = {
            "skin": np.s_[1:7, 1:7],
            "l_eye": np.s_[2:3, 2:4],
            "r_eye": np.s_[2:3, 5:6],
            "hair": np.s_[0:2, :],
        }
        for part, where in masks.items():
            mask = np.zeros((8, 8, 3), np.uint8)
            mask[where] = 255
            write(root / "CelebAMask-HQ-mask-anno" / str(i // 2000) / f"{i:05d}_{part}.png", mask)
    return root


@pytest.mark.parametrize("inner", ["", "CelebAMask-HQ"])
def test_celeba_parts_are_painted_in_order(tmp_path, inner):
    make_celeba(tmp_path / inner)
    source = make_source("celebamask_hq", root=tmp_path, split="train")
    assert [f.name for f in source.files] == ["0", "1", "2", "2000"]
    example = source[3]
    layout = example["layout"]
    assert layout.shape == (8, 8)
    assert layout[0, 0] == layout[1, 3] == 13  # hair lies over the skin
    assert layout[2].tolist() == [0, 1, 4, 4, 1, 5, 1, 0]
    assert example["image"].shape == (8, 8, 3)
    assert np.array_equal(example["instance"], layout)
    assert example["instance"].dtype == np.int32
    mirrored = augment.flip(example, source.info.flip_pairs)["layout"]
    assert mirrored[2].tolist() == [0, 1, 4, 1, 5, 5, 1, 0]
    assert [f.name for f in CelebAMaskHQ(tmp_path, "val").files] == ["28001"]


def test_celeba_partition(tmp_path):
    root = make_celeba(tmp_path, (0, 1, 2, 3))
    files = ["000001.jpg", "162770.jpg", "162771.jpg", "182638.jpg"]
    lines = [f"{i} {int(f[:6]) - 1} {f}" for i, f in enumerate(files)]
    mapping = root / "CelebA-HQ-to-CelebA-mapping.txt"
    mapping.write_text("\n".join(["idx orig_idx orig_file", *lines]))
    names = {s: [f.name for f in CelebAMaskHQ(root, s).files] for s in ("train", "val", "test")}
    assert names == {"train": ["0", "1"], "val": ["2"], "test": ["3"]}
    partition = root / "list_eval_partition.txt"
    partition.write_text("\n".join(f"{f} {part}" for f, part in zip(files, (0, 2, 1, 2))))
    assert [f.name for f in CelebAMaskHQ(root, "test").files] == ["1", "3"]
    partition.write_text("000001.jpg 7")
    with pytest.raises(
        DataError, match=r"partition\.txt: 000001\.jpg \(image 0\) is in part '7'. Expected 0"
    ):
        CelebAMaskHQ(root, "train")
    mapping.write_text("idx orig_idx orig_file\n0 1")
    with pytest.raises(DataError, match=r"mapping\.txt, line 2: '0 1'\. Expected 3 columns"):
        CelebAMaskHQ(root, "train")
    mapping.write_text("idx orig_idx orig_file\n0 1 000002.jpg")
    with pytest.raises(DataError, match=r"mapping\.txt: no line for 3 images \(\[1, 2, 3\]\)"):
        CelebAMaskHQ(root, "train")
    mapping.unlink()
    with pytest.raises(DataError, match=r"CelebA-HQ-to-CelebA-mapping\.txt is missing"):
        CelebAMaskHQ(root, "train")


def test_celeba_merged(tmp_path):
    for split in ("train", "test"):
        write(tmp_path / split / "images" / "7.jpg", picture(8, 8))
        write(tmp_path / split / "labels" / "7.png", np.full((4, 4), 18, np.uint8))
    source = CelebAMaskHQ(tmp_path, "test")
    assert source[0]["image"].shape == (4, 4, 3)
    assert (source[0]["instance"] == 18).all()
    with pytest.raises(DataError, match=r"no split 'val'\. Splits: test, train\."):
        CelebAMaskHQ(tmp_path, "val")
    write(tmp_path / "test/labels/7.png", np.full((4, 4), 19, np.uint8))
    with pytest.raises(DataError, match=r"7\.png: .* 19 \(16 pixels\)\. Expected 0\.\.18 \(19 classes\)"):
        source[0]


def test_celeba_errors(tmp_path):
    with pytest.raises(DataError, match=r"no split 'train'\. Splits: none(.|\n)*CelebA-HQ-img/ID\.jpg"):
        CelebAMaskHQ(tmp_path, "train")
    root = make_celeba(tmp_path, (0,))
    with pytest.raises(DataError, match=r"no image of the split 'val' among 1 images"):
        CelebAMaskHQ(root, "val")
    write(root / "CelebAMask-HQ-mask-anno/0/00000_nose.png", np.zeros((4, 4), np.uint8))
    with pytest.raises(DataError, match=r"00000_nose\.png: this mask is 4x4, others of its image are 8x8"):
        CelebAMaskHQ(root, "train")[0]
    for path in (root / "CelebAMask-HQ-mask-anno/0").iterdir():
        path.unlink()
    with pytest.raises(DataError, match=r"00000_\*\.png: no part masks\. Expected some of skin, nose"):
        CelebAMaskHQ(root, "train")[0]
