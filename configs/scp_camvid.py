"""SDM on CamVid at 48 x 64, its chains begun as SCP-Diff begins them (docs/scp_diff.md).

Command:   python -m semdiff.main --config=configs/scp_camvid.py --config.data.root=ROOT --workdir=DIR
           then --mode=prior, which measures what its chains begin from, then --mode=evaluate, or sample
Data:      that of configs/camvid.py, which trains the same weights
Hardware:  a CPU of 2 cores
Published: SCP-Diff has no figures for CamVid, nor for chains in pixels.
"""

import ml_collections

from semdiff import presets
from semdiff.methods import scp


def get_config() -> ml_collections.ConfigDict:
    return scp.begun(presets.camvid())
