"""The released networks of GCDP (PyTorch) into `JointUNet`'s parameters: base and super-resolution.

Modules are renamed by `RENAMED`, in order; a tensor's place below its module and its form follow from its own name and rank.
"""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from semdiff.convert import table
from semdiff.convert.weights import unflatten

# Of all that a checkpoint holds the network's tensors begin with one of these; the averaged weights come first.
PREFIXES = (r"(?:ema\.)?\d+\.ema_model\.", r"(?:model\.)?unets\.\d+\.", r"module\.", r"")
MARK = "init_emb_seg.emb_layer.weight"  # a tensor that these networks have and others do not

# Theirs -> ours. What a rule has renamed is not looked at by the next ones: names with a slash are done.
RENAMED = (
    (r"init_emb_seg\.emb_layer", "labels/"),
    (r"init_emb_seg_lowres\.emb_layer", "labels_low/"),
    (r"init_conv\.convs\.(\d+)", r"conv_in/conv_\1/"),
    (r"to_(lowres_)?time_hiddens\.0", r"level\1/waves/"),
    (r"to_(lowres_)?time_hiddens\.1", r"level\1/hidden/"),
    (r"to_(lowres_)?time_cond\.0", r"level\1/vector/"),
    (r"to_(lowres_)?time_tokens\.0", r"level\1/tokens/"),
    (r"norm_cond", "tokens_norm/"),
    (r"text_to_cond", "told/tokens/"),
    (r"null_text_embed", "told/null_tokens"),
    (r"null_text_hidden", "told/null_vector"),
    (r"to_text_non_attn_cond\.0", "told/norm/"),
    (r"to_text_non_attn_cond\.1", "told/hidden/"),
    (r"to_text_non_attn_cond\.3", "told/vector/"),
    (r"attn_pool\.pos_emb\.weight", "told/resampler/places"),
    (r"attn_pool\.latents", "told/resampler/latents"),
    (r"attn_pool\.to_latents_from_mean_pooled_seq\.0", "told/resampler/mean_norm/"),
    (r"attn_pool\.to_latents_from_mean_pooled_seq\.1", "told/resampler/mean/"),
    (r"attn_pool\.layers\.(\d+)\.0\.norm_latents", r"told/resampler/attention_\1/latents_norm/"),
    (r"attn_pool\.layers\.(\d+)\.0\.norm", r"told/resampler/attention_\1/tokens_norm/"),
    (r"attn_pool\.layers\.(\d+)\.0", r"told/resampler/attention_\1/"),
    (r"attn_pool\.layers\.(\d+)\.1", r"told/resampler/feed_\1/feed/"),
    (r"init_resnet_block", "first/"),
    (r"final_res_block", "last/"),
    (r"final_conv_seg", "conv_layout/"),
    (r"final_conv", "conv_image/"),
    (r"mid_block1", "middle_first/"),
    (r"mid_block2", "middle_last/"),
    (r"mid_attn\.fn\.fn", "middle_attention/"),
    (r"(down|up)s\.(\d+)\.0\.1", r"\1_resample_\2/"),  # of downs alone: ups have no such module
    (r"downs\.(\d+)\.1", r"down_first_\1/"),
    (r"downs\.(\d+)\.2\.(\d+)", r"down_blocks_\1_\2/"),
    (r"downs\.(\d+)\.3\.layers\.0\.0\.fn", r"down_attention_\1/attention/"),
    (r"downs\.(\d+)\.3\.layers\.0\.1", r"down_attention_\1/feed/"),
    (r"ups\.(\d+)\.0", r"up_first_\1/"),
    (r"ups\.(\d+)\.1\.(\d+)", r"up_blocks_\1_\2/"),
    (r"ups\.(\d+)\.2\.layers\.0\.0\.fn", r"up_attention_\1/attention/"),
    (r"ups\.(\d+)\.2\.layers\.0\.1", r"up_attention_\1/feed/"),
    (r"ups\.(\d+)\.3\.net\.0", r"up_resample_\1/conv/"),
)
# The same below a module.
INNER = (
    (r"time_mlp\.1", "level"),
    (r"cross_attn\.fn", "cross"),
    (r"block1\.groupnorm", "first"),
    (r"block2\.groupnorm", "second"),
    (r"block1\.project", "first/conv"),
    (r"block2\.project", "second/conv"),
    (r"gca\.to_k", "context/scores"),
    (r"gca\.net\.0", "context/hidden"),
    (r"gca\.net\.2", "context/gates"),
    (r"res_conv", "skip"),
    (r"to_context\.0", "tokens_norm"),
    (r"to_context\.1", "tokens_kv"),
    (r"to_out\.0", "out"),
    (r"to_out\.1", "out_norm"),
    (r"to_(q|kv)", r"\1"),
    (r"null_kv", "null"),
    (r"norm", "norm"),
)
END = r"(?:\.|$)"  # of a module's name
FEED = {"0": "norm", "1": "wide", "3": "wide_norm", "4": "narrow"}
NORMS = ("norm", "first", "second")  # modules whose weight is a scale
DENSE = ("hidden", "gates", "wide", "narrow", "conv")  # of a 1 x 1 convolution there, a plain product here


def is_gcdp(names: Mapping[str, Any]) -> bool:
    return any(name.endswith(MARK) for name in names)


def infer_config(tensors: Mapping[str, Any], source: str | Path = "the checkpoint") -> dict:
    """The network that a checkpoint belongs to, from names and shapes alone; fields are called as `JointUNet`'s."""
    net = _network(tensors, source)
    shape = lambda name: tuple(net[name].shape)  # noqa: E731
    levels = 1 + max(int(m[1]) for name in net if (m := re.match(r"downs\.(\d+)\.", name)))
    base = sum(shape(name)[0] for name in net if re.fullmatch(r"init_conv\.convs\.\d+\.weight", name))
    head_width = shape("mid_attn.fn.fn.null_kv")[1]
    count = lambda i: len({m[1] for n in net if (m := re.match(rf"downs\.{i}\.2\.(\d+)\.", n))})  # noqa: E731
    having = lambda part: tuple(i for i in range(levels) if f"downs.{i}.{part}" in net)  # noqa: E731
    feeds = [shape(name) for name in net if re.fullmatch(r"downs\.\d+\.3\.layers\.0\.1\.1\.weight", name)]
    return {
        "num_classes": shape(MARK)[0],
        "image_channels": 3,
        "out_channels": shape("final_conv.weight")[0],
        "label_channels": shape(MARK)[1],
        "base": base,
        "multipliers": tuple(shape(f"downs.{i}.0.1.weight")[0] // base for i in range(levels)),
        "blocks": tuple(count(i) for i in range(levels)),
        "attention": having("3.layers.0.0.fn.null_kv"),
        "cross_attention": having("1.cross_attn.fn.null_kv"),
        "heads": shape("mid_attn.fn.fn.to_q.weight")[0] // head_width,
        "head_width": head_width,
        "feed_factor": feeds[0][0] / feeds[0][1] if feeds else 2.0,
        "stem": tuple(shape(n)[2] for n in sorted(net) if re.fullmatch(r"init_conv\.convs\.\d+\.weight", n)),
        "text_width": shape("text_to_cond.weight")[1],
        "text_length": shape("null_text_embed")[1],
        "latents": shape("attn_pool.latents")[0] if "attn_pool.latents" in net else 0,
        "time_tokens": shape("to_time_tokens.0.weight")[0] // shape("norm_cond.weight")[0],
        "upscales": "init_emb_seg_lowres.emb_layer.weight" in net,
    }


def to_semdiff(tensors: Mapping[str, np.ndarray], source: str | Path = "the checkpoint") -> dict[str, Any]:
    """Nested parameters of `JointUNet`: the averaged ones where the checkpoint has them."""
    net = _network(tensors, source)
    table.check_floats(net, source)
    _check_heads(net, source)
    levels = 1 + max(int(m[1]) for name in net if (m := re.match(r"ups\.(\d+)\.", name)))
    params, unknown = {}, []
    for name, tensor in net.items():
        place = _place(name, levels)
        if place is None:
            unknown.append(name)
        else:
            params[place] = table.at_least_float32(_formed(place, tensor))
    if unknown:
        raise ValueError(
            f"{source}: not the network of GCDP that its names suggest: {len(unknown)} tensors have no place in it: "
            f"{', '.join(unknown[:10])}. Pass a checkpoint of the released base or super-resolution model"
        )
    return unflatten(params)


def _check_heads(net: Mapping[str, Any], source: str | Path):
    """The released code attends to words with 8 heads of 64 whatever its settings say of heads; `JointUNet` has one kind."""
    middle = net.get("mid_attn.fn.fn.to_q.weight")
    own = None if middle is None else middle.shape[0]
    for name, tensor in net.items():
        if name.endswith("cross_attn.fn.to_q.weight") and own not in (None, tensor.shape[0]):
            raise ValueError(
                f"{source}: {name} has {tensor.shape[0]} channels and mid_attn.fn.fn.to_q.weight {own}: attention to words "
                "of another width than attention between places is not supported. Expected one width, as of the released "
                "base and super-resolution models (8 heads of 64)"
            )


def _network(tensors: Mapping[str, Any], source: str | Path) -> dict[str, Any]:
    """The network's tensors under its own names."""
    for prefix in PREFIXES:
        found = [re.match(prefix, name) for name in tensors if re.fullmatch(prefix + re.escape(MARK), name)]
        if found and found[0]:
            chosen = found[0][0]
            return {n.removeprefix(chosen): t for n, t in tensors.items() if n.startswith(chosen)}
    raise ValueError(
        f"{source}: not the network of GCDP: none of its {len(tensors)} tensors is called ...{MARK}. Expected a checkpoint "
        "of the released base or super-resolution model"
    )


def _place(name: str, levels: int) -> str | None:
    """Where a tensor goes: its path; None for one that is not known."""
    for theirs, ours in RENAMED:
        if match := re.match(theirs + END, name):
            module, rest = match.expand(ours), name[match.end() :]
            break
    else:
        return None
    # Decoder levels are counted from the deepest there.
    module = re.sub(r"^(up_[a-z]+_)(\d+)", lambda m: f"{m[1]}{levels - 1 - int(m[2])}", module)
    module = module.replace("levellowres_/", "level_low/")
    if not module.endswith("/"):
        return module if not rest else None
    if module.endswith("feed/"):
        number, _, rest = rest.partition(".")
        if number not in FEED:
            return None
        module = (
            module.replace("feed/", f"{FEED[number]}/")
            if "resampler" in module
            else f"{module}{FEED[number]}/"
        )
    while found := next(((m, ours) for theirs, ours in INNER if (m := re.match(theirs + END, rest))), None):
        match, ours = found
        module, rest = f"{module}{match.expand(ours)}/", rest[match.end() :]
    if not rest:
        return module.rstrip("/")
    last = module.rstrip("/").rpartition("/")[2]
    if rest == "weights":
        return f"{module}frequencies"
    if rest == "weight" and module.startswith("labels"):
        return f"{module}embedding"
    if rest == "g" or (rest == "weight" and (last.endswith("norm") or last in NORMS)):
        return f"{module}scale"
    return f"{module}{'kernel' if rest == 'weight' else rest}" if rest in ("weight", "bias") else None


def _formed(place: str, tensor: np.ndarray) -> np.ndarray:
    *_, module, name = ("", *place.split("/"))
    if name == "scale":
        return tensor.reshape(-1)
    if name in ("null_tokens", "null_vector"):
        return tensor[0]
    if name != "kernel":
        return tensor
    if (
        tensor.ndim == 4
        and tensor.shape[2:] == (1, 1)
        and (module in DENSE and not place.startswith("conv_"))
    ):
        tensor = tensor[:, :, 0, 0]
    return np.moveaxis(tensor, (0, 1), (-1, -2)) if tensor.ndim > 1 else tensor
