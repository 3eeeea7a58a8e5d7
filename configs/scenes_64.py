"""SDM on the embedded world at 64 x 64, until pictures are worth looking at: 72,000 images. No download.

Command:   python -m semdiff.main --config=configs/scenes_64.py --workdir=DIR
Hardware:  a CPU of 2 cores for hours, or an accelerator for minutes
Published: SDM has no figures for it.
"""

import ml_collections

from semdiff import presets


def get_config() -> ml_collections.ConfigDict:
    return presets.scenes_64()
