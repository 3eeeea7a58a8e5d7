"""SDM (arXiv 2207.00050) on Cityscapes, 256 x 512.

Command:   python -m semdiff.main --config=configs/cityscapes.py:1 --config.data.root=ROOT --workdir=DIR
           then the same with cityscapes.py:2, which goes on from stage 1 in the same DIR
Data:      fine annotations, 34 label ids, with instances (docs/data.md)
Hardware:  published: 8 processes x batch 4. 653.9 M parameters: weights, average and optimiser take about
           10 GiB per device, or that over N with --config.train.fsdp=N. Not run here, so no time is known.
Published: FID 42.1, mIoU 77.5, LPIPS .362 (diversity). Not reproduced here. The mIoU of
           --mode=evaluate is what a small segmenter of our own reads; it does not compare with these.

No script was released for this data set: the settings are those of ADE20K, and, as in the released reader,
whole images are reduced to 256 x 512 and never cropped.

Iterations are unpublished; those below are a guess. Stage 2, the fine-tuning for classifier-free guidance
(learning rate 2e-5), replaces the layout by nothing with probability 0.2; its steps are counted from the
start of stage 1. It can also start in an empty DIR from a weights file: cityscapes.py:2 with
--config.train.init=weights.safetensors --config.train.steps=100_000; `python -m semdiff.convert import` makes such a file
of a released one, --mode=export of a run of your own.
"""

import ml_collections

from semdiff.methods import sdm


def get_config(stage: str = "1") -> ml_collections.ConfigDict:
    config = sdm.published(stage)
    config.data.source = "cityscapes"
    config.data.size = (256, 512)
    config.data.max_scale = 1.0  # 1024 x 2048 reduced as a whole
    return config
