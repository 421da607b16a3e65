"""Files of frames: made once, shared, refused when damaged; builds side by side and builds that die half-way."""

import shutil
import subprocess
import sys
from collections import namedtuple
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from weakref import WeakSet

import numpy as np
import pytest
import torch

from tests.command_helpers import run_command
from tests.conftest import GAMES
from tests.recording_helpers import refused
from zoo.frames import blocks as blocks_module
from zoo.frames import build
from zoo.frames.blocks import BLOCK, TAIL, EpisodeBlocks, open_blocks, write_blocks
from zoo.frames.frames import COPIED, FRAME_BYTES, ChosenFrames, JoinedFrames, RawFrames
from zoo.frames.replay import replay
from zoo.frames.store import FrameStore, Placement, build_store
from zoo.recordings.format import Recording
from zoo.support.errors import QzooError
from zoo.support.files import reserve
from zoo.support.state import load_state
from zoo.training.batches import Batches
from zoo.training.config import RunConfig

CPU = torch.device("cpu")
FILES: tuple[Placement, ...] = ("memmap", "blocks")


@pytest.fixture
def replays(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The games that are replayed, one entry a recording."""
    games: list[str] = []

    def counted(game: str, *arguments: object, **options: object) -> None:
        games.append(game)
        replay(game, *arguments, **options)

    monkeypatch.setattr(build, "replay", counted)
    return games


def same_frames(store: FrameStore, other: FrameStore) -> bool:
    every = torch.arange(len(store.frames))
    return torch.equal(store.frames.fetch(every), other.frames.fetch(every))


def visible(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir() if path.suffix != ".lock")


@pytest.mark.parametrize("placement", FILES)
def test_files_give_the_same_batches_and_are_used_again(
    recordings: list[Recording], store: FrameStore, placement: Placement, tmp_path: Path, replays: list[str]
) -> None:
    """What a step draws depends on seed and step alone, whatever holds the frames."""
    counted: list[int] = []
    folder = tmp_path / "new"
    first = build_store(recordings, placement, folder, workers=2, on_steps=counted.append)
    assert sum(counted) == first.transitions and replays == list(GAMES)
    config = RunConfig(batch_size=16, random_shift=4)
    one, two = Batches(store, config, CPU), Batches(first, config, CPU)
    for step in (0, 1, 7):
        mine, theirs = one.get(step), two.get(step)
        assert all(torch.equal(getattr(mine, name), getattr(theirs, name)) for name in mine.tensors())
    one.close()
    two.close()
    if placement == "memmap":
        first.frames.tensor[0] = 7  # copy on write: the file stays as it is
    counted.clear()
    again = build_store(recordings, placement, folder, on_steps=counted.append)
    assert sum(counted) == again.transitions and replays == list(GAMES)
    assert same_frames(again, store)
    assert len(visible(folder)) == (1 if placement == "memmap" else 2)


def test_blocks_of_real_play_are_small(recordings: list[Recording], tmp_path: Path) -> None:
    frames = build_store(recordings[:1], "blocks", tmp_path, workers=1).frames
    assert frames.nbytes == sum(path.stat().st_size for path in tmp_path.glob("*.blocks"))
    assert frames.nbytes < 800 * len(frames) < FRAME_BYTES * len(frames) / 8


def test_a_replay_holds_a_block_of_each_episode_under_way(monkeypatch: pytest.MonkeyPatch) -> None:
    """Memory is bounded: of thousands of episodes, those that are done hold nothing."""
    living: WeakSet[np.ndarray] = WeakSet()
    make = blocks_module.empty_frames

    def counted(count: int) -> np.ndarray:
        frames = make(count).view(Watched)
        if count:
            living.add(frames)
        return frames

    monkeypatch.setattr(blocks_module, "empty_frames", counted)
    written: list[int] = []
    sinks = [EpisodeBlocks(100 * n, 2 * BLOCK + 3, lambda first, packed: written.append(first)) for n in range(5)]
    most = 0
    for sink in sinks:
        for step in range(len(sink)):
            sink[step] = np.full((84, 84), step, dtype=np.uint8)
            most = max(most, len(living))
    assert written == [100 * n + block * BLOCK for n in range(5) for block in range(3)]
    assert most == 1 and not living


class Watched(np.ndarray):
    """An array in sets by its identity."""

    __hash__ = object.__hash__
    __eq__ = object.__eq__


@pytest.mark.parametrize("placement", ["blocks", pytest.param("memmap", marks=pytest.mark.slow)])
def test_play_with_other_rewards_is_refused_though_its_frames_are_cached(
    recordings: list[Recording], placement: Placement, tmp_path: Path
) -> None:
    recording = recordings[0]
    build_store([recording], placement, tmp_path, workers=1)
    episode = recording.episodes[0]
    for changes in ({"rewards": episode.rewards + 1}, {"terminated": False, "truncated": True}):
        other = replace(recording, episodes=(replace(episode, **changes), *recording.episodes[1:]))
        refused(lambda other=other: build_store([other], placement, tmp_path, workers=1), "replay gives")


def test_room_is_taken_before_frames_are_mapped(tmp_path: Path) -> None:
    """Where the disk fills under a memory map, the process is killed."""
    reserve(tmp_path / "frames", 10**6)
    there = (tmp_path / "frames").stat()
    assert there.st_size == 10**6 <= 512 * there.st_blocks


def test_rows_out_of_range_are_an_error(recordings: list[Recording]) -> None:
    frames = build_store(recordings, workers=1).frames
    joined = JoinedFrames((frames, frames))
    assert torch.equal(joined.fetch(torch.tensor([0, len(frames)])), frames.fetch(torch.tensor([0, 0])))
    for row in (-1, 2 * len(frames)):
        with pytest.raises(IndexError, match=f"{row}"):
            joined.fetch(torch.tensor([0, row]))


def test_chosen_frames_are_copied_to_a_device_a_little_at_a_time() -> None:
    class Counted(RawFrames):
        def fetch(self, rows: torch.Tensor) -> torch.Tensor:
            fetched.append(len(rows))
            return super().fetch(rows)

    fetched: list[int] = []
    chosen = ChosenFrames(Counted(torch.zeros(10, 84, 84, dtype=torch.uint8)), torch.arange(10).repeat(300))
    copied = chosen.to(torch.device("meta"))
    assert len(copied) == sum(fetched) == 3_000 and max(fetched) == COPIED


def test_data_sets_share_recordings(recordings: list[Recording], tmp_path: Path, replays: list[str]) -> None:
    build_store(recordings[1:], "blocks", tmp_path, workers=1)
    both = build_store(recordings, "blocks", tmp_path, workers=1)
    assert replays == [GAMES[1], GAMES[0]]
    assert both.games == GAMES


def test_builds_at_the_same_time_share_the_work(
    recordings: list[Recording], store: FrameStore, tmp_path: Path, replays: list[str]
) -> None:
    with ThreadPoolExecutor(2) as pool:
        tasks = [pool.submit(build_store, recordings, "blocks", tmp_path, 1) for _ in range(2)]
        assert all(same_frames(task.result(), store) for task in tasks)
    assert sorted(replays) == sorted(GAMES)


def test_who_waits_for_another_build_can_give_up(recordings: list[Recording], tmp_path: Path) -> None:
    def give_up(steps: int) -> None:
        raise QzooError(f"out of time after {steps} steps")

    path = tmp_path / f"{GAMES[0]}.{build.fingerprint(recordings[:1])}.{build.frames_version()}.blocks"
    with build._alone_at(path, lambda steps: None), pytest.raises(QzooError, match="after 0 steps"):
        build_store(recordings, "blocks", tmp_path, on_steps=give_up)


def test_builds_of_different_files_run_side_by_side(recordings: list[Recording], tmp_path: Path) -> None:
    path = tmp_path / f"{GAMES[0]}.{build.fingerprint(recordings[:1])}.{build.frames_version()}.blocks"
    with build._alone_at(path, lambda steps: None):
        half = path.with_name(f".{path.stem}.1.tmp.blocks")
        half.touch()
        assert build_store(recordings[1:], "blocks", tmp_path, workers=1).games == GAMES[1:]
        assert half.exists()  # what another process is at, no one else removes


def test_a_killed_build_goes_on_and_leaves_nothing(
    recordings: list[Recording], recordings_dir: Path, store: FrameStore, tmp_path: Path, replays: list[str]
) -> None:
    program = """
import os, sys
from pathlib import Path
from zoo.recordings.library import load_recordings
from zoo.frames.store import build_store

recordings = load_recordings(sys.argv[3:], paths=[Path(sys.argv[1])])
done = 0

def die(steps):
    global done
    done += steps
    if done > recordings[0].transitions:
        os._exit(9)

build_store(recordings, "blocks", Path(sys.argv[2]), 1, die)
"""
    killed = subprocess.run([sys.executable, "-c", program, str(recordings_dir), str(tmp_path), *GAMES])
    assert killed.returncode == 9
    names = visible(tmp_path)
    assert len(names) == 2 and ".tmp." in names[0] and names[1].startswith(GAMES[0])
    assert same_frames(build_store(recordings, "blocks", tmp_path, workers=1), store)
    assert replays == [GAMES[1]]
    assert [name.split(".")[0] for name in visible(tmp_path)] == list(GAMES)


@pytest.mark.parametrize("placement", FILES)
def test_a_failed_replay_leaves_no_file(recordings: list[Recording], placement: Placement, tmp_path: Path) -> None:
    episode = recordings[0].episodes[0]
    wrong = replace(recordings[0], episodes=(replace(episode, rewards=episode.rewards + 1),))
    refused(lambda: build_store([wrong], placement, tmp_path, workers=1), "episode 0, step")
    assert visible(tmp_path) == []


def test_a_full_disk_is_told(recordings: list[Recording], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(10, 10, 1_000))
    refused(lambda: build_store(recordings, "memmap", tmp_path), tmp_path, "free")

    def full(*arguments: object, **options: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(build, "replay", full)
    refused(lambda: build_store(recordings, "blocks", tmp_path), GAMES[0], "No space left", "free some space")
    assert visible(tmp_path) == []


def shorten(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1])


def flip(place: int) -> Callable[[Path], None]:
    def change(path: Path) -> None:
        content = bytearray(path.read_bytes())
        content[place] ^= 1
        path.write_bytes(content)

    return change


@pytest.mark.parametrize(
    "damage",
    [shorten, lambda path: path.write_bytes(b""), flip(100), flip(-TAIL.size - 1), flip(-TAIL.size), flip(-1)],
    ids=["shortened", "empty", "a frame", "the index", "the tail", "the checksum"],
)
def test_a_damaged_block_file_is_refused(damage: Callable[[Path], None], tmp_path: Path) -> None:
    path = tmp_path / "a.blocks"

    def fill(sinks: object) -> None:
        for step in range(20):
            sinks[0][step] = np.full((84, 84), step, dtype=np.uint8)

    write_blocks(path, [20], fill)
    assert len(open_blocks([path], [20])) == 20
    refused(lambda: open_blocks([path], [21]), path, "20 frames", "21", "delete it")
    damage(path)
    refused(lambda: open_blocks([path], [20]), path, "delete it")


@pytest.mark.parametrize("placement", FILES)
def test_a_truncated_file_in_the_cache_is_refused(
    recordings: list[Recording], placement: Placement, tmp_path: Path
) -> None:
    build_store(recordings[:1], placement, tmp_path, workers=1)
    (path,) = (tmp_path / name for name in visible(tmp_path))
    shorten(path)
    refused(lambda: build_store(recordings[:1], placement, tmp_path), path, "delete it")


def test_training_is_the_same_to_the_bit_from_every_store(recordings_dir: Path, tmp_path: Path) -> None:
    states = []
    for store in ("ram", "memmap", "blocks"):
        options = [
            *("--name", "nature.test", "--games", "Breakout", "--recordings", str(recordings_dir)),
            *("--steps", "4", "--batch-size", "8", "--feature-dim", "16", "--json"),
            *("--store", store, "--cache", str(tmp_path / "cache"), "--out", str(tmp_path / store)),
        ]
        run_command("pretrain", options)
        states.append(load_state(tmp_path / store / "nature.test" / "checkpoint.safetensors")[0])
    assert len(visible(tmp_path / "cache")) == 2
    for other in states[1:]:
        assert all(torch.equal(states[0][name], other[name]) for name in states[0])
