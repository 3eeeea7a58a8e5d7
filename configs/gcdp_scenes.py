"""GCDP on the embedded world: image and layout from a caption, 32 x 32, 16 classes.

Command: python -m semdiff.main --config=configs/gcdp_scenes.py --workdir=runs/gcdp_scenes
Hardware and time: see docs/gcdp.md.
"""

from semdiff import presets


def get_config():
    return presets.gcdp_scenes()
