"""GCDP on Cityscapes: streets and their layouts, 128 x 256, the 34 label ids (published: the 19 of the benchmark and void).

Command: python -m semdiff.main --config=configs/gcdp_cityscapes.py --config.data.root=DIR --workdir=runs/gcdp_cityscapes
         its second stage, at 256 x 512: gcdp_cityscapes.py:2 in another workdir, which
         --config.sample.upscale=WORKDIR of --mode=sample then names
Hardware: published with 4 GPUs. Not run here.
Published (with T5-large, after its super-resolution stage): FID 20.4, mIoU 65.8, Frechet segmentation distance 42.2.
Captions, by the names of images: --config.data.captions=FILE.jsonl (docs/data.md), read by a small encoder that is trained
along; or as states of T5, --config.data.prompts (docs/gcdp.md). Without either it trains pairs without words.
"""

from semdiff.methods import gcdp


def get_config(stage: str = "1"):
    config = gcdp.published(34, stage)
    config.data.source = "cityscapes"
    config.data.split = "train"
    config.data.eval_split = "val"
    config.data.size = (256, 512) if stage == "2" else (128, 256)
    return config
