"""SCP-Diff (arXiv 2403.09638) on ADE20K, 512 x 512: Stable Diffusion 2.1 with a ControlNet of class ids.

Command:   python -m semdiff.main --config=configs/scp_ade20k.py:80gb --config.data.root=ROOT --workdir=DIR
           or scp_ade20k.py:24gb, with --config.train.init=stable-diffusion-2-1-base
           and --config.data.prompts=PROMPTS,
           then --mode=prior, and --mode=sample or evaluate, which begin from what it has measured
Data:      the scene parsing benchmark, 151 classes (docs/data.md). The weights: the directory of the base model (512
           pixels, eps) as diffusers keeps it. The prompts: `python -m semdiff.prompts` (docs/scp_diff.md)
Hardware:  80gb trains the ControlNet and the UNet's decoder, as published; 24gb the ControlNet alone, example by example.
           Compiled for an H100, never run: no weights of Stable Diffusion were at hand.
Published: FID 12.66, mIoU 25.61, pixel accuracy 71.79, in 20 steps. Not reproduced here.
"""

import ml_collections

from semdiff.methods import scp


def get_config(memory: str = "80gb") -> ml_collections.ConfigDict:
    config = scp.published(memory)
    config.data.source = "ade20k"
    config.data.size = (512, 512)
    config.data.max_scale = 1.25
    return config
