"""A picture of image and layout emerging together: the state at some times of a chain, and what is predicted there.

python benchmarks/emerge.py runs/gcdp "a city street at night with a car" docs/gcdp_emerging.png
"""

import sys

import jax
import jax.numpy as jnp
import numpy as np

import semdiff
from semdiff import draw
from semdiff.api import Model
from semdiff.arrays import told
from semdiff.diffusion import samplers
from semdiff.methods.space import to_pixels
from semdiff.sampling import tasks
from semdiff.sampling.chains import Chain, build_times

SHOWN = 8  # times


def trajectory(loaded: Model, example: dict) -> tuple:
    """(times, states, predictions) of the chain of one example, all along it."""
    method, c = loaded.trained.method, loaded.settings
    [task] = tasks.tasks_of(method, example, c, loaded.size)
    chain, times = Chain.build(method, c), build_times(method.image.schedule, c)
    condition, keys = jax.tree.map(lambda a: a[None], task.given), task.key[None]

    @jax.jit
    def run(params):
        start, _ = chain.start(params, condition, keys, times[0], task.canvas)
        denoise_fn = chain.denoise_fn(params, condition, keys)
        steps = samplers.fold_in(keys, 1)
        return samplers.trajectory(denoise_fn, method.process, chain.sampler, times, start, steps)

    _, states, predictions = run(loaded._params)
    return times, states, predictions


def main(model: str, caption: str, path: str):
    loaded = semdiff.load(model)
    method = loaded.trained.method
    if method.process.layout is None:
        raise SystemExit(
            f"{model} is given layouts and makes none: there is nothing to see of a layout emerging"
        )
    [example] = told(loaded.trained, [{"name": "caption"}], [caption])
    times, states, predictions = trajectory(loaded, example)
    chosen = np.round(np.linspace(0, len(times) - 2, SHOWN)).astype(int)
    pixels = lambda x: np.asarray(to_pixels(x))  # noqa: E731
    classes = lambda y: draw.colourise(np.asarray(y), loaded.palette)  # noqa: E731
    rows = [
        [pixels(states.image[i][0]) for i in chosen],
        [classes(states.layout[i][0]) for i in chosen],
        [pixels(predictions.image.x0[i][0]) for i in chosen],
        [classes(jnp.argmax(predictions.layout[i][0], -1)) for i in chosen],
    ]
    headers = [f"t = {times[i]:g}" for i in chosen]
    titles = ["x_t", "y_t", "x_0 predicted", "y_0 likeliest"]
    draw.save_png(path, draw.grid(rows, headers=headers, titles=titles, scale=max(1, 96 // loaded.size[0])))
    print(path)


if __name__ == "__main__":
    if len(sys.argv) != 4:
        sys.exit(__doc__)
    main(*sys.argv[1:])
