"""A sheet of scenes: python -m semdiff.data.scenes --out sheet.png --size 64 --count 24"""

import argparse
from collections.abc import Sequence

import numpy as np

from semdiff import draw
from semdiff.data.scenes.world import LENGTHS, Scenes


def sheet(source: Scenes, count: int, columns: int = 4, scale: int = 2) -> np.ndarray:
    """Layouts beside their images, with a legend, uint8 [H,W,3]."""
    examples = [source[i] for i in range(count)]
    pairs = [(draw.colourise(e["layout"], source.info.palette), e["image"]) for e in examples]
    rows = [[x for pair in pairs[i : i + columns] for x in pair] for i in range(0, count, columns)]
    picture = draw.grid(rows, scale=scale)
    legend = draw.legend(source.info.names, source.info.palette, width=picture.shape[1])
    return draw.grid([[picture], [legend]], pad=0)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description="Draws a sheet of scenes: layout | image.")
    parser.add_argument("--out", required=True, help="the PNG to write")
    parser.add_argument("--size", type=int, nargs="+", default=[64], help="side, or height width")
    parser.add_argument("--count", type=int, default=24)
    parser.add_argument("--columns", type=int, default=4, help="pairs in a row")
    parser.add_argument("--scale", type=int, default=2, help="enlarge each pixel this much")
    parser.add_argument("--split", default="train", choices=list(LENGTHS))
    parser.add_argument("--seed", type=int, default=0)
    flags = parser.parse_args(arguments)
    size = tuple(flags.size * 2)[:2] if len(flags.size) == 1 else tuple(flags.size)
    source = Scenes(flags.split, size, flags.count, flags.seed)
    draw.save_png(flags.out, sheet(source, flags.count, flags.columns, flags.scale))


if __name__ == "__main__":
    main()
