"""SDM (arXiv 2207.00050) on ADE20K, 256 x 256.

Command:   python -m semdiff.main --config=configs/ade20k.py:1 --config.data.root=ROOT --workdir=DIR
           then the same with ade20k.py:2, which goes on from stage 1 in the same DIR
Data:      the scene parsing benchmark, 151 classes, no instances (docs/data.md)
Hardware:  published: 8 processes x batch 4. 660.6 M parameters: weights, average and optimiser take about
           10 GiB per device, or that over N with --config.train.fsdp=N. Not run here, so no time is known.
Published: FID 27.5, mIoU 39.2, LPIPS .524 (diversity). Not reproduced here. The mIoU of
           --mode=evaluate is what a small segmenter of our own reads; it does not compare with these.

Settings of the released scripts; bfloat16 in the place of float16.

Iterations are unpublished; those below are a guess. Stage 2, the fine-tuning for classifier-free guidance
(learning rate 2e-5), replaces the layout by nothing with probability 0.2; its steps are counted from the
start of stage 1. It can also start in an empty DIR from a weights file: ade20k.py:2 with
--config.train.init=weights.safetensors --config.train.steps=100_000; `python -m semdiff.convert import` makes such a file
of a released one, --mode=export of a run of your own.
"""

import ml_collections

from semdiff.config import choose, default


def get_config(stage: str = "1") -> ml_collections.ConfigDict:
    second = choose({"1": False, "2": True}, stage, "the stage in configs/ade20k.py:STAGE")
    config = default()
    config.data.source = "ade20k"
    config.data.split = "train"
    config.data.eval_split = "val"
    config.data.size = (256, 256)
    config.data.max_scale = 1.25
    config.data.flip = True
    config.data.edges = True  # none here: ADE20K has no instances
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
