"""SCDM (arXiv 2402.16506) on CelebAMask-HQ, 256 x 256.

Command:   python -m semdiff.main --config=configs/scdm_celebamask_hq.py:1 --config.data.root=ROOT --workdir=DIR
           then the same with scdm_celebamask_hq.py:2, which goes on at a rate of 2e-5 in the same DIR
           sampling in 25 steps: scdm_celebamask_hq.py:25 --mode=sample
Data:      19 classes, edges between them (docs/data.md)
Hardware:  published: 4 processes x batch 10. The network of SDM: weights, average and optimiser take about 10 GiB per
           device, or that over N with --config.train.fsdp=N. Not run here, so no time is known.
Published: FID 17.4, mIoU 77.2, LPIPS .418 (diversity).
           Not reproduced here. The mIoU of --mode=evaluate is what a small segmenter of our own reads; it does
           not compare with these.

Settings of the released scripts, psi phi of the release; bfloat16 in the place of float16. Iterations are
unpublished; those here are a guess. --config.layout.rates=data measures psi phi on the data instead.
"""

import ml_collections

from semdiff.methods import sdm


def get_config(stage: str = "1") -> ml_collections.ConfigDict:
    config = sdm.published_scdm(stage, rates="celebamask_hq")
    config.data.source = "celebamask_hq"
    config.data.eval_split = "test"
    config.optimizer.learning_rate = 2e-5
    return config
