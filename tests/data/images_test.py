import os
import struct
import zlib

import numpy as np
import pytest
from PIL import EpsImagePlugin, Image, ImageOps

from semdiff.data.images import DataError, LabelFormat, read_image, read_instances, read_layout, read_mask

COLOURS = [(0, 0, 0), (255, 0, 0), (10, 20, 30)]


def write(path, array, **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.asarray(array)).save(path, **options)
    return path


def picture(height=6, width=8, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


LOSSY = [
    lambda path: read_layout(path, LabelFormat(tuple(range(256)))),
    lambda path: read_layout(path, LabelFormat((0, 1, 2), tuple(COLOURS))),
    read_instances,
    read_mask,
]


def oriented(orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    return exif


# --- images -------------------------------------------------------------------------------------


def test_rgb_png_is_exact(tmp_path):
    original = picture()
    assert np.array_equal(read_image(write(tmp_path / "a.png", original)), original)


def test_grey_16_bit_and_one_bit_images_become_rgb(tmp_path):
    grey = np.array([[0, 100, 255]], np.uint8)
    assert read_image(write(tmp_path / "g.png", grey))[0].tolist() == [[0] * 3, [100] * 3, [255] * 3]
    deep = np.array([[0, 257 * 100, 65535]], np.uint16)
    assert read_image(write(tmp_path / "d.png", deep))[0, :, 0].tolist() == [0, 100, 255]
    bits = np.array([[True, False]])
    assert read_image(write(tmp_path / "b.png", bits))[0, :, 1].tolist() == [255, 0]


def test_transparent_pixels_lie_over_white(tmp_path):
    rgba = np.array([[[10, 20, 30, 255], [10, 20, 30, 0]]], np.uint8)
    image = read_image(write(tmp_path / "t.png", rgba))
    assert image.tolist() == [[[10, 20, 30], [255, 255, 255]]]


def test_cmyk_jpeg_is_read_as_rgb(tmp_path):
    Image.new("CMYK", (16, 16), (0, 255, 255, 0)).save(tmp_path / "c.jpg", quality=95)
    red, green, blue = read_image(tmp_path / "c.jpg")[8, 8].tolist()
    assert red > 240
    assert max(green, blue) < 40


def test_camera_orientation_is_applied(tmp_path):
    image = Image.fromarray(picture(4, 8))
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by a quarter, clockwise
    image.save(tmp_path / "e.png", exif=exif)
    assert np.array_equal(read_image(tmp_path / "e.png"), np.rot90(picture(4, 8), -1))


@pytest.mark.parametrize("orientation", range(1, 9))
def test_every_camera_orientation_is_applied(tmp_path, orientation):
    image = Image.fromarray(picture(4, 8))
    image.save(tmp_path / "e.png", exif=oriented(orientation))
    expected = np.asarray(ImageOps.exif_transpose(Image.open(tmp_path / "e.png")))
    assert np.array_equal(read_image(tmp_path / "e.png"), expected)


@pytest.mark.parametrize("read", LOSSY, ids=["ids", "colours", "instances", "mask"])
def test_a_label_map_that_asks_to_be_turned_is_refused(tmp_path, read):
    path = write(tmp_path / "l.png", np.zeros((4, 8), np.uint8), exif=oriented(6))
    with pytest.raises(DataError, match=r"l\.png: .*EXIF orientation is 6 .*Expected .*upright.*auto-orient"):
        read(path)


def test_damaged_exif_is_told_in_words(tmp_path):
    path = write(tmp_path / "e.png", picture(), exif=b"Exif\0\0no such thing")
    with pytest.raises(DataError, match=r"e\.png: cannot be decoded"):
        read_image(path)


def test_a_truncated_image_is_named(tmp_path):
    path = write(tmp_path / "cut.png", picture(64, 64))
    path.write_bytes(path.read_bytes()[:2000])
    with pytest.raises(DataError, match=r"cut\.png: cannot be decoded as an image.*2000 bytes.*again"):
        read_image(path)
    path.write_bytes(b"no image at all")
    with pytest.raises(DataError, match=r"cut\.png: cannot be decoded as a label map.*15 bytes"):
        read_layout(path, LabelFormat((0, 1)))
    with pytest.raises(DataError, match=r"gone\.png: no such file\. Expected an instance map"):
        read_instances(tmp_path / "gone.png")


def test_a_picture_larger_than_pillow_trusts_is_named(tmp_path):
    path = write(tmp_path / "bomb.png", picture())
    data = bytearray(path.read_bytes())
    data[16:24] = struct.pack(">II", 60000, 60000)
    path.write_bytes(data)
    with pytest.raises(DataError, match=r"bomb\.png: cannot be decoded"):
        read_image(path)


# --- files that are not what they are called ------------------------------------------------------


def test_postscript_called_png_never_reaches_its_interpreter(tmp_path, monkeypatch):
    path, mark = tmp_path / "a.png", tmp_path / "ran"
    path.write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 4 4\n%%EndComments\nshowpage\n%%EOF\n")
    interpreter = tmp_path / "bin" / "gs"
    interpreter.parent.mkdir()
    interpreter.write_text(f"#!/bin/sh\ntouch {mark}\n")
    interpreter.chmod(0o755)
    monkeypatch.setenv("PATH", f"{interpreter.parent}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setattr(EpsImagePlugin, "gs_binary", None)
    for read in (read_image, read_instances, read_mask):
        with pytest.raises(DataError, match=r"a\.png: this is PostScript.*Expected PNG"):
            read(path)
    assert not mark.exists()


@pytest.mark.parametrize("read", LOSSY, ids=["ids", "colours", "instances", "mask"])
def test_a_jpeg_called_png_is_no_label_map(tmp_path, read):
    ids = np.random.default_rng(0).integers(0, 3, (16, 16), dtype=np.uint8)
    path = write(tmp_path / "l.png", ids, format="JPEG")
    with pytest.raises(
        DataError, match=r"l\.png: this is a JPEG file, .* Expected PNG.*blends.*again.*as PNG"
    ):
        read(path)


@pytest.mark.parametrize(
    ("kind", "named"), [("GIF", "GIF"), ("TIFF", "TIFF"), ("BMP", "BMP"), ("WEBP", "WebP")]
)
def test_other_formats_are_named(tmp_path, kind, named):
    path = write(tmp_path / "a.png", picture(), format=kind)
    with pytest.raises(DataError, match=rf"a\.png: this is a {named} file, .*Expected PNG or JPEG.*Convert"):
        read_image(path)


def test_a_web_page_called_png_is_named(tmp_path):
    (tmp_path / "a.png").write_text("<!DOCTYPE html><html></html>")
    with pytest.raises(DataError, match=r"a\.png: this is a web page.*Expected PNG or JPEG"):
        read_image(tmp_path / "a.png")


def test_images_may_be_png_or_jpeg_whatever_their_name(tmp_path):
    assert np.array_equal(read_image(write(tmp_path / "a.jpg", picture(), format="PNG")), picture())
    assert read_image(write(tmp_path / "b.png", picture(), format="JPEG")).shape == (6, 8, 3)
    frames = [Image.fromarray(picture(seed=i)) for i in range(2)]
    frames[0].save(tmp_path / "c.jpg", "MPO", save_all=True, append_images=frames[1:])
    assert read_image(tmp_path / "c.jpg").shape == (6, 8, 3)  # as telephones write them


# --- label maps ---------------------------------------------------------------------------------


def test_labels_of_8_and_16_bits_and_palette_indices(tmp_path):
    labels = LabelFormat(tuple(range(400)))
    deep = np.array([[0, 399, 256]], np.uint16)
    found = read_layout(write(tmp_path / "deep.png", deep), labels)
    assert found.dtype == np.uint16
    assert found.tolist() == [[0, 399, 256]]
    indexed = Image.fromarray(np.array([[2, 0, 1]], np.uint8), "L").convert("L")
    indexed.putpalette([9, 9, 9, 8, 8, 8, 7, 7, 7])
    indexed.save(tmp_path / "p.png")
    assert Image.open(tmp_path / "p.png").mode == "P"
    found = read_layout(tmp_path / "p.png", LabelFormat((0, 1, 2)))
    assert found.dtype == np.uint8
    assert found.tolist() == [[2, 0, 1]]
    assert read_layout(write(tmp_path / "b.png", np.array([[True, False]])), labels).tolist() == [[1, 0]]


def test_colour_coded_labels(tmp_path):
    labels = LabelFormat((0, 1, 2), tuple(COLOURS))
    ids = np.array([[0, 1, 2], [2, 2, 0]])
    path = write(tmp_path / "c.png", np.array(COLOURS, np.uint8)[ids])
    assert np.array_equal(read_layout(path, labels), ids)
    with pytest.raises(DataError, match=r"c\.png: .*colour-coded \(RGB\) but no colours are known.*color"):
        read_layout(path, LabelFormat((0, 1, 2)))
    with pytest.raises(DataError, match=r"classes \[0, 2\] share the colour \(0, 0, 0\)"):
        read_layout(path, LabelFormat((0, 1, 2), ((0, 0, 0), (1, 1, 1), (0, 0, 0))))


def test_an_unknown_colour_is_named_and_counted(tmp_path):
    pixels = np.zeros((4, 4, 3), np.uint8)
    pixels[0, :3] = (1, 2, 3)
    pixels[1, 0] = (254, 0, 0)
    path = write(tmp_path / "c.png", pixels)
    expected = r"c\.png: colours that no class has: \(1, 2, 3\) \(3 pixels\), \(254, 0, 0\) \(1 pixel\)\. .*3 colours"
    with pytest.raises(DataError, match=expected):
        read_layout(path, LabelFormat((0, 1, 2), tuple(COLOURS)))


def write_palette(path, indices, colours):
    image = Image.fromarray(np.asarray(indices, np.uint8)).convert("L")
    image.putpalette([part for colour in colours for part in colour])
    image.save(path)
    assert Image.open(path).mode == "P"
    return path


GREY, RED, BLUE, NIGHT = (128, 128, 128), (255, 0, 0), (10, 20, 30), (0, 0, 0)
CLASSES = (GREY, RED, BLUE, NIGHT)
COLOURED = LabelFormat((0, 1, 2, 3, *[-1] * 251, 3), CLASSES)  # 255 is void as well
VOC = [
    tuple(sum((i >> 3 * bit + channel & 1) << 7 - bit for bit in range(3)) for channel in range(3))
    for i in range(256)
]
RAMP = [(i, i, i) for i in range(256)]


@pytest.mark.parametrize(
    ("colours", "indices", "expected"),
    [
        ((BLUE, GREY, NIGHT, RED), [0, 1, 2, 3], [2, 0, 3, 1]),  # reordered
        ((BLUE, RED, GREY), [0, 1, 2], [2, 1, 0]),  # two of them have changed places
        ((BLUE, RED), [0, 0, 1], [2, 2, 1]),  # without those that the image does not show
        ((NIGHT, GREY, RED), [0, 1, 2], [3, 0, 1]),
        ((RED, NIGHT), [1, 1, 1], [3, 3, 3]),  # what is not shown tells what black means
        (CLASSES, [0, 1, 2, 3], [0, 1, 2, 3]),
        ((*CLASSES, *[NIGHT] * 252), [0, 1, 255], [0, 1, 3]),
        ((*CLASSES, *[NIGHT] * 251, (224, 224, 192)), [0, 1, 255], [0, 1, 3]),
        (RAMP, [0, 1, 2, 3], [0, 1, 2, 3]),
        (RAMP, [0, 0, 0], [0, 0, 0]),
        (VOC, [0, 1, 2, 3], [0, 1, 2, 3]),
        ([(9, 9, 9), (8, 8, 8), (7, 7, 7)], [2, 0, 1], [2, 0, 1]),
    ],
)
def test_a_palette_of_the_classes_colours_goes_by_them_and_any_other_by_its_indices(
    tmp_path, colours, indices, expected
):
    path = write_palette(tmp_path / "p.png", [indices], colours)
    assert read_layout(path, COLOURED).tolist() == [expected]
    plain = LabelFormat(COLOURED.ids)  # nothing is known of colours
    assert read_layout(path, plain).tolist() == [[3 if i == 255 else i for i in indices]]


@pytest.mark.parametrize(
    ("colours", "indices", "words"),
    [
        ((BLUE, RED, (1, 2, 3)), [0, 1, 2], r"index 0 is \(10, 20, 30\), the colour of class 2.*index 2 is"),
        (VOC, [0, 7], r"index 7 is \(128, 128, 128\), the colour of class 0"),
        ((NIGHT, RED, BLUE), [0, 1, 2], r"index 0 is \(0, 0, 0\), the colour of class 3"),
        ((NIGHT,), [0, 0], r"index 0 is \(0, 0, 0\), the colour of class 3"),
    ],
)
def test_a_palette_that_contradicts_itself_is_refused(tmp_path, colours, indices, words):
    path = write_palette(tmp_path / "p.png", [indices], colours)
    with pytest.raises(DataError, match=rf"p\.png: .*{words}.*Expected .*Store"):
        read_layout(path, COLOURED)


@pytest.mark.parametrize(("colours", "expected"), [((GREY, RED), [0, 1, 3]), ((RED, GREY), [1, 0, 3])])
def test_indices_beyond_the_palette_are_black_as_viewers_show_them(tmp_path, colours, expected):
    path = write_palette(tmp_path / "p.png", [[0, 1, 255]], RAMP)
    data = bytearray(path.read_bytes())
    start = data.index(b"PLTE") - 4
    length = struct.unpack(">I", data[start : start + 4])[0]
    short = b"PLTE" + bytes([part for colour in colours for part in colour])
    data[start : start + 12 + length] = struct.pack(">I", 6) + short + struct.pack(">I", zlib.crc32(short))
    path.write_bytes(data)
    assert read_layout(path, COLOURED).tolist() == [expected]


def test_two_colours_in_one_bit_are_told_apart_by_them(tmp_path):
    white = (255, 255, 255)
    path = write_palette(tmp_path / "p.png", [[0, 1]], (white, NIGHT))
    assert read_layout(path, LabelFormat((0, 1), (NIGHT, white))).tolist() == [[1, 0]]


def test_a_reordered_palette_whose_classes_share_colours_is_refused(tmp_path):
    path = write_palette(tmp_path / "p.png", [[0, 1]], (RED, GREY))
    with pytest.raises(DataError, match=r"p\.png: .*classes \[2, 3\] share the colour"):
        read_layout(path, LabelFormat((0, 1, 2, 3), (GREY, RED, BLUE, BLUE)))


def test_instances_keep_their_bits(tmp_path):
    deep = np.array([[0, 26001, 26002, 65535]], np.uint16)
    assert read_instances(write(tmp_path / "i.png", deep)).tolist() == deep.tolist()
    packed = np.array([[[1, 2, 3], [255, 255, 255]]], np.uint8)
    found = read_instances(write(tmp_path / "p.png", packed))
    assert found.dtype == np.int32
    assert found.tolist() == [[1 + 512 + 3 * 65536, 2**24 - 1]]
    small = np.array([[0, 7]], np.uint8)
    assert read_instances(write(tmp_path / "s.png", small)).tolist() == [[0, 7]]
    Image.new("LA", (2, 2)).save(tmp_path / "la.png")
    with pytest.raises(DataError, match=r"la\.png: the instance map is stored in the pixel mode 'LA'"):
        read_instances(tmp_path / "la.png")


def test_part_masks_of_any_mode(tmp_path):
    rgb = np.zeros((2, 2, 3), np.uint8)
    rgb[0, 1] = 255
    for mode in ("RGB", "L", "1"):
        Image.fromarray(rgb).convert(mode).save(tmp_path / "m.png")
        assert read_mask(tmp_path / "m.png").tolist() == [[False, True], [False, False]]
