"""SDM on the embedded world at 64 x 64: the model `scenes` that the package brings along. No download.

Command:  make models
"""

import ml_collections

from semdiff import presets


def get_config() -> ml_collections.ConfigDict:
    return presets.shipped_scenes()
