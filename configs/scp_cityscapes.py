"""SCP-Diff (arXiv 2403.09638) on Cityscapes, 512 x 1024: Stable Diffusion 2.1 with a ControlNet of class ids.

Command:   python -m semdiff.main --config=configs/scp_cityscapes.py:80gb --config.data.root=ROOT --workdir=DIR
           or scp_cityscapes.py:24gb, with --config.train.init=stable-diffusion-2-1-base
           and --config.data.prompts=PROMPTS,
           then --mode=prior, and --mode=sample or evaluate, which begin from what it has measured
Data:      fine annotations, 34 label ids (docs/data.md). The weights: the directory of the base model (512
           pixels, eps) as diffusers keeps it. The prompts: `python -m semdiff.prompts` (docs/scp_diff.md)
Hardware:  80gb trains the ControlNet and the UNet's decoder, as published; 24gb the ControlNet alone, example by example.
           Compiled for an H100, never run: no weights of Stable Diffusion were at hand.
Published: FID 10.53, mIoU 67.92, pixel accuracy 94.65, in 20 steps. Not reproduced here.
"""

import ml_collections

from semdiff.methods import scp


def get_config(memory: str = "80gb") -> ml_collections.ConfigDict:
    config = scp.published(memory)
    config.data.source = "cityscapes"
    config.data.size = (512, 1024)
    config.sample.guidance = 4.0
    return config
