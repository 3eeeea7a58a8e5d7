"""SCDM (arXiv 2402.16506) on CamVid at 48 x 64: a real data set small enough for a CPU.

Command:   python -m semdiff.main --config=configs/scdm_camvid.py --config.data.root=ROOT --workdir=runs/scdm_camvid
           the same network as SDM, for comparison: --config.layout.transition=none
           every class masked alike, for comparison: --config.layout.schedule=linear
Data:      as configs/camvid.py
Hardware:  a CPU of 2 cores
Published: SCDM has no figures for CamVid.

Everything but the layout process and the evaluation is configs/camvid.py.
"""

import ml_collections

from semdiff import presets


def get_config() -> ml_collections.ConfigDict:
    config = presets.comparison(presets.camvid(), steps=25)
    config.layout.transition = "absorbing"
    config.layout.schedule = "classwise"
    config.layout.rates = "data"
    config.evaluate.limit = 48
    return config
