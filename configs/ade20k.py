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

from semdiff.methods import sdm


def get_config(stage: str = "1") -> ml_collections.ConfigDict:
    config = sdm.published(stage)
    config.data.source = "ade20k"  # no instances
    return config
