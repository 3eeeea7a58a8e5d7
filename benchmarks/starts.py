"""What a chain's start does: the statistics it begins from, how far up, and in how many steps.

    python -m semdiff.main --config=CONFIG --workdir=RUN                    # train
    python -m semdiff.main --config=CONFIG --workdir=RUN --mode=evaluate    # a segmenter to read images with
    python -m semdiff.main --config=CONFIG --workdir=RUN --mode=prior       # the statistics
    python benchmarks/starts.py RUN [--priors normal,joint] [--starts 0.8,1] [--steps 6,20] [--layouts 36] [--out DIR]

Two images of each layout, guided as the run's configuration says. Diversity: the root mean square distance between the two,
in percent of the range of pixels. A chain from noise begins at T alone, unless --lower says so too. Writes the table and a
picture of one layout from each start.
"""

import argparse
from dataclasses import dataclass
from pathlib import Path

import numpy as np

import semdiff
from semdiff import draw, inputs
from semdiff.data import augment
from semdiff.modes.evaluate import Judge, kept_reader

COLUMNS = "| from | mu | steps | mIoU | accuracy | Frechet | diversity |"


@dataclass(frozen=True)
class Setting:
    prior: str
    start: float
    steps: int

    def __str__(self):
        return f"{self.prior}, {self.start:g}, {self.steps}"


def settings_of(arguments) -> list[Setting]:
    listed = lambda text, kind: [kind(part) for part in text.split(",")]  # noqa: E731
    return [
        Setting(prior, start, steps)
        for steps in listed(arguments.steps, int)
        for prior in listed(arguments.priors, str)
        for start in listed(arguments.starts, float)
        if prior != "normal" or start == 1 or arguments.lower
    ]


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("run")
    parser.add_argument("--priors", default="normal,spatial,categorical,joint")
    parser.add_argument("--starts", default="0.6,0.7,0.8,0.9,1")
    parser.add_argument("--steps", default="10,20,50")
    parser.add_argument("--layouts", type=int, default=36)
    parser.add_argument("--lower", action="store_true", help="from noise below T too")
    parser.add_argument("--out", type=Path, help="a folder for starts.md and starts.png; else RUN/starts")
    arguments = parser.parse_args()
    run = Path(arguments.run)
    model = semdiff.load(run)
    config, info = model.trained.config, model.trained.info
    source = inputs.evaluation_source(config.data, config.seed)
    examples = [augment.squash(source[i], config.data.size) for i in inputs.spread(source, arguments.layouts)]
    layouts, real = (np.stack([e[key] for e in examples]) for key in ("layout", "image"))
    instances = [e["instance"] for e in examples] if model.trained.edges else None
    judge = Judge(kept_reader(run, info), info, layouts.astype(np.int32), real, len(examples))
    rare = np.flatnonzero(np.bincount(layouts.ravel(), minlength=info.num_classes))
    lines, shown = [COLUMNS, "|---|---:|---:|---:|---:|---:|---:|"], []
    print("\n".join(lines), flush=True)
    for s in settings_of(arguments):
        made = model.sample(
            list(layouts), instances=instances, images=2, prior=s.prior, start=s.start, steps=s.steps
        )
        one, other = np.moveaxis(np.asarray(made), 1, 0)
        values = judge.measured(str(s), one).values(rare)
        distance = 100 * np.sqrt(np.mean((one / 255.0 - other / 255.0) ** 2))
        lines.append(
            f"| {s.prior} | {s.start:g} | {s.steps} | {values['mIoU']:.1f} | {values['accuracy']:.1f} | "
            f"{values['Frechet']:.2f} | {distance:.1f} |"
        )
        print(lines[-1], flush=True)
        shown.append((str(s), one[0]))
    out = arguments.out or run / "starts"
    out.mkdir(parents=True, exist_ok=True)
    (out / "starts.md").write_text("\n".join(lines) + "\n")
    cells = [("layout", draw.colourise(layouts[0], info.palette)), ("real", real[0]), *shown]
    cells += [("", np.zeros_like(real[0]))] * (-len(cells) % 6)
    rows = [
        draw.grid([[image for _, image in cells[i : i + 6]]], headers=[name for name, _ in cells[i : i + 6]])
        for i in range(0, len(cells), 6)
    ]
    width = max(row.shape[1] for row in rows)
    padded = [np.pad(r, ((0, 0), (0, width - r.shape[1]), (0, 0)), constant_values=255) for r in rows]
    draw.save_png(out / "starts.png", np.concatenate(padded))
    print(f"table and picture: {out}")


if __name__ == "__main__":
    main()
