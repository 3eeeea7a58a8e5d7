"""SDM (arXiv 2207.00050) on COCO-Stuff, 256 x 256.

Command:   python -m semdiff.main --config=configs/coco_stuff.py:1 --config.data.root=ROOT --workdir=DIR
           then the same with coco_stuff.py:2, which goes on from stage 1 in the same DIR
Data:      2017, 183 classes, with instance maps as SPADE makes them (docs/data.md)
Hardware:  published: 8 processes x batch 4. 662.5 M parameters: weights, average and optimiser take about
           10 GiB per device, or that over N with --config.train.fsdp=N. Not run here, so no time is known.
Published: FID 15.9, mIoU 40.2. Not reproduced here. The mIoU of
           --mode=evaluate is what a small segmenter of our own reads; it does not compare with these.

No script was released for this data set: the settings are those of ADE20K. Without train_inst/ and
val_inst/ the network has no edge channel.

Iterations are unpublished; those below are a guess. Stage 2, the fine-tuning for classifier-free guidance
(learning rate 2e-5), replaces the layout by nothing with probability 0.2; its steps are counted from the
start of stage 1. It can also start in an empty DIR from a weights file: coco_stuff.py:2 with
--config.train.init=weights.safetensors --config.train.steps=100_000; `python -m semdiff.convert import` makes such a file
of a released one, --mode=export of a run of your own.
"""

import ml_collections

from semdiff.methods import sdm


def get_config(stage: str = "1") -> ml_collections.ConfigDict:
    config = sdm.published(stage)
    config.data.source = "coco_stuff"
    return config
