"""Stable Diffusion as diffusers keeps it: a folder with unet/, vae/, controlnet/, each a config.json and .safetensors.

A folder of one of them alone is read too, and so are the original files, .ckpt and .pth, without running what is in them.
"""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from semdiff.convert import latent, ldm, safetensors_file
from semdiff.convert.latent import Autoencoder, Denoiser
from semdiff.convert.weights import write_safetensors

CLASSES = {"UNet2DConditionModel": "unet", "ControlNetModel": "controlnet", "AutoencoderKL": "vae"}
NAMES = {"unet": "unet", "controlnet": "control", "vae": "space"}  # of the folders -> of our parameters
WEIGHTS = "diffusion_pytorch_model.safetensors"
PROMPTS, STATES = (
    "prompts.safetensors",
    ("negative_prompt_embeds", "prompt_embeds"),
)  # ours, beside diffusers' own
ABOUT, INDEX = "config.json", "diffusion_pytorch_model.safetensors.index.json"
PREDICTIONS = {"epsilon": "eps", "v_prediction": "v", "sample": "x0"}
SCHEDULES = {"linear": "linear", "scaled_linear": "scaled_linear"}


# Of a configuration, what the tensors tell of it.
KEYS = {
    "model": ("base", "multipliers", "blocks", "attention", "depth", "text_width"),
    "space": ("base", "multipliers", "blocks", "channels"),
}


@dataclass
class Found:
    """params: "unet", "control" and "space", those that were there. networks: what they are, by the same names. settings:
    what was written beside them, by the names of a configuration's keys."""

    params: dict[str, Any] = field(default_factory=dict)
    networks: dict[str, Denoiser | Autoencoder] = field(default_factory=dict)
    settings: dict[str, Any] = field(default_factory=dict)

    def add(self, part: str, tensors: Mapping[str, np.ndarray], source: Path):
        params, network = latent.to_semdiff(tensors, source)
        name = NAMES[part]
        self.params[name], self.networks[name] = params.get(name, params), network
        of = "space" if isinstance(network, Autoencoder) else "model"
        self.settings |= {f"{of}.{key}": value for key, value in asdict(network).items() if key in KEYS[of]}
        if isinstance(network, Denoiser) and network.hint:
            self.settings["model.hint"] = network.hint


def is_diffusers(folder: Path) -> bool:
    """Whether a folder is one of diffusers', a pipeline's or a part's."""
    return any((folder / part / ABOUT).is_file() for part in NAMES) or _class_of(folder) in CLASSES


def read(folder: Path) -> Found:
    found = Found()
    alone = CLASSES.get(_class_of(folder))
    places = {alone: folder} if alone else {part: folder / part for part in NAMES if (folder / part).is_dir()}
    if not places:
        raise ValueError(
            f"{folder}: no folder of diffusers: expected unet/, vae/ or controlnet/, or one of them itself, each with "
            f"{ABOUT} and {WEIGHTS}"
        )
    for part, place in places.items():
        written = _about(place)
        if CLASSES.get(str(written.get("_class_name"))) != part:
            raise ValueError(
                f"{place / ABOUT}: is of a {written.get('_class_name')!r}, expected {_name_of(part)}: no other is known here"
            )
        found.add(part, _tensors(place), place)
        _settings(part, written, place, found)
    if (folder / PROMPTS).is_file():
        states = safetensors_file.load(folder / PROMPTS)[0]
        if not states.keys() >= set(STATES):
            raise ValueError(f"{folder / PROMPTS}: lacks {' or '.join(STATES)}. Copy it again")
        found.params["prompts"] = np.stack([states[name] for name in STATES])
    schedule = folder / "scheduler" / "scheduler_config.json"
    if schedule.is_file():
        written = _json(schedule)
        prediction, beta = written.get("prediction_type", "epsilon"), written.get("beta_schedule", "linear")
        found.settings["process.parameterisation"] = PREDICTIONS.get(prediction, prediction)
        found.settings["process.schedule"] = SCHEDULES.get(beta, beta)
    return found


def of_tensors(path: Path, tensors: Mapping[str, np.ndarray]) -> Found:
    """Of an original .ckpt, .pth or .safetensors of Stable Diffusion, of a ControlNet, or of both."""
    found = Found()
    for part, inside in ldm.parts(tensors).items():
        found.add(part, inside, path)
    for network in found.networks.values():
        if isinstance(network, Denoiser):  # such files do not say; the released are so
            heads = {"heads": 8} if network.text_width == 768 else {"head_width": 64, "heads": 0}
            found.settings |= {f"model.{name}": value for name, value in (heads | {"groups": 32}).items()}
        else:
            found.settings |= {"space.scale": 0.18215, "space.groups": 32}
    return found


def _settings(part: str, written: dict, place: Path, found: Found):
    """What the tensors do not tell."""
    if part == "vae":
        found.settings["space.groups"] = written.get("norm_num_groups", 32)
        found.settings["space.scale"] = written.get("scaling_factor", 0.18215)
        if written.get("shift_factor"):
            raise ValueError(
                f"{place / ABOUT}: has a shift_factor, which no autoencoder of Stable Diffusion 1 or 2 has"
            )
        return
    network = found.networks[NAMES[part]]
    assert isinstance(network, Denoiser)
    heads = written.get("num_attention_heads") or written.get("attention_head_dim", 8)
    found.settings["model.groups"] = written.get("norm_num_groups", 32)
    if isinstance(heads, int):
        found.settings["model.heads"] = heads
        return
    widths = {width // count for width, count in zip(network.widths, heads)}
    if len(widths) != 1:
        raise ValueError(
            f"{place / ABOUT}: heads of several widths ({heads} of {network.widths}) are not known here"
        )
    found.settings |= {"model.head_width": widths.pop(), "model.heads": 0}


def _tensors(place: Path) -> dict[str, np.ndarray]:
    """One file, or several with an index."""
    if (place / WEIGHTS).is_file():
        return safetensors_file.load(place / WEIGHTS)[0]
    if (place / INDEX).is_file():
        tensors: dict[str, np.ndarray] = {}
        for name in sorted(set(_json(place / INDEX)["weight_map"].values())):
            if Path(name).name != name:
                raise ValueError(f"{place / INDEX}: names {name!r}, expected files beside it")
            tensors |= safetensors_file.load(place / name)[0]
        return tensors
    others = sorted(path.name for path in place.glob("*.safetensors")) + sorted(
        p.name for p in place.glob("*.bin")
    )
    raise ValueError(
        f"{place}: has no {WEIGHTS} (there are: {', '.join(others) or 'no weights'}). Download that file: a .bin is a "
        "pickle, and variants (fp16) are to be renamed"
    )


def _class_of(folder: Path) -> str:
    try:
        return str(_json(folder / ABOUT).get("_class_name", ""))
    except ValueError:
        return ""


def _about(place: Path) -> dict:
    if not (place / ABOUT).is_file():
        raise ValueError(f"{place}: has no {ABOUT}. Copy the folder again, whole")
    return _json(place / ABOUT)


def _json(path: Path) -> dict:
    try:
        written = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise ValueError(f"{path}: cannot be read ({str(error)[:80]}). Copy it again") from None
    if not isinstance(written, dict):
        raise ValueError(f"{path}: expected a table of settings. Copy it again")
    return written


def _name_of(part: str) -> str:
    return next(name for name, known in CLASSES.items() if known == part)


# --- out


def write(
    folder: Path, params: Mapping[str, Any], config: Mapping[str, Any], source: str | Path
) -> list[str]:
    """What diffusers' from_pretrained loads: unet/, controlnet/, vae/, and scheduler/ where diffusers has such a one; beside
    them the states of the prompts. The names of what was written.

    config: that of a model folder, its parts model, space and process. A ControlNet takes one plane per class, 0 or 1, in
    place of colours.
    """
    model, space, written = config["model"], config["space"], []
    shared = {
        "base": model["base"],
        "multipliers": tuple(model["multipliers"]),
        "blocks": model["blocks"],
        "attention": tuple(model["attention"]),
        "depth": model["depth"],
        "text_width": model["text_width"],
        "linear": True,
    }
    for part, name in (("unet", "unet"), ("controlnet", "control")):
        channels = np.shape(params[name]["encoder"]["conv_in"]["kernel"])[2]
        if name == "unet":
            outputs = np.shape(params[name]["decoder"]["conv_out"]["kernel"])[-1]
            network = Denoiser(**shared, channels=channels, out_channels=outputs)
        else:
            planes = np.shape(params[name]["hint"]["labels"]["kernel"])[2]
            hint = tuple(model["hint"])
            network = Denoiser(**shared, channels=channels, out_channels=0, hint=hint, given=planes)
        tensors = latent.to_torch({name: params[name]}, latent.entries_of(network), source)
        _write_part(folder / part, tensors, _of_denoiser(network, model))
        written.append(part)
    if "space" in params:
        a = Autoencoder(space["base"], tuple(space["multipliers"]), space["blocks"], space["channels"])
        weights, scale = _plain_space(params["space"], space["scale"])
        tensors = latent.to_torch(weights, latent.entries_of(a), source)
        _write_part(folder / "vae", tensors, _of_autoencoder(a, space, scale))
        written.append("vae")
    states = {name: np.asarray(row) for name, row in zip(STATES, params["prompts"])}
    write_safetensors(folder / PROMPTS, states)
    written.append(PROMPTS)
    schedule = config["process"]["schedule"]
    if schedule in BETAS:
        _write_json(folder / "scheduler" / "scheduler_config.json", _of_process(config["process"]))
        written.append("scheduler")
    return written


# First and last beta, which are for 1000 steps.
BETAS = {"linear": (0.0001, 0.02), "scaled_linear": (0.00085, 0.012)}


def _of_process(process: Mapping[str, Any]) -> dict:
    start, end = (beta * 1000 / process["steps"] for beta in BETAS[process["schedule"]])
    return {
        "_class_name": "DDIMScheduler",
        "beta_start": start,
        "beta_end": end,
        "beta_schedule": process["schedule"],
        "clip_sample": False,
        "num_train_timesteps": process["steps"],
        "prediction_type": next(k for k, v in PREDICTIONS.items() if v == process["parameterisation"]),
        "set_alpha_to_one": False,
        "timestep_spacing": "leading",
        "steps_offset": 1,
    }


def _of_denoiser(a: Denoiser, model: Mapping[str, Any]) -> dict:
    levels = range(len(a.widths))
    down = ["CrossAttnDownBlock2D" if a.attends(level) else "DownBlock2D" for level in levels]
    about = {
        "_class_name": _name_of("controlnet" if a.hint else "unet"),
        "attention_head_dim": [model["heads"] or width // model["head_width"] for width in a.widths],
        "block_out_channels": a.widths,
        "cross_attention_dim": a.text_width,
        "down_block_types": down,
        "in_channels": a.channels,
        "layers_per_block": a.blocks,
        "norm_num_groups": model["groups"],
        "transformer_layers_per_block": a.depth,
        "use_linear_projection": a.linear,
    }
    if a.hint:
        hint = {"conditioning_channels": a.given, "conditioning_embedding_out_channels": list(a.hint)}
        return about | hint
    up = [kind.replace("Down", "Up") for kind in reversed(down)]
    return about | {"out_channels": a.out_channels, "up_block_types": up}


def _of_autoencoder(a: Autoencoder, space: Mapping[str, Any], scale: float) -> dict:
    levels = len(a.multipliers)
    return {
        "_class_name": _name_of("vae"),
        "block_out_channels": [multiplier * a.base for multiplier in a.multipliers],
        "down_block_types": ["DownEncoderBlock2D"] * levels,
        "up_block_types": ["UpDecoderBlock2D"] * levels,
        "in_channels": 3,
        "out_channels": 3,
        "latent_channels": a.channels,
        "layers_per_block": a.blocks,
        "norm_num_groups": space["groups"],
        "scaling_factor": scale,
    }


def _plain_space(space: Mapping[str, Any], scale: float) -> tuple[dict[str, Any], float]:
    """(weights, one factor for all channels): a mean and deviation for each channel become a part of the last weights."""
    weights = {name: space[name] for name in ("encoder", "decoder")}
    if scale:
        return weights, scale
    mean, deviation = np.asarray(space["mean"]), np.asarray(space["deviation"])
    way_in, way_out = (weights[half]["quant"] for half in ("encoder", "decoder"))
    over = np.concatenate([deviation, np.ones_like(deviation)])
    shift = np.concatenate([mean / deviation, 2 * np.log(deviation)])
    quant = {
        "encoder": {
            "kernel": np.asarray(way_in["kernel"]) / over,
            "bias": np.asarray(way_in["bias"]) / over - shift,
        },
        "decoder": {
            "kernel": np.asarray(way_out["kernel"]) * deviation[:, None],
            "bias": np.asarray(way_out["bias"]) + mean @ np.asarray(way_out["kernel"])[0, 0],
        },
    }
    return {half: {**weights[half], "quant": quant[half]} for half in weights}, 1.0


def _write_part(place: Path, tensors: Mapping[str, np.ndarray], about: dict):
    place.mkdir(parents=True, exist_ok=True)
    write_safetensors(place / WEIGHTS, tensors, {"format": "pt"})
    _write_json(place / ABOUT, about)


def _write_json(path: Path, content: dict):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
