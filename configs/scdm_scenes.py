"""SCDM (arXiv 2402.16506) on the embedded world of procedurally drawn scenes. No download.

Command:   python -m semdiff.main --config=configs/scdm_scenes.py --workdir=runs/scdm_scenes
           the same network as SDM, for comparison: --config.layout.transition=none
           every class masked alike, for comparison: --config.layout.schedule=linear
Hardware:  a CPU of 2 cores
Published: SCDM has no figures for scenes.

Everything but the layout process, the length and the evaluation is configs/scenes.py.
"""

import ml_collections

from semdiff import presets


def get_config() -> ml_collections.ConfigDict:
    config = presets.comparison(presets.scenes(), steps=20)
    config.layout.transition = "absorbing"
    config.layout.schedule = "classwise"
    config.layout.rates = "data"
    config.train.steps = 1200
    config.evaluate.limit = 96
    config.evaluate.segmenter_steps = 1500
    config.evaluate.segmenter_width = 32
    return config
