"""The page on many GPUs says what the measurements say, and its SLURM script gives settings that there are."""

import json
import re
import shlex
import subprocess
from pathlib import Path

import pytest
from torch.distributed.run import get_args_parser

from benchmarks import scale
from zoo.cli import parse_command

ROOT = Path(__file__).parents[2]


def test_the_tables_are_those_of_the_measurements() -> None:
    text = scale.PAGE.read_text()
    assert text.split(scale.BEGIN)[1].split(scale.END)[0].strip() == scale.tables().strip()


def test_a_step_is_told_only_where_it_was_measured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    row = {"arch": "resnet101", "device": "cuda", "batch": 480, "games": 40, "step_ms": {"median": 86.4}}
    monkeypatch.setattr(scale, "ON_GPUS", tmp_path)
    bench = tmp_path / "gpu_480.json"
    for other in ({"device": "cpu"}, {"arch": "resnet18"}, {"batch": 64}, {"games": 4}):
        bench.write_text(json.dumps({"steps": [{**row, **other}]}))
        assert "ms |" not in scale.tables()
    bench.write_text(json.dumps({"steps": [row]}))
    (line,) = (line for line in scale.tables().splitlines() if " ms |" in line)
    assert line.startswith("| 1 | 40 |") and line.endswith("| 86.4 ms | 10.0 |")  # 10 million times 86.4 ms


def test_the_slurm_script() -> None:
    path = ROOT / "docs" / "slurm.sh"
    subprocess.run(["bash", "-n", str(path)], check=True)
    script = path.read_text().replace("\\\n", " ")
    (line,) = re.findall(r"torchrun (.*) \"\$@\" &", script)
    words = shlex.split(re.sub(r"\$\{?SLURM_NNODES\}?", "8", line))
    # Since version 22.05 srun does not take over what the job was given a task.
    assert 'srun --cpus-per-task="$SLURM_CPUS_PER_TASK" ' in script and "#SBATCH --cpus-per-task=" in script
    torchrun, zoo = words[: words.index("pretrain")], words[words.index("pretrain") + 1 :]
    options = get_args_parser().parse_args(torchrun)
    assert (options.nnodes, options.nproc_per_node, options.module) == ("8", "8", True)
    command = parse_command("pretrain", zoo)
    assert command.resume and command.places.store == "blocks" and command.run_config.steps == scale.STEPS
