"""Two methods that no paper has, made of what a method is made of: the trainer, samplers and tasks must not notice.

`pairs` generates an image and its layout from a vector; `folded` an image in a space of its own, given a layout and a
vector, with a part of its network left as it is.
"""

from dataclasses import dataclass, replace
from pathlib import Path

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from PIL import Image
from tiny import tiny_experiment

from semdiff.config import Experiment
from semdiff.diffusion import categorical, class_schedules, gaussian, joint, schedules
from semdiff.diffusion.joint import ByHalf
from semdiff.methods.given import LayoutGiven, Several, dropped
from semdiff.methods.method import Method
from semdiff.methods.space import to_pixels, to_unit

CLASSES, SIZE, STEPS = 3, (8, 8), 50
COLOURS = np.array([(220, 40, 40), (40, 200, 60), (50, 60, 230)], np.uint8)


def write_world(root: Path) -> Path:
    """A folder of images of one class each, in its colour; every fourth has a stripe of the next class."""
    rng = np.random.default_rng(0)
    for split, count in (("train", 24), ("test", 6)):
        for i in range(count):
            layout = np.full(SIZE, i % CLASSES, np.uint8)
            if i % 4 == 0:
                layout[:, 2:4] = (i + 1) % CLASSES
            image = COLOURS[layout] + rng.normal(0, 4, (*SIZE, 3))
            for kind, array in (("labels", layout), ("images", np.clip(image, 0, 255).astype(np.uint8))):
                (root / kind / split).mkdir(parents=True, exist_ok=True)
                Image.fromarray(array).save(root / kind / split / f"{i:02}.png")
    (root / "dataset.json").write_text(f'{{"num_classes": {CLASSES}}}')
    return root


def experiment(root: Path, steps: int, threshold: str = "static", **train) -> Experiment:
    config = tiny_experiment()
    optimizer = replace(config.optimizer, learning_rate=1e-2, clip_norm=1.0, ema=0.95)
    often = {"log_every": steps, "save_every": steps, "eval_every": steps, "batch_size": 12}
    return replace(
        config,
        data=replace(config.data, source="folder", root=str(root), length=0, size=SIZE, edges=False),
        optimizer=optimizer,
        train=replace(config.train, steps=steps, **often | train),
        sample=replace(config.sample, sampler="ddim", steps=10, guidance=1.5, threshold=threshold),
    )


@dataclass(frozen=True)
class SharesGiven:
    """How much of an image each class has."""

    num_classes: int
    dropout: float = 0.1

    reads = ("layout",)
    changes = False

    def condition(self, batch):
        return {"shares": jax.nn.one_hot(batch["layout"], self.num_classes).mean((1, 2))}

    def read(self, example):
        counts = np.bincount(np.ravel(example["layout"]), minlength=self.num_classes)
        return {"shares": (counts / counts.sum()).astype(np.float32)}

    nulls_alike = True

    def layout(self, condition):
        return None

    def pad(self, condition, multiple):
        return condition

    def empty(self, size):
        return {"shares": jnp.zeros((1, self.num_classes))}

    def null(self, condition):
        return {"shares": jnp.zeros_like(condition["shares"])}

    def drop(self, condition, keys):
        return dropped(condition, self.null(condition), keys, self.dropout)

    def noise(self, condition, keys):
        return None

    def at(self, condition, t, noise):
        return condition


class Net(nn.Module):
    """Two convolutions of all that is there."""

    channels: int
    logits: int = 0

    @nn.compact
    def __call__(self, maps, vector):
        h = jnp.concatenate(
            [*maps, jnp.broadcast_to(vector[:, None, None], (*maps[0].shape[:3], vector.shape[1]))], -1
        )
        h = nn.silu(nn.Conv(48, (3, 3), name="stem")(h))
        h = nn.silu(nn.Conv(48, (1, 1), name="body")(h))
        out = nn.Conv(self.channels, (1, 1), name="head")(h)
        return out, nn.Conv(self.logits, (1, 1), name="classes")(h) if self.logits else None


class Network:
    """What both toys' networks share."""

    size_multiple = 2
    clock = "steps"
    two_clocks = False

    def init(self, key, like, condition):
        return self.net.init(key, *self.inputs(like, jnp.zeros((1,)), condition))["params"]

    def apply(self, params, state, time, condition, dropout_keys=None):
        return ByHalf(*self.net.apply({"params": params}, *self.inputs(state, time, condition)))

    def cache(self, params, condition):
        return None

    def compute_dtypes(self, params):
        return jax.tree.map(lambda a: a.dtype, params)


def clock(time):
    angles = jnp.outer(time / 1000, jnp.pi * jnp.arange(1, 4))
    return jnp.concatenate([jnp.sin(angles), jnp.cos(angles)], -1)


@dataclass(frozen=True)
class PairNetwork(Network):
    net: Net = Net(3, CLASSES)  # noqa: RUF009

    def inputs(self, state, time, condition):
        vector = jnp.concatenate([condition["shares"], clock(time)], -1)
        return [state.image, jax.nn.one_hot(state.layout, CLASSES)], vector


def pairs(*_) -> Method:
    """Image and layout, from the shares of the classes."""
    image = gaussian.Gaussian(schedules.cosine(STEPS), "v", "small")
    layout = categorical.Categorical(class_schedules.Cosine(STEPS, CLASSES), "uniform")
    return Method(joint.Process(image, layout), PairNetwork(), SharesGiven(CLASSES))


def folds(array):
    """[B, H, W, C] -> [B, H/2, W/2, 4C]."""
    b, h, w, c = array.shape
    return (
        array.reshape(b, h // 2, 2, w // 2, 2, c)
        .transpose(0, 1, 3, 2, 4, 5)
        .reshape(b, h // 2, w // 2, 4 * c)
    )


def unfolds(array):
    b, h, w, c = array.shape
    return array.reshape(b, h, w, 2, 2, c // 4).transpose(0, 1, 3, 2, 4, 5).reshape(b, 2 * h, 2 * w, c // 4)


@dataclass(frozen=True)
class Folded:
    """2 x 2 pixels as one of 12 channels, turned by a matrix that is a parameter."""

    channels: int = 12
    bounded = False

    def init(self, key):
        return {"turn": jnp.linalg.qr(jax.random.normal(key, (12, 12)))[0]}

    def shape(self, size):
        return size[0] // 2, size[1] // 2, 12

    def encode(self, params, pixels, keys=None):
        return folds(to_unit(pixels)) @ params["turn"]

    def decode(self, params, x):
        return to_pixels(unfolds(x @ params["turn"].T))

    def mask(self, free):
        return folds(free[..., None]).any(-1, keepdims=True)


@dataclass(frozen=True)
class FoldedNetwork(Network):
    net: Net = Net(12)  # noqa: RUF009

    def inputs(self, state, time, condition):
        vector = jnp.concatenate([condition["shares"]["shares"], clock(time)], -1)
        return [state.image, folds(jax.nn.one_hot(condition["layout"]["layout"], CLASSES))], vector


def folded(*_) -> Method:
    """An image in the folded space, given its layout and the shares of the classes, each dropped by itself."""
    image = gaussian.Gaussian(schedules.cosine(STEPS), "v", "small")
    given = Several({"layout": LayoutGiven(CLASSES, False, dropout=0.3), "shares": SharesGiven(CLASSES, 0.3)})
    return Method(joint.Process(image), FoldedNetwork(), given, space=Folded())
