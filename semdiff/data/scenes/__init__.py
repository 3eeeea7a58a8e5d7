"""The embedded world: `world` is the source, `plan` what scenes are made of, `places` composes, `draw` makes the picture.

No files: a scene is a pure function of seed and number.
"""

from semdiff.data.scenes.world import Scenes

__all__ = ["Scenes"]
