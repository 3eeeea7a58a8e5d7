"""Whatever a model folder was trained with, set to its weights.

    python -m semdiff.main --config=configs/model.py:FOLDER --workdir=DIR --mode=sample --config.sample.layouts=LAYOUTS

FOLDER may be the name of a model that comes with semdiff: configs/model.py:scenes.
No training data are needed. Hardware and time: those of the model.
"""

from pathlib import Path

from semdiff.parser import as_config_dict
from semdiff.trained import folder_config


def get_config(folder: str):
    return as_config_dict(folder_config(Path(folder)))
