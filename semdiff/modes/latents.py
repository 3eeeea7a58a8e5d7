"""--mode=latents: encode the training images once, for trainings that then compute no autoencoder.

Writes the folder config.data.latents, else WORKDIR/latents. Files that are whole are kept: a run that was stopped goes on.
"""

from collections.abc import Iterator
from pathlib import Path

import jax
import numpy as np

from semdiff import pretrained
from semdiff.config import ConfigError, Experiment
from semdiff.data import latents
from semdiff.data.source import Source
from semdiff.machine import logs, parallel
from semdiff.machine.paths import local_path, prepare_workdir, write_json
from semdiff.methods import build, space

BATCH = 8


def encode(config: Experiment, workdir: Path) -> Path:
    """The processes of a run share the files."""
    opened = build.opened(config, workdir, encoded=False)
    inside = opened.method.space
    if not isinstance(inside, space.Latents):
        raise ConfigError("config.space.kind is pixels: there is nothing to encode images into")
    params = pretrained.space_params(config, opened, workdir)
    default = prepare_workdir(workdir) / "latents"
    folder = local_path(config.data.latents, "config.data.latents") if config.data.latents else default
    source, size = opened.source, config.data.size
    about = pretrained.about_latents(source, config, inside, params)
    if parallel.is_main():
        prepare_workdir(folder)
        if (folder / latents.ABOUT).exists() and latents.read_about(folder) != about:
            raise ConfigError(
                f"{folder} holds latents of other data, or of another autoencoder: choose another folder"
            )
        write_json(folder / latents.ABOUT, about)
    parallel.meet()
    paths = latents.files(folder, len(source))
    mine = [number for number in parallel.share(range(len(paths))) if not paths[number].exists()]
    total = sum(len(latents.of_file(number, len(source))) for number in mine)
    progress, done = logs.Progress(total, unit="image", active=parallel.is_main()), 0
    program = jax.jit(inside.said)
    for number in mine:
        images = latents.of_file(number, len(source))
        latents.write_file(paths[number], records(program, params, source, images, size))
        done += len(images)
        progress.report(done)
    parallel.meet()
    logs.say(f"latents: {folder}; to train with them: --config.data.latents={folder}", parallel.is_main())
    return folder


def records(
    program, params: dict, source: Source, images: range, size: tuple[int, int]
) -> Iterator[np.ndarray]:
    """Of each image [2, h, w, 2C]: as it is and mirrored."""
    for start in range(images.start, images.stop, BATCH):
        chosen = range(start, min(start + BATCH, images.stop))
        pixels = np.stack([latents.fitted(source[i], size) for i in chosen])
        filled = np.concatenate([pixels, np.repeat(pixels[-1:], BATCH - len(chosen), axis=0)])
        both = [np.asarray(program(params, a))[: len(chosen)] for a in (filled, filled[:, :, ::-1])]
        yield from np.stack(both, axis=1)
