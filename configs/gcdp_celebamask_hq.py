"""GCDP on CelebAMask-HQ: faces and their parts from captions, 128 x 128, 19 classes.

Command: python -m semdiff.main --config=configs/gcdp_celebamask_hq.py --config.data.root=DIR --workdir=runs/gcdp_celeba
         its second stage, at 256 x 256: gcdp_celebamask_hq.py:2 in another workdir, which
         --config.sample.upscale=WORKDIR of --mode=sample then names
Hardware: published with 4 GPUs. Not run here.
Published (with T5-large, after its super-resolution stage): better semantic recall than images alone, most so with a quarter
of the captions (--config.data.captioned=0.25).
Captions of MM-CelebA-HQ, ten an image: --config.data.captions=DIR/celeba-caption (0.txt to 29999.txt), read by a small
encoder that is trained along; or as states of T5, --config.data.prompts (docs/gcdp.md). Without either: pairs without words.
"""

from semdiff.methods import gcdp


def get_config(stage: str = "1"):
    config = gcdp.published(19, stage)
    config.data.source = "celebamask_hq"
    config.data.split = "train"
    config.data.eval_split = "val"
    config.data.size = (256, 256) if stage == "2" else (128, 128)
    return config
