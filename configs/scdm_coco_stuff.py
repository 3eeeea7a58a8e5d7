"""SCDM (arXiv 2402.16506) on COCO-Stuff, 256 x 256.

Command:   python -m semdiff.main --config=configs/scdm_coco_stuff.py:1 --config.data.root=ROOT --workdir=DIR
           then the same with scdm_coco_stuff.py:2, which goes on at a rate of 2e-5 in the same DIR
           sampling in 25 steps: scdm_coco_stuff.py:25 --mode=sample
Data:      2017, 183 classes, with instance maps as SPADE makes them (docs/data.md)
Hardware:  published: 4 processes x batch 10. The network of SDM: weights, average and optimiser take about 10 GiB per
           device, or that over N with --config.train.fsdp=N. Not run here, so no time is known.
Published: FID 15.3, mIoU 38.1, LPIPS .519 (diversity).
           Not reproduced here. The mIoU of --mode=evaluate is what a small segmenter of our own reads; it does
           not compare with these.

Settings of the released scripts, psi phi of the release; bfloat16 in the place of float16. Without train_inst/ and val_inst/
the network has no edge channel; released weights have one. Iterations are unpublished; those here are a guess.
--config.layout.rates=data measures psi phi on the data instead.
"""

import ml_collections

from semdiff.methods import sdm


def get_config(stage: str = "1") -> ml_collections.ConfigDict:
    config = sdm.published_scdm(stage, rates="coco_stuff")
    config.data.source = "coco_stuff"
    return config
