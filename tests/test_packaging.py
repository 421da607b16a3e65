"""What a user gets: a wheel with games, recordings and models that works away from the checkout, offline."""

import json
import os
import subprocess
import sys
import sysconfig
import venv
import zipfile
from pathlib import Path

import pytest

REPO = Path(__file__).resolve().parents[1]
MEGABYTE = 1_000_000

# One worker runs this whole file, so each wheel is built once.
pytestmark = pytest.mark.xdist_group("packaging")


def run(*command: object, cwd: Path, **env: str) -> str:
    """Run a command as a stranger to the checkout would: no PYTHONPATH, no coverage hooks, no network."""
    ours = ("PYTHON", "COVERAGE", "COV_", "HF_", "XDG_", "PIP_")
    clean = {key: value for key, value in os.environ.items() if not key.startswith(ours)}
    clean |= {"PIP_NO_INDEX": "1", "PIP_DISABLE_PIP_VERSION_CHECK": "1", "HF_HUB_OFFLINE": "1"} | env
    done = subprocess.run([str(part) for part in command], cwd=cwd, env=clean, capture_output=True, text=True)
    assert done.returncode == 0, f"{command} exited {done.returncode}\n{done.stdout}\n{done.stderr}"
    return done.stdout


def build(out: Path, *options: str) -> Path:
    run(sys.executable, "-m", "build", "--no-isolation", *options, "--outdir", out, REPO, cwd=out)
    (wheel,) = out.glob("*.whl")
    return wheel


def contents(wheel: Path) -> dict[str, int]:
    """The files of a wheel, each with its checksum."""
    with zipfile.ZipFile(wheel) as archive:
        return {entry.filename: entry.CRC for entry in archive.infolist()}


def files_below(folder: Path, *skipped: str) -> list[Path]:
    """The files of a folder, without hidden ones, caches and the names given."""

    def kept(path: Path) -> bool:
        parts = path.relative_to(folder).parts
        return path.is_file() and not any(part.startswith(".") for part in parts) and not skip & {*parts}

    skip = {"__pycache__", *skipped}
    return [path for path in folder.rglob("*") if kept(path)]


def project_files() -> list[Path]:
    """What git tracks or would track; without git, everything but hidden files and build or run outputs."""
    listing = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    try:
        done = subprocess.run(listing, cwd=REPO, capture_output=True, text=True, check=True)
    except (FileNotFoundError, subprocess.CalledProcessError):
        return files_below(REPO, "build", "dist", "runs")
    return [REPO / name for name in done.stdout.split("\0") if name and (REPO / name).is_file()]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(tmp_path_factory.mktemp("wheel"), "--wheel")


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An environment that holds this wheel alone, its dependencies borrowed from the running environment."""
    env = tmp_path_factory.mktemp("installed") / "env"
    venv.create(env, symlinks=True)
    python = env / "bin" / "python"
    run(sys.executable, "-m", "pip", "--python", python, "install", "--no-deps", wheel, cwd=env)
    # A path named in a .pth file comes last, and .pth files in it are not read: the checkout stays out.
    site = Path(run(python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))", cwd=env).strip())
    borrowed = {sysconfig.get_path("purelib"), sysconfig.get_path("platlib")}
    (site / "dependencies.pth").write_text("\n".join(sorted(borrowed)) + "\n")
    return env


def test_wheel_holds_games_recordings_and_models(wheel: Path) -> None:
    held = contents(wheel)
    assert "zoo/atari/games.csv" in held

    recordings = [path.relative_to(REPO).as_posix() for path in REPO.glob("zoo/recordings/shipped/*.parquet")]
    assert recordings, "the checkout ships no recordings"
    assert set(recordings) <= held.keys()

    cards = REPO / "model_cards"
    models = [path.relative_to(cards).as_posix() for path in files_below(cards)]
    assert any(name.endswith(".safetensors") for name in models), "the checkout ships no model"
    assert {f"zoo/_model_cards/{name}" for name in models} <= held.keys()


def test_wheel_holds_only_the_packages(wheel: Path) -> None:
    tops = {name.split("/")[0] for name in contents(wheel)}
    assert {top for top in tops if not top.endswith(".dist-info")} == {"zoo", "finetune"}
    assert any(name.endswith(".dist-info/licenses/LICENSE") for name in contents(wheel))


@pytest.mark.slow
def test_sdist_builds_the_same_wheel(wheel: Path, tmp_path: Path) -> None:
    assert contents(build(tmp_path)) == contents(wheel)  # without options: the sdist, then the wheel from it


def test_installed_wheel_lists_and_loads(installed: Path, tmp_path: Path) -> None:
    listed = json.loads(run(installed / "bin" / "zoo", "list", "--json", cwd=tmp_path, HOME=str(tmp_path)))
    assert listed, "the installed package lists no model"

    program = """
import json, sys, zoo
encoder = zoo.load(sys.argv[1])
print(json.dumps({
    "file": zoo.__file__,
    "parameters": sum(parameter.numel() for parameter in encoder.parameters()),
    "training": encoder.training,
}))
"""
    python, name = installed / "bin" / "python", listed[0]["name"]
    loaded = json.loads(run(python, "-c", program, name, cwd=tmp_path, HOME=str(tmp_path)))
    module = Path(loaded["file"]).resolve()
    assert module.is_relative_to(installed.resolve())
    assert not module.is_relative_to(REPO)
    assert loaded["parameters"] > 0
    assert loaded["training"] is False


@pytest.mark.slow
def test_installed_wheel_runs_the_demo(installed: Path, tmp_path: Path) -> None:
    few = ("--steps", "5", "--episodes", "1", "--transitions", "500", "--json")
    shown = json.loads(run(installed / "bin" / "zoo", "demo", *few, cwd=tmp_path, HOME=str(tmp_path)))
    assert list(shown["arms"]) == ["random", "data", "scratch", "frozen", "full"]
    made = tmp_path / "runs" / "demo"
    assert all((made / name).stat().st_size > 0 for name in ("results.json", "curves.png", "play.mp4"))


def test_no_large_files() -> None:
    sizes = {path.relative_to(REPO).as_posix(): path.stat().st_size for path in project_files()}
    assert sizes
    assert {name: size for name, size in sizes.items() if size >= 50 * MEGABYTE} == {}
    weights = sum(size for name, size in sizes.items() if name.endswith(".safetensors"))
    assert weights < 150 * MEGABYTE
