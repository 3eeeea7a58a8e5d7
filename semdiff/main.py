"""python -m semdiff.main --config=configs/scenes.py --workdir=DIR [--mode=MODE] [--config.key=value]

All keys of the configuration, with their defaults and what they mean: semdiff/config.py.
"""

import errno
import hashlib
import os
import re
import sys
import traceback
from pathlib import Path

import jax
from absl import app, flags, logging
from ml_collections import config_flags

from semdiff import build, checkpoint, edit, evaluate, inputs, logs, parallel, sample, stats, train, tune
from semdiff.checkpoint import CheckpointError
from semdiff.compilation import use_cache
from semdiff.config import ConfigError, Experiment, as_dict, check_key, parse
from semdiff.convert import weights as weight_files
from semdiff.paths import local_path

DISK_IS_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
MODES = {
    "train": "train to config.train.steps, or go on with it",
    "sample": "layouts to images",
    "edit": "images again where their layouts have changed",
    "evaluate": "how well layouts are read back from generated images",
    "tune_times": "fit the times of short chains to the trained model",
    "export": "the weights as one file",
    "stats": "count the classes, draw what a schedule does to them",
    "noise": "write corrupted layouts",
}

CONFIG = config_flags.DEFINE_config_file("config", help_string="What to run: a file of configs/.")
WORKDIR = flags.DEFINE_string("workdir", None, "Where checkpoints, logs and pictures go.", required=True)
MODE = flags.DEFINE_enum(
    "mode", "train", MODES, "What to do. " + "; ".join(f"{name}: {what}" for name, what in MODES.items())
)
COORDINATOR = flags.DEFINE_string(
    "coordinator",
    None,
    "For several processes: HOST:PORT of process 0, or auto, where a cluster (SLURM, TPU pod) tells.",
)
PROCESSES = flags.DEFINE_integer("processes", None, "How many processes, with --coordinator.")
PROCESS = flags.DEFINE_integer("process", None, "Which of them this is, from 0.")


def trained(config: Experiment, workdir: Path):
    """(method, weights, their name, classes, tuned times) to sample with: a weights file's, else the newest checkpoint's."""
    tuned = tune.entries_of(workdir)
    source = inputs.training_source(config.data, config.seed)
    info, rates = source.info, inputs.class_rates(config, source, workdir)
    spelled = build.build_method(config, info.num_classes, info.has_instances, rates)
    like = jax.eval_shape(lambda key: spelled.init(key, config.data.size), jax.random.key(0))
    if config.sample.weights:
        path = local_path(config.sample.weights, "config.sample.weights")
        params, metadata = weight_files.load_weights(path)
        weight_files.check_tree(params, like, path)
        with open(path, "rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()[:8]
        params, name = jax.tree.map(jax.numpy.asarray, params), f"{path.stem}-{digest}"
        return spelled, params, name, info, metadata.get("times", []) + tuned
    checkpoints = checkpoint.Checkpoints(workdir)
    step = checkpoints.latest()
    if step is None:
        raise CheckpointError(
            f"{workdir} holds no checkpoint. Train first: --mode=train with the same --workdir."
        )
    about = checkpoint.describe(config, inputs.identity(info, spelled.given.edges, rates))
    name = "ema" if config.sample.ema else "params"
    params = checkpoints.restore_weights(step, like, about, name)
    logs.say(f"weights: {name} of step {step}, {checkpoints.directory}", jax.process_index() == 0)
    return spelled, params, f"{step}/{name}", info, tuned


def run(config: Experiment, workdir: Path, mode: str, name: str):
    if config.compilation_cache:
        use_cache(config.compilation_cache)
    if mode == "train":
        train.train(tune.resolved(config, tune.entries_of(workdir)), workdir, name)
    elif mode in ("stats", "noise"):
        stats.stats(config, workdir) if mode == "stats" else stats.corrupt(config, workdir)
    else:
        use(config, workdir, mode)
    parallel.meet()  # a process that ended would give the others but a few minutes more


def use(config: Experiment, workdir: Path, mode: str):
    """What is done with trained weights."""
    spelled, params, weights, info, tuned = trained(config, workdir)
    if mode not in ("tune_times", "export"):
        config = tune.resolved(config, tuned, weights)
    if mode == "sample":
        folder = local_path(config.sample.output or workdir / "samples" / weights, "config.sample.output")
        sample.sample(config, spelled, params, weights, info, folder)
    elif mode == "edit":
        folder = local_path(config.edit.output or workdir / "edits" / weights, "config.edit.output")
        edit.edit(config, spelled, params, weights, info, folder)
    elif mode == "evaluate":
        evaluate.evaluate(config, spelled, params, weights, info, workdir)
    elif mode == "tune_times":
        tune.tune(config, spelled, params, weights, info, workdir)
    elif jax.process_index() == 0:
        path = checkpoint.prepare_workdir(workdir) / f"weights-{weights.replace('/', '-')}.safetensors"
        facts = {"config": as_dict(config), "classes": list(info.names), "times": tuned}
        weight_files.save_weights(path, params, facts)
        logs.say(f"weights: {path}")


def raised_here(error: Exception) -> bool:
    """Whether this package said it, in words meant for people; other errors keep their traceback."""
    *_, (frame, _) = traceback.walk_tb(error.__traceback__)
    return Path(frame.f_code.co_filename).is_relative_to(Path(__file__).parent)


def main(_):
    if not flags.FLAGS["verbosity"].present:
        logging.set_verbosity(logging.WARNING)  # what the libraries say of themselves; --verbosity=0 shows it
    if COORDINATOR.value == "auto":
        jax.distributed.initialize()
    elif COORDINATOR.value:
        jax.distributed.initialize(COORDINATOR.value, PROCESSES.value, PROCESS.value)
    elif PROCESSES.value is not None or PROCESS.value is not None:
        raise app.UsageError("--processes and --process need --coordinator=HOST:PORT of process 0")
    try:
        name = config_flags.get_config_filename(flags.FLAGS["config"])
        run(parse(CONFIG.value), local_path(WORKDIR.value, "--workdir"), MODE.value, name)
    except ValueError as error:
        if not raised_here(error):
            raise
        leave(str(error))
    except OSError as error:
        if error.errno not in DISK_IS_FULL:
            raise
        leave(f"{error}. What was saved before is whole: free space, then run the same command again.")


def leave(words: str):
    """End with one line, at once: threads that still write to a full disk would bury it."""
    print(f"error: {words}", file=sys.stderr, flush=True)
    sys.stdout.flush()
    os._exit(1)


def parse_flags(arguments: list[str]) -> list[str]:
    """As absl does, but for what ends in a traceback there: no such file, no such key."""
    try:
        for argument in arguments[1:]:
            if key := re.match(r"--?config\.([\w.]+)", argument):
                check_key(key[1])
            if (file := re.match(r"--?config=([^:]+)", argument)) and not Path(file[1]).is_file():
                have = ", ".join(sorted(map(str, Path("configs").glob("*.py"))))
                raise ConfigError(f"--config: there is no file {file[1]}; here are {have or 'none'}")
    except ConfigError as error:
        leave(str(error))
    return app.parse_flags_with_usage(arguments)


def cli():
    flags.mark_flag_as_required("config")
    app.run(main, flags_parser=parse_flags)


if __name__ == "__main__":
    cli()
