"""The autoencoder of scp_latent_camvid.py: CamVid, 64 x 64, at a quarter of its size.

Command:   python -m semdiff.main --config=configs/autoencoder_camvid.py --config.data.root=ROOT --workdir=DIR
Data:      a folder of images and labels (docs/data.md)
Hardware:  a CPU of 2 cores
"""

import ml_collections

from semdiff import presets


def get_config() -> ml_collections.ConfigDict:
    config = presets.autoencoder()
    config.data.source = "folder"
    config.data.split = "train"
    config.data.eval_split = "test"
    config.data.size = (48, 64)
    config.data.max_scale = 1.1
    return config
