"""SDM (arXiv 2207.00050) on CelebAMask-HQ, 256 x 256.

Command:   python -m semdiff.main --config=configs/celebamask_hq.py:1 --config.data.root=ROOT --workdir=DIR
           then the same with celebamask_hq.py:2, which goes on from stage 1 in the same DIR
Data:      the official archive, 19 classes, edges between them (docs/data.md). Without the mapping
           file of the archive: --config.data.eval_split=val
Hardware:  published: 8 processes x batch 4. 653.1 M parameters: weights, average and optimiser take about
           10 GiB per device, or that over N with --config.train.fsdp=N. Not run here, so no time is known.
Published: FID 18.8, mIoU 77.0, LPIPS .422 (diversity). Not reproduced here. The mIoU of
           --mode=evaluate is what a small segmenter of our own reads; it does not compare with these.

Settings of the released scripts; bfloat16 in the place of float16, and mirrored faces
exchange left and right.

Iterations are unpublished; those below are a guess. Stage 2, the fine-tuning for classifier-free guidance
(same learning rate), replaces the layout by nothing with probability 0.2; its steps are counted from the
start of stage 1. It can also start in an empty DIR from a weights file: celebamask_hq.py:2 with
--config.train.init=weights.safetensors --config.train.steps=100_000; `python -m semdiff.convert import` makes such a file
of a released one, --mode=export of a run of your own.
"""

import ml_collections

from semdiff.methods import sdm


def get_config(stage: str = "1") -> ml_collections.ConfigDict:
    config = sdm.published(stage)
    config.data.source = "celebamask_hq"  # left and right eye, brow and ear change places in a flip
    config.data.eval_split = "test"
    config.optimizer.learning_rate = 2e-5
    return config
