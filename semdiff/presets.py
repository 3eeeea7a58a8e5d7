"""Published settings that several configurations share; files in configs/ start from them."""

import ml_collections

from semdiff.config import choose, default


def sdm(stage: str) -> ml_collections.ConfigDict:
    """SDM (2207.00050), as its released scripts train at 256 px; a data set sets its source and rates.

    Stage "1" trains with every layout in place. Stage "2" goes on at a lower rate and replaces a layout by nothing with
    probability 0.2, for classifier-free guidance.
    """
    second = choose({"1": False, "2": True}, stage, "the stage in configs/NAME.py:STAGE")
    config = default()
    config.data.split = "train"
    config.data.eval_split = "val"
    config.data.size = (256, 256)
    config.data.max_scale = 1.25
    config.data.flip = True
    config.data.edges = True
    config.data.cache = False  # decoded, the data would take tens of gigabytes
    config.data.workers = 8

    config.model.base = 256
    config.model.multipliers = (1, 1, 2, 2, 4, 4)
    config.model.blocks = 2
    config.model.attention = (8, 16, 32)
    config.model.attention_kind = "dot"
    config.model.head_width = 64
    config.model.scale_shift = True
    config.model.resblock_updown = True
    config.model.spade_hidden = 128
    config.model.remat = True
    config.model.dtype = "bfloat16"  # published: float16

    config.process.schedule = "linear"
    config.process.steps = 1000
    config.process.parameterisation = "eps"
    config.process.variance = "learned_range"

    config.loss.weighting = "uniform"
    config.loss.vlb_weight = 1.0
    config.loss.condition_dropout = 0.2 if second else 0.0

    config.optimizer.learning_rate = 2e-5 if second else 1e-4
    config.optimizer.weight_decay = 0.0
    config.optimizer.ema = 0.9999
    config.optimizer.ema_warmup = False

    config.train.steps = 400_000 if second else 300_000
    config.train.batch_size = 32
    config.train.eval_every = 25_000
    config.train.save_every = 10_000

    config.sample.sampler = "ancestral"
    config.sample.steps = 1000
    config.sample.guidance = 1.5 if second else 1.0  # stage 1 has never seen the absence of a layout
    config.sample.guidance_channels = "mean"
    return config
