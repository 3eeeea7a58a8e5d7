"""The parts of the networks: label convolution, SPADE, attention, residual blocks.

Everything is [B, H, W, C]. Parameters, norms, softmax and outputs are float32; `dtype` is what convolutions compute in.
"""

import math
import zlib
from collections.abc import Sequence
from functools import partial
from typing import Any, Literal

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax import struct

from semdiff.models import initial
from semdiff.models.target import on_cpu, on_gpu

LabelConvKind = Literal["auto", "lookup", "onehot"]
AttentionKind = Literal["dot", "cosine"]

Dense = partial(nn.Dense, kernel_init=initial.lecun)
Embed = partial(nn.Embed, embedding_init=initial.embedding)


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

    onehot: the planes themselves and an ordinary convolution. lookup: nine shifted table look-ups, added: the same numbers
    without K planes, at a cost that K does not change. auto: look-ups where the program is for a CPU, where they
    were measured to cost less at every K and width (benchmarks/label_conv.py); planes elsewhere, since TPUs dislike gathers.
    """
    look_up = on_cpu() if method == "auto" else method == "lookup"
    return _lookup_conv(labels, kernel) if look_up else _plane_conv(labels, kernel)


def _plane_conv(labels: Labels, kernel):
    num_classes = kernel.shape[2] - (labels.edges is not None)
    # Not jax.nn.one_hot, a comparison that is converted: XLA's space-to-batch pass for TPUs aborts on that before a
    # convolution (PropagateOnBackpropFilterConv makes a select of a float and a bool).
    one, zero = jnp.ones((), kernel.dtype), jnp.zeros((), kernel.dtype)
    planes = jnp.where(labels.ids[..., None] == jnp.arange(num_classes), one, zero)
    if labels.edges is not None:
        planes = jnp.concatenate([planes, labels.edges[..., None].astype(kernel.dtype)], axis=-1)
    return convolve(planes, kernel)


def _lookup_conv(labels: Labels, kernel):
    num_classes = kernel.shape[2] - (labels.edges is not None)
    known = (labels.ids >= 0) & (labels.ids < num_classes)
    table = jnp.pad(kernel[:, :, :num_classes], ((0, 0), (0, 0), (0, 1), (0, 0)))  # row K is the zero vector
    ids = jnp.where(known, labels.ids, num_classes)
    if labels.edges is not None:
        # an edge pixel reads from a second copy of the table, the edge's weights added
        table = jnp.concatenate([table, table + kernel[:, :, num_classes:]], axis=2)
        ids = ids + (num_classes + 1) * (labels.edges > 0)
    return _look_up(table, ids, num_classes).astype(kernel.dtype)


@partial(jax.custom_vjp, nondiff_argnums=(2,))
def _look_up(table, ids, outside: int):
    """The sum over the nine taps of table[tap, id there], in float32; `outside` is the row of what lies beyond the border.

    A loop over the rows of the kernel, since its result is kept: without one, XLA looks everything up again for each of
    its uses, in the gradient in an order that costs more than the convolution itself.
    """

    def add_row(total, row):
        tables, seen = row
        looked_up = (jnp.take(tables[j], seen[j], axis=0, mode="clip") for j in range(3))
        return sum((rows.astype(jnp.float32) for rows in looked_up), total), None

    zero = jnp.zeros((*ids.shape, table.shape[-1]), jnp.float32)
    return jax.lax.scan(add_row, zero, (table, _shifted(ids, outside)))[0]


def _shifted(ids, outside: int):
    """ids [B,H,W] -> what each of the nine taps sees, [3,3,B,H,W]."""
    _, h, w = ids.shape
    ids = jnp.pad(ids, ((0, 0), (1, 1), (1, 1)), constant_values=outside)
    return jnp.stack([jnp.stack([ids[:, i : i + h, j : j + w] for j in range(3)]) for i in range(3)])


def _look_up_forward(table, ids, outside: int):
    return _look_up(table, ids, outside), (ids, jnp.zeros((0, *table.shape), table.dtype))


def _look_up_gradient(outside: int, kept, g):
    """Rows of g, added up by the id that each tap saw; one tap after the other, so that g is never held nine times."""
    ids, like = kept
    _, _, _, rows, features = like.shape
    g = g.reshape(-1, features)
    add_up = lambda seen: jax.ops.segment_sum(g, seen.reshape(-1), rows)  # noqa: E731
    table = jax.lax.map(add_up, _shifted(ids, outside).reshape(9, *ids.shape))
    return table.reshape(3, 3, rows, features).astype(like.dtype), None


_look_up.defvjp(_look_up_forward, _look_up_gradient)


@jax.custom_vjp
def add_bias(x, bias):
    """x [..., C] + bias [C]."""
    return x + bias


def _bias_gradient(_, g):
    rows = g.reshape(-1, g.shape[-1])
    if (
        on_cpu()
    ):  # XLA adds up long columns in one slow thread; a product with ones does not take a tenth of that
        return g, jnp.ones(len(rows), rows.dtype) @ rows
    return g, rows.sum(0)


add_bias.defvjp(lambda x, bias: (x + bias, None), _bias_gradient)


class Conv(nn.Module):
    """A convolution of `size` x `size`, padded to keep the size (over `stride`)."""

    features: int
    size: int
    stride: int = 1
    zero: bool = False
    dtype: Any = jnp.float32

    @nn.compact
    def weights(self, channels: int):
        """Kernel and bias for an input of so many channels, in the type of the computation."""
        init = nn.initializers.zeros if self.zero else initial.lecun
        kernel = self.param("kernel", init, (self.size, self.size, channels, self.features))
        bias = self.param("bias", nn.initializers.zeros, (self.features,))
        return kernel.astype(self.dtype), bias.astype(self.dtype)

    def __call__(self, x):
        return conv(x.astype(self.dtype), *self.weights(x.shape[-1]), self.stride)


def conv(x, kernel, bias, stride: int = 1):
    return add_bias(convolve(x, kernel, stride), bias)


def convolve(x, kernel, stride: int = 1, pad: Sequence[tuple[int, int]] | None = None):
    """x [B, H, W, I] with kernel [h, w, I, O], padded to keep the size (over `stride`), or by `pad`."""
    outputs = kernel.shape[-1]
    if on_gpu():
        x, kernel = _whole_lanes(x, kernel)
    pad = pad or [(n // 2, n // 2) for n in kernel.shape[:2]]
    numbers = ("NHWC", "HWIO", "NHWC")
    x = jax.lax.conv_general_dilated(x, kernel, (stride, stride), pad, dimension_numbers=numbers)
    return x if x.shape[-1] == outputs else x[..., :outputs]


def _whole_lanes(x, kernel, lanes: int = 8):
    """With channels of zeros up to a multiple of what tensor cores take at once: cuDNN has no use for them otherwise, and
    XLA pads float16 alone."""
    more, more_outputs = (-n % lanes for n in kernel.shape[2:])
    x = jnp.pad(x, ((0, 0), (0, 0), (0, 0), (0, more)))
    return x, jnp.pad(kernel, ((0, 0), (0, 0), (0, more), (0, more_outputs)))


class LabelConv(nn.Module):
    """`label_conv` with its parameters."""

    features: int
    num_classes: int
    edge_channel: bool
    method: str = "auto"
    dtype: Any = jnp.float32

    @nn.compact
    def weights(self, labels: Labels):
        """Kernel and bias, in the type of the computation."""
        if self.edge_channel != (labels.edges is not None):
            have, want = ("no edges", "an edge map") if self.edge_channel else ("an edge map", "no edges")
            raise ValueError(
                f"this network's edge_channel is {self.edge_channel}: give it {want}, got {have}"
            )
        shape = (3, 3, self.num_classes + self.edge_channel, self.features)
        kernel = self.param("kernel", initial.lecun, shape)
        bias = self.param("bias", nn.initializers.zeros, (self.features,))
        return kernel.astype(self.dtype), bias.astype(self.dtype)

    def __call__(self, labels: Labels):
        kernel, bias = self.weights(labels)
        return add_bias(label_conv(labels, kernel, self.method), bias)


def conv3x3(features: int, dtype, stride: int = 1, zero: bool = False):
    return Conv(features, 3, stride, zero, dtype)


class GroupNorm(nn.Module):
    """GroupNorm with scale and bias. Takes what SPADE takes, so that either can be a block's norm."""

    channels: int
    groups: int = 32
    epsilon: float = 1e-5

    @nn.compact
    def __call__(self, x, labels: Labels | None = None, modulation=None):
        del labels, modulation
        scale = self.param("scale", nn.initializers.ones, (self.channels,))
        bias = self.param("bias", nn.initializers.zeros, (self.channels,))
        return group_normalise(x, math.gcd(self.groups, self.channels), self.epsilon) * scale + bias

    def modulation(self, labels: Labels, height: int):
        del labels, height


def modulation(labels: Labels, first, second, method: str = "auto"):
    """conv(relu(label_conv(labels))): what a layout does to a norm. first, second: (kernel, bias)."""
    frugal = on_cpu() and method != "onehot"
    return (_frugal_modulation if frugal else _modulation)(labels, first, second, method)


def _modulation(labels: Labels, first, second, method: str):
    kernel, bias = first
    return conv(nn.relu(add_bias(label_conv(labels, kernel, method), bias)), *second)


@partial(jax.custom_vjp, nondiff_argnums=(3,))
def _frugal_modulation(labels: Labels, first, second, method: str):
    """`_modulation` that keeps nothing for its gradient: look-ups are done again in less time than it takes to store what
    they gave, which is the widest array of its level."""
    return _modulation(labels, first, second, method)


def _modulation_gradient(method: str, kept, g):
    labels, first, second = kept
    # XLA would find that it has seen this before, and keep it. It cannot know that no id is that small.
    nothing = (labels.ids[:1, :1, :1] == jnp.iinfo(jnp.int32).min).astype(labels.ids.dtype)
    again = labels.replace(ids=labels.ids + nothing)
    _, pull_back = jax.vjp(lambda first, second: _modulation(again, first, second, method), first, second)
    return None, *pull_back(g)


_frugal_modulation.defvjp(
    lambda labels, first, second, method: (
        _modulation(labels, first, second, method),
        (labels, first, second),
    ),
    _modulation_gradient,
)


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
        labels = labels.at(height)
        return modulation(
            labels, self.labels.weights(labels), self.modulation_conv.weights(self.hidden), self.label_conv
        )

    def __call__(self, x, labels: Labels | None, modulation=None):
        if modulation is None:
            assert labels is not None, "either labels or their modulation"
            modulation = self.modulation(labels, x.shape[1])
        gamma, beta = jnp.split(modulation.astype(jnp.float32), 2, axis=-1)
        return group_normalise(x, math.gcd(self.groups, self.channels)) * (1 + gamma) + beta


def _length(a):
    """The norm over channels, in float32; its gradient at 0 is 0."""
    square = jnp.square(a.astype(jnp.float32)).sum(-1, keepdims=True)
    return jnp.where(square > 0, jnp.sqrt(jnp.where(square > 0, square, 1.0)), 0.0)


def heads_of(channels: int, heads: int, head_width: int) -> int:
    """So many heads, or as many of this width as there are channels for."""
    count = heads or channels // head_width
    if count < 1 or channels % count:
        raise ValueError(
            f"attention over {channels} channels cannot be split into heads of width {head_width} "
            f"(heads={heads}): choose model.head_width or model.heads to divide {channels}"
        )
    return count


class Attention(nn.Module):
    """Self-attention over all positions, added to its input.

    dot: softmax(<q, k> / sqrt(width)) per head (the released networks). cosine: softmax(alpha <q, k> / (|q| |k|)) with a
    learned alpha per head (the attention of SDM's paper). Channels of qkv are ordered head, then q k v, as in the released
    networks.
    """

    channels: int
    heads: int
    kind: AttentionKind = "dot"
    groups: int = 32
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x):
        b, h, w, c = x.shape
        width = c // self.heads
        normed = GroupNorm(c, self.groups, name="norm")(x).astype(self.dtype).reshape(b, h * w, c)
        qkv = Dense(3 * c, dtype=self.dtype, name="qkv")(normed)
        q, k, v = jnp.moveaxis(qkv.reshape(b, h * w, self.heads, 3, width), 3, 0)  # each [B, L, heads, width]
        if self.kind == "cosine":
            alpha = self.param("alpha", nn.initializers.constant(10.0), (self.heads,))
            q, k = (a / (_length(a) + 1e-6) for a in (q, k))
            q = q * alpha[:, None]
        else:
            q = q * width**-0.5
        logits = jnp.einsum("blhd,bmhd->bhlm", q, k, preferred_element_type=jnp.float32)
        weights = jax.nn.softmax(logits, axis=-1).astype(self.dtype)
        mixed = jnp.einsum("bhlm,bmhd->blhd", weights, v).reshape(b, h * w, c)
        out = Dense(c, dtype=self.dtype, kernel_init=nn.initializers.zeros, name="out")(mixed)
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
    """The residual block of ADM, its norms SPADE or plain, with an optional change of size inside; `emb` may be None."""

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
        self.time = Dense((1 + self.scale_shift) * self.channels, dtype=self.dtype)
        self.drop = Dropout(self.dropout)
        if self.in_channels != self.channels:
            self.skip = Conv(self.channels, 1, dtype=self.dtype)

    def _told(self, emb) -> tuple:
        """What the embedding of time does: scale and shift behind the second norm, or a shift before it."""
        if emb is None:
            return None, 0
        emb = self.time(nn.silu(emb))[:, None, None, :]
        return tuple(jnp.split(emb.astype(jnp.float32), 2, axis=-1)) if self.scale_shift else (None, emb)

    def resized(self, x):
        if not self.resize:
            return x
        return upsample(x) if self.resize == "up" else downsample(x)

    def modulation(self, labels: Labels, height: int) -> dict:
        """What both norms need of the layout, for an input of this height."""
        after = 2 * height if self.resize == "up" else height // 2 if self.resize == "down" else height
        return {"norm1": self.norm1.modulation(labels, height), "norm2": self.norm2.modulation(labels, after)}

    def __call__(
        self, x, emb=None, labels: Labels | None = None, modulation: dict | None = None, dropout_keys=None
    ):
        modulation = modulation or {"norm1": None, "norm2": None}
        h = nn.silu(self.norm1(x, labels, modulation["norm1"])).astype(self.dtype)
        h = self.conv1(self.resized(h))
        x = self.resized(x)
        scale, shift = self._told(emb)
        h = self.norm2(h + shift if scale is None else h, labels, modulation["norm2"])
        if scale is not None:
            h = h * (1 + scale) + shift
        h = self.conv2(self.drop(nn.silu(h), dropout_keys).astype(self.dtype))
        return (x if self.in_channels == self.channels else self.skip(x)) + h
