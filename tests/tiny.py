"""The smallest experiment that has every part: for tests that train."""

from dataclasses import replace

import jax
import numpy as np

from semdiff import inputs
from semdiff.config import Autoencoding, ControlUNet, Experiment, JointUNet, Latents
from semdiff.data.classes import generated_classes
from semdiff.data.source import Info
from semdiff.methods import build
from semdiff.methods.method import Method
from semdiff.parser import as_config_dict, default, parse
from semdiff.trained import Trained


def tiny_config():
    config = default()
    config.data.size = (8, 8)
    config.data.length = 32
    config.model.base = 8
    config.model.multipliers = (1,)
    config.model.blocks = 1
    config.model.attention = (1,)
    config.model.head_width = 8
    config.model.spade_hidden = 4
    config.model.groups = 4
    config.process.steps = 50
    config.loss.condition_dropout = 0.1
    config.optimizer.learning_rate = 3e-3
    config.train.batch_size = 8
    config.train.steps = 6
    config.train.log_every = 1
    config.train.save_every = 2
    config.train.eval_every = 100
    config.train.eval_batches = 3
    config.train.grid = 1
    config.sample.steps = 3
    config.sample.batch_size = 4
    config.compilation_cache = ""
    return config


def tiny_experiment() -> Experiment:
    """One level, which is compiled in half the time of two."""
    return parse(tiny_config())


def two_levels() -> Experiment:
    """The same with a second level: for what changes size on the way."""
    config = tiny_config()
    config.model.multipliers = (1, 2)
    config.model.attention = (2,)
    return parse(config)


def tiny_pairs() -> Experiment:
    """The smallest network of both halves, told of words."""
    config = tiny_config()
    config.data.edges = False
    config.data.length = 16
    config.model = as_config_dict(JointUNet())
    config.model.base = 8
    config.model.multipliers = (1, 2)
    config.model.blocks = (1, 1)
    config.model.attention = (1,)
    config.model.cross_attention = (1,)
    config.model.heads = 2
    config.model.head_width = 4
    config.model.stem = (3,)
    config.model.text_width = 8
    config.model.text_length = 12
    config.model.latents = 2
    config.process.variance = "small"
    config.layout.transition = "uniform"
    config.layout.schedule = "cosine"
    return parse(config)


def classes(count: int, has_instances: bool = False) -> Info:
    """So many classes of no name."""
    return Info(f"{count} classes", generated_classes(count), has_instances=has_instances)


def random_params(method: Method, size: tuple[int, int], scale: float = 0.2) -> dict:
    """All parameters numpy's."""
    shapes = jax.eval_shape(lambda k: method.init(k, size), jax.random.key(0))
    rng = np.random.default_rng(0)
    return jax.tree.map(lambda a: np.asarray(scale * rng.normal(size=a.shape), np.float32), shapes)


def random_model(config: Experiment, name: str = "7/ema") -> Trained:
    """An untrained network of the training split's classes, and words."""
    source = inputs.training_source(config.data, 0)
    words = inputs.counted_words(source) if isinstance(config.model, JointUNet) else None
    method = build.build_method(config, source.info, words=len(words or ()))
    params = random_params(method, config.data.size)
    return Trained(config, method, params, name, source.info, language=words)


def changed(model: Trained, **parts: dict) -> Trained:
    """With other keys: changed(model, sample={"steps": 5})."""
    config = model.config
    parts = {part: replace(getattr(config, part), **keys) for part, keys in parts.items()}
    return replace(model, config=replace(config, **parts))


def tiny_autoencoder() -> Experiment:
    """The smallest autoencoder: 8 x 8 pixels as 4 x 4 places of 2 channels."""
    config = tiny_config()
    config.model = as_config_dict(Autoencoding())
    config.space = as_config_dict(
        Latents(base=4, multipliers=(1, 2), blocks=1, channels=2, groups=2, scale=0.0)
    )
    return parse(config)


def tiny_control(autoencoder: str = "") -> Experiment:
    """The smallest ControlNet, in the latents of that."""
    config = tiny_config()
    config.data.edges = False
    config.model = as_config_dict(ControlUNet())
    config.model.base = 8
    config.model.multipliers = (1, 2)
    config.model.blocks = 1
    config.model.attention = (2,)
    config.model.head_width = 4
    config.model.groups = 4
    config.model.hint = (4, 8)
    config.model.text_length = 3
    config.model.text_width = 8
    config.space = as_config_dict(tiny_autoencoder().space)
    config.space.weights = autoencoder
    config.process.variance = "small"
    config.loss.words_dropout = 0.1
    config.sample.sampler = "ddim"
    config.sample.threshold = "none"
    return parse(config)
