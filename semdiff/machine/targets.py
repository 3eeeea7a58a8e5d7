"""Machines that programs are compiled for without being there: what they have, and devices that stand for theirs."""

import os
import re
from dataclasses import dataclass

import jax
import numpy as np

from semdiff.config import ConfigError
from semdiff.machine import compiler_flags

GIB = 2**30


@dataclass(frozen=True)
class Chip:
    """As its maker says: memory that programs may use, peak of bfloat16 products, bandwidth of memory, of links to others.

    cores: of a GPU, its multiprocessors; capability: its compute capability.
    """

    name: str
    platform: str
    memory_gib: float
    tflops: float
    gb_per_s: float
    link_gb_per_s: float
    cores: int = 0
    capability: int = 0
    shared_kib: int = 0


CHIPS = {
    chip.name: chip
    for chip in (
        Chip("v4", "tpu", 30.75, 275, 1228, 300),
        Chip("v5e", "tpu", 15.75, 197, 819, 200),
        Chip("v5p", "tpu", 95.74, 459, 2765, 600),
        Chip("v6e", "tpu", 31.25, 918, 1640, 448),
        Chip("a100", "gpu", 79.0, 312, 2039, 600, cores=108, capability=8, shared_kib=163),
        Chip("h100", "gpu", 79.0, 989, 3350, 900, cores=132, capability=9, shared_kib=227),
        Chip("h200", "gpu", 140.0, 989, 4800, 900, cores=132, capability=9, shared_kib=227),
    )
}
HERE = "here"
_GPU_FLAGS = {
    "xla_gpu_autotune_level": 0,
    "xla_gpu_enable_triton_gemm": False,
}  # to tune, it would have to be there


@dataclass(frozen=True)
class Target:
    """So many of a chip; shape: of a TPU slice."""

    chip: Chip
    shape: str

    def __str__(self) -> str:
        return f"{self.chip.name}:{self.shape}"

    @property
    def count(self) -> int:
        return int(np.prod([int(n) for n in self.shape.split("x")]))

    @property
    def options(self) -> dict | None:
        """What the compiler must be told where the chip is not there."""
        return _GPU_FLAGS if self.chip.platform == "gpu" else None

    def devices(self) -> list:
        """Devices that programs can be compiled for, and not run on."""
        from jax.experimental import topologies

        try:
            if self.chip.platform == "tpu":
                for name, value in compiler_flags.TPU.environment.items():  # others may plan beside this
                    os.environ.setdefault(name, value)
                compiler_flags.TPU.add(compiler_flags.FOR_TPU)
                found = topologies.get_topology_desc(str(self), platform="tpu")
            else:
                description = _description(self.chip)
                found = topologies.get_topology_desc(
                    platform="cuda", target_config=description, topology=f"1x1x{self.count}"
                )
        except Exception as error:
            extra, package = _EXTRA[self.chip.platform]
            raise ConfigError(
                f"config.plan.target is {self}, but its compiler does not start here: {str(error)[:300]}. It comes with "
                f'pip install "semdiff[{extra}]" ({package}), best in an environment of its own'
            ) from error
        return list(found.devices)


_EXTRA = {"tpu": ("plan-tpu", "libtpu"), "gpu": ("plan-cuda", "jax-cuda12-plugin and what it needs")}
_TARGET = re.compile(r"(\w+)(?::(\d+(?:x\d+)*))?")


def target_of(written: str) -> Target:
    """v5e:4x4, v4:2x2x4, h100, h100:8."""
    match = _TARGET.fullmatch(written)
    if match is None or match[1] not in CHIPS:
        raise ConfigError(
            f"config.plan.target is {written!r}; expected {HERE}, a TPU slice as v5e:4x4, or GPUs as h100 or h100:8, of "
            f"{', '.join(CHIPS)}"
        )
    chip = CHIPS[match[1]]
    if chip.platform == "tpu" and match[2] is None:
        raise ConfigError(
            f"config.plan.target is {written}; a TPU slice has a shape, as {written}:2x2 (v4 and v5p: {written}:2x2x1)"
        )
    return Target(chip, match[2] or "1")


def leave_devices():
    """Nothing of this machine but its CPU is used from here on: to be called before jax has begun."""
    os.environ |= {"TPU_SKIP_MDS_QUERY": "1", "CUDA_VISIBLE_DEVICES": "-1"}
    jax.config.update("jax_platforms", "cpu")


def _description(chip: Chip) -> str:
    """What XLA asks of a GPU, in its own words."""
    device = {
        "threads_per_block_limit": 1024,
        "threads_per_warp": 32,
        "shared_memory_per_block": 49152,
        "shared_memory_per_core": (chip.shared_kib + 1) * 1024,
        "threads_per_core_limit": 2048,
        "core_count": chip.cores,
        "fpus_per_core": 128 if chip.capability == 9 else 64,
        "block_dim_limit_x": 2**31 - 1,
        "block_dim_limit_y": 65535,
        "block_dim_limit_z": 65535,
        "memory_bandwidth": round(chip.gb_per_s * 1e9),
        "l2_cache_size": 50 * 2**20 if chip.capability == 9 else 40 * 2**20,
        "clock_rate_ghz": 1.98 if chip.capability == 9 else 1.41,
        "device_memory_size": round(chip.memory_gib * GIB),
        "shared_memory_per_block_optin": chip.shared_kib * 1024,
        "registers_per_core_limit": 65536,
        "registers_per_block_limit": 65536,
    }
    facts = " ".join(f"{name}: {value}" for name, value in device.items())
    return (
        f"gpu_device_info {{ {facts} cuda_compute_capability {{ major: {chip.capability} }} }} "
        'platform_name: "CUDA" dnn_version_info { major: 9 minor: 7 } runtime_version { major: 12 minor: 8 patch: 0 } '
        f'device_description_str: "NVIDIA {chip.name.upper()}"'
    )
