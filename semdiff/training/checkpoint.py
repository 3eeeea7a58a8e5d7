"""Checkpoints: the whole training state, its configuration, written asynchronously and restored exactly.

The position in the data is the step itself (the pipeline is a pure function of seed and step), so a run may be taken up by
another number of workers, devices or hosts.
"""

import contextlib
import math
from collections.abc import Sequence
from pathlib import Path

import jax
import orbax.checkpoint as ocp
from etils import epath

from semdiff.config import Experiment
from semdiff.machine import parallel
from semdiff.machine.paths import local_path
from semdiff.parser import as_dict, differences, from_dict

# What the weights mean; the rest of a configuration may change between the runs of one workdir.
IDENTITY = ("model", "space", "process", "layout")
# Of these: how it is computed or trained, or where it came from, not what the weights mean.
COMPUTATION = (
    *("dtype", "remat", "label_conv", "fused", "dropout", "guided", "weights"),
    *("kl_weight", "border_weight"),
)


class CheckpointError(ValueError):
    """A checkpoint that cannot be written or read, in words."""


class Checkpoints:
    """The checkpoints of one workdir, newest last."""

    def __init__(self, workdir: str | Path, keep: int = 3, save_every: int | None = None):
        self.directory = epath.Path(local_path(workdir, "--workdir")).resolve() / "checkpoints"
        options = ocp.CheckpointManagerOptions(
            max_to_keep=keep, save_interval_steps=save_every or 1, create=save_every is not None
        )
        self._manager = None
        parallel.meet()  # the manager's own meetings are short
        if save_every is not None or self.directory.exists():
            self._manager = ocp.CheckpointManager(
                self.directory, options=options, item_names=("state", "about")
            )

    @property
    def _of(self) -> ocp.CheckpointManager:
        if self._manager is None:
            raise CheckpointError(f"{self.directory} does not exist: there are no checkpoints")
        return self._manager

    def latest(self) -> int | None:
        """The newest step, as process 0 sees it: folders of a network are not seen alike everywhere."""
        seen = self._manager.latest_step() if self._manager else None
        step = parallel.from_main(b"" if seen is None else str(seen).encode())
        return int(step) if step else None

    def save(self, step: int, state, about: dict, force: bool = False):
        """Start saving; earlier checkpoints go only when a newer one is complete."""
        if step == self._of.latest_step():
            return
        try:
            arguments = ocp.args.Composite(
                state=ocp.args.StandardSave(_plain(state)), about=ocp.args.JsonSave(about)
            )
            self._of.save(step, args=arguments, force=force)
        except Exception as error:
            raise self._failed(step, error) from error

    def wait(self):
        """Until all that was started is on disk."""
        try:
            self._of.wait_until_finished()
        except Exception as error:
            raise self._failed("the last", error) from error

    def check(self):
        """Raise what an asynchronous save met."""
        try:
            self._of.check_for_errors()
        except Exception as error:
            raise self._failed("the last", error) from error

    def _failed(self, step, error) -> CheckpointError:
        kept = [s for s in self._of.all_steps() if s != step]
        return CheckpointError(
            f"could not save checkpoint {step} to {self.directory}: {error}\n"
            f"Complete checkpoints there: {kept or 'none'}; they are untouched. "
            "Free space or permissions, then run the same command again: it resumes from the newest."
        )

    def about(self, step: int) -> dict:
        """The configuration and data set that a checkpoint was written with."""
        args = ocp.args.Composite(about=ocp.args.JsonRestore())
        return self._of.restore(step, args=args)["about"]

    def restore(self, step: int, like, about: dict):
        """The state saved at `step`, in the structure, shapes and shardings of `like`."""
        self.compare(step, like, about)
        target = jax.tree.map(_abstract, _plain(like))
        try:
            args = ocp.args.Composite(state=ocp.args.StandardRestore(target))
            restored = self._of.restore(step, args=args)["state"]
        except Exception as error:
            changed = "\n  ".join(differences(self.about(step)["config"], about["config"]))
            raise CheckpointError(
                f"could not restore checkpoint {step} of {self.directory}: {error}\n"
                f"Keys that differ from the run that wrote it:\n  {changed or 'none'}"
            ) from error
        return restored if isinstance(like, dict) else like.replace(**restored)

    def restore_weights(self, step: int, like, about: dict, name: str):
        """Only `params` or `ema`, for sampling; `like` is a tree of shapes."""
        self.compare(step, {"params": like}, about)
        here = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
        target = {name: jax.tree.map(lambda a: jax.ShapeDtypeStruct(a.shape, a.dtype, sharding=here), like)}
        args = ocp.args.Composite(
            state=ocp.args.PyTreeRestore(
                target,
                restore_args=ocp.checkpoint_utils.construct_restore_args(target),
                partial_restore=True,
            )
        )
        with ocp.CheckpointManager(self.directory, item_names=("state", "about")) as manager:
            return manager.restore(step, args=args)["state"][name]

    def compare(self, step: int, like, about: dict):
        """An error naming keys and shapes when the checkpoint holds another network."""
        have = self._shapes(step)
        want = {
            _path(p): tuple(a.shape) for p, a in jax.tree_util.tree_leaves_with_path(_plain(like)["params"])
        }
        lines = [
            f"parameter {path}: {have.get(path, 'absent')} there, {want.get(path, 'absent')} here"
            for path in sorted(have.keys() | want.keys())
            if have.get(path) != want.get(path)
        ]
        where = f"checkpoint {step} of {self.directory}"
        remedy = "Use the configuration it was trained with (its config.json), or another workdir."
        same_meaning(self.about(step), about, where, remedy, lines)

    def _shapes(self, step: int) -> dict[str, tuple[int, ...]]:
        handler = ocp.PyTreeCheckpointHandler()
        tree = handler.metadata(self.directory / str(step) / "state").tree["params"]
        leaves = jax.tree_util.tree_leaves_with_path(tree, is_leaf=lambda a: hasattr(a, "shape"))
        return {_path(p): tuple(a.shape) for p, a in leaves}

    def close(self):
        """Let what is being saved be finished. What fails now was said before, or the run is ending over something else."""
        if self._manager:
            with contextlib.suppress(Exception):
                self._manager.close()


def same_meaning(written: dict, about: dict, where: str, remedy: str, more: Sequence[str] = ()):
    """An error naming each key in which what weights were written with differs from what they are read for."""
    lines = differences(_identity(written["config"]), _identity(about["config"]))
    lines += differences(written["data"], about["data"], "data")
    lines += more
    if lines:
        shown = "\n  ".join(lines[:20]) + (f"\n  and {len(lines) - 20} more" if len(lines) > 20 else "")
        raise CheckpointError(f"{where} belongs to another configuration:\n  {shown}\n{remedy}")


def _identity(config: dict) -> dict:
    """What a configuration says of the weights. A key that the writer did not know is at its default."""
    whole = as_dict(from_dict({part: config[part] for part in IDENTITY if part in config}))
    return {part: {k: v for k, v in whole[part].items() if k not in COMPUTATION} for part in IDENTITY}


def _plain(state) -> dict:
    """What is saved of a state: all but what never changes."""
    fields = state if isinstance(state, dict) else dict(vars(state))
    return {name: value for name, value in fields.items() if name != "frozen"}


def _abstract(leaf):
    return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=leaf.sharding)


def _path(keys) -> str:
    return "/".join(str(getattr(k, "key", getattr(k, "name", getattr(k, "idx", k)))) for k in keys)


def describe(config: Experiment, data: dict, classes: dict | None = None) -> dict:
    """What is written beside a state: the configuration, what of the data its weights depend on, what their classes are."""
    about = {"config": as_dict(config), "data": data}
    return about if classes is None else about | {"classes": classes}


def tree_bytes(tree) -> int:
    return sum(math.prod(a.shape) * a.dtype.itemsize for a in jax.tree.leaves(tree))
