"""GCDP on a folder of clothing with captions (59 classes), 64 x 64.

Command: python -m semdiff.main --config=configs/gcdp_ccp.py --config.data.root=DIR --workdir=runs/gcdp_ccp
Hardware and time: two CPU cores, minutes for a first look.
"""

from semdiff import presets


def get_config():
    config = presets.joint()
    config.data.source = "folder"
    config.data.split = "train"
    config.data.eval_split = "test"
    config.data.size = (64, 64)
    config.data.edges = False
    config.model.multipliers = (1, 2, 3, 3)
    config.model.blocks = (1, 1, 1, 1)
    config.model.attention = (3,)
    config.model.cross_attention = (2, 3)
    config.loss.layout_weight = 1000 / 59
    config.train.steps = 2000
    config.train.eval_every = 500
    config.sample.sampler = "dpmpp_2m"
    config.sample.spacing = "even"
    config.sample.steps = 25
    return config
