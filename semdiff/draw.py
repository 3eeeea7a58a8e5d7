"""Pictures for people: coloured layouts, sheets of images, legends and line charts."""

import math
import os
import unicodedata
import uuid
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cache
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

WHITE, INK, FAINT = (255, 255, 255), (40, 40, 40), (225, 225, 225)
# Distinct in hue and in lightness, and to most colour-blind eyes.
SERIES = [(31, 105, 180), (220, 95, 20), (40, 140, 70), (190, 40, 60), (120, 85, 170), (90, 90, 90)]
Numbers = Sequence[float] | np.ndarray
Series = Mapping[str, tuple[Numbers, Numbers]]  # name -> (x, y)


@cache
def _font(size: int):
    return ImageFont.load_default(size)


def _plain(texts: Iterable[str]) -> list[str]:
    """Without accents: the font that comes with Pillow has no others."""
    return [unicodedata.normalize("NFKD", t).encode("ascii", "ignore").decode() for t in texts]


def _text_size(text: str, font) -> tuple[int, int]:
    left, top, right, bottom = font.getbbox(text)
    return math.ceil(right - min(left, 0)), math.ceil(bottom - min(top, 0))


def colourise(layout: np.ndarray, palette: np.ndarray) -> np.ndarray:
    """Class ids [H,W] as colours uint8 [H,W,3]; ids outside the palette are black."""
    layout, palette = np.asarray(layout), np.asarray(palette)
    if layout.ndim != 2 or not np.issubdtype(layout.dtype, np.integer):
        raise ValueError(f"layout: expected integers [H,W], got {layout.dtype} {layout.shape}")
    if palette.ndim != 2 or palette.shape[1] != 3:
        raise ValueError(f"palette: expected [K,3], got {palette.shape}")
    known = (layout >= 0) & (layout < len(palette))
    table = np.concatenate([palette, np.zeros((1, 3))]).astype(np.uint8)
    return table[np.where(known, layout, len(palette))]


def _as_rgb(image: np.ndarray) -> np.ndarray:
    image = np.asarray(image)
    if image.dtype != np.uint8 or image.ndim not in (2, 3):
        raise ValueError(f"expected a uint8 image [H,W] or [H,W,3], got {image.dtype} {image.shape}")
    if image.ndim == 2 or image.shape[2] == 1:
        image = np.broadcast_to(image.reshape(*image.shape[:2], 1), (*image.shape[:2], 3))
    if image.shape[2] != 3:
        raise ValueError(f"expected 1 or 3 channels, got an image {image.shape}")
    return image


def grid(
    rows: Sequence[Sequence[np.ndarray]],
    headers: Sequence[str] = (),
    titles: Sequence[str] = (),
    scale: int = 1,
    pad: int = 4,
) -> np.ndarray:
    """Images in rows and columns on white, uint8 [H,W,3].

    `headers` stand over the columns, `titles` left of the rows. Images are enlarged `scale` times
    without smoothing. Rows may differ in length, images in size: a cell is as large as the largest.
    """
    cells = [[_as_rgb(image).repeat(scale, 0).repeat(scale, 1) for image in row] for row in rows]
    if not any(cells):
        raise ValueError("grid: expected at least one image, got none")
    columns = max(map(len, cells))
    if len(headers) > columns or len(titles) > len(cells):
        raise ValueError(
            f"grid: {len(headers)} headers for {columns} columns, "
            f"{len(titles)} titles for {len(cells)} rows; pass at most one each"
        )
    font, headers, titles = _font(13), _plain(headers), _plain(titles)
    text_widths = [_text_size(text, font)[0] for text in headers] + [0] * columns
    widths = [
        max([text_widths[j]] + [row[j].shape[1] for row in cells if j < len(row)]) for j in range(columns)
    ]
    heights = [max([image.shape[0] for image in row] or [0]) for row in cells]
    left = pad + max([_text_size(text, font)[0] + pad for text in titles] or [0])
    top = pad + (max(_text_size(text, font)[1] for text in headers) + pad if headers else 0)
    xs = left + np.cumsum([0] + [width + pad for width in widths])
    ys = top + np.cumsum([0] + [height + pad for height in heights])

    sheet = Image.new("RGB", (int(xs[-1]), int(ys[-1])), WHITE)
    pen = ImageDraw.Draw(sheet)
    for x, width, text in zip(xs, widths, headers):
        pen.text((x + width / 2, top - pad), text, INK, font, anchor="md")
    for y, height, text in zip(ys, heights, titles):
        pen.text((left - pad, y + height / 2), text, INK, font, anchor="rm")
    canvas = np.array(sheet)
    for y, row in zip(ys, cells):
        for x, width, image in zip(xs, widths, row):
            x += (width - image.shape[1]) // 2
            canvas[y : y + image.shape[0], x : x + image.shape[1]] = image
    return canvas


def legend(names: Sequence[str], palette: np.ndarray, width: int | None = None) -> np.ndarray:
    """Class colours with their names in a strip, uint8 [H,W,3]; lines break at `width` pixels."""
    if len(names) != len(palette):
        raise ValueError(f"legend: {len(names)} names for {len(palette)} colours")
    font, box, gap = _font(13), 14, 5
    names = _plain(names)
    steps = [box + gap + _text_size(name, font)[0] + 2 * gap for name in names]
    width = max([width or sum(steps) + gap, *(step + gap for step in steps)])
    places, x, y = [], gap, gap
    for step in steps:
        if x + step > width:
            x, y = gap, y + box + gap
        places.append((x, y))
        x += step
    strip = Image.new("RGB", (width, y + box + gap), WHITE)
    pen = ImageDraw.Draw(strip)
    for (x, y), name, color in zip(places, names, palette):
        color = tuple(int(c) for c in color)
        pen.rectangle([x, y, x + box - 1, y + box - 1], color, outline=(120, 120, 120))
        pen.text((x + box + gap, y + box / 2), name, INK, font, anchor="lm")
    return np.array(strip)


def save_png(path: str | os.PathLike, array: np.ndarray) -> None:
    """Writes an image, or numbers [H,W] of 8 or 16 bits, as PNG, whole or not at all; makes the folder if there is none."""
    path, array = Path(path), np.asarray(array)
    path.parent.mkdir(parents=True, exist_ok=True)
    numbers = array.ndim == 2 and array.dtype in (np.uint8, np.uint16)
    image = Image.fromarray(np.ascontiguousarray(array if numbers else _as_rgb(array)))
    unfinished = path.with_name(f".{path.name}.{uuid.uuid4().hex}.tmp")
    try:
        with open(unfinished, "xb") as file:
            image.save(file, "PNG", optimize=True)
        os.replace(unfinished, path)
    finally:
        unfinished.unlink(missing_ok=True)


def _ticks(low: float, high: float, count: int = 6) -> list[float]:
    """Round numbers that cover [low, high] in about `count` steps."""
    raw = (high - low) / count
    unit = 10.0 ** math.floor(math.log10(raw))
    step = unit * next(m for m in (1, 2, 2.5, 5, 10) if m * unit >= raw * (1 - 1e-9))
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [step * i for i in range(first, last + 1)]


def _log_ticks(low: float, high: float) -> list[float]:
    """Powers of ten around [low, high], with 2 and 5 between them where the range is short."""
    first, last = math.floor(math.log10(low)), math.ceil(math.log10(high))
    if last - first > 2:
        step = math.ceil((last - first) / 10)
        return [10.0**e for e in range(first, last + step, step)]
    marks = [m * 10.0**e for e in range(first, last + 1) for m in (1, 2, 5)]
    start = max(i for i, mark in enumerate(marks) if mark <= low * (1 + 1e-9))
    end = min(i for i, mark in enumerate(marks) if mark >= high * (1 - 1e-9))
    return marks[start : max(end, start + 1) + 1]


def _range(values: list[float]) -> tuple[float, float]:
    low, high = (min(values), max(values)) if values else (1.0, 2.0)
    if low == high:
        margin = abs(low) * 0.1 or 1.0
        low, high = low - margin, high + margin
    return low, high


def _finite(series: Mapping, log_y: bool) -> dict[str, list[tuple[float, float] | None]]:
    """Each series as points, None where it has no finite (or, on a log scale, positive) value."""
    result = {}
    for name, (x, y) in series.items():
        x, y = np.asarray(x, float).ravel(), np.asarray(y, float).ravel()
        if x.shape != y.shape:
            raise ValueError(f"curve: series {name!r} has {len(x)} x for {len(y)} y")
        shown = np.isfinite(x) & np.isfinite(y) & ((y > 0) | (not log_y))
        result[name] = [(a, b) if ok else None for a, b, ok in zip(x, y, shown)]
    return result


def curve(path: str | os.PathLike, series: Series, xlabel: str, ylabel: str, **options) -> None:
    """Writes a `curve_image` as PNG."""
    save_png(path, curve_image(series, xlabel, ylabel, **options))


def curve_image(
    series: Series,
    xlabel: str,
    ylabel: str,
    log_y: bool = False,
    size: tuple[int, int] = (720, 440),
    colors: Sequence[Sequence[int]] | None = None,
) -> np.ndarray:
    """A line chart, uint8 [H,W,3]: `series` maps a name to its (x, y).

    A point that is not finite, or not positive on a log scale, breaks its line. With `colors`, one per series, the names are
    left out: a legend of them is the caller's.
    """
    lines = _finite(series, log_y)
    xlabel, ylabel = _plain((xlabel, ylabel))
    points = [point for line in lines.values() for point in line if point is not None]
    x_ticks = _ticks(*_range([x for x, _ in points]))
    y_low, y_high = _range([y for _, y in points])
    y_ticks = _log_ticks(max(y_low, 1e-300), y_high) if log_y else _ticks(y_low, y_high)

    # Drawn at twice the size and halved: smooth lines without an antialiasing library.
    zoom = 2
    width, height = size[0] * zoom, size[1] * zoom
    chart = Image.new("RGB", (width, height), WHITE)
    pen, font = ImageDraw.Draw(chart), _font(12 * zoom)
    y_texts = [f"{y:.4g}" for y in y_ticks]
    left = max(_text_size(text, font)[0] for text in y_texts) + 40 * zoom
    right, top, bottom = width - 20 * zoom, 16 * zoom, height - 48 * zoom

    def across(x):
        return left + (right - left) * (x - x_ticks[0]) / (x_ticks[-1] - x_ticks[0])

    def up(y):
        y, low, high = (math.log(v) if log_y else v for v in (y, y_ticks[0], y_ticks[-1]))
        return bottom - (bottom - top) * (y - low) / (high - low)

    for x in x_ticks:
        pen.line([across(x), top, across(x), bottom], FAINT, zoom)
        pen.text((across(x), bottom + 6 * zoom), f"{x:.6g}", INK, font, anchor="mt")
    for y, text in zip(y_ticks, y_texts):
        pen.line([left, up(y), right, up(y)], FAINT, zoom)
        pen.text((left - 6 * zoom, up(y)), text, INK, font, anchor="rm")
    pen.line([left, top, left, bottom, right, bottom], INK, zoom)
    pen.text(((left + right) / 2, height - 8 * zoom), xlabel, INK, font, anchor="md")
    _sideways(chart, ylabel, font, (8 * zoom, (top + bottom) // 2))
    for i, line in enumerate(lines.values()):
        color = SERIES[i % len(SERIES)] if colors is None else tuple(int(v) for v in colors[i])
        _polyline(pen, line, across, up, color, zoom)
    if colors is not None:
        return np.array(chart.reduce(zoom))
    # The names go to the right, up or down, where fewer points lie.
    rights = [up(y) - (top + bottom) / 2 for x, y in points if across(x) > left + 0.6 * (right - left)]
    corner = (right - 8 * zoom, top + 8 * zoom)
    if sum(1 if low > 0 else -1 for low in rights) < 0:
        corner = (right - 8 * zoom, bottom - 14 * zoom - 18 * zoom * len(lines))
    _names(pen, _plain(lines), *corner, font, zoom)
    return np.array(chart.reduce(zoom))


def _polyline(
    pen: ImageDraw.ImageDraw,
    line: Iterable[tuple[float, float] | None],
    across: Callable[[float], float],
    up: Callable[[float], float],
    color: tuple[int, ...],
    zoom: int,
):
    pieces: list[list[tuple[float, float]]] = [[]]
    for point in line:
        if point is not None:
            pieces[-1].append((across(point[0]), up(point[1])))
        elif pieces[-1]:
            pieces.append([])
    for piece in pieces:
        if len(piece) > 1:
            pen.line(piece, color, 2 * zoom, joint="curve")
        if len(piece) == 1 or 0 < len(piece) <= 30:
            for x, y in piece:
                pen.ellipse([x - 3 * zoom, y - 3 * zoom, x + 3 * zoom, y + 3 * zoom], color)


def _names(pen, names, right, top, font, zoom):
    """The legend of a chart, on a white ground."""
    if not names:
        return
    step, mark = 18 * zoom, 22 * zoom
    left = right - max(_text_size(name, font)[0] for name in names) - mark - 14 * zoom
    box = [left, top, right, top + step * len(names) + 6 * zoom]
    pen.rectangle(box, WHITE, outline=FAINT, width=zoom)
    for i, name in enumerate(names):
        y = top + step * (i + 0.5) + 3 * zoom
        pen.line([left + 6 * zoom, y, left + mark, y], SERIES[i % len(SERIES)], 2 * zoom)
        pen.text((left + mark + 6 * zoom, y), name, INK, font, anchor="lm")


def _sideways(chart: Image.Image, text: str, font, place: tuple[int, int]) -> None:
    """Writes text that reads upwards, its middle beside `place`."""
    width, height = _text_size(text, font)
    strip = Image.new("RGB", (max(width, 1), max(height, 1)), WHITE)
    ImageDraw.Draw(strip).text((0, 0), text, INK, font)
    strip = strip.transpose(Image.Transpose.ROTATE_90)
    chart.paste(strip, (place[0], max(0, place[1] - strip.height // 2)))
