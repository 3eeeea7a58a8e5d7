"""GCDP on COCO-Stuff: images and layouts of 183 classes, 128 x 128; the paper names it a weak spot.

Command: python -m semdiff.main --config=configs/gcdp_coco_stuff.py --config.data.root=DIR --workdir=runs/gcdp_coco_stuff
         its second stage, at 256 x 256: gcdp_coco_stuff.py:2 in another workdir, which
         --config.sample.upscale=WORKDIR of --mode=sample then names
Hardware: not published. Not run here.
Captions: --config.data.captions=DIR/annotations/captions_{split}2017.json, read by a small encoder that is trained along; or
as states of T5, --config.data.prompts (docs/gcdp.md). Without either it trains pairs without words.
"""

from semdiff.methods import gcdp


def get_config(stage: str = "1"):
    config = gcdp.published(183, stage)
    config.data.source = "coco_stuff"
    config.data.split = "train"
    config.data.eval_split = "val"
    config.data.size = (256, 256) if stage == "2" else (128, 128)
    config.data.flip = True
    return config
