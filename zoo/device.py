"""What the machine offers: device, precision, memory."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

import torch

from zoo.errors import QzooError

CGROUP_MEMORY = (
    (Path("/sys/fs/cgroup"), "memory.max", "memory.current"),
    (Path("/sys/fs/cgroup/memory"), "memory.limit_in_bytes", "memory.usage_in_bytes"),
)
"""Folder, limit and use in bytes, of versions 2 and 1."""


def pick_device(name: str) -> torch.device:
    """ "auto" takes a GPU where there is one.

    Raises:
        QzooError: the device is not there.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        raise QzooError(f"--device {name}: not available here; use auto or cpu") from error
    return device


def pick_precision(name: str, device: torch.device) -> torch.dtype:
    """The autocast dtype: "auto" is bfloat16 where the device computes in it, not where it only emulates it."""
    if name == "auto":
        if device.type == "cuda":
            fast = torch.cuda.is_bf16_supported(including_emulation=False)
        else:
            fast = device.type == "cpu" and cpu_computes_bfloat16()
        return torch.bfloat16 if fast else torch.float32
    return {"bfloat16": torch.bfloat16, "float32": torch.float32}[name]


def cpu_computes_bfloat16() -> bool:
    """Whether this processor has bfloat16 instructions that torch uses: AVX512-BF16 or AMX."""
    checks = (getattr(torch.cpu, name, None) for name in ("_is_avx512_bf16_supported", "_is_amx_tile_supported"))
    return torch.backends.mkldnn.is_available() and any(check() for check in checks if check is not None)


def device_name(device: torch.device) -> str:
    """What figures were made on, as a person would say it."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    threads = torch.get_num_threads()
    return f"CPU, {threads} thread{'s' if threads > 1 else ''}"


def free_memory() -> int:
    """Bytes of RAM that a process may still take; 0 where the system does not say.

    On Linux: what the kernel counts as available, or what a container's limit (cgroup) leaves, whichever is less.
    """
    with suppress(OSError, ValueError, StopIteration):
        lines = Path("/proc/meminfo").read_text().splitlines()
        free = 1024 * next(int(line.split()[1]) for line in lines if line.startswith("MemAvailable:"))
        for folder, limit, used in CGROUP_MEMORY:
            with suppress(OSError, ValueError):  # no such cgroup, or its limit is the word "max"
                free = min(free, int((folder / limit).read_text()) - int((folder / used).read_text()))
        return max(0, free)
    return 0
