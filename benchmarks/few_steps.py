"""How few steps does a trained model need? Solvers and spacings against a long chain from the same noise.

    python benchmarks/few_steps.py --config=configs/scenes.py --workdir=runs/scenes [--steps=3,4,6,8,12,25,100] \
        [--solvers=ddim,dpmpp_2m,unipc:2,ipndm:3] [--spacings=even,trailing,chebyshev,log_snr,tuned]

Images of the evaluation split's layouts, with config.sample's guidance. For each solver (NAME or NAME:ORDER), spacing and
number of steps: passes of the network an image, the distance to where DDIM ends in 200 steps (root mean square, of images in
[-1, 1]), and, as --mode=evaluate measures them, mIoU and the Frechet distance. `tuned` is what --mode=tune_times left in the
workdir; what was not tuned is left out. The keys of the configuration can be set as everywhere.
"""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
from absl import app, flags, logging

from semdiff import cli, inputs, main, trained
from semdiff.data import augment
from semdiff.methods.space import to_pixels
from semdiff.metrics import frechet
from semdiff.metrics.segmentation import Confusion
from semdiff.modes import evaluate, tune
from semdiff.parser import parse
from semdiff.sampling import times
from semdiff.sampling.chains import passes

STEPS = flags.DEFINE_list("steps", ["3", "4", "5", "6", "8", "12", "25"], "Numbers of steps.")
SOLVERS = flags.DEFINE_list(
    "solvers", ["ddim", "dpmpp_2m", "dpmpp_3m", "unipc", "ipndm:3", "ipndm", "deis:3"], "NAME or NAME:ORDER."
)
SPACINGS = flags.DEFINE_list(
    "spacings",
    ["even", "trailing", "quadratic", "chebyshev", "log_snr", "karras", "tuned"],
    "Ways to space the times.",
)
LAYOUTS = flags.DEFINE_integer("layouts", 64, "How many layouts of the evaluation split.")
JSON = flags.DEFINE_string("json", None, "Also write the figures here.")
REFERENCE = 200


def run(_):
    logging.set_verbosity(logging.WARNING)
    config, workdir = parse(main.CONFIG.value), Path(main.WORKDIR.value)
    model = trained.opened(config, workdir)
    method, info = model.method, model.info
    source = inputs.evaluation_source(config.data, config.seed)
    examples = [augment.squash(source[i], config.data.size) for i in inputs.spread(source, LAYOUTS.value)]
    reader = evaluate.build_reader(config, info, workdir)
    layouts = np.array([e["layout"] for e in examples], np.int32)
    real = np.array([e["image"] for e in examples])
    moments = frechet.Moments.of(reader.features(real))

    def judged(images: np.ndarray, end: np.ndarray) -> dict:
        pixels = np.asarray(to_pixels(images))
        confusion = Confusion.of(layouts, reader(pixels), info.num_classes, info.ignored)
        return {
            "distance": tune.distance(images, end),
            "mIoU": 100 * confusion.mean_iou,
            "Frechet": frechet.distance(frechet.Moments.of(reader.features(pixels)), moments),
        }

    def chains(sampler: str, order: int, longest: int) -> tune.Chains:
        settings = replace(config.sample, sampler=sampler, order=order, times=())
        return tune.Chains(model, settings, examples, 16, longest)

    schedule = method.image.schedule
    long = tune.spacings(schedule, REFERENCE)["quadratic"]
    end = chains("ddim", 0, REFERENCE).images(long)
    rows = []

    def report(solver, spacing, settings, images):
        figures = judged(images, end)
        rows.append({"solver": solver, "spacing": spacing, "steps": settings.steps} | figures)
        print(
            f"| {solver} | {spacing} | {settings.steps} | {passes(method, settings)} | {figures['distance']:.3f} | "
            f"{figures['mIoU']:.1f} | {figures['Frechet']:.2f} |",
            flush=True,
        )

    print(f"real images: mIoU {judged(real / 127.5 - 1, end)['mIoU']:.1f}; {len(examples)} layouts")
    print(
        "| solver | spacing | steps | passes | distance | mIoU | Frechet |\n|---|---|---:|---:|---:|---:|---:|"
    )
    usual = replace(config.sample, sampler="ddim", steps=REFERENCE, times=(), spacing="quadratic")
    report("ddim", "quadratic", usual, end)
    for solver in SOLVERS.value:
        sampler, _, order = solver.partition(":")
        run = chains(sampler, int(order or 0), max(map(int, STEPS.value)))
        for steps in map(int, STEPS.value):
            settings = replace(run.c, steps=steps, spacing="even")
            found = tune.spacings(schedule, steps)
            for entry in (times.Entry(**e) for e in model.times):
                if entry.serves(settings):
                    found["tuned"] = np.array([*entry.times, 0])
            for spacing in SPACINGS.value:
                if spacing in found:
                    report(solver, spacing, settings, run.images(found[spacing]))
    if JSON.value:
        Path(JSON.value).write_text(json.dumps(rows, indent=1))


if __name__ == "__main__":
    flags.mark_flag_as_required("config")
    app.run(run, flags_parser=cli.parse_flags)
