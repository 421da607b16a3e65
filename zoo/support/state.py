"""What a run needs to resume, saved and restored: tensors and plain values in a safetensors file."""

from __future__ import annotations

import json
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from zoo.support.errors import QzooError
from zoo.support.files import parse_json, refuse_special, replacing

INFO_KEY, CHECKSUM_KEY, OLD_CHECKSUM_KEY, INFO_CRC_KEY = "info", "checksum", "crc32", "info_crc32"
"""The old checksum, of files written before, left types and shapes out."""
START_OVER = "; delete it to start over"
"""What to do about a damaged file, where there is no other one to resume from."""


def save_state(path: Path, tensors: Mapping[str, Tensor], info: Mapping[str, Any], *, keep: Path | None = None) -> None:
    """Write tensors and JSON values under a temporary name, then rename: a kill leaves the old file whole.

    Args:
        keep: where the old file goes, in the same folder; by default it is replaced. A kill may leave it there alone.

    Raises:
        QzooError: the file can't be written.
    """
    text = json.dumps(dict(info))
    contiguous = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    metadata = {INFO_KEY: text, CHECKSUM_KEY: str(checksum(contiguous, text)), INFO_CRC_KEY: _crc(text)}
    with replacing(path, keep=keep) as temporary:
        save_file(contiguous, temporary, metadata=metadata)


def load_state(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Read back what `save_state` wrote: (tensors on the CPU, values).

    Raises:
        QzooError: missing, truncated, changed since, or not written by `save_state`.
    """
    with _opened(path) as (file, metadata):
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    old = CHECKSUM_KEY not in metadata
    if metadata[OLD_CHECKSUM_KEY if old else CHECKSUM_KEY] != str(checksum(tensors, metadata[INFO_KEY], old=old)):
        raise QzooError(f"{path}: damaged (its checksum is not that of its content){START_OVER}")
    return tensors, _values(path, metadata)


def read_info(path: Path) -> dict[str, Any]:
    """The values alone of what `save_state` wrote, from the file's head; whether its tensors are whole is not asked.

    Raises:
        QzooError: missing, damaged in its head, or not written by `save_state`.
    """
    with _opened(path) as (_, metadata):
        # Files of before have no checksum of the values alone: only that of everything can vouch for them.
        if INFO_CRC_KEY not in metadata:
            return load_state(path)[1]
        if metadata[INFO_CRC_KEY] != _crc(metadata[INFO_KEY]):
            raise QzooError(f"{path}: damaged in its head{START_OVER}")
        return _values(path, metadata)


def _crc(text: str) -> str:
    return str(zlib.crc32(text.encode()))


def _values(path: Path, metadata: Mapping[str, str]) -> dict[str, Any]:
    try:
        values = parse_json(metadata[INFO_KEY])
    except ValueError as error:
        raise QzooError(f"{path}: damaged ({error}){START_OVER}") from error
    if not isinstance(values, dict):
        raise QzooError(f"{path}: damaged (no values){START_OVER}")
    return values


@contextmanager
def _opened(path: Path) -> Iterator[tuple[Any, dict[str, str]]]:
    refuse_special(path)
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            for names in ((INFO_KEY,), (CHECKSUM_KEY, OLD_CHECKSUM_KEY)):
                if not any(name in metadata for name in names):
                    raise QzooError(f"{path}: holds no run state of this version (its metadata has no {names[0]!r})")
            yield file, metadata
    except FileNotFoundError as error:
        raise QzooError(f"{path}: no such file") from error
    except (SafetensorError, OSError, ValueError) as error:
        raise QzooError(f"{path}: damaged ({error}){START_OVER}") from error


def checksum(tensors: Mapping[str, Tensor], text: str, *, old: bool = False) -> int:
    """crc32 over a text and the names, types, shapes and bytes of contiguous tensors on the CPU.

    Args:
        old: leave types and shapes out, as files written before do.
    """
    value = zlib.crc32(text.encode())
    for name in sorted(tensors):
        kind = "" if old else f" {tensors[name].dtype} {tuple(tensors[name].shape)}"
        value = zlib.crc32(f"{name}{kind}".encode(), value)
        value = zlib.crc32(tensors[name].reshape(-1).view(torch.uint8).numpy().data, value)
    return value


def optimizer_tensors(optimizer: torch.optim.Optimizer, prefix: str) -> dict[str, Tensor]:
    """The optimizer's per-parameter state as flat named tensors: "<prefix>.<parameter number>.<key>"."""
    state = optimizer.state_dict()["state"]
    return {
        f"{prefix}.{number}.{key}": torch.as_tensor(value)
        for number, entry in state.items()
        for key, value in entry.items()
    }


def restore_optimizer(optimizer: torch.optim.Optimizer, tensors: Mapping[str, Tensor], prefix: str) -> None:
    """Put back what `optimizer_tensors` took; settings (learning rates) stay as the optimizer has them."""
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    state: dict[int, dict[str, Tensor]] = {}
    for name, tensor in tensors.items():
        head, _, rest = name.partition(".")
        if head != prefix:
            continue
        number, _, key = rest.partition(".")
        parameter = parameters[int(number)]
        if tensor.shape == parameter.shape:
            # A fused step walks parameter and moments side by side in memory, so their strides must agree
            # (channels_last), and files hold the plain order.
            tensor = torch.empty_like(parameter, dtype=tensor.dtype).copy_(tensor)
        state.setdefault(int(number), {})[key] = tensor.clone()
    content = optimizer.state_dict()
    optimizer.load_state_dict({"state": state, "param_groups": content["param_groups"]})


def module_tensors(module: nn.Module, prefix: str) -> dict[str, Tensor]:
    """A module's parameters and buffers under "<prefix>.<name>"."""
    return {f"{prefix}.{name}": tensor for name, tensor in module.state_dict().items()}


def restore_module(module: nn.Module, tensors: Mapping[str, Tensor], prefix: str) -> None:
    """Put back, strictly, what `module_tensors` took."""
    start = prefix + "."
    module.load_state_dict({name[len(start) :]: t for name, t in tensors.items() if name.startswith(start)})
