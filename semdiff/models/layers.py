"""The parts of the networks: label convolution, SPADE, attention, residual blocks.

Everything is [B, H, W, C]. Parameters, norms, softmax and outputs are float32; `dtype` is what convolutions compute in.
"""

import math
import zlib
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax import struct

LABEL_CONVS = ("auto", "lookup", "onehot")
ATTENTIONS = ("dot", "cosine")


@struct.dataclass
class Labels:
    """What the network knows of a layout. ids [B,H,W]: a class 0..K-1; any other id is the zero vector (a masked or absent
    label). edges [B,H,W] 0/1: borders between instances, or None for networks without that channel."""

    ids: jax.Array
    edges: jax.Array | None = None

    def at(self, height: int) -> "Labels":
        """Nearest-resized to a coarser level: every stride-th pixel."""
        stride = self.ids.shape[1] // height
        return jax.tree.map(lambda a: a[:, ::stride, ::stride], self)


def timestep_embedding(time, width: int):
    """Sinusoids of `time` [B] on the 0..999 scale: cosines, then sines -> [B, width]."""
    frequencies = jnp.exp(-math.log(10000) * jnp.arange(width // 2) / (width // 2))
    angles = time.astype(jnp.float32)[:, None] * frequencies
    return jnp.concatenate([jnp.cos(angles), jnp.sin(angles), jnp.zeros((len(time), width % 2))], axis=1)


def upsample(x):
    """Nearest, twice the size."""
    b, h, w, c = x.shape
    return jnp.broadcast_to(x[:, :, None, :, None], (b, h, 2, w, 2, c)).reshape(b, 2 * h, 2 * w, c)


def downsample(x):
    """Mean of 2 x 2, half the size."""
    b, h, w, c = x.shape
    return x.reshape(b, h // 2, 2, w // 2, 2, c).mean((2, 4))


def group_normalise(x, groups: int, epsilon: float = 1e-5):
    """GroupNorm without scale and bias, in float32."""
    b, h, w, c = x.shape
    x = x.astype(jnp.float32).reshape(b, h * w, groups, c // groups)
    x = x - x.mean((1, 3), keepdims=True)
    x = x * jax.lax.rsqrt((x * x).mean((1, 3), keepdims=True) + epsilon)
    return x.reshape(b, h, w, c)


def label_conv(labels: Labels, kernel, method: str = "auto"):
    """A 3x3 same-padded convolution over one-hot labels (and the edge channel), kernel [3, 3, K (+ 1), C] -> [B, H, W, C].

    lookup: nine shifted table look-ups, added: the same numbers without K planes, at a cost that K does not change.
    onehot: the planes themselves and an ordinary convolution. auto: lookup on CPU, where it was measured to be cheaper
    (benchmarks/label_conv.py); planes elsewhere, since TPUs dislike gathers.
    """
    if method == "auto":
        method = "lookup" if jax.default_backend() == "cpu" else "onehot"
    num_classes = kernel.shape[2] - (labels.edges is not None)
    known = (labels.ids >= 0) & (labels.ids < num_classes)
    if method == "onehot":
        planes = jax.nn.one_hot(jnp.where(known, labels.ids, -1), num_classes, dtype=kernel.dtype)
        if labels.edges is not None:
            planes = jnp.concatenate([planes, labels.edges[..., None].astype(kernel.dtype)], axis=-1)
        return jax.lax.conv_general_dilated(
            planes, kernel, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
        )
    table = jnp.pad(kernel[:, :, :num_classes], ((0, 0), (0, 0), (0, 1), (0, 0)))  # row K is the zero vector
    ids = jnp.where(known, labels.ids, num_classes)
    if (
        labels.edges is not None
    ):  # an edge pixel reads from a second copy of the table, the edge's weights added
        table = jnp.concatenate([table, table + kernel[:, :, num_classes:]], axis=2)
        ids = ids + (num_classes + 1) * (labels.edges > 0)
    _, h, w = ids.shape
    ids = jnp.pad(ids, ((0, 0), (1, 1), (1, 1)), constant_values=num_classes)
    taps = [
        jnp.take(table[i, j], ids[:, i : i + h, j : j + w], axis=0, mode="clip")
        for i in range(3)
        for j in range(3)
    ]
    return sum(taps[1:], taps[0])


class LabelConv(nn.Module):
    """`label_conv` with its parameters."""

    features: int
    num_classes: int
    edge_channel: bool
    method: str = "auto"
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, labels: Labels):
        if self.edge_channel != (labels.edges is not None):
            have, want = ("no edges", "an edge map") if self.edge_channel else ("an edge map", "no edges")
            raise ValueError(
                f"this network's edge_channel is {self.edge_channel}: give it {want}, got {have}"
            )
        shape = (3, 3, self.num_classes + self.edge_channel, self.features)
        kernel = self.param("kernel", nn.initializers.lecun_normal(), shape)
        bias = self.param("bias", nn.initializers.zeros, (self.features,))
        return label_conv(labels, kernel.astype(self.dtype), self.method) + bias.astype(self.dtype)


def conv3x3(features: int, dtype, stride: int = 1, zero: bool = False):
    init = nn.initializers.zeros if zero else nn.initializers.lecun_normal()
    return nn.Conv(
        features, (3, 3), strides=(stride, stride), padding=((1, 1), (1, 1)), dtype=dtype, kernel_init=init
    )


class GroupNorm(nn.Module):
    """GroupNorm with scale and bias. Takes what SPADE takes, so that either can be a block's norm."""

    channels: int
    groups: int = 32

    @nn.compact
    def __call__(self, x, labels: Labels | None = None, modulation=None):
        del labels, modulation
        scale = self.param("scale", nn.initializers.ones, (self.channels,))
        bias = self.param("bias", nn.initializers.zeros, (self.channels,))
        return group_normalise(x, math.gcd(self.groups, self.channels)) * scale + bias

    def modulation(self, labels: Labels, height: int):
        del labels, height


class Spade(nn.Module):
    """Spatially-adaptive normalisation (SPADE): norm(x) (1 + gamma(layout)) + beta(layout).

    `modulation` is the part that depends on the layout alone, [B, h, w, 2C]: gamma, then beta.
    """

    channels: int
    hidden: int
    num_classes: int
    edge_channel: bool
    label_conv: str = "auto"
    groups: int = 32
    dtype: Any = jnp.float32

    def setup(self):
        self.labels = LabelConv(self.hidden, self.num_classes, self.edge_channel, self.label_conv, self.dtype)
        self.modulation_conv = conv3x3(2 * self.channels, self.dtype)

    def modulation(self, labels: Labels, height: int):
        return self.modulation_conv(nn.relu(self.labels(labels.at(height))))

    def __call__(self, x, labels: Labels | None, modulation=None):
        if modulation is None:
            modulation = self.modulation(labels, x.shape[1])
        gamma, beta = jnp.split(modulation.astype(jnp.float32), 2, axis=-1)
        return group_normalise(x, math.gcd(self.groups, self.channels)) * (1 + gamma) + beta


class Attention(nn.Module):
    """Self-attention over all positions, added to its input.

    dot: softmax(<q, k> / sqrt(width)) per head (the released networks). cosine: softmax(alpha <q, k> / (|q| |k|)) with a
    learned alpha per head (the attention of SDM's paper). Channels of qkv are ordered head, then q k v, as in the released
    networks.
    """

    channels: int
    heads: int
    kind: str = "dot"
    groups: int = 32
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x):
        b, h, w, c = x.shape
        width = c // self.heads
        normed = GroupNorm(c, self.groups, name="norm")(x).astype(self.dtype).reshape(b, h * w, c)
        qkv = nn.Dense(3 * c, dtype=self.dtype, name="qkv")(normed)
        q, k, v = jnp.moveaxis(qkv.reshape(b, h * w, self.heads, 3, width), 3, 0)  # each [B, L, heads, width]
        if self.kind == "cosine":
            alpha = self.param("alpha", nn.initializers.constant(10.0), (self.heads,))
            q, k = (
                a / (jnp.linalg.norm(a.astype(jnp.float32), axis=-1, keepdims=True) + 1e-6) for a in (q, k)
            )
            q = q * alpha[:, None]
        else:
            q = q * width**-0.5
        logits = jnp.einsum("blhd,bmhd->bhlm", q, k, preferred_element_type=jnp.float32)
        weights = jax.nn.softmax(logits, axis=-1).astype(self.dtype)
        mixed = jnp.einsum("bhlm,bmhd->blhd", weights, v).reshape(b, h * w, c)
        out = nn.Dense(c, dtype=self.dtype, kernel_init=nn.initializers.zeros, name="out")(mixed)
        return x + out.reshape(b, h, w, c)


class Dropout(nn.Module):
    """Dropout whose mask depends on the example's own key; without keys, the identity."""

    rate: float

    def __call__(self, x, keys=None):
        if keys is None or self.rate == 0:
            return x
        layer = zlib.crc32("/".join(self.scope.path).encode()) & 0x7FFFFFFF
        keep = jax.vmap(
            lambda k: jax.random.bernoulli(jax.random.fold_in(k, layer), 1 - self.rate, x.shape[1:])
        )
        return jnp.where(keep(keys), x / (1 - self.rate), 0)


class ResBlock(nn.Module):
    """The residual block of ADM, its norms SPADE or plain, with an optional change of size inside."""

    in_channels: int
    channels: int
    norm: Any  # channels -> norm module
    scale_shift: bool = True
    resize: str = ""  # "", "up" or "down"
    dropout: float = 0.0
    dtype: Any = jnp.float32

    def setup(self):
        self.norm1, self.norm2 = self.norm(self.in_channels), self.norm(self.channels)
        self.conv1 = conv3x3(self.channels, self.dtype)
        self.conv2 = conv3x3(self.channels, self.dtype, zero=True)
        self.time = nn.Dense((1 + self.scale_shift) * self.channels, dtype=self.dtype)
        self.drop = Dropout(self.dropout)
        if self.in_channels != self.channels:
            self.skip = nn.Conv(self.channels, (1, 1), dtype=self.dtype)

    def resized(self, x):
        if not self.resize:
            return x
        return upsample(x) if self.resize == "up" else downsample(x)

    def modulation(self, labels: Labels, height: int) -> dict:
        """What both norms need of the layout, for an input of this height."""
        after = 2 * height if self.resize == "up" else height // 2 if self.resize == "down" else height
        return {"norm1": self.norm1.modulation(labels, height), "norm2": self.norm2.modulation(labels, after)}

    def __call__(self, x, emb, labels: Labels | None, modulation: dict | None, dropout_keys):
        modulation = modulation or {"norm1": None, "norm2": None}
        h = nn.silu(self.norm1(x, labels, modulation["norm1"])).astype(self.dtype)
        h = self.conv1(self.resized(h))
        x = self.resized(x)
        emb = self.time(nn.silu(emb))[:, None, None, :]
        if self.scale_shift:
            scale, shift = jnp.split(emb.astype(jnp.float32), 2, axis=-1)
            h = self.norm2(h, labels, modulation["norm2"]) * (1 + scale) + shift
        else:
            h = self.norm2(h + emb, labels, modulation["norm2"])
        h = self.conv2(self.drop(nn.silu(h), dropout_keys).astype(self.dtype))
        return (x if self.in_channels == self.channels else self.skip(x)) + h
