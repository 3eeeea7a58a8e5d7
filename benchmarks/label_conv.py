"""A 3x3 convolution over one-hot labels, against nine table look-ups: which is cheaper on this backend?

python benchmarks/label_conv.py
"""

import time

import jax
import jax.numpy as jnp
import numpy as np

from semdiff.models.layers import Labels, label_conv


def milliseconds(function, *args, repeats: int = 10) -> float:
    """The fastest of several runs: what the machine can do when nothing else wants it."""
    jax.block_until_ready(function(*args))
    times = []
    for _ in range(repeats):
        began = time.perf_counter()
        jax.block_until_ready(function(*args))
        times.append(time.perf_counter() - began)
    return 1000 * min(times)


def main(batch: int = 8, size: int = 64, hidden: int = 128):
    print(
        f"{jax.devices()[0].device_kind}, {batch} x {size} x {size}, K -> {hidden} channels, float32, milliseconds"
    )
    print(f"{'K':>4} {'onehot fwd':>11} {'fwd+bwd':>8} {'lookup fwd':>11} {'fwd+bwd':>8}")
    rng = np.random.default_rng(0)
    for num_classes in (12, 64, 183):
        labels = Labels(jnp.asarray(rng.integers(0, num_classes, (batch, size, size)), jnp.int32))
        kernel = jnp.asarray(rng.normal(size=(3, 3, num_classes, hidden)), jnp.float32)
        row = []
        for method in ("onehot", "lookup"):
            forward = jax.jit(lambda k, y, m=method: label_conv(y, k, m))
            both = jax.jit(jax.value_and_grad(lambda k, y, m=method: (label_conv(y, k, m) ** 2).mean()))
            row += [milliseconds(forward, kernel, labels), milliseconds(both, kernel, labels)]
        print(f"{num_classes:>4} {row[0]:>11.1f} {row[1]:>8.1f} {row[2]:>11.1f} {row[3]:>8.1f}", flush=True)


if __name__ == "__main__":
    main()
