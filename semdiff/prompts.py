"""Prompts and captions through an encoder of text, once, for a training and a sampling that then need neither.

python -m semdiff.prompts T5_DIRECTORY OUTPUT --captions captions.jsonl
python -m semdiff.prompts STABLE_DIFFUSION_DIRECTORY OUTPUT --prompt "a street, best quality" --negative "blurred"
python -m semdiff.prompts STABLE_DIFFUSION_DIRECTORY OUTPUT --prompt "a photograph" --captions captions.jsonl

The directory is T5 as transformers keeps it (for GCDP; t5-large for the released weights), or Stable Diffusion as diffusers
does (for ControlNets). Needs the extra `text` (pip install semdiff[text]): transformers and PyTorch. A training is told of
OUTPUT by config.data.prompts; to sample from its captions with a GCDP, config.sample.captions=OUTPUT.

What was written stays: the same command goes on where it stopped. Several processes share the work by --part=0/4, 1/4, ...
"""

import argparse
import hashlib
import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from semdiff.data import prompts
from semdiff.data.captions import read_captions
from semdiff.machine import logs
from semdiff.machine.paths import write_json

BATCH = 32
BEGUN = "begun.json"
T5_LENGTH = 256  # of GCDP's release
Encode = Callable[[list[str]], list[np.ndarray]]  # texts -> the states [n, W] of each


def main(arguments: Sequence[str] | None = None) -> int:
    options = _parser().parse_args(arguments)
    try:
        run(options)
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m semdiff.prompts", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("source", type=Path, help="the directory of the encoder")
    parser.add_argument("target", type=Path, help="the folder to write")
    parser.add_argument("--prompt", help="what is said of every image without a caption")
    parser.add_argument("--negative", default="", help="what guidance steers away from")
    parser.add_argument(
        "--captions", type=Path, help="as config.data.captions, or a .txt of a caption a line"
    )
    parser.add_argument("--length", type=int, help=f"states of a text at most; T5: {T5_LENGTH}")
    parser.add_argument("--device", default="cpu", help="in PyTorch's words: cuda")
    parser.add_argument("--part", type=_part, default=(0, 1), help="this process's share: 0/4, 1/4, ...")
    return parser


def _part(written: str) -> tuple[int, int]:
    number, _, count = written.partition("/")
    if not (number.isdecimal() and count.isdecimal() and int(number) < int(count)):
        raise argparse.ArgumentTypeError(f"is {written!r}; expected 0/4, 1/4, 2/4 or 3/4, for example")
    return int(number), int(count)


def run(options: argparse.Namespace):
    source, target = options.source, options.target
    if options.prompt is None and options.captions is None:
        raise ValueError("nothing to encode: give --captions, or --prompt")
    encode, shape = opened(source, options.length, options.device)
    if is_stable_diffusion(source) and options.prompt is None:
        raise ValueError("a ControlNet is told something of every image: give --prompt")
    captions = read_captions(options.captions, several=True) if options.captions else []
    encoder = prompts.Encoder(source.resolve().name, digest_of(source))
    begin(target, encoder, shape, options, captions)
    shards = range(-(-len(captions) // prompts.SHARD))
    number, parts = options.part
    todo = [i for i in shards[number::parts] if not prompts.is_written(target, i)]
    progress = logs.Progress(sum(len(shard_of(captions, i)) for i in todo), unit="caption")
    done = 0
    for i in todo:
        states: list[np.ndarray] = []
        for start in range(0, len(shard_of(captions, i)), BATCH):
            states += encode([text for _, text in shard_of(captions, i)[start : start + BATCH]])
            done += len(states[start:])
            progress.report(done, "encoding")
        prompts.write_shard(target, i, states)
    if missing := [i for i in shards if not prompts.is_written(target, i)]:
        logs.say(f"{target}: {len(missing)} of {len(shards)} files are still to be written by other parts")
        return
    table = None
    if options.prompt is not None:
        table = np.stack([padded(own, shape) for own in encode([options.negative, options.prompt])])
    said = {"prompt": options.prompt, "negative": options.negative}
    prompts.write_about(target, encoder, shape, captions, table, **said)
    logs.say(
        f"{target}: {len(captions)} captions{' and 2 prompts' if table is not None else ''} of up to {shape[0]} states of "
        f"{shape[1]}; to train with them: --config.data.prompts={target} --config.model.text_length={shape[0]} "
        f"--config.model.text_width={shape[1]}"
    )


def begin(target: Path, encoder: prompts.Encoder, shape, options: argparse.Namespace, captions):
    """A folder that is ours to go on with."""
    texts = hashlib.sha256(json.dumps([captions, options.prompt, options.negative]).encode()).hexdigest()
    begun = {"encoder": encoder.digest, "shape": list(shape), "texts": texts}
    path = target / BEGUN
    if not path.exists():
        if target.exists() and any(target.iterdir()):
            raise ValueError(f"{target}: already exists, and is something else; choose another name")
        target.mkdir(parents=True, exist_ok=True)
        write_json(path, begun)
    found = json.loads(path.read_text(encoding="utf-8"))
    if changed := [name for name, value in begun.items() if found.get(name) != value]:
        raise ValueError(
            f"{target}: was begun with another {' and '.join(changed)}. Go on with what it was begun with, or choose "
            "another name"
        )


def shard_of(captions: list[tuple[str, str]], number: int) -> list[tuple[str, str]]:
    return captions[number * prompts.SHARD : (number + 1) * prompts.SHARD]


def padded(states: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    return np.pad(states, ((0, shape[0] - len(states)), (0, 0)))


def is_stable_diffusion(source: Path) -> bool:
    return (source / "text_encoder").is_dir()


def opened(source: Path, length: int | None = None, device: str = "cpu") -> tuple[Encode, tuple[int, int]]:
    """(the encoder of a directory, how many states a text has at most and their width)."""
    kind = _kind(source)
    try:
        import transformers
    except ImportError as error:
        raise ValueError(
            f"texts are encoded by transformers, which is not installed ({error}): pip install semdiff[text]"
        ) from None
    whole = kind == "clip"  # such networks attend to what stands behind a text too
    network: Any
    if whole:
        tokenizer = transformers.CLIPTokenizer.from_pretrained(source / "tokenizer")
        network = transformers.CLIPTextModel.from_pretrained(source / "text_encoder")
        if length not in (None, tokenizer.model_max_length):
            raise ValueError(
                f"--length is {length}, but texts of {source} have {tokenizer.model_max_length} states"
            )
        length, width = tokenizer.model_max_length, network.config.hidden_size
    else:
        tokenizer = transformers.AutoTokenizer.from_pretrained(source)
        network = transformers.T5EncoderModel.from_pretrained(source)
        length, width = T5_LENGTH if length is None else length, network.config.d_model
    network = network.requires_grad_(False).to(device).eval()

    def encode(texts: list[str]) -> list[np.ndarray]:
        options = {"max_length": length, "truncation": True, "return_tensors": "pt"}
        tokens = tokenizer(texts, padding="max_length" if whole else "longest", **options).to(device)
        mask = None if whole else tokens.attention_mask
        states = (
            network(input_ids=tokens.input_ids, attention_mask=mask).last_hidden_state.float().cpu().numpy()
        )
        counts = [length] * len(texts) if mask is None else mask.sum(1).tolist()
        return [own[:count] for own, count in zip(states, counts, strict=True)]

    return encode, (length, width)


def _kind(source: Path) -> str:
    if is_stable_diffusion(source):
        if not (source / "tokenizer").is_dir():
            raise ValueError(f"{source}: has no tokenizer/. Expected Stable Diffusion as diffusers keeps it")
        return "clip"
    try:
        kind = json.loads((source / "config.json").read_text(encoding="utf-8"))["model_type"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ValueError(
            f"{source}: is neither T5 as transformers keeps it (config.json, tokenizer, weights) nor Stable Diffusion as "
            f"diffusers does (tokenizer/ and text_encoder/): {error}"
        ) from None
    if kind not in ("t5", "mt5"):
        raise ValueError(f"{source / 'config.json'}: model_type is {kind!r}; expected t5")
    return "t5"


def digest_of(source: Path) -> str:
    """Of the encoder's weights, whichever files they lie in."""
    folder = source / "text_encoder" if is_stable_diffusion(source) else source
    files = sorted(folder.glob("*.safetensors")) or sorted(folder.glob("*.bin"))
    whole = hashlib.sha256()
    for path in files:
        with path.open("rb") as file:
            whole.update(hashlib.file_digest(file, "sha256").digest())
    return whole.hexdigest()[:16]


if __name__ == "__main__":
    sys.exit(main())
