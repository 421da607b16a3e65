"""What the machine offers: device, precision, memory."""

from __future__ import annotations

import ctypes
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path

import torch
from torch import Tensor

from zoo.support.errors import QzooError

CGROUP_MEMORY = (
    (Path("/sys/fs/cgroup"), "memory.max", "memory.current", "inactive_file"),
    (Path("/sys/fs/cgroup/memory"), "memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
)
"""Folder, limit and use in bytes, and what memory.stat calls files' pages that the kernel takes back, of versions 2 and
1."""
WORKSPACE = "CUBLAS_WORKSPACE_CONFIG"
FIXED_WORKSPACES = (":4096:8", ":16:8")
"""The settings with which cuBLAS adds in the same order every time."""
M_TRIM_THRESHOLD, M_TOP_PAD, M_MMAP_MAX = -1, -2, -4
"""glibc's names for what `mallopt` sets."""


def pick_device(name: str) -> torch.device:
    """ "auto" takes a GPU where there is one.

    A GPU with a number, such as cuda:1, becomes this thread's current one: on any other, nothing is set up.

    Raises:
        QzooError: the device is not there, or holds no values.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    with suppress(RuntimeError, AssertionError):  # reported below
        device = torch.device(name)
        if device.type == "cuda" and device.index is not None:
            torch.cuda.set_device(device)  # Triton launches on the current one
    return checked_device(name)


def checked_device(name: str | torch.device) -> torch.device:
    """A device that holds values here.

    Raises:
        QzooError: it is not there, or holds no values.
    """
    try:
        device = torch.device(name)
        torch.zeros(1, device=device).item()
    except (RuntimeError, AssertionError) as error:
        raise QzooError(f"device {name}: not available here; use auto or cpu") from error
    return device


@contextmanager
def float32_by_default() -> Iterator[None]:
    """Work whose new tensors are float32, whatever the caller's default is."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float32)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


def pick_precision(name: str, device: torch.device) -> torch.dtype:
    """The autocast dtype: "auto" is bfloat16 where the device computes in it, not where it only emulates it."""
    if name == "auto":
        if device.type == "cuda":
            fast = torch.cuda.is_bf16_supported(including_emulation=False)
        else:
            fast = device.type == "cpu" and cpu_computes_bfloat16()
        return torch.bfloat16 if fast else torch.float32
    return {"bfloat16": torch.bfloat16, "float32": torch.float32}[name]


@contextmanager
def deterministic(wanted: bool = True) -> Iterator[None]:
    """Within the block, if `wanted`, operations give the same bits every time, or are refused; on CUDA many are slower.

    cuBLAS reads its setting when CUDA starts, so the block must begin before anything is put on a GPU. What was set
    before comes back afterwards.

    Raises:
        QzooError: CUDA runs already, with another setting of cuBLAS; an operation that can't promise the same bits.
    """
    if not wanted:
        yield
        return
    workspace = os.environ.get(WORKSPACE)
    if workspace not in FIXED_WORKSPACES:
        if torch.cuda.is_initialized():
            raise QzooError(f"deterministic: CUDA runs already; set {WORKSPACE}={FIXED_WORKSPACES[0]} before it starts")
        os.environ[WORKSPACE] = FIXED_WORKSPACES[0]
    cudnn = torch.backends.cudnn
    before = torch.get_deterministic_debug_mode(), cudnn.benchmark
    torch.use_deterministic_algorithms(True)
    cudnn.benchmark = False
    try:
        yield
    except RuntimeError as error:
        if "does not have a deterministic implementation" not in str(error):
            raise
        raise QzooError(f"deterministic: {str(error).split(',')[0]} here; leave it out") from error
    finally:
        torch.set_deterministic_debug_mode(before[0])
        cudnn.benchmark = before[1]
        if workspace is None:
            os.environ.pop(WORKSPACE, None)
        else:
            os.environ[WORKSPACE] = workspace


def cpu_computes_bfloat16() -> bool:
    """Whether this processor has bfloat16 instructions that torch uses: AVX512-BF16 or AMX."""
    checks = (getattr(torch.cpu, name, None) for name in ("_is_avx512_bf16_supported", "_is_amx_tile_supported"))
    return torch.backends.mkldnn.is_available() and any(check() for check in checks if check is not None)


@cache
def onednn_pools(dtype: torch.dtype) -> bool:
    """Whether oneDNN pools maps of this type on this processor: bfloat16 needs AVX-512. Tried once."""
    if not torch.backends.mkldnn.is_available():
        return False
    try:
        torch.mkldnn_max_pool2d(torch.zeros(1, 1, 2, 2, dtype=dtype).to_mkldnn(), [2, 2]).to_dense()
    except RuntimeError:
        return False
    return True


def send(tensor: Tensor, device: torch.device) -> Tensor:
    """A tensor on `device`, as `Tensor.to`; from RAM to a GPU through pinned memory, without waiting for the copy."""
    if device.type != "cuda" or tensor.device.type != "cpu":
        return tensor.to(device)
    return tensor.pin_memory().to(device, non_blocking=True)


@contextmanager
def out_of_memory_as_error(fix: str) -> Iterator[None]:
    """Within the block, memory of a GPU that is full is one line.

    Args:
        fix: what to do about it.

    Raises:
        QzooError: there was not enough of it.
    """
    try:
        yield
    except torch.OutOfMemoryError as error:
        # Its first sentences say of what, and how much was wanted; what follows is of PyTorch's allocator.
        told = ". ".join(str(error).split("\n")[0].split(". ")[:2]).rstrip(".")
        raise QzooError(f"{told}; {fix}") from error


def device_name(device: torch.device) -> str:
    """What figures were made on, as a person would say it."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    threads = torch.get_num_threads()
    return f"CPU, {threads} thread{'s' if threads > 1 else ''}"


def computed_on(precision: str, device: torch.device) -> dict[str, str]:
    """What figures of a run say of where it was computed: device, precision (see `pick_precision`), torch's version."""
    dtype = str(pick_precision(precision, device)).removeprefix("torch.")
    return {"device": device_name(device), "precision": dtype, "torch": torch.__version__}


def free_memory() -> int:
    """Bytes of RAM that a process may still take; 0 where the system does not say.

    On Linux: what the kernel counts as available, or what a container's limit (cgroup) leaves, whichever is less.
    """
    with suppress(OSError, ValueError, StopIteration):
        lines = Path("/proc/meminfo").read_text().splitlines()
        free = 1024 * next(int(line.split()[1]) for line in lines if line.startswith("MemAvailable:"))
        for folder, limit, used, cached in CGROUP_MEMORY:
            with suppress(OSError, ValueError, KeyError):  # no such cgroup, or its limit is the word "max"
                stat = dict(line.split() for line in (folder / "memory.stat").read_text().splitlines())
                taken = int((folder / used).read_text()) - int(stat[cached])
                free = min(free, int((folder / limit).read_text()) - taken)
        return max(0, free)
    return 0


def keep_freed_memory() -> bool:
    """Let this process keep the memory that it frees, for its next tensors; where the C library is not glibc, nothing.

    By default glibc gives large blocks back to the kernel as they are freed, and the next step's tensors are the
    kernel's empty pages again, each of which it has to clear first; `benchmarks/choices.py` measures what
    that costs. A process holds no more for it than it held at its highest.

    Returns:
        Whether it was set.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError, TypeError):  # another C library, or another system
        return False
    settings = {M_MMAP_MAX: 0, M_TRIM_THRESHOLD: 2**31 - 1, M_TOP_PAD: 64 * 2**20}
    return all(mallopt(name, value) for name, value in settings.items())
