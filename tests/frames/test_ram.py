"""RAM of recorded play: what the emulator held, kept once, shared by selections, refused when damaged."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.conftest import GAMES
from tests.recording_helpers import refused
from zoo.atari.emulator import make_ale, play_step
from zoo.atari.protocol import RAM_BYTES
from zoo.frames import ram
from zoo.frames.ram import HEADER, RamFile, ram_rows
from zoo.frames.store import Placement, build_store
from zoo.recordings.format import CHECK_INTERVAL, Recording


@pytest.mark.parametrize("placement", ["ram", "blocks"])
def test_a_store_gives_ram_of_the_same_replay_as_its_frames(
    recordings: list[Recording], placement: Placement, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ram, "replay_rows", lambda *arguments: pytest.fail("replayed a second time"))
    store = build_store(recordings, placement, tmp_path, workers=1, ram=True)
    episode = recordings[0].episodes[0]
    ale = make_ale(GAMES[0], episode.seed)
    seen = []
    for action in episode.actions.tolist():
        seen.append((ale.getRAM().copy(), ale.lives()))
        play_step(ale, action)
    assert store.ram is not None
    for step in (0, 1, episode.length // 2, episode.length - 1):
        states = store.ram_states(torch.tensor([step]))[0].numpy()
        assert np.array_equal(states[1], seen[step][0])
        assert np.array_equal(states[0], seen[max(step - 1, 0)][0])
        assert store.ram[step, RAM_BYTES] == seen[step][1]


def test_replaying_ram_alone_gives_the_same(recordings: list[Recording], tmp_path: Path) -> None:
    store = build_store(recordings, "ram", tmp_path / "beside", workers=1, ram=True)
    alone = ram_rows(recordings, tmp_path / "alone")
    assert store.ram is not None and torch.equal(store.ram, alone)


def test_selections_share_what_was_replayed(
    recordings: list[Recording], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recording = recordings[0]
    counted: list[int] = []
    whole = ram_rows([recording], tmp_path, counted.append)
    assert sum(counted) == recording.steps
    monkeypatch.setattr(ram, "replay_rows", lambda *arguments: pytest.fail("replayed a second time"))
    last = replace(recording, episodes=recording.episodes[-1:])
    assert torch.equal(ram_rows([last], tmp_path), whole[-last.episodes[0].length :])


def test_what_a_kill_left_is_cut_off(recordings: list[Recording], tmp_path: Path) -> None:
    first, second = (replace(recordings[0], episodes=(episode,)) for episode in recordings[0].episodes[:2])
    whole = ram_rows([first], tmp_path)
    path = RamFile.of(tmp_path, GAMES[0]).path
    sound = path.read_bytes()
    path.write_bytes(sound + sound[: HEADER.size + 7])
    assert torch.equal(ram_rows([first], tmp_path), whole)
    more = ram_rows([first, second], tmp_path)
    assert path.read_bytes()[: len(sound)] == sound and torch.equal(more[: len(whole)], whole)


def test_damage_and_other_play_are_refused(recordings: list[Recording], tmp_path: Path) -> None:
    recording = replace(recordings[0], episodes=recordings[0].episodes[:1])
    ram_rows([recording], tmp_path)
    path = RamFile.of(tmp_path, GAMES[0]).path
    content = bytearray(path.read_bytes())
    content[HEADER.size + 20] ^= 1
    path.write_bytes(bytes(content))
    refused(lambda: ram_rows([recording], tmp_path), path, "changed since it was written")
    episode = recording.episodes[0]
    richer = replace(episode, rewards=episode.rewards + (np.arange(episode.length) == 5))
    other = replace(recording, episodes=(richer,))
    refused(
        lambda: ram_rows([other], tmp_path / "other"), recording.name, "step 5", "replay gives (reward, terminated)"
    )
    longest = max(recordings[1].episodes, key=lambda episode: episode.length)
    assert longest.length > CHECK_INTERVAL
    changed = replace(recordings[1], episodes=(replace(longest, checks=longest.checks + 1),))
    refused(lambda: ram_rows([changed], tmp_path / "other"), "differ from the recorded check")


def test_a_store_without_ram_says_so(recordings: list[Recording], tmp_path: Path) -> None:
    store = build_store(recordings[:1], "ram", workers=1)
    refused(lambda: store.ram_states(torch.tensor([0])), "ram=True")
    refused(lambda: build_store(recordings[:1], "ram", ram=True), "cache=")
