"""Exporting recordings: Minari and Parquet readers get the frames, actions, rewards and ends that were recorded."""

import json
import os
import subprocess
import sys
import tracemalloc
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import gymnasium
import minari
import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
import yaml

from tests.command_helpers import run_command
from tests.conftest import GAMES
from tests.recording_helpers import as_learner, recorded, refused
from zoo.atari.emulator import rom_md5
from zoo.atari.games import all_games
from zoo.atari.protocol import PROTOCOL
from zoo.atari.vector_env import make_vector_env
from zoo.converters.export import by_source, export
from zoo.converters.export_minari import environment, export_minari
from zoo.converters.export_parquet import export_parquet, write_card
from zoo.converters.frame_set import open_frame_set
from zoo.converters.minari import import_minari
from zoo.frames.replay import replayed
from zoo.frames.store import FrameStore
from zoo.recordings.datasets import Selection
from zoo.recordings.format import Recording, read_recording


def test_the_last_state_comes_along(recordings: list[Recording]) -> None:
    recording = recordings[0]
    env = make_vector_env(recording.metadata.game, 1, num_threads=1)
    for episode, frames in replayed([recording], workers=1):
        assert len(frames) == episode.length + 1
        shown = [env.reset(seed=np.array([episode.seed]))[0][0, -1].copy()]
        for action in episode.actions.astype(np.int64):
            shown.append(env.step(np.array([action]))[0][0, -1].copy())
        assert np.array_equal(frames, np.stack(shown))


def test_memory_holds_a_group_of_episodes(tmp_path: Path) -> None:
    recordings = [read_recording(recorded(tmp_path, count=8))]
    total = recordings[0].transitions
    longest = max(episode.length for episode in recordings[0].episodes)
    tracemalloc.start()
    try:
        seen = sum(episode.length for episode, _ in replayed(recordings, workers=1, group_frames=10))
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert seen == total
    assert peak < 3 * longest * 84 * 84 < 0.9 * total * 84 * 84  # the one at hand, and the next being made


def test_minari_there_and_back(
    recordings: list[Recording], store: FrameStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    name, folder = export_minari(recordings[:1], Path("out"), workers=1)
    assert (name, folder) == ("Breakout/random-v0", Path("out") / "Breakout" / "random-v0")
    path, origin = import_minari(folder, Path("sets"))
    back = open_frame_set(path).store  # Breakout comes first in the store, too
    assert back.ranges == {"Breakout": store.ranges["Breakout"]}
    every = torch.arange(len(back.frames))
    assert torch.equal(back.frames.fetch(every), store.frames.fetch(every))
    for column in ("actions", "rewards", "frame_index", "episode_start", "steps_left", "terminated"):
        ours = getattr(store, column)[: len(getattr(back, column))]
        assert np.array_equal(getattr(back, column), ours), column
    assert not any(word in line for line in origin.differs for word in ("sticky", "skip:", "JPEG", "screen "))


def test_minari_finds_it(recordings: list[Recording], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path))
    recording = recordings[0]
    name, _ = export_minari([recording], tmp_path, command="zoo data export", workers=1)
    assert list(minari.list_local_datasets()) == [name]
    dataset = minari.load_dataset(name)
    assert (dataset.total_episodes, dataset.total_steps) == (len(recording.episodes), recording.transitions)
    for episode, ours in zip(dataset, recording.episodes, strict=True):
        assert len(episode.observations) == ours.length + 1
        assert episode.rewards.sum() == ours.score
        assert episode.terminations.tolist() == [False] * (ours.length - 1) + [ours.terminated]
    metadata = next(iter(dataset.storage.get_episode_metadata([1])))
    assert metadata["ale_seed"] == recording.episodes[1].seed
    assert dataset.storage.metadata["qzoo"]["rom_md5"] == rom_md5(recording.metadata.game)
    env = dataset.recover_environment()
    assert env.observation_space == dataset.observation_space and env.action_space == dataset.action_space
    assert env.unwrapped.spec.kwargs["repeat_action_probability"] == PROTOCOL.sticky_actions
    # The environment's frames are the dataset's: its first one depends on no sticky coin.
    assert np.array_equal(env.reset(seed=0)[0], dataset[0].observations[0])


def test_every_game_has_an_environment() -> None:
    for game in all_games():
        assert environment(game).kwargs["game"] == all_games()[game].rom
    assert environment("Pong").kwargs["full_action_space"]
    assert gymnasium.spec("ALE/Pong-v5").kwargs["frameskip"] == 4  # the registered one is untouched


def test_parquet_there_and_back(recordings: list[Recording], tmp_path: Path) -> None:
    recording = recordings[1]
    path = export_parquet([recording], tmp_path, workers=1)
    assert path == tmp_path / "data" / "SpaceInvaders.random.parquet"
    table = pq.read_table(path)
    rows = table.to_pylist()
    first = 0
    for number, (episode, frames) in enumerate(replayed([recording], workers=1)):
        part = rows[first : first + episode.length]
        first += episode.length
        shown = [cv2.imdecode(np.frombuffer(r["observation"]["bytes"], np.uint8), cv2.IMREAD_UNCHANGED) for r in part]
        assert np.array_equal(np.stack(shown), frames[:-1])
        assert [row["action"] for row in part] == episode.actions.tolist()
        assert [row["reward"] for row in part] == episode.rewards.tolist()
        assert [row["terminated"] for row in part] == [False] * (episode.length - 1) + [episode.terminated]
        assert [row["truncated"] for row in part] == [False] * (episode.length - 1) + [episode.truncated]
        assert [(row["episode_id"], row["step"]) for row in part] == [(number, step) for step in range(episode.length)]
        assert {row["seed"] for row in part} == {episode.seed}
    assert first == len(rows)
    features = json.loads(table.schema.metadata[b"huggingface"])["info"]["features"]
    assert list(features) == table.schema.names and features["observation"] == {"_type": "Image"}
    assert features["reward"] == {"dtype": "float32", "_type": "Value"}


def test_hugging_face_datasets_opens_the_folder(recordings: list[Recording], tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    for recording in recordings:
        export_parquet([recording], tmp_path / "out", workers=1)
    write_card(tmp_path / "out")
    folder, cache = str(tmp_path / "out"), str(tmp_path / "cache")
    every = datasets.load_dataset(folder, split="train", cache_dir=cache)
    assert len(every) == sum(recording.transitions for recording in recordings)
    episode, frames = next(replayed(recordings[1:], workers=1))
    rows = datasets.load_dataset(folder, GAMES[1], split="train", cache_dir=cache)
    assert len(rows) == recordings[1].transitions
    assert np.array_equal(np.asarray(rows[5]["observation"]), frames[5]) and rows[5]["action"] == episode.actions[5]


def test_the_card_tells_what_is_there(recordings: list[Recording], tmp_path: Path) -> None:
    for recording in recordings:
        export_parquet([recording], tmp_path, workers=1, command=f"zoo data export {recording.metadata.game}")
    (tmp_path / "data" / ".killed.tmp.parquet").write_bytes(b"half")
    _, front, text = write_card(tmp_path).read_text().split("---\n", 2)
    assert "```bash\n" + "\n".join(f"zoo data export {game}" for game in GAMES) + "\n```\n" in text
    settings = yaml.safe_load(front)
    assert settings["license"] == "apache-2.0"
    assert [config["config_name"] for config in settings["configs"]] == ["all", *GAMES]
    assert [config.get("default", False) for config in settings["configs"]] == [True, False, False]
    for config in settings["configs"]:
        (files,) = config["data_files"]
        assert files["split"] == "train"
        wanted = GAMES if config["config_name"] == "all" else [config["config_name"]]
        found = [p.name for p in tmp_path.glob(files["path"]) if not p.name.startswith(".")]
        assert sorted(found) == [f"{game}.random.parquet" for game in wanted]
    for recording in recordings:
        steps, episodes = recording.transitions, len(recording.episodes)
        assert f"| {recording.metadata.game} | random | {episodes:,} | {steps:,} |" in text


def test_recordings_beside_the_export_are_not_its_files(recordings: list[Recording], tmp_path: Path) -> None:
    out = tmp_path / "out"
    recorded(out / "data", "Breakout", 1, "learner")
    export_parquet(recordings[:1], out, workers=1)
    _, front, text = write_card(out).read_text().split("---\n", 2)
    assert "| Breakout | random |" in text and "learner" not in front + text and "*.parquet" not in front + text
    for config in yaml.safe_load(front)["configs"]:
        assert config["data_files"] == [{"split": "train", "path": ["data/Breakout.random.parquet"]}]
    assert '["data/Breakout.random.parquet"]' in text
    taken = tmp_path / "taken"
    line = refused(lambda: export_parquet([read_recording(recorded(taken / "data"))], taken), "another selection")
    assert str(taken / "data" / "Breakout.random.parquet") in line


def test_a_card_that_cannot_be_written_is_one_line(recordings: list[Recording], tmp_path: Path) -> None:
    export_parquet(recordings[:1], tmp_path, workers=1)
    (tmp_path / "README.md").mkdir()
    refused(lambda: write_card(tmp_path), tmp_path / "README.md", "could not be written")


@pytest.mark.parametrize("form", ["minari", "parquet"])
def test_the_command_goes_on_and_refuses_another_selection(form: str, recordings_dir: Path, tmp_path: Path) -> None:
    def export(*more: str) -> dict[str, dict[str, object]]:
        arguments = ["--recordings", str(recordings_dir), "--format", form, "--out", str(tmp_path), "--json"]
        result = run_command("data export", [*arguments, "--workers", "1", *more])
        assert result["format"] == form
        return {part["game"]: part for part in result["datasets"]}

    (first,) = export("--games", GAMES[0]).values()
    written = Path(str(first["path"])).stat().st_mtime_ns
    both = export("--games", *GAMES)
    assert both[GAMES[0]] == first and Path(str(first["path"])).stat().st_mtime_ns == written
    assert int(both[GAMES[1]]["steps"]) >= 600
    assert (tmp_path / "README.md").exists() == (form == "parquet")
    refused(lambda: export("--games", GAMES[0], "--transitions", "10"), first["path"], "another selection")
    refused(lambda: export("--games", GAMES[0], "--workers", "-1"), "--workers -1")


def test_a_dataset_is_exported_as_training_takes_it(tmp_path: Path) -> None:
    folder, out = tmp_path / "play", tmp_path / "out"
    random = recorded(tmp_path / "random", "SpaceInvaders", 2)
    as_learner(random, folder)
    (folder / random.name).write_bytes(random.read_bytes())
    arguments = ["--recordings", str(folder), "--format", "parquet", "--out", str(out), "--workers", "1", "--json"]
    chosen = ["--dataset", "heldout5", "--games", "SpaceInvaders", "--per-game", "200"]
    (part,) = run_command("data export", [*arguments, *chosen])["datasets"]
    (taken,) = Selection("heldout5", ("SpaceInvaders",), per_game=200).load([folder])
    assert (part["source"], part["steps"], part["episodes"]) == ("learner", taken.steps, len(taken.episodes))
    assert 200 <= taken.steps < read_recording(random).steps
    refused(lambda: run_command("data export", arguments), "--games", "--dataset")
    refused(lambda: run_command("data export", [*arguments, "--dataset", "heldout5"]), "4 of 5 games are not recorded")
    refused(lambda: run_command("data export", [*arguments, *chosen, "--sources", "learner"]), "--sources: heldout5")


def test_what_does_not_replay_leaves_nothing(recordings: list[Recording], tmp_path: Path) -> None:
    recording = recordings[0]
    rewards = recording.episodes[1].rewards.copy()
    rewards[3] += 1
    wrong = replace(recording.episodes[1], rewards=rewards)
    recording = replace(recording, episodes=(recording.episodes[0], wrong))
    for write in (export_minari, export_parquet):
        out = tmp_path / write.__name__
        refused(lambda: write([recording], out, workers=1), recording.path, "episode 1, step 3")  # noqa: B023
        assert not [path for path in out.rglob("*") if path.is_file()]


def start_export(folder: Path, out: Path, prepare: str = "") -> subprocess.CompletedProcess[str]:
    """`zoo data export` of the first game for Minari, in a process of its own that first runs `prepare`."""
    arguments = ["--recordings", str(folder), "--games", GAMES[0], "--out", str(out), "--workers", "1", "--json"]
    program = f"{prepare}\nimport runpy; runpy.run_module('zoo', run_name='__main__')"
    command = [sys.executable, "-c", program, "data", "export", "--format", "minari", *arguments]
    # Coverage would write its own file under the limit too, and say that it can't.
    plain = {name: value for name, value in os.environ.items() if not name.startswith("COV")}
    return subprocess.run(command, capture_output=True, text=True, env=plain)


@pytest.mark.parametrize(
    "limit", [10_000, *(pytest.param(limit, marks=pytest.mark.slow) for limit in (100_000, 4_000_000))]
)
def test_a_disk_that_fills_is_one_line_and_leaves_nothing(limit: int, recordings_dir: Path, tmp_path: Path) -> None:
    # By the program itself: code between fork and exec may hang where the process that forks has threads. Bytecode
    # would be cut at the limit as well.
    limited = f"import resource; resource.setrlimit(resource.RLIMIT_FSIZE, ({limit}, {limit}))"
    prepare = f"import sys; sys.dont_write_bytecode = True; {limited}"
    done = start_export(recordings_dir, tmp_path, prepare)
    assert done.returncode == 2, done.stderr
    (line,) = done.stderr.splitlines()
    assert f"{tmp_path / GAMES[0] / 'random-v0'}: could not be written (File too large)" in line
    assert not [path for path in tmp_path.rglob("*") if path.is_file() or path.name.startswith(".")]


def test_paths_that_cannot_be_written_are_one_line(
    recordings: list[Recording], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "file"
    file.touch()
    refused(lambda: export_minari(recordings[:1], file), f"{file / GAMES[0]}", "could not be written (Not a directory)")
    monkeypatch.setattr("zoo.converters.export_minari.FRAME_BYTES", 10**15)  # more than any disk holds
    refused(lambda: export_minari(recordings[:1], tmp_path / "out"), "GB are needed")
    assert not list((tmp_path / "out" / GAMES[0]).iterdir())


@pytest.mark.slow
def test_two_exports_at_once_do_not_disturb_each_other(
    recordings: list[Recording], recordings_dir: Path, tmp_path: Path
) -> None:
    others: list[subprocess.CompletedProcess[str]] = []

    def meanwhile(steps: int) -> None:
        if not others:
            others.append(start_export(recordings_dir, tmp_path))

    _, folder = export_minari(recordings[:1], tmp_path, workers=1, on_steps=meanwhile)
    assert others[0].returncode != 0 and "another export writes it" in others[0].stderr
    assert minari.MinariDataset(folder / "data").total_steps == recordings[0].transitions
    assert [path.name for path in folder.parent.iterdir()] == ["random-v0"]


def test_what_a_killed_export_left_is_removed(recordings: list[Recording], tmp_path: Path) -> None:
    left = tmp_path / GAMES[0] / ".random-v0.partial"
    (left / "data").mkdir(parents=True)
    export_minari(recordings[:1], tmp_path, workers=1)
    assert [path.name for path in left.parent.iterdir()] == ["random-v0"]


def test_without_minari_there_is_a_hint(
    recordings: list[Recording], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in [name for name in sys.modules if name.partition(".")[0] == "minari"]:
        monkeypatch.setitem(sys.modules, name, None)
    refused(lambda: export_minari(recordings[:1], tmp_path), "pip install 'qzoo[minari]'")
    refused(lambda: import_minari(tmp_path, tmp_path), "pip install 'qzoo[minari]'")


def test_sources_apart_and_parts_together(recordings: list[Recording], tmp_path: Path) -> None:
    other = read_recording(recorded(tmp_path, "Breakout", 1, "learner"))
    groups = by_source([*recordings, other, recordings[0]])
    assert {key: len(parts) for key, parts in groups.items()} == {
        ("Breakout", "random"): 2,
        ("SpaceInvaders", "random"): 1,
        ("Breakout", "learner"): 1,
    }


def test_what_cannot_be_exported_is_refused_first(recordings: list[Recording], tmp_path: Path) -> None:
    other: Any = "hdf5"
    refused(lambda: export(recordings, other, tmp_path), "unknown format 'hdf5'")
    recording = recordings[0]
    drawn = [replace(episode, kept=np.arange(2)) for episode in recording.episodes]
    refused(lambda: export([replace(recording, episodes=drawn)], "parquet", tmp_path), "`uniform`")
    assert not list(tmp_path.iterdir())


def test_what_a_killed_parquet_export_left_is_removed(recordings: list[Recording], tmp_path: Path) -> None:
    """And two at once don't disturb each other: the second is told."""
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / f".{GAMES[0]}.random.99.tmp.parquet").write_bytes(b"half")
    told: list[str] = []

    def meanwhile(steps: int) -> None:
        if not told:
            told.append(refused(lambda: export_parquet(recordings[:1], tmp_path), "another export writes it"))

    path = export_parquet(recordings[:1], tmp_path, workers=1, on_steps=meanwhile)
    assert told and list(path.parent.iterdir()) == [path]
