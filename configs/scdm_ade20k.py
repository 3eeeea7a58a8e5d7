"""SCDM (arXiv 2402.16506) on ADE20K, 256 x 256.

Command:   python -m semdiff.main --config=configs/scdm_ade20k.py:1 --config.data.root=ROOT --workdir=DIR
           then the same with scdm_ade20k.py:2, which goes on at a rate of 2e-5 in the same DIR
           sampling in 25 steps: scdm_ade20k.py:25 --mode=sample
Data:      the scene parsing benchmark, 151 classes, no instances (docs/data.md)
Hardware:  published: 4 processes x batch 10. The network of SDM: weights, average and optimiser take about 10 GiB per
           device, or that over N with --config.train.fsdp=N. Not run here, so no time is known.
Published: FID 26.9, mIoU 49.4, LPIPS .530 (diversity); from noisy layouts FID / mIoU 32.4 / 44.7 (ds), 31.2 / 40.1
           (edge), 28.1 / 45.1 (random).
           Not reproduced here. The mIoU of --mode=evaluate is what a small segmenter of our own reads; it does
           not compare with these.

Settings of the released scripts, psi phi of the release; bfloat16 in the place of float16. Iterations are
unpublished; those here are a guess. --config.layout.rates=data measures psi phi on the data instead.
"""

import ml_collections

from semdiff.methods import sdm


def get_config(stage: str = "1") -> ml_collections.ConfigDict:
    config = sdm.published_scdm(stage, rates="ade20k")
    config.data.source = "ade20k"
    return config
