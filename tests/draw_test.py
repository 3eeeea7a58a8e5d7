import numpy as np
import pytest
from PIL import Image

from semdiff import draw

PALETTE = np.array([[255, 0, 0], [0, 255, 0], [0, 0, 255]], np.uint8)


def solid(color, height=8, width=8):
    return np.full((height, width, 3), color, np.uint8)


def read(path):
    with Image.open(path) as image:
        assert image.format == "PNG"
        return np.array(image.convert("RGB"))


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.int32, np.int64])
def test_colourise(dtype):
    layout = np.array([[0, 1], [2, 3]], dtype)
    result = draw.colourise(layout, PALETTE)
    assert result.dtype == np.uint8
    np.testing.assert_array_equal(result[0, 1], PALETTE[1])
    np.testing.assert_array_equal(result[1], [PALETTE[2], [0, 0, 0]])


def test_colourise_draws_foreign_ids_black():
    layout = np.array([[-1, -3, 255, 70000, 0]], np.int32)
    np.testing.assert_array_equal(draw.colourise(layout, PALETTE)[0, :4], np.zeros((4, 3)))


def test_colourise_refuses_what_is_no_layout():
    with pytest.raises(ValueError, match="float64"):
        draw.colourise(np.zeros((2, 2)), PALETTE)
    with pytest.raises(ValueError, match=r"\(2, 2, 1\)"):
        draw.colourise(np.zeros((2, 2, 1), int), PALETTE)
    with pytest.raises(ValueError, match="palette"):
        draw.colourise(np.zeros((2, 2), int), PALETTE.ravel())


def test_grid_places_and_enlarges():
    image = np.arange(8 * 8 * 3).reshape(8, 8, 3).astype(np.uint8)
    result = draw.grid([[image, solid(5)], [solid(9)]], scale=2, pad=3)
    assert result.shape == (3 * 3 + 32, 3 * 3 + 32, 3)
    np.testing.assert_array_equal(result[3:19:2, 3:19:2], image)
    np.testing.assert_array_equal(result[4:20:2, 4:20:2], image)
    assert np.all(result[3:19, 22:38] == 5)
    assert np.all(result[22:38, 3:19] == 9)
    assert np.all(result[22:38, 22:38] == 255)
    assert np.all(result[:3] == 255)
    assert np.all(result[:, 19:22] == 255)


def test_grid_takes_grey_and_uneven_images():
    result = draw.grid([[np.zeros((4, 6), np.uint8), solid(7, 10, 2)]], pad=0)
    assert result.shape == (10, 8, 3)
    assert np.all(result[:4, :6] == 0)
    assert np.all(result[:, 6:] == 7)
    column = draw.grid([[solid(0, 4, 10)], [solid(7, 4, 4)]], pad=0)
    assert np.all(column[4:, 3:7] == 7)
    assert np.all(column[4:, [2, 7]] == 255)


def test_grid_writes_headers_and_titles_beside_the_images():
    rows = [[solid(100), solid(100)], [solid(100), solid(100)]]
    plain = draw.grid(rows)
    result = draw.grid(rows, headers=("layout", "a long header"), titles=("first", "second"))
    height, width = (r - p for r, p in zip(result.shape[:2], plain.shape[:2]))
    assert height > 8
    assert width > 20
    assert np.sum(np.all(result == 100, -1)) >= 4 * 64
    assert result[:height].min() < 100
    assert result[height:, : width // 3].min() < 100


def test_grid_refuses():
    with pytest.raises(ValueError, match="at least one image"):
        draw.grid([])
    with pytest.raises(ValueError, match="float64"):
        draw.grid([[np.zeros((4, 4, 3))]])
    with pytest.raises(ValueError, match="3 headers for 1 columns"):
        draw.grid([[solid(0)]], headers="abc")


def test_legend_shows_each_colour_and_breaks_lines():
    names = ("sky", "traffic light", "person")
    wide = draw.legend(names, PALETTE)
    narrow = draw.legend(names, PALETTE, width=120)
    assert narrow.shape[1] == 120 < wide.shape[1]
    assert narrow.shape[0] > 2 * wide.shape[0] - 15
    for strip in (wide, narrow):
        for color in PALETTE:
            assert np.sum(np.all(strip == color, -1)) == 12 * 12
    for width in range(110, 240, 7):
        assert np.all(draw.legend(names, PALETTE, width)[:, -5:] == 255)
    with pytest.raises(ValueError, match="2 names for 3 colours"):
        draw.legend(names[:2], PALETTE)


def test_save_png_makes_folders_and_keeps_every_pixel(tmp_path):
    image = np.random.default_rng(0).integers(0, 256, (9, 7, 3), np.uint8)
    path = tmp_path / "a" / "b" / "picture.png"
    draw.save_png(path, image[:, ::-1])
    np.testing.assert_array_equal(read(path), image[:, ::-1])
    assert [p.name for p in path.parent.iterdir()] == ["picture.png"]


def test_save_png_that_fails_leaves_the_old_picture(tmp_path, monkeypatch):
    path = tmp_path / "picture.png"
    draw.save_png(path, solid(3))

    def breaks(self, file, *args, **kwargs):
        file.write(b"half a pict")
        raise OSError("disk full")

    monkeypatch.setattr(Image.Image, "save", breaks)
    with pytest.raises(OSError, match="disk full"):
        draw.save_png(path, solid(4))
    monkeypatch.undo()
    assert np.all(read(path) == 3)
    assert [p.name for p in tmp_path.iterdir()] == ["picture.png"]


def line_of(picture, color):
    """Columns that hold this colour left of the legend, and its middle row in each."""
    ys, xs = np.nonzero(np.all(picture == np.array(color), -1))
    columns = np.unique(xs)
    columns = columns[columns < picture.shape[1] * 0.75]
    return columns, np.array([ys[xs == x].mean() for x in columns])


def bend(columns, rows):
    """How far a line is from straight, in pixels."""
    return np.abs(rows - np.polyval(np.polyfit(columns, rows, 1), columns)).max()


def test_curve_is_straight_where_it_should_be(tmp_path):
    x = np.linspace(0, 4, 60)
    draw.curve(tmp_path / "log.png", {"a": (x, 10**x)}, "step", "loss", log_y=True)
    draw.curve(tmp_path / "linear.png", {"a": (x, 10**x)}, "step", "loss")
    log, linear = (line_of(read(tmp_path / f"{n}.png"), draw.SERIES[0]) for n in ("log", "linear"))
    assert len(log[0]) > 300
    assert log[1][-1] < log[1][0] - 200  # upwards
    assert bend(*log) < 1.5
    assert bend(*linear) > 10


def test_curve_draws_each_series_and_its_name(tmp_path):
    series = {"one": ([0, 1, 2], [1, 2, 3]), "two": ([0, 1, 2], [3, 2, 2]), "three": ([1], [1.5])}
    draw.curve(tmp_path / "c.png", series, "x", "y", size=(500, 300))
    picture = read(tmp_path / "c.png")
    assert picture.shape == (300, 500, 3)
    for color in draw.SERIES[:3]:
        assert np.sum(np.all(picture == np.array(color), -1)) > 20


def test_curve_leaves_a_gap_where_there_is_no_number(tmp_path):
    x = np.arange(100.0)
    y = np.full(100, 2.0)
    y[:3] = 1
    y[40:60] = np.nan
    draw.curve(tmp_path / "c.png", {"a": (x, y)}, "x", "y")
    columns, _ = line_of(read(tmp_path / "c.png"), draw.SERIES[0])
    assert np.diff(columns).max() > 80


@pytest.mark.parametrize("log_y", [False, True])
@pytest.mark.parametrize(
    "y", [[], [np.nan], [0.0], [5.0], [-3.0, -3.0], [1e-9, 1e9], [1e-12, 1.0000001e-12], [1, 3], [30, 40]]
)
def test_curve_takes_any_range(tmp_path, y, log_y):
    draw.curve(tmp_path / "c.png", {"a": (range(len(y)), y)}, "x", "y", log_y=log_y)
    draw.curve(tmp_path / "none.png", {}, "x", "y", log_y=log_y)
    assert read(tmp_path / "c.png").std() > 0


@pytest.mark.parametrize(("low", "high"), [(0.31, 0.87), (0.0, 1.0), (-7, 1234.5), (1e-7, 3e-7), (99, 101)])
def test_ticks_cover_the_range(low, high):
    ticks = draw._ticks(low, high)
    assert ticks[0] <= low + 1e-9 * abs(low)
    assert ticks[-1] >= high - 1e-9 * abs(high)
    assert 3 <= len(ticks) <= 9
    np.testing.assert_allclose(np.diff(ticks), ticks[1] - ticks[0])


@pytest.mark.parametrize(("low", "high"), [(0.31, 0.87), (1, 10), (3e-7, 2e-3), (1e-30, 1e30), (20, 4000)])
def test_log_ticks_cover_the_range(low, high):
    ticks = draw._log_ticks(low, high)
    assert ticks[0] <= low * (1 + 1e-9)
    assert ticks[-1] >= high * (1 - 1e-9)
    assert 2 <= len(ticks) <= 12
    assert np.all(np.diff(ticks) > 0)


def test_curve_refuses_unequal_lengths(tmp_path):
    with pytest.raises(ValueError, match="'a' has 2 x for 3 y"):
        draw.curve(tmp_path / "c.png", {"a": ([1, 2], [1, 2, 3])}, "x", "y")
    assert not (tmp_path / "c.png").exists()


def test_curve_keeps_the_names_off_the_lines(tmp_path):
    x = np.arange(50)
    for name, y in (("falls", 1 / (x + 1)), ("rises", 1 - 1 / (x + 1))):
        draw.curve(tmp_path / f"{name}.png", {"one": (x, y)}, "x", "y", size=(400, 300))
    falls, rises = (read(tmp_path / f"{name}.png")[:, 300:] for name in ("falls", "rises"))
    letters = [np.all(part < 120, -1)[:250].any(1) for part in (falls, rises)]
    assert letters[0][:80].any()
    assert not letters[1][:80].any()
    assert letters[1][180:].any()


def test_accents_are_dropped_not_boxed(tmp_path):
    np.testing.assert_array_equal(
        draw.legend(["Fréchet"], PALETTE[:1]), draw.legend(["Frechet"], PALETTE[:1])
    )


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_numbers_are_written_as_numbers(tmp_path, dtype):
    ids = np.arange(6, dtype=dtype).reshape(2, 3) * (40 if dtype == np.uint8 else 9000)
    draw.save_png(tmp_path / "ids.png", ids)
    np.testing.assert_array_equal(np.asarray(Image.open(tmp_path / "ids.png")), ids)
