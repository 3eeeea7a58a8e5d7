"""SCP-Diff in latents, small: the embedded world, 64 x 64, at a quarter of its size (docs/scp_diff.md).

Command:   python -m semdiff.main --config=configs/autoencoder_scenes.py --workdir=runs/autoencoder_scenes
           python -m semdiff.main --config=configs/scp_latent_scenes.py --workdir=DIR
           then --mode=prior, and --mode=sample or evaluate, which begin from what it has measured
Data:      none: procedurally drawn
Hardware:  a CPU of 2 cores
Published: SCP-Diff has no figures for scenes.
"""

import ml_collections

from semdiff import presets
from semdiff.methods import scp


def get_config() -> ml_collections.ConfigDict:
    config = presets.control()
    config.space.weights = "runs/autoencoder_scenes"
    config.data.source = "scenes"
    config.data.size = (64, 64)
    config.data.edges = False
    config.train.steps = 3000
    config.train.eval_every = 500
    config.evaluate.limit = 128
    config.evaluate.segmenter_steps = 700
    config.evaluate.segmenter_width = 16
    return scp.begun(config)
