"""The smallest experiment that has every part: for tests that train."""

import jax
import numpy as np

from semdiff import build, inputs
from semdiff.config import Experiment, default, parse


def tiny_config():
    config = default()
    config.data.size = (8, 8)
    config.data.length = 32
    config.model.base = 8
    config.model.multipliers = (1, 2)
    config.model.blocks = 1
    config.model.attention = (2,)
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
    return parse(tiny_config())


def random_method(config: Experiment):
    """(method, parameters, classes): an untrained network whose parameters, all of them, are numpy's."""
    info = inputs.training_source(config.data, 0).info
    method = build.build_method(config, info.num_classes, info.has_instances)
    shapes = jax.eval_shape(lambda k: method.init(k, config.data.size), jax.random.key(0))
    rng = np.random.default_rng(0)
    params = jax.tree.map(lambda a: np.asarray(0.2 * rng.normal(size=a.shape), np.float32), shapes)
    return method, params, info
