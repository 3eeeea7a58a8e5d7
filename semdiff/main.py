"""python -m semdiff.main --config=configs/scenes.py --workdir=DIR [--mode=MODE] [--config.key=value]

All keys of the configuration, with their defaults and what they mean: semdiff/config.py.
"""

from pathlib import Path

from absl import app, flags, logging
from ml_collections import config_flags

from semdiff import cli, trained
from semdiff.config import ConfigError, Experiment
from semdiff.machine import logs, parallel
from semdiff.machine.compilation import use_cache
from semdiff.machine.paths import local_path
from semdiff.modes import (
    check,
    edit,
    evaluate,
    export,
    latents,
    plan,
    prior,
    sample,
    segment,
    stats,
    train,
    tune,
)
from semdiff.parser import parse

# name -> (what it does, how: of a configuration and a workdir)
WITH_DATA = {
    "train": ("train to config.train.steps, or go on with it", train.train),
    "check_data": ("look at a folder before training on it, say what to mend", check.check),
    "stats": ("count the classes, draw what a schedule does to them", stats.stats),
    "prior": ("measure what images look like by class and place, for chains that start from it", prior.prior),
    "latents": ("encode the training images once, for trainings in latents", latents.encode),
    "plan": ("what a step and a chain take on a machine that need not be there", plan.plan),
    "corrupt": ("write layouts as careless annotators would have them", stats.corrupt),
}
# name -> (what it does, how: of a trained model and a workdir)
WITH_WEIGHTS = {
    "sample": ("layouts to images", sample.sample),
    "edit": ("images again where their layouts have changed", edit.edit),
    "segment": ("photographs to layouts, by a model that generates both", segment.segment),
    "evaluate": ("how well layouts are read back from generated images", evaluate.evaluate),
    "tune_times": ("fit the times of short chains to the trained model", tune.tune),
    "export": ("a model folder: weights, classes, configuration and a card", export.export),
}
HELP = {name: what for name, (what, _) in (*WITH_DATA.items(), *WITH_WEIGHTS.items())}
AS_ASKED = ("tune_times", "export")  # they take config.sample.spacing=tuned as it stands

CONFIG = config_flags.DEFINE_config_file("config", help_string="What to run: a file of configs/.")
WORKDIR = flags.DEFINE_string("workdir", None, "Where checkpoints, logs and pictures go.", required=True)
MODE = flags.DEFINE_enum(
    "mode", "train", HELP, "What to do. " + "; ".join(f"{name}: {what}" for name, what in HELP.items())
)
COORDINATOR = flags.DEFINE_string(
    "coordinator",
    None,
    "For several processes: HOST:PORT of process 0, or auto, where a cluster (SLURM, TPU pod) tells.",
)
PROCESSES = flags.DEFINE_integer("processes", None, "How many processes, with --coordinator.")
PROCESS = flags.DEFINE_integer("process", None, "Which of them this is, from 0.")


def run(config: Experiment, workdir: Path, mode: str):
    use_cache(config.compilation_cache)
    if mode in WITH_DATA:
        WITH_DATA[mode][1](config, workdir)
    else:
        if config.sample.upscale and mode != "sample":
            raise ConfigError(
                f"config.sample.upscale is for --mode=sample alone, not for {mode}: leave it empty"
            )
        model = trained.opened(config, workdir)
        WITH_WEIGHTS[mode][1](model if mode in AS_ASKED else model.ready(), workdir)
    parallel.meet()  # a process that ended would give the others but a few minutes more


def main(_):
    if not flags.FLAGS["verbosity"].present:
        logging.set_verbosity(logging.WARNING)  # what the libraries say of themselves; --verbosity=0 shows it
    with cli.in_words():
        if MODE.value == "plan":
            plan.before(CONFIG.value.plan.target)
        parallel.initialise(COORDINATOR.value, PROCESSES.value, PROCESS.value)
        logs.say(f"config:  {config_flags.get_config_filename(flags.FLAGS['config'])}", parallel.is_main())
        run(parse(CONFIG.value), local_path(WORKDIR.value, "--workdir"), MODE.value)


def start():
    flags.mark_flag_as_required("config")
    app.run(main, flags_parser=cli.parse_flags)


if __name__ == "__main__":
    start()
