"""Prompts through the text encoder of a Stable Diffusion directory, once, for a training that then needs neither.

python -m semdiff.prompts STABLE_DIFFUSION_DIRECTORY OUTPUT --prompt "a street, best quality" --negative "blurred"
python -m semdiff.prompts STABLE_DIFFUSION_DIRECTORY OUTPUT --prompt "a photograph" --captions captions.jsonl

Needs the extra `latent` (pip install semdiff[latent]): transformers and PyTorch. The training is told of OUTPUT by
config.data.prompts.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from semdiff.data import prompts
from semdiff.data.text import read_captions
from semdiff.machine import logs

BATCH = 32


def main(arguments: Sequence[str] | None = None) -> int:
    options = _parser().parse_args(arguments)
    try:
        run(options.source, options.target, options.prompt, options.negative, options.captions)
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m semdiff.prompts", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("source", type=Path, help="the directory, with tokenizer/ and text_encoder/")
    parser.add_argument("target", type=Path, help="the folder to write")
    parser.add_argument("--prompt", required=True, help="what is said of every image without a caption")
    parser.add_argument("--negative", default="", help="what guidance steers away from")
    parser.add_argument("--captions", type=Path, help='a .jsonl of {"image": NAME, "caption": TEXT}')
    return parser


def run(source: Path, target: Path, prompt: str, negative: str, captions: Path | None):
    if target.exists():
        raise ValueError(f"{target}: already exists; choose another name")
    encode = encoder(source)
    found = read_captions(captions) if captions else []
    table = np.concatenate([encode([negative]), encode([prompt])])
    states = []
    progress = logs.Progress(len(found), unit="caption")
    for start in range(0, len(found), BATCH):
        texts = [text for _, text in found[start : start + BATCH]]
        states.append(encode(texts).astype(np.float16))
        progress.report(start + len(texts), "encoding")
    said = {"prompt": prompt, "negative": negative, "encoder": source.name}
    prompts.write(
        target, table, np.concatenate(states) if states else None, [name for name, _ in found], said
    )
    logs.say(
        f"{target}: {len(found)} captions and 2 prompts of {table.shape[1]} states of {table.shape[2]}; to train with "
        f"them: --config.data.prompts={target} --config.model.text_length={table.shape[1]} "
        f"--config.model.text_width={table.shape[2]}"
    )


def encoder(source: Path):
    """texts -> states [B, L, W]."""
    try:
        import transformers
    except ImportError as error:
        raise ValueError(
            f"prompts are encoded by transformers, which is not installed ({error}): pip install semdiff[latent]"
        ) from None
    missing = [part for part in ("tokenizer", "text_encoder") if not (source / part).is_dir()]
    if missing:
        raise ValueError(
            f"{source}: has no {' and no '.join(missing)}. Expected Stable Diffusion as diffusers keeps it"
        )
    tokenizer = transformers.CLIPTokenizer.from_pretrained(source / "tokenizer")
    network: Any = transformers.CLIPTextModel.from_pretrained(source / "text_encoder").eval()

    def encode(texts: list[str]) -> np.ndarray:
        length = tokenizer.model_max_length
        tokens = tokenizer(
            texts, padding="max_length", max_length=length, truncation=True, return_tensors="pt"
        )
        return network(tokens.input_ids).last_hidden_state.detach().float().numpy()

    return encode


if __name__ == "__main__":
    sys.exit(main())
