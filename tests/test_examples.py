"""The examples run as they stand."""

import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parent.parent / "examples"


@pytest.mark.parametrize(
    ("arguments", "shown"),
    [
        (["features.py"], "-> (4, 512) torch.float32"),
        pytest.param(["linear_probe.py", "--transitions", "1500"], "untrained", marks=pytest.mark.slow),
    ],
)
def test_example(arguments: list[str], shown: str, tmp_path: Path) -> None:
    script, *rest = arguments
    done = subprocess.run(
        [sys.executable, str(EXAMPLES / script), *rest], cwd=tmp_path, capture_output=True, text=True, timeout=240
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert shown in done.stdout


def test_every_example_is_run() -> None:
    assert {path.name for path in EXAMPLES.glob("*.py")} == {"features.py", "linear_probe.py"}
