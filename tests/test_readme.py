"""Every block of the README runs as it stands, in order, in a folder of its own."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
BLOCKS = re.findall(r"^```(\w+)\n(.*?)^```", (ROOT / "README.md").read_text(), re.MULTILINE | re.DOTALL)
TOO_LONG_FOR_A_TEST = (
    "make demo",
    "make test",
)  # these two are tested by tests of their own, and by running this
SMALLER = {  # the same commands on less, so that the suite stays quick
    "--steps 100000 --out runs/mine": "--steps 500 --out runs/mine",
    "--steps 1000 --episodes 4": "--steps 4 --episodes 1",
    "--episodes 4 --random": "--episodes 1 --random",
    "--steps 4000 --evaluate-every 2000 --episodes 2": "--steps 400 --evaluate-every 200 --episodes 1",
    "Gopher Boxing": "Assault Boxing",
    "from_critic --steps 100": "from_critic --steps 4",
    "--per-game 5000": "--per-game 500",
    "--samples 100000": "--samples 5000",
    "evaluate --episodes 2": "evaluate --episodes 1",
    ".mp4": ".mp4 --max-steps 100",
    'game="Breakout")\nresult = zoo.evaluate({"Breakout": agent}, episodes=2)\nprint(result["games"]["Breakout"]': (
        'game="Assault")\nresult = zoo.evaluate({"Assault": agent}, episodes=1)\nprint(result["games"]["Assault"]'
    ),
    "--transitions 50000 --steps 500": "--transitions 1000 --steps 4 --episodes 1",
    "--games Breakout --episodes 32": "--games Assault --episodes 1",  # in Breakout it may be stuck until the limit
    "verify --sample 1": "verify --sample 1 --games Assault Qbert",  # of the other games by a test of its own
    "--games Breakout Boxing --transitions 20000 --steps 500": "--games Breakout Assault --transitions 500 --steps 4",
    "--steps 20000": "--steps 500",
    "--imports runs/imports --steps 500": "--imports runs/imports --steps 2",
}


def test_the_two_commands_come_first() -> None:
    assert [code.strip() for _, code in BLOCKS[:2]] == list(TOO_LONG_FOR_A_TEST)
    makefile = (ROOT / "Makefile").read_text()
    assert all(re.search(rf"^{command.split()[1]}:", makefile, re.MULTILINE) for command in TOO_LONG_FOR_A_TEST)


def test_every_shortcut_is_used() -> None:
    text = "".join(code for _, code in BLOCKS)
    assert all(long in text for long in SMALLER)


@pytest.mark.parametrize(("language", "code"), BLOCKS[2:], ids=[code.splitlines()[-1][:40] for _, code in BLOCKS[2:]])
def test_block(language: str, code: str, tmp_path: Path) -> None:
    for long, short in SMALLER.items():
        code = code.replace(long, short)
    if language == "python":
        command = [sys.executable, "-c", code]
    else:
        command = ["bash", "-euo", "pipefail", "-c", code]
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    done = subprocess.run(
        command, cwd=tmp_path, env={**os.environ, "PATH": path}, capture_output=True, text=True, timeout=240
    )
    assert done.returncode == 0, done.stderr[-2000:]
