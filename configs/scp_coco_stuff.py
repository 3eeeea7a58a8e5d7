"""SCP-Diff (arXiv 2403.09638) on COCO-Stuff, 384 x 512: Stable Diffusion 2.1 with a ControlNet of class ids.

Command:   python -m semdiff.main --config=configs/scp_coco_stuff.py:80gb --config.data.root=ROOT --workdir=DIR
           or scp_coco_stuff.py:24gb, with --config.train.init=stable-diffusion-2-1-base
           and --config.data.prompts=PROMPTS,
           then --mode=prior, and --mode=sample or evaluate, which begin from what it has measured
Data:      the 2017 images with stuff maps, 183 classes (docs/data.md). The weights: the directory of the base model (512
           pixels, eps) as diffusers keeps it. The prompts: `python -m semdiff.prompts` (docs/scp_diff.md)
Hardware:  80gb trains the ControlNet and the UNet's decoder, as published; 24gb the ControlNet alone, example by example.
           Compiled for an H100, never run: no weights of Stable Diffusion were at hand.
Published: nothing for this data set in the table of starts.
"""

import ml_collections

from semdiff.methods import scp


def get_config(memory: str = "80gb") -> ml_collections.ConfigDict:
    config = scp.published(memory)
    config.data.source = "coco_stuff"
    config.data.size = (384, 512)
    config.data.max_scale = 1.25
    return config
