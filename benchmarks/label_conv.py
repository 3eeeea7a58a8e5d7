"""What a layout costs a SPADE norm, forward and backward: table look-ups against one-hot planes, on this backend.

    python benchmarks/label_conv.py

The whole path is timed, labels -> hidden -> gamma and beta with the gradients of all weights: alone, the first
convolution looks cheaper than it is, since what it gives is used three times.
"""

import time

import jax
import jax.numpy as jnp
import numpy as np

from semdiff.models.layers import Labels, modulation


def milliseconds(functions: dict, arguments, rounds: int = 7) -> dict:
    """The fastest of several runs of each, in turn: what the machine can do when nothing else wants it."""
    times = {name: [] for name in functions}
    for function in functions.values():
        jax.block_until_ready(function(*arguments))
    for _ in range(rounds):
        for name, function in functions.items():
            began = time.perf_counter()
            jax.block_until_ready(function(*arguments))
            times[name].append(time.perf_counter() - began)
    return {name: 1000 * min(values) for name, values in times.items()}


def compiled(method: str, labels: Labels, weight, arguments):
    def loss(*given):
        return (weight * modulation(labels, *given, method)).mean()

    return jax.jit(jax.value_and_grad(loss, argnums=(0, 1))).lower(*arguments).compile()


def main(batch: int = 4, height: int = 48, width: int = 64, channels: int = 128):
    device = jax.devices()[0].device_kind
    print(
        f"{device}, {batch} x {height} x {width}, K -> hidden -> {channels} channels, float32, with gradients"
    )
    print(
        "| hidden | K | look-ups, ms | planes, ms | look-ups, MiB | planes, MiB |\n|---:|---:|---:|---:|---:|---:|"
    )
    rng = np.random.default_rng(0)
    normal = lambda *shape: jnp.asarray(0.1 * rng.normal(size=shape), jnp.float32)  # noqa: E731
    for hidden in (16, 128):
        for classes in (12, 64, 151):
            labels = Labels(jnp.asarray(rng.integers(0, classes, (batch, height, width)), jnp.int32))
            first = normal(3, 3, classes, hidden), normal(hidden)
            second = normal(3, 3, hidden, channels), normal(channels)
            weight = normal(batch, height, width, channels)
            programs = {m: compiled(m, labels, weight, (first, second)) for m in ("lookup", "onehot")}
            took = milliseconds(programs, (first, second))
            room = {m: p.memory_analysis().temp_size_in_bytes / 2**20 for m, p in programs.items()}
            print(
                f"| {hidden} | {classes} | {took['lookup']:.1f} | {took['onehot']:.1f} | "
                f"{room['lookup']:.0f} | {room['onehot']:.0f} |",
                flush=True,
            )


if __name__ == "__main__":
    main()
