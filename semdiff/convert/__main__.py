"""Released PyTorch weights in and out.

python -m semdiff.convert inspect FILE
python -m semdiff.convert import released.pt weights.safetensors
python -m semdiff.convert export weights.safetensors released.safetensors

Stable Diffusion and ControlNets: a directory as diffusers keeps it, or an original .ckpt or .pth.

python -m semdiff.convert import stable-diffusion-2-1-base weights.safetensors
python -m semdiff.convert export MODEL_FOLDER diffusers_directory
"""

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import ModuleType

import numpy as np

from semdiff.convert import diffusers_folder, gcdp, ldm, safetensors_file, sdm, torch_file, weights


def main(arguments: Sequence[str] | None = None) -> int:
    options = _parser().parse_args(arguments)
    try:
        options.run(options)
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m semdiff.convert", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    commands = parser.add_subparsers(required=True)

    command = commands.add_parser("inspect", help="list a file's tensors and the network they make")
    command.add_argument("file", type=Path, help=".pt, .pth or .safetensors")
    command.add_argument("--key", help="look only at this entry of a file that nests its tensors")
    command.set_defaults(run=_inspect)

    command = commands.add_parser(
        "import", help="what is released of SDM, SCDM, GCDP or ControlNets -> weights"
    )
    command.add_argument("source", type=Path, help=".pt, .pth, .ckpt, .safetensors or a diffusers directory")
    command.add_argument("target", type=Path, help="the weights to write, .safetensors")
    command.add_argument("--key", help="the entry that holds the network, if tensors are nested")
    command.add_argument(
        "--new-attention-order",
        action="store_true",
        help="the network was trained with use_new_attention_order",
    )
    command.add_argument("--head-width", type=int, default=sdm.HEAD_WIDTH, metavar="CHANNELS")
    command.add_argument("--heads", type=int, default=0, help="a fixed number of heads instead")
    command.add_argument("--force", action="store_true", help="replace an existing target")
    command.set_defaults(run=_import)

    command = commands.add_parser("export", help="weights -> what PyTorch code loads")
    command.add_argument(
        "source", type=Path, help="weights of SDM or SCDM; a model folder of a ControlNet (--mode=export)"
    )
    command.add_argument(
        "target", type=Path, help="the state_dict to write, .safetensors; for a model folder a directory"
    )
    command.add_argument("--force", action="store_true", help="replace an existing target")
    command.set_defaults(run=_export)
    return parser


def _inspect(options: argparse.Namespace) -> None:
    if options.key is None and _is_semdiff(options.file):
        params, metadata = weights.load_weights(options.file)
        tensors = weights.flatten(params)
        _print_table(tensors)
        _print_settings("metadata", metadata)
        released = sdm.to_torch(params, options.file)
    else:
        nested = options.key is None
        tensors = torch_file.load(options.file, key=options.key, flatten=nested)
        _print_table(tensors)
        released = tensors
    try:
        config = _table_of(released).infer_config(released, options.file)
    except ValueError as error:
        print(f"\nno network recognised: {error}")
        return
    _print_settings("network", config)


def _import(options: argparse.Namespace) -> None:
    _check_target(options.target, options.force)
    if options.source.is_dir():
        return _import_latent(diffusers_folder.read(options.source), options)
    tensors = torch_file.load(options.source, key=options.key, flatten=options.key is None)
    if ldm.is_ldm(tensors):
        return _import_latent(diffusers_folder.of_tensors(options.source, tensors), options)
    if _table_of(tensors) is gcdp:
        params, heads = gcdp.to_semdiff(tensors, options.source), {}
    else:
        params = sdm.to_semdiff(
            tensors,
            new_attention_order=options.new_attention_order,
            heads=options.heads,
            head_width=options.head_width,
            source=options.source,
        )
        heads = {"heads": options.heads, "head_width": options.head_width}
    config = _table_of(tensors).infer_config(tensors, options.source)
    metadata = {"source": options.source.name, "network": config | heads}
    weights.save_weights(options.target, params, metadata)
    print(f"{options.target}: {_total(weights.flatten(params))}")
    _print_settings("network", config)


def _import_latent(found: diffusers_folder.Found, options: argparse.Namespace) -> None:
    metadata = {"source": options.source.name, "settings": found.settings}
    weights.save_weights(options.target, found.params, metadata)
    print(f"{options.target}: {', '.join(found.params)}; {_total(weights.flatten(found.params))}")
    _print_settings("configuration", {f"config.{key}": value for key, value in found.settings.items()})


def _export_latent(options: argparse.Namespace) -> None:
    about = options.source / "config.json"
    try:
        config = json.loads(about.read_text(encoding="utf-8"))["config"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{about}: {error!r}; expected a model folder as --mode=export writes it") from None
    if config["model"]["kind"] != "control_unet":
        raise ValueError(
            f"{options.source}: is of a {config['model']['kind']}, which diffusers has not; give its model.safetensors, and "
            "a target that ends in .safetensors"
        )
    if options.target.exists() and not options.force:
        raise ValueError(f"{options.target}: already exists; choose another name or pass --force")
    params, _ = weights.load_weights(options.source / "model.safetensors")
    written = diffusers_folder.write(options.target, params, config, options.source)
    print(f"{options.target}: {', '.join(written)}")


def _export(options: argparse.Namespace) -> None:
    if options.source.is_dir():
        return _export_latent(options)
    _check_target(options.target, options.force)
    params, _ = weights.load_weights(options.source)
    sdm.export_safetensors(options.target, params, options.source)
    print(f"{options.target}: {_total(weights.flatten(params))}")


def _table_of(tensors: Mapping[str, np.ndarray]) -> ModuleType:
    """What knows the network that these tensors are of."""
    return gcdp if gcdp.is_gcdp(tensors) else sdm


def _is_semdiff(path: Path) -> bool:
    try:
        return weights.MARK in safetensors_file.read_metadata(path)
    except (ValueError, OSError):
        return False


def _check_target(path: Path, force: bool) -> None:
    if path.suffix != ".safetensors":
        raise ValueError(f"{path}: expected a target that ends in .safetensors")
    if not path.parent.is_dir():
        raise ValueError(f"{path}: the folder {path.parent} does not exist; create it first")
    if path.exists() and not force:
        raise ValueError(f"{path}: already exists; choose another name or pass --force")


def _print_table(tensors: Mapping[str, np.ndarray]) -> None:
    widest = max(map(len, tensors))
    for name, tensor in tensors.items():
        print(f"{name:{widest}}  {tensor.dtype.name:9}{'x'.join(map(str, tensor.shape)) or 'scalar'}")
    print(_total(tensors))


def _total(tensors: Mapping[str, np.ndarray]) -> str:
    count = sum(tensor.size for tensor in tensors.values())
    size = sum(tensor.nbytes for tensor in tensors.values())
    return f"{len(tensors)} tensors, {count:,} numbers, {size / 2**20:.1f} MiB"


def _print_settings(title: str, settings: Mapping[str, object]) -> None:
    print(f"\n{title}:")
    for name, value in settings.items():
        print(f"  {name} = {value}")


if __name__ == "__main__":
    sys.exit(main())
