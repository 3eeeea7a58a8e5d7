"""Many devices: one training step, written for the whole batch, run under `jit` over a mesh or under `pmap`.

A strategy places state and batches, compiles the step, and hands the state back for saving. The step is told how to reduce
over devices by a `Collective`; under jit the arrays are global and there is nothing to do.
"""

import itertools
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils
from jax.experimental.layout import Layout, with_layout_constraint
from jax.sharding import AxisType, NamedSharding, PartitionSpec
from orbax.checkpoint import multihost

from semdiff.config import ConfigError, Train

# A leaf smaller than this is not worth splitting.
MIN_SPLIT_SIZE = 2**14

# Seconds for which processes wait for each other: of one that died they hear long before, by its missing heartbeat.
PATIENCE = 7 * 24 * 3600
_meetings = itertools.count()


def to_local(tree):
    """Arrays of this process, whole, from arrays that may be spread over several; every process must call it."""

    def localise(leaf):
        if leaf.is_fully_addressable:
            return leaf
        if leaf.is_fully_replicated:
            return leaf.addressable_data(0)
        return multihost_utils.process_allgather(leaf, tiled=True)

    return jax.tree.map(localise, tree)


@dataclass(frozen=True)
class Collective:
    """How a step sees the other devices: mean(tree) over all of them, gather(tree) of per-example arrays; whole(params,
    dtypes), the parameters for one pass, where each device has but its share of them."""

    mean: Callable = lambda tree: tree
    gather: Callable = lambda tree: tree
    whole: Callable = lambda params, dtypes: params


def in_order(tree):
    """The arrays, their last axis the closest in memory.

    On GPUs the gradient of a convolution's kernel comes in another order, and XLA would bring all that it meets into that
    order and back: the parameter, its average and both moments.
    """
    return jax.tree.map(lambda a: with_layout_constraint(a, Layout(tuple(range(a.ndim)))), tree)


def compile_init(init: Callable, **options) -> Callable:
    """jit for a function that runs once: on CPU, optimising it takes longer than running it."""
    plain = {"xla_backend_optimization_level": 0} if jax.default_backend() == "cpu" else None
    return jax.jit(init, compiler_options=plain, **options)


class Mesh:
    """jit over a mesh (data, fsdp): the batch is split over both axes, large parameters over fsdp."""

    def __init__(self, fsdp: int = 1, devices: Sequence | None = None):
        """devices: others than those of this run, to compile for."""
        count = len(devices or jax.devices())
        if fsdp < 1 or count % fsdp:
            raise ConfigError(f"config.train.fsdp is {fsdp}, which does not divide the {count} devices")
        axes = (AxisType.Auto, AxisType.Auto)
        self.mesh = jax.make_mesh((count // fsdp, fsdp), ("data", "fsdp"), axis_types=axes, devices=devices)
        self.replicated = NamedSharding(self.mesh, PartitionSpec())
        self.split = NamedSharding(self.mesh, PartitionSpec(("data", "fsdp")))

    def __str__(self):
        return f"jit over mesh {dict(self.mesh.shape)}"

    def _sharding(self, leaf) -> NamedSharding:
        fsdp = self.mesh.shape["fsdp"]
        dims = [d for d, n in enumerate(leaf.shape) if n % fsdp == 0]
        if fsdp == 1 or not dims or np.prod(leaf.shape) < MIN_SPLIT_SIZE:
            return self.replicated
        largest = max(dims, key=lambda d: leaf.shape[d])
        return NamedSharding(self.mesh, PartitionSpec(*[None] * largest, "fsdp"))

    def _whole(self, leaf, sharding: NamedSharding, dtype):
        """A split parameter, whole on every device, sent in the type that it is used in; its gradient is split again.

        Without this XLA may leave the weights where they are and send activations around instead, which are larger.
        """
        if sharding.is_fully_replicated:
            return leaf

        @jax.custom_vjp
        def gathered(leaf):
            return jax.lax.with_sharding_constraint(leaf.astype(dtype), self.replicated)

        def back(_, g):
            return (jax.lax.with_sharding_constraint(g.astype(leaf.dtype), sharding),)

        gathered.defvjp(lambda leaf: (gathered(leaf), None), back)
        return gathered(leaf)

    def create_state(self, init: Callable, argument):
        """init(argument), made where it will live."""
        shardings = jax.tree.map(self._sharding, jax.eval_shape(init, argument))
        return compile_init(init, out_shardings=shardings)(argument)

    def saved_shapes(self, init: Callable, key):
        """What `saved_form` of a state made by init(key) is like, with nothing made."""
        return jax.tree.map(
            lambda a: jax.ShapeDtypeStruct(a.shape, a.dtype, sharding=self._sharding(a)),
            jax.eval_shape(init, key),
        )

    def saved_form(self, state):
        return state

    def from_saved(self, state):
        return state

    def place_batch(self, batch: dict) -> dict:
        return {k: jax.make_array_from_process_local_data(self.split, v) for k, v in batch.items()}

    def compile(self, step: Callable, state, batch: dict, key):
        """step(state, batch, key, collective) -> (state, metrics), ahead of time; also says what memory it takes."""
        compiled = self.lower(step, state, batch, key).compile()
        return compiled, compiled.memory_analysis()

    def lower(self, step: Callable, state, batch: dict, key) -> jax.stages.Lowered:
        shardings = jax.tree.map(lambda a: a.sharding, state.weights)
        platform = self.mesh.devices.flat[0].platform

        def whole(params, dtypes):
            return jax.tree.map(self._whole, params, shardings, dtypes)

        collective = Collective(whole=whole, mean=in_order if platform == "gpu" else lambda tree: tree)
        jitted = jax.jit(
            lambda s, b, k: step(s, b, k, collective),
            # On CPU, writing a state in place makes XLA copy most of it first.
            donate_argnums=() if platform == "cpu" else 0,
            out_shardings=(jax.tree.map(lambda a: a.sharding, state), self.replicated),
        )
        return jitted.lower(state, batch, key)

    def metrics(self, metrics: dict) -> dict:
        return metrics


class Pmap:
    """pmap: state copied to every device, one shard of the batch each. Kept for those who know it; same numbers."""

    def __init__(self, fsdp: int = 1):
        if fsdp != 1:
            raise ConfigError(
                f"config.train.fsdp is {fsdp}, but the pmap strategy cannot split parameters; use jit"
            )
        if jax.process_count() > 1:
            raise ConfigError(
                "config.train.strategy is pmap, which cannot save from several processes; use jit"
            )
        self.devices = jax.local_devices()

    def __str__(self):
        return f"pmap over {jax.device_count()} devices"

    def create_state(self, init: Callable, argument):
        return self.from_saved(compile_init(init)(argument))

    def saved_shapes(self, init: Callable, key):
        place = jax.sharding.SingleDeviceSharding(self.devices[0])
        return jax.tree.map(
            lambda a: jax.ShapeDtypeStruct(a.shape, a.dtype, sharding=place), jax.eval_shape(init, key)
        )

    def saved_form(self, state):
        return jax.tree.map(lambda a: a[0], state)

    def from_saved(self, state):
        copy = jax.pmap(lambda s, _: s, in_axes=(None, 0), devices=self.devices)
        return copy(state, jnp.zeros(len(self.devices)))

    def place_batch(self, batch: dict) -> dict:
        n = len(self.devices)
        return {k: v.reshape(n, len(v) // n, *v.shape[1:]) for k, v in batch.items()}

    def compile(self, step: Callable, state, batch: dict, key):
        del state, batch, key

        def gather(tree):
            return jax.tree.map(lambda a: jax.lax.all_gather(a, "batch", tiled=True), tree)

        collective = Collective(lambda tree: jax.lax.pmean(tree, "batch"), gather)
        mapped = jax.pmap(
            lambda s, b, k: step(s, b, k, collective),
            axis_name="batch",
            in_axes=(0, 0, None),
            donate_argnums=0,
        )
        return mapped, None

    def metrics(self, metrics: dict) -> dict:
        return {k: v[0] for k, v in metrics.items()}


STRATEGIES: dict[str, type[Mesh] | type[Pmap]] = {"jit": Mesh, "pmap": Pmap}


def build(config: Train) -> Mesh | Pmap:
    for key in ("steps", "batch_size", "accumulate", "log_every", "eval_every", "save_every"):
        if getattr(config, key) < 1:
            raise ConfigError(
                f"config.train.{key} is {getattr(config, key)}; it must be at least 1 "
                "(an interval longer than the run switches it off)"
            )
    strategy = STRATEGIES[config.strategy](config.fsdp)
    devices = jax.device_count()
    if config.batch_size % (devices * config.accumulate):
        raise ConfigError(
            f"config.train.batch_size is {config.batch_size}; it must be a multiple of devices x accumulate = "
            f"{devices} x {config.accumulate}"
        )
    return strategy


def initialise(coordinator: str | None, processes: int | None, process: int | None):
    """Join the other processes of a run, where there are any. coordinator: HOST:PORT, or auto, where a cluster tells."""
    if coordinator == "auto":
        jax.distributed.initialize()
    elif coordinator:
        jax.distributed.initialize(coordinator, processes, process)
    elif processes is not None or process is not None:
        raise ConfigError("--processes and --process need --coordinator=HOST:PORT of process 0")


def is_main() -> bool:
    """Whether this is process 0, which speaks and writes for all."""
    return jax.process_index() == 0


def meet():
    """Until every process is here, however long the others work. All must come to the same meetings, in the same order.

    Ahead of whatever processes exchange after unequal work: an exchange itself waits half a minute on some machines.
    """
    if jax.process_count() > 1:
        wait = multihost.get_barrier_sync_fn()
        wait(key=f"semdiff-{next(_meetings)}", timeout_ms=1000 * PATIENCE)


def from_main(data: bytes) -> bytes:
    """Process 0's bytes, in every process."""
    if jax.process_count() == 1:
        return data
    meet()
    length = int(multihost_utils.broadcast_one_to_all(np.int32(len(data))))
    mine = np.frombuffer(data[:length].ljust(length, b"\0"), np.uint8)
    return multihost_utils.broadcast_one_to_all(mine).tobytes()


def of_all(array: np.ndarray | np.generic) -> np.ndarray:
    """[processes, ...] from arrays of one shape and type, bit for bit: devices would cut 64 bits to 32."""
    array = np.asarray(array)
    if jax.process_count() == 1:
        return array[None]
    meet()
    parts = np.asarray(multihost_utils.process_allgather(np.frombuffer(array.tobytes(), np.uint8)))
    return np.frombuffer(parts.tobytes(), array.dtype).reshape(-1, *array.shape)


def gathered(value) -> list:
    """What JSON can say of every process, in their order, in each of them."""
    said = json.dumps(value).encode()
    longest = int(of_all(np.int64(len(said))).max())
    return [json.loads(words.tobytes()) for words in of_all(np.frombuffer(said.ljust(longest), np.uint8))]


def summed(counts):
    """A tree of whole numbers, added over the processes."""

    def total(value):
        if not np.issubdtype(np.asarray(value).dtype, np.integer):
            raise TypeError(
                f"whole numbers are added over processes, got {np.asarray(value).dtype}: use `joined`"
            )
        return of_all(np.asarray(value, np.int64)).sum(0)

    return jax.tree.map(total, counts)


def share(items: Sequence) -> Sequence:
    """What of a list this process does: every n-th, so that each has as much as the others or one more."""
    return items[jax.process_index() :: jax.process_count()]


def joined(mine: np.ndarray, total: int) -> np.ndarray:
    """[total, ...], in every process, from what each made of its `share` of `total` items; in the order of the items."""
    most = -(-total // jax.process_count())
    filled = np.zeros((most, *mine.shape[1:]), mine.dtype)
    filled[: len(mine)] = mine
    return of_all(filled).swapaxes(0, 1).reshape(-1, *mine.shape[1:])[:total]
