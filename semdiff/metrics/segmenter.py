"""A small segmenter: an encoder-decoder of three levels, trained on real pairs, to read generated images with."""

from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax


class Segmenter(nn.Module):
    """uint8 [B, H, W, 3] -> logits [B, H, W, K]. Any size; heights and widths are halved twice, rounding up."""

    num_classes: int
    width: int = 32

    @nn.compact
    def __call__(self, image, features: bool = False):
        """`features`: the deepest level's, averaged over positions, [B, 4 width], in place of logits."""

        def block(x, width):
            for _ in range(2):
                y = nn.Conv(width, (3, 3))(x)
                y = nn.silu(nn.GroupNorm(num_groups=8)(y))
                x = y if x.shape[-1] != width else x + y
            return x

        x = image.astype(jnp.float32) / 127.5 - 1
        skips = []
        for factor in (1, 2, 4):
            x = block(x, factor * self.width)
            skips.append(x)
            if factor < 4:
                x = nn.max_pool(x, (2, 2), (2, 2), padding="SAME")
        if features:
            return x.mean((1, 2))
        for factor in (2, 1):
            skip = skips[factor // 2]
            x = jax.image.resize(x, (*skip.shape[:3], x.shape[-1]), "nearest")
            x = block(jnp.concatenate([x, skip], -1), factor * self.width)
        return nn.Conv(self.num_classes, (1, 1))(x)


def train(
    model: Segmenter,
    batches: Iterable[dict],
    steps: int,
    seed: int,
    class_weights: np.ndarray,
    rate: float = 2e-3,
    report: Callable[[int, float], None] | None = None,
):
    """Parameters after `steps` of AdamW on cross-entropy, each pixel weighted by its class; one-cycle rate."""
    optimizer = optax.adamw(optax.cosine_onecycle_schedule(steps, rate), weight_decay=1e-4)

    @jax.jit
    def step(params, state, image, layout):
        def loss_of(params):
            logits = model.apply({"params": params}, image)
            losses = optax.softmax_cross_entropy_with_integer_labels(logits, layout)
            counted = jnp.asarray(class_weights, jnp.float32)[layout]
            return (losses * counted).sum() / jnp.maximum(counted.sum(), 1)

        loss, grads = jax.value_and_grad(loss_of)(params)
        updates, state = optimizer.update(grads, state, params)
        return optax.apply_updates(params, updates), state, loss

    params = state = None
    for i, batch in zip(range(steps), batches):
        if params is None:
            params = model.init(jax.random.key(seed), batch["image"][:1])["params"]
            state = optimizer.init(params)
        params, state, loss = step(params, state, batch["image"], batch["layout"])
        if report and (i + 1) % 100 == 0:
            report(i + 1, float(loss))
    return params


LARGEST_RATIO = 30.0  # of a class's weight to the smallest one


def balanced(pixels: np.ndarray, ignore: Collection[int] = ()) -> np.ndarray:
    """Weights [K] between blindness to rare classes and blindness to all others: (share of the pixels)^-1/2, but none more
    than LARGEST_RATIO times the smallest. A class without a pixel among those counted has the largest weight, one of
    `ignore` has 0.
    """
    counted = ~np.isin(np.arange(len(pixels)), list(ignore))
    seen = counted & (pixels > 0)
    weights = np.zeros(len(pixels))
    if seen.any():
        weights[seen] = pixels[seen] ** -0.5
        weights[seen] = np.minimum(weights[seen], LARGEST_RATIO * weights[seen].min())
        weights /= weights.max()
    weights[counted & ~seen] = 1
    return weights


@dataclass(frozen=True)
class Reader:
    """A trained segmenter: images uint8 [N, H, W, 3] -> class ids [N, H, W], or features [N, 4 width]."""

    model: Segmenter
    params: Any
    batch: int = 32

    def __call__(self, images: np.ndarray) -> np.ndarray:
        return self._over(images, self._ids)

    def features(self, images: np.ndarray) -> np.ndarray:
        return self._over(images, self._features)

    @cached_property
    def _ids(self) -> Callable:
        return jax.jit(
            lambda params, x: jnp.argmax(self.model.apply({"params": params}, x), -1)  # type: ignore[arg-type]
        )

    @cached_property
    def _features(self) -> Callable:
        return jax.jit(lambda params, x: self.model.apply({"params": params}, x, features=True))

    def _over(self, images: np.ndarray, run: Callable) -> np.ndarray:
        """Part by part, each filled up to one compiled size."""
        parts = []
        for start in range(0, max(len(images), 1), self.batch):  # of no images: nothing, in the right shape
            part = images[start : start + self.batch]
            filled = np.concatenate([part, np.zeros((self.batch - len(part), *part.shape[1:]), part.dtype)])
            parts.append(np.asarray(run(self.params, filled))[: len(part)])
        return np.concatenate(parts)
