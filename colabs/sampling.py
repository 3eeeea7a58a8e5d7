# ---
# jupyter:
#   jupytext:
#     formats: ipynb,py:percent
#     text_representation:
#       extension: .py
#       format_name: percent
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Layouts in, images out
#
# A trained model is loaded, a layout is drawn, images are made of it; guidance, steps and seed are turned; one is edited.
#
# `MODEL` is one that comes with semdiff, by its name; or a model folder (what `--mode=export` writes), or a workdir of a
# training. Where it is empty a small model of the embedded world is trained here first, for some minutes on two CPU cores.
# Nothing is downloaded.

# %% tags=["parameters"]
MODEL = "scenes"  # one that comes with semdiff, a model folder or a workdir; empty: train a small one
LAYOUT = ""  # a PNG of class ids, or of the classes' colours; empty: one that is drawn below
STEPS = 800  # of the training, where there is no model
WORKDIR = "runs/notebook"
SOURCE = ""  # where pip finds semdiff if it is not installed: git+https://..., a folder, a wheel

# %%
import importlib.util
import subprocess
import sys
from pathlib import Path

if importlib.util.find_spec("semdiff") is None:  # a fresh Colab machine
    assert SOURCE, "set SOURCE above: semdiff is not installed here"
    subprocess.run([sys.executable, "-m", "pip", "install", "-q", SOURCE], check=True)

import numpy as np

import semdiff
from semdiff import parser, presets
from semdiff.data.scenes import Scenes
from semdiff.modes import export, train

# %% [markdown]
# ## A model
#
# Where one is trained: the same as `python -m semdiff.main --config=configs/scenes.py --workdir=...`. Run again, it goes on
# where it stopped.

# %%
if not MODEL:
    settings = presets.scenes()
    settings.train.steps = settings.train.eval_every = STEPS
    train.train(parser.parse(settings), Path(WORKDIR))

model = semdiff.load(MODEL or WORKDIR)
model

# %% [markdown]
# ## A layout
#
# A layout is an array of class ids. Classes have names; `model.classes` lists them, and this is their place in the list:

# %%
ids = {name: number for number, name in enumerate(model.classes)}
print(", ".join(f"{number} {name}" for name, number in ids.items()))


# %% [markdown]
# One is drawn by hand where the model knows the embedded world. A network that was trained with the borders between
# instances (this one was) also wants a map of them: 0 where there is none, another number for each thing.


# %%
def drawn(height: int, width: int) -> tuple[np.ndarray, np.ndarray]:
    """A street under the sky: (layout, instances)."""
    y, x = np.mgrid[:height, :width] / np.array([height, width]).reshape(2, 1, 1)
    layout = np.full((height, width), ids["sky"])
    things = np.zeros((height, width), int)
    layout[y > 0.55] = ids["pavement"]
    layout[y > 0.65] = ids["road"]
    shapes = [
        ("building", (x < 0.34) & (y > 0.15) & (y < 0.6)),
        ("building", (x > 0.36) & (x < 0.62) & (y > 0.3) & (y < 0.6)),
        ("tree", (x - 0.8) ** 2 + (y - 0.4) ** 2 < 0.025),
        ("car", (x > 0.12) & (x < 0.5) & (y > 0.68) & (y < 0.86)),
    ]
    for number, (name, where) in enumerate(shapes, start=1):
        layout[where], things[where] = ids[name], number
    return layout, things


if LAYOUT:
    layout = model.read_layout(LAYOUT)
    instances = layout  # borders between classes, for want of better
elif model.trained.info.name == "scenes":
    layout, instances = drawn(*model.size)
else:
    raise SystemExit("set LAYOUT to a PNG: the layout drawn here is of the classes of the embedded world")

model.show([layout])

# %% [markdown]
# ## Images
#
# Four images of it, and of two layouts of the embedded world's test split. The seed, the settings and the layout make the
# image: run it again and it is the same.

# %%
layouts, borders = [layout], [instances]
if model.trained.info.name == "scenes":
    world = Scenes("test", size=model.size)
    layouts += [world[i]["layout"] for i in (3, 8)]
    borders += [world[i]["instance"] for i in (3, 8)]

images = model.sample(layouts, instances=borders, images=4, seed=0)
sheet = model.show(layouts, images, headers=["layout", "images"])
sheet

# %% [markdown]
# ## What can be turned
#
# **Guidance** exaggerates what the layout does to the image: 1 is none. More of it makes classes easier to recognise and
# images more alike.

# %%
weights = (1.0, 1.5, 2.5, 4.0)
turned = [model.sample(layout, instances=instances, guidance=weight) for weight in weights]
by_guidance = model.show(
    [layout], *turned, headers=["layout", *(f"guidance {weight:g}" for weight in weights)]
)
by_guidance

# %% [markdown]
# **Steps**: each is one pass of the network, or two with guidance. Every other number of steps is another program, which is
# compiled first.

# %%
numbers = (3, 6, 25)
turned = [model.sample(layout, instances=instances, steps=number) for number in numbers]
by_steps = model.show([layout], *turned, headers=["layout", *(f"{number} steps" for number in numbers)])
by_steps

# %% [markdown]
# **The seed** is the noise that the chain begins with.

# %%
seeds = (0, 1, 2, 3)
turned = [model.sample(layout, instances=instances, seed=seed) for seed in seeds]
by_seed = model.show([layout], *turned, headers=["layout", *(f"seed {seed}" for seed in seeds)])
by_seed

# %% [markdown]
# ## An edit
#
# A region gets another class; the image is made again there and stays as it was elsewhere, pixel by pixel. What differs
# between the two layouts, and two pixels around it, is what may change.

# %%
height, width = layout.shape
before = model.sample(layout, instances=instances, size="own", seed=1)[0]
changed, things = layout.copy(), instances.copy()
region = np.s_[int(0.7 * height) : int(0.9 * height), int(0.6 * width) : int(0.95 * width)]
changed[region] = ids.get("car", layout.max())
things[region] = things.max() + 1

[after] = model.edit(before, changed, old_layouts=layout, instances=things, seed=1)
kept = (before == after).all(-1)
edited = model.show(
    [layout], [before], [changed], [after], headers=["layout", "image", "new layout", "new image"]
)
print(f"{kept.mean():.0%} of the pixels are as they were")
edited

# %% [markdown]
# ## To take along
#
# A model folder holds the weights, the classes, the settings and a card; whoever has it needs neither this machine nor the
# data. `semdiff.load` opens it, `--mode=sample --config=configs/model.py:FOLDER` samples whole folders of layouts with it.

# %%
folder = export.export(model.trained, Path(WORKDIR))
print(*sorted(path.name for path in folder.iterdir()), sep="\n")
same = semdiff.load(folder).sample(layout, instances=instances, seed=1, size="own")[0]
assert (same == before).mean() > 0.99
