"""What published configurations take on machines that are not here: plans of many, as one table.

    pip install -e ".[plan-tpu,plan-cuda]"    # best in an environment of its own
    python benchmarks/plans.py [--configs ade20k,scdm_ade20k,...] [--targets v5e:4x4,h100,...] [--out runs/plans]

Each plan is a process of its own (`--mode=plan`) that lasts minutes; those in OUT are not made again, so that a list may be
interrupted and extended. The batch is the published one, or the next that the target's devices divide. Writes OUT/plans.md.
"""

import argparse
import itertools
import json
import os
import runpy
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import jax

from semdiff.machine import logs
from semdiff.machine.targets import target_of

ROOT = Path(__file__).parents[1]
CONFIGS = (
    "ade20k,cityscapes,celebamask_hq,coco_stuff,scdm_ade20k,scdm_celebamask_hq,scdm_coco_stuff,gcdp_cityscapes,"
    "gcdp_celebamask_hq,gcdp_coco_stuff,scp_ade20k:80gb"
)
TARGETS = "v5e:4x4,v4:2x2x4,v5p:2x2x2,v6e:4x4,h100,h100:8"
COLUMNS = (
    "| configuration | machine | batch | keys | held, GiB | temporary, GiB | of | trace, s | compile, s |"
)


def batch_of(config: str, devices: int) -> int:
    """The published one, or the next larger that so many devices divide."""
    name, *choice = config.split(":")
    published = runpy.run_path(str(ROOT / "configs" / f"{name}.py"))["get_config"](*choice).train.batch_size
    return -(-published // devices) * devices


def planned(config: str, target: str, out: Path) -> dict:
    """Facts of a plan; {"failed": the last line of its error} where there is none."""
    workdir = out / config.replace(":", "-") / target.replace(":", "-")
    found = workdir / "plan.json"
    if not found.exists():
        batch = batch_of(config, target_of(target).count)
        name, _, choice = config.partition(":")
        command = [sys.executable, "-m", "semdiff.main", f"--config=configs/{name}.py:{choice}".rstrip(":")]
        command += ["--mode=plan"]
        command += [f"--workdir={workdir}", f"--config.plan.target={target}", "--config.plan.sampling=False"]
        command += [f"--config.train.batch_size={batch}"]
        workdir.mkdir(parents=True, exist_ok=True)
        with (workdir / "plan.log").open("w") as log:
            environment = dict(os.environ, JAX_PLATFORMS="cpu", ALLOW_MULTIPLE_LIBTPU_LOAD="true")
            process = subprocess.run(command, cwd=ROOT, env=environment, stdout=log, stderr=subprocess.STDOUT)
        if process.returncode:
            lines = (workdir / "plan.log").read_text().strip().splitlines() or ["nothing said"]
            return {"failed": f"exit {process.returncode}: {lines[-1][:120]}"}
    return json.loads(found.read_text())


def row(config: str, target: str, facts: dict) -> str:
    if "failed" in facts:
        return f"| {config} | {target} | | {facts['failed']} | | | | | |"
    step, memory = facts["step"], target_of(target).chip.memory_gib
    keys = " ".join(f"`{key.removeprefix('config.')}`" for key in facts["remedy"])
    if not step["fits"]:
        keys = "does not fit"
    return (
        f"| {config} | {target} | {facts['batch_size']} | {keys} | {step['arguments_gib']:.1f} | "
        f"{step['temporaries_gib']:.1f} | {memory:g} | {step['tracing']:.0f} | {step['compiling']:.0f} |"
    )


def rows(configs: list[str], targets: list[str], out: Path) -> Iterator[str]:
    progress = logs.Progress(len(configs) * len(targets), unit="plan")
    for i, (target, config) in enumerate(itertools.product(targets, configs)):
        yield row(config, target, planned(config, target, out))
        progress.report(i + 1)


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--configs", default=CONFIGS)
    parser.add_argument("--targets", default=TARGETS)
    parser.add_argument("--out", type=Path, default=Path("runs/plans"))
    arguments = parser.parse_args()
    out = arguments.out.absolute()
    lines = [f"jax {jax.__version__}", "", COLUMNS, "|---|---|---:|---|---:|---:|---:|---:|---:|"]
    for line in rows(arguments.configs.split(","), arguments.targets.split(","), out):
        print(line, flush=True)
        lines.append(line)
    (out / "plans.md").write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
