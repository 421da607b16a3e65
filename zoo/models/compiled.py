"""The networks' forward and backward passes compiled by torch.compile; on CUDA replayed as CUDA graphs, too."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import wraps
from typing import Any

import torch

from zoo.support.errors import QzooError

BACKEND = "inductor"
ForwardPass = Callable[..., Any]


@dataclass(frozen=True)
class Passes:
    """What an objective calls for its networks: the networks themselves, or compiled forms on the same parameters."""

    online: ForwardPass
    target: ForwardPass
    begin: Callable[[], None] = lambda: None
    """Called before the first pass of a step, when no result of the step before is needed any more."""


def compiled_passes(online: ForwardPass, target: ForwardPass, device: torch.device) -> Passes:
    """The passes of two networks, or of functions of them, compiled when first called, for batches of one shape.

    It takes up to a minute on a CPU.

    Nothing is kept in the networks, so their state dicts stay as they are. Parameters are read where they lie: whoever
    updates them (optimizer, moving average, copy) does so in place. CUDA graphs keep results, gradients included, in
    memory of their own, which the next step overwrites. A compiled backward pass gives its gradients all at its end, so
    that ranks have nothing to send before.

    Raises:
        QzooError: at the first call, where it can't be compiled.
    """
    on_cuda = device.type == "cuda"
    how: dict[str, Any] = {"mode": "reduce-overhead"} if on_cuda else {"backend": BACKEND}
    first, second = (
        _told_in_a_line(torch.compile(network, dynamic=False, fullgraph=True, **how)) for network in (online, target)
    )
    return Passes(first, second, torch.compiler.cudagraph_mark_step_begin) if on_cuda else Passes(first, second)


def _told_in_a_line(forward: ForwardPass) -> ForwardPass:
    """The same function; where it can't be compiled, the error is one of ours."""

    @wraps(forward)
    def call(*arguments: Any) -> Any:
        try:
            return forward(*arguments)
        except torch._dynamo.exc.TorchDynamoException as error:
            reason = next((line for line in str(error).splitlines() if line.strip()), type(error).__name__)
            raise QzooError(f"`compile`: {reason.strip()}; leave it out to go without") from error

    return call
