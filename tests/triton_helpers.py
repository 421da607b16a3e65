"""Compiling kernels for a GPU that is not there: the interpreter, which runs them here, takes what Triton refuses."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest


def compile_for_h100(
    kernel: Any, pointers: Mapping[str, str], scalars: Mapping[str, str], constants: Mapping[str, Any], cache: Path
) -> str:
    """The PTX of a kernel; what Triton refuses raises its CompilationError.

    Args:
        pointers, scalars: types of the arguments, as in "*bf16" and "i32"; pointers lie at multiples of 16 bytes.
        constants: values of those that are known when it is compiled.
        cache: where Triton may write.
    """
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    signature = {**pointers, **scalars, **dict.fromkeys(constants, "constexpr")}
    place = {name: (number,) for number, name in enumerate(kernel.arg_names)}
    assert set(place) == set(signature)
    source = ASTSource(
        kernel,
        {name: signature[name] for name in kernel.arg_names},
        {place[name]: value for name, value in constants.items()},
        {place[name]: [["tt.divisibility", 16]] for name in pointers},
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TRITON_CACHE_DIR", str(cache))
        text: str = triton.compile(source, target=GPUTarget("cuda", 90, 32)).asm["ptx"]
    return text
