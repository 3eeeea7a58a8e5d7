"""SDM on the embedded world of procedurally drawn scenes: the demo. No download.

Command:  make demo
"""

import ml_collections

from semdiff import presets


def get_config() -> ml_collections.ConfigDict:
    return presets.scenes()
