"""SDM on the embedded world of procedurally drawn scenes: the demo. No download.

Command:  make demo
"""

import ml_collections

from semdiff.config import default


def get_config() -> ml_collections.ConfigDict:
    config = default()
    config.data.source = "scenes"
    config.data.size = (32, 32)

    config.model.base = 32
    config.model.multipliers = (1, 2, 2)
    config.model.blocks = 1
    config.model.resblock_updown = False
    config.model.attention = (4,)
    config.model.head_width = 32
    config.model.groups = 8
    config.model.spade_hidden = 16

    config.process.schedule = "cosine"
    config.process.parameterisation = "v"
    config.loss.weighting = "velocity"
    config.loss.condition_dropout = 0.1

    config.optimizer.learning_rate = 1e-3
    config.optimizer.warmup = 100
    config.optimizer.decay = "cosine"
    config.optimizer.clip_norm = 1.0
    config.optimizer.ema = 0.995

    config.train.steps = 800
    config.train.batch_size = 8
    config.train.log_every = 50
    config.train.eval_every = 800
    config.train.save_every = 200

    config.sample.sampler = "dpmpp_2m"
    config.sample.steps = 20
    config.sample.guidance = 1.5
    config.sample.batch_size = 12
    config.sample.cache_modulation = True

    config.evaluate.limit = 36
    config.evaluate.guidance = (1.0, 1.5)
    config.evaluate.segmenter_steps = 700
    config.evaluate.segmenter_width = 16
    return config
