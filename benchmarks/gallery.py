"""The pictures of docs/gallery.md, from the models that come with semdiff.

    python benchmarks/gallery.py [docs]

Layouts of the embedded world and images of them; an edit; a chain from noise to an image. A minute on two cores.
"""

import sys
from pathlib import Path

import numpy as np
from emerge import trajectory

import semdiff
from semdiff import draw
from semdiff.api import Model
from semdiff.data.scenes import Scenes
from semdiff.methods.space import to_pixels

SHOWN = (1, 5, 9, 20, 33, 47)  # scenes of the test split
EDITED = 5
SCALE = 2


def sheet(model: Model, world: Scenes) -> np.ndarray:
    examples = [world[i] for i in SHOWN]
    layouts, instances = ([e[key] for e in examples] for key in ("layout", "instance"))
    images = np.asarray(model.sample(layouts, instances=instances, images=4))
    rows = [
        [draw.colourise(e["layout"], model.palette), *row] for e, row in zip(examples, images, strict=True)
    ]
    return draw.grid(rows, headers=["layout", *["generated"] * 4], scale=SCALE)


def edit(model: Model, world: Scenes) -> np.ndarray:
    """A tree is put where a building was, and nothing else changes."""
    ids = {name: number for number, name in enumerate(model.classes)}
    example = world[EDITED]
    old, things = example["layout"], example["instance"]
    y, x = np.mgrid[: old.shape[0], : old.shape[1]] / np.array(old.shape).reshape(2, 1, 1)
    crown, trunk = (x - 0.5) ** 2 + (y - 0.42) ** 2 < 0.02, (abs(x - 0.5) < 0.03) & (y > 0.5) & (y < 0.68)
    new = np.where(crown | trunk, ids["tree"], old)
    borders = np.where(crown | trunk, things.max() + 1, things)
    [image] = model.sample(old, instances=things)
    edited = [model.edit(image, new, old_layouts=old, instances=borders, seed=seed)[0] for seed in range(2)]
    row = [draw.colourise(old, model.palette), image, draw.colourise(new, model.palette), *edited]
    return draw.grid([row], headers=["layout", "generated", "new layout", "edited", "again"], scale=SCALE)


def chain(model: Model, world: Scenes) -> np.ndarray:
    """Above the image at t, below what the network predicts of the end."""
    times, states, predictions = trajectory(model, world[SHOWN[0]])
    pixels = lambda x: np.asarray(to_pixels(x))  # noqa: E731
    shown = range(len(times) - 1)
    rows = [[pixels(states.image[i][0]) for i in shown], [pixels(predictions.image.x0[i][0]) for i in shown]]
    headers = [f"t = {times[i]:.0f}" for i in shown]
    return draw.grid(rows, headers=headers, titles=["x_t", "x_0 predicted"], scale=SCALE)


def main(folder: Path):
    model = semdiff.load("scenes")
    world = Scenes("test", size=model.size)
    for name, picture in (("sheet", sheet), ("edit", edit), ("chain", chain)):
        path = folder / f"gallery_{name}.png"
        draw.save_png(path, picture(model, world))
        print(path, flush=True)


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "docs"))
