"""Evaluations of several runs side by side: mean over seeds, and the spread where there is more than one.

    python benchmarks/compare.py "SDM=runs/sdm-*" "SCDM=runs/scdm-*" [--column "mIoU rare"]

Each name stands for workdirs (a pattern) that `--mode=evaluate` has seen; rows are what was evaluated in all of them.
"""

import argparse
import glob
import json
from pathlib import Path

import numpy as np

from semdiff.modes.evaluate import DIGITS


def evaluations(pattern: str) -> list[dict]:
    """The newest metrics.json of each workdir that fits."""
    found = []
    for workdir in sorted(glob.glob(pattern)):
        files = sorted(Path(workdir).glob("evaluation/**/metrics.json"), key=lambda p: p.stat().st_mtime)
        if files:
            found.append(json.loads(files[-1].read_text())["rows"])
    if not found:
        raise SystemExit(f"{pattern}: no workdir with evaluation/*/metrics.json; run --mode=evaluate first")
    return found


def cell(values: list[float], digits: int) -> str:
    mean = f"{np.mean(values):.{digits}f}"
    return mean if len(values) == 1 else f"{mean} ± {np.std(values, ddof=1):.{digits}f}"


def table(arms: dict[str, list[dict]], column: str) -> str:
    rows = [row for row in next(iter(arms.values()))[0] if all(row in e for es in arms.values() for e in es)]
    head = "".join(f" {name}{f' ({len(es)} runs)' if len(es) > 1 else ''} |" for name, es in arms.items())
    lines = [f"| {column} |{head}", "|---|" + "---:|" * len(arms)]
    for row in rows:
        values = [[e[row][column] for e in es] for es in arms.values()]
        if all(None not in v for v in values):
            lines.append(f"| {row} |" + "".join(f" {cell(v, DIGITS[column])} |" for v in values))
    return "\n".join(lines)


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("runs", nargs="+", metavar="NAME=PATTERN")
    parser.add_argument("--column", choices=DIGITS, action="append")
    arguments = parser.parse_args()
    arms = {}
    for text in arguments.runs:
        name, equals, pattern = text.partition("=")
        if not equals:
            parser.error(f"{text!r}: expected NAME=PATTERN")
        arms[name] = evaluations(pattern)
    print("\n\n".join(table(arms, column) for column in arguments.column or DIGITS))


if __name__ == "__main__":
    main()
