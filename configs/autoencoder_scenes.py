"""The autoencoder of scp_latent_scenes.py: the embedded world, 64 x 64, at a quarter of its size.

Command:   python -m semdiff.main --config=configs/autoencoder_scenes.py --workdir=runs/autoencoder_scenes
Data:      none: procedurally drawn
Hardware:  a CPU of 2 cores
"""

import ml_collections

from semdiff import presets


def get_config() -> ml_collections.ConfigDict:
    config = presets.autoencoder()
    config.data.source = "scenes"
    config.data.size = (64, 64)
    return config
