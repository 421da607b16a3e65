"""What is asked of the machine beside devices: memory that is kept."""

import platform
import subprocess
import sys

import pytest

FAULTS = """
import resource, sys, torch
from zoo.support.device import keep_freed_memory
if sys.argv[1] == "keep":
    assert keep_freed_memory()
def step():
    a = torch.ones(8 << 20)  # 32 MiB
    b = a * 2
    del a, b
for _ in range(20):
    step()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(10):
    step()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.slow
@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="needs glibc")
def test_memory_that_is_kept_is_not_asked_for_again() -> None:
    def faults(what: str) -> int:
        done = subprocess.run([sys.executable, "-c", FAULTS, what], capture_output=True, text=True, check=True)
        return int(done.stdout)

    # 20 tensors of 32 MiB given back: 163,840 faults of 4 KiB each, fewer of larger pages. Kept: one tensor's at
    # most, where a small block has come to lie in a hole.
    assert 8 * faults("keep") < faults("give back")
