"""The examples run as they stand."""

import subprocess
import sys
from pathlib import Path

import pytest

from zoo.models.encoder import Encoder
from zoo.models.model_folder import ModelConfig, write_model

EXAMPLES = Path(__file__).parent.parent / "examples"


@pytest.mark.parametrize(
    ("arguments", "shown"),
    [
        (["features.py"], "-> (4, 512) torch.float32"),
        (["plain_pytorch.py", "MODEL"], "torch.Size([8, 16])"),
        pytest.param(["stable_baselines.py", "--steps", "600"], "Using cpu device", marks=pytest.mark.slow),
        (["ppo.py", "--steps", "64", "--rollout", "16", "--num-envs", "2"], "step 64,"),
        (["ppo.py", "--steps", "16", "--rollout", "8", "--num-envs", "2", "--train"], "step 16,"),
    ],
)
def test_example(arguments: list[str], shown: str, tmp_path: Path) -> None:
    script, *rest = [str(tmp_path / "model") if word == "MODEL" else word for word in arguments]
    if "MODEL" in arguments:
        encoder = Encoder("nature", 16)
        about = {"name": "nature.x", "objective": "none", "dataset": "none", "pretraining": {}}
        write_model(encoder, ModelConfig.of(encoder, **about), tmp_path / "model")
    done = subprocess.run(
        [sys.executable, str(EXAMPLES / script), *rest], cwd=tmp_path, capture_output=True, text=True, timeout=240
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert shown in done.stdout


def test_every_example_is_run() -> None:
    assert {path.name for path in EXAMPLES.glob("*.py")} == {
        *("features.py", "plain_pytorch.py", "ppo.py", "stable_baselines.py")
    }
