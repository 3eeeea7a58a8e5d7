"""GCDP on the embedded world: image and layout from a caption, 32 x 32, 16 classes.

Command: python -m semdiff.main --config=configs/gcdp_scenes.py --workdir=runs/gcdp_scenes
         the second stage, twice as large: --config=configs/gcdp_scenes.py:2 --workdir=runs/gcdp_scenes_2
         pairs of captions through both: --config=configs/gcdp_scenes.py --workdir=runs/gcdp_scenes --mode=sample
         --config.sample.captions=FILE --config.sample.upscale=runs/gcdp_scenes_2
Hardware and time: see docs/gcdp.md.
"""

from semdiff import presets
from semdiff.parser import choose

STAGES = {"1": presets.gcdp_scenes, "2": presets.gcdp_scenes_larger}


def get_config(stage: str = "1"):
    return STAGES[choose(tuple(STAGES), stage, "the stage in configs/gcdp_scenes.py:STAGE")]()
