"""semdiff against the released PyTorch code of SDM on equal work, in turn, on this machine.

    git clone https://github.com/WeilunWang/semantic-diffusion-model DIR
    python benchmarks/peer.py --released DIR [--torch PYTHON] [--work train4,train16,sample8] [--rounds 5]

The checkout is yours, and so is PYTHON, an interpreter with torch (this one, unless named); neither is needed by anything
else. Both sides run as processes of their own that wait for each other, so a machine that slows down slows both: read the
ratios. The work is the preset `peer` of benchmarks/run.py: 6,694,694 parameters, 48 x 64, 12 classes, float32, AdamW and an
average of the weights; sampling is 25 guided steps.
"""

import argparse
import json
import os
import resource
import signal
import statistics
import subprocess
import sys
import time
from pathlib import Path

CLASSES, HEIGHT, WIDTH = 12, 48, 64
WORK = ("train4", "train16", "sample8")


def semdiff_work(name: str):
    """A function that does the work once, by this package."""
    import jax
    import run  # beside this file

    kind, batch = name.rstrip("0123456789"), int(name.lstrip("abcdefghijklmnopqrstuvwxyz"))
    preset = run.with_batch(run.PRESETS["peer"], batch)
    if kind == "train":
        return run.training(preset).once
    generate = run.sampling(preset)
    return lambda: jax.block_until_ready(generate())


def released_work(name: str, checkout: str):
    """The same by the released code, as its scripts call it."""
    sys.path.insert(0, checkout)
    import torch
    from guided_diffusion import script_util, unet

    kind, batch = name.rstrip("0123456789"), int(name.lstrip("abcdefghijklmnopqrstuvwxyz"))
    torch.manual_seed(0)
    network = unet.UNetModel(
        image_size=WIDTH,
        in_channels=3,
        model_channels=32,
        out_channels=6,
        num_res_blocks=1,
        attention_resolutions=(4,),
        channel_mult=(1, 2, 3),
        num_classes=CLASSES,
        num_head_channels=32,
        use_scale_shift_norm=True,
        resblock_updown=True,
    )
    respacing = "25" if kind == "sample" else ""
    diffusion = script_util.create_gaussian_diffusion(learn_sigma=True, timestep_respacing=respacing)
    ids = torch.randint(0, CLASSES, (batch, 1, HEIGHT, WIDTH))
    layout = torch.zeros(batch, CLASSES, HEIGHT, WIDTH).scatter_(1, ids, 1.0)
    if kind == "sample":
        network.eval()

        def generate():
            with torch.no_grad():
                diffusion.p_sample_loop(
                    network, (batch, 3, HEIGHT, WIDTH), model_kwargs={"y": layout, "s": 1.5}
                )

        return generate
    images = torch.rand(batch, 3, HEIGHT, WIDTH) * 2 - 1
    optimizer = torch.optim.AdamW(network.parameters(), lr=1e-4, weight_decay=0.0)
    average = [p.detach().clone() for p in network.parameters()]

    def train():
        optimizer.zero_grad()
        t = torch.randint(0, 1000, (batch,))
        diffusion.training_losses(network, images, t, model_kwargs={"y": layout})["loss"].mean().backward()
        optimizer.step()
        for mean, p in zip(average, network.parameters()):
            mean.mul_(0.9999).add_(p.detach(), alpha=1 - 0.9999)

    return train


def serve(name: str, checkout: str | None):
    """Does the work once for warmth, then once for every line that comes in; answers with seconds and peak memory."""
    work = released_work(name, checkout) if checkout else semdiff_work(name)
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what the code under test prints is none of the caller's business
    work()
    for _ in sys.stdin:
        began = time.perf_counter()
        work()
        took = time.perf_counter() - began
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        print(json.dumps({"seconds": took, "peak_mib": peak}), file=answers, flush=True)


class Side:
    """A process that does the work when asked to, and is stopped otherwise: idle threads that spin would slow the other."""

    def __init__(self, python: str, name: str, *options: str):
        command = [python, __file__, "--serve", name, *options]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def ask(self) -> dict:
        self.process.send_signal(signal.SIGCONT)
        self.process.stdin.write("once\n")
        self.process.stdin.flush()
        answer = self.process.stdout.readline()
        if not answer:
            raise SystemExit(
                f"error: {' '.join(self.process.args)} ended without an answer; its words are above"
            )
        self.process.send_signal(signal.SIGSTOP)
        return json.loads(answer)

    def close(self):
        self.process.send_signal(signal.SIGCONT)
        self.process.stdin.close()
        self.process.wait()


def compare(name: str, released: str, torch: str, rounds: int) -> dict:
    sides = {
        "released": Side(torch, name, "--released", released),
        "semdiff": Side(sys.executable, name),
    }
    answers = {side: [] for side in sides}
    try:
        for side in sides:
            sides[side].ask()
        for _ in range(rounds):
            for side in sides:
                answers[side].append(sides[side].ask())
    finally:  # a side that stays stopped would outlive this
        for side in sides.values():
            side.close()
    pairs = zip(answers["semdiff"], answers["released"])
    return {
        "released_s": statistics.median(a["seconds"] for a in answers["released"]),
        "semdiff_s": statistics.median(a["seconds"] for a in answers["semdiff"]),
        "ratio": statistics.median(ours["seconds"] / theirs["seconds"] for ours, theirs in pairs),
        "released_peak_mib": max(a["peak_mib"] for a in answers["released"]),
        "semdiff_peak_mib": max(a["peak_mib"] for a in answers["semdiff"]),
    }


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--released", metavar="DIR", help="a checkout of the released code")
    parser.add_argument("--torch", metavar="PYTHON", default=sys.executable, help="a Python that has torch")
    parser.add_argument("--work", default=",".join(WORK), help="kind and batch size, separated by commas")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--serve", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.serve:
        serve(arguments.serve, arguments.released)
        return
    if not arguments.released:
        parser.error("name a checkout of the released code with --released DIR")
    print("| work | released, s | semdiff, s | semdiff / released | peak memory, MiB: released | semdiff |")
    print("|---|---:|---:|---:|---:|---:|", flush=True)
    for name in arguments.work.split(","):
        r = compare(name, str(Path(arguments.released).resolve()), arguments.torch, arguments.rounds)
        print(
            f"| {name} | {r['released_s']:.2f} | {r['semdiff_s']:.2f} | {r['ratio']:.2f} | "
            f"{r['released_peak_mib']:,.0f} | {r['semdiff_peak_mib']:,.0f} |",
            flush=True,
        )


if __name__ == "__main__":
    main()
