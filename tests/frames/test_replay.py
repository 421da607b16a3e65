"""Replay: the same frames from seeds and actions, however they are played; whatever differs is refused."""

import subprocess
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import zoo.atari.emulator
import zoo.frames.replay
import zoo.recorders.play
import zoo.recordings.verify
from tests.recording_helpers import flip_action, played, recorded, refused, with_flipped_action
from zoo.atari.emulator import make_ale
from zoo.atari.protocol import PROTOCOL, RAM_BYTES
from zoo.atari.vector_env import make_vector_env
from zoo.frames.frame_process import frame_processes
from zoo.frames.replay import Frames, empty_frames, num_frames, replay
from zoo.recorders.play import Players
from zoo.recordings.format import CHECK_INTERVAL, Episode, Recording, read_recording
from zoo.recordings.verify import play_back, sample_episodes, verify_episode, verify_recording

GAMES = (
    "Breakout",
    "SpaceInvaders",
    *(pytest.param(game, marks=pytest.mark.slow) for game in ("Frostbite", "Seaquest")),
)


def frames_of(game: str, episodes: Sequence[Episode], count: int = 1) -> list[Frames]:
    outputs = [empty_frames(num_frames(episode)) for episode in episodes]
    with frame_processes(count) as processes:
        replay(game, episodes, outputs, processes=processes)
    return outputs


@pytest.mark.parametrize("game", GAMES)
def test_whole_episodes_go_round(game: str, tmp_path: Path) -> None:
    """Played on plain emulators, written, read, verified and played back: rewards, ends, RAM, frames."""
    recording = read_recording(recorded(tmp_path, game, count=3, num_envs=2))
    assert {episode.terminated for episode in recording.episodes} == {True}
    assert verify_recording(recording) == []
    outputs = frames_of(game, recording.episodes)
    assert all(frames.std() > 1 for frames in outputs)


def test_frames_do_not_depend_on_threads_order_or_company() -> None:
    episodes = played("Breakout", 6, num_envs=3)
    one = frames_of("Breakout", episodes)
    several = frames_of("Breakout", episodes[::-1], count=3)[::-1]
    alone = frames_of("Breakout", episodes[2:3])
    assert all(np.array_equal(a, b) for a, b in zip(one, several, strict=True))
    assert np.array_equal(one[2], alone[0])
    assert not np.array_equal(one[0][:50], one[1][:50])  # each its own sticky coins


@pytest.mark.parametrize("game", GAMES)
def test_frames_are_those_of_the_vector_environment(game: str) -> None:
    """To the byte: each frame is the newest of the stack in which its action was chosen."""
    episodes = played(game, 2)[:2]
    for episode, frames in zip(episodes, frames_of(game, episodes), strict=True):
        env = make_vector_env(game, 1, num_threads=1)
        stack, _ = env.reset(seed=np.array([episode.seed]))
        for step, action in enumerate(episode.actions.astype(np.int64)):
            assert np.array_equal(stack[0, -1], frames[step]), step
            stack, *_ = env.step(np.array([action]))


def test_a_killed_emulator_process_is_one_clear_error() -> None:
    episodes = played("Breakout", 3)
    outputs = [empty_frames(num_frames(episode)) for episode in episodes]
    with frame_processes(1) as processes:
        replay("Breakout", episodes[:1], outputs[:1], processes=processes)

        def kill(steps: int) -> None:
            assert processes[0]._process is not None
            processes[0]._process.kill()

        refused(
            lambda: replay("Breakout", episodes, outputs, processes=processes, on_steps=kill), "ended with exit code -9"
        )


def test_a_script_without_a_main_guard_replays(tmp_path: Path) -> None:
    """Emulator processes must not run the user's script again."""
    path = recorded(tmp_path, "Breakout", 2)
    script = tmp_path / "script.py"
    script.write_text(
        f"""
from pathlib import Path
from zoo.recordings.format import read_recording
from zoo.frames.replay import empty_frames, num_frames, replay
print("once")
episodes = read_recording(Path({str(path)!r})).episodes
outputs = [empty_frames(num_frames(episode)) for episode in episodes]
replay("Breakout", episodes, outputs)
print(min(int(frames.max()) for frames in outputs) > 0)
"""
    )
    shown = subprocess.run([sys.executable, script], capture_output=True, text=True, check=True, cwd=Path.cwd())
    assert shown.stdout.split() == ["once", "True"] and not shown.stderr


def test_other_arrays_take_the_frames_too(recordings: list[Recording]) -> None:
    """Of another type, or not contiguous; one that is too short is an error."""
    recording = recordings[0]
    game, episodes = recording.metadata.game, [min(recording.episodes, key=lambda episode: episode.length)]
    count = num_frames(episodes[0])
    plain = np.empty((count, 84, 84), dtype=np.uint8)
    others = [np.empty((count, 84, 84), dtype=np.float32), np.empty((2 * count, 84, 84), dtype=np.uint8)[::2]]
    with frame_processes(1) as processes:
        for output in (plain, *others):
            replay(game, episodes, [output], processes=processes)
        assert all(np.array_equal(other, plain) for other in others) and plain.any()
        with pytest.raises(IndexError):
            replay(game, episodes, [plain[:-1]], processes=processes)


def test_progress_counts_every_step() -> None:
    episodes = played("Breakout", 6, num_envs=3)
    outputs = [empty_frames(num_frames(episode)) for episode in episodes]
    counted: list[int] = []
    replay("Breakout", episodes, outputs, on_steps=counted.append)
    assert sum(counted) == sum(episode.length for episode in episodes)


def test_replay_refuses_another_reward() -> None:
    good, episode = played("Breakout", 2)[:2]
    step = episode.length // 2
    rewards = episode.rewards.copy()
    rewards[step] += 1
    episodes = [good, replace(episode, rewards=rewards)]
    outputs = [empty_frames(num_frames(episode)) for episode in episodes]
    refused(
        lambda: replay("Breakout", episodes, outputs, name="some.parquet"),
        f"some.parquet: episode 1, step {step}: replay gives (reward, terminated, truncated) ({rewards[step] - 1},",
    )


def test_replay_refuses_another_end() -> None:
    episode = played("Breakout", 1)[0]
    cut = replace(episode, actions=episode.actions[:-5], rewards=episode.rewards[:-5])
    where = f"Breakout: episode 0, step {cut.length - 1}"
    refused(lambda: replay("Breakout", [cut], [empty_frames(num_frames(cut))]), where, "terminated")
    longer = replace(
        episode,
        actions=np.append(episode.actions, episode.actions[-1]),
        rewards=np.append(episode.rewards, 0),
    )
    where = f"Breakout: episode 0, step {episode.length - 1}"
    refused(lambda: replay("Breakout", [longer], [empty_frames(num_frames(longer))]), where, "terminated")


def test_every_flipped_action_is_noticed_where_it_is(tmp_path: Path) -> None:
    """Also one that moves nothing: the checks cover the actions themselves."""
    episode = max(played("Breakout", 4), key=lambda episode: episode.length)
    assert episode.length > CHECK_INTERVAL
    for step in (0, 1, CHECK_INTERVAL - 1, CHECK_INTERVAL, episode.length - 1):
        difference = verify_episode("Breakout", with_flipped_action(episode, step))
        assert difference is not None
        assert step <= difference[0] < step + CHECK_INTERVAL


def test_verify_names_file_episode_and_step(tmp_path: Path) -> None:
    path = recorded(tmp_path, count=3)
    flip_action(path, episode=2, step=30)
    mismatches = verify_recording(read_recording(path, check_digest=False))
    assert len(mismatches) == 1
    assert str(mismatches[0]).startswith(f"{path}: episode 2, step ")
    assert mismatches[0].step is not None and 30 <= mismatches[0].step < 30 + CHECK_INTERVAL


def test_verify_refuses_other_rewards_ends_and_seeds() -> None:
    episode = played("Breakout", 1)[0]
    rewards = episode.rewards.copy()
    rewards[7] = 3
    assert verify_episode("Breakout", replace(episode, rewards=rewards)) == (
        7,
        "replay gives (reward, terminated) (0, False), recorded (3, False)",
    )
    other = verify_episode("Breakout", replace(episode, terminated=False, truncated=True))
    assert other is not None and other[0] == episode.length - 1 and "(0, True), recorded (0, False)" in other[1]
    assert verify_episode("Breakout", replace(episode, seed=episode.seed + 1)) is not None
    actions = np.append(episode.actions, np.uint8(0))
    longer = replace(episode, actions=actions, rewards=np.append(episode.rewards, np.int32(0)))
    over = verify_episode("Breakout", replace(longer, checks=episode.checks))
    assert over is not None and over[0] >= episode.length - 1


def test_a_truncated_episode_keeps_its_last_state(monkeypatch: pytest.MonkeyPatch) -> None:
    """With a limit of 50 steps, plain and vector environment cut at the same step."""
    short = replace(PROTOCOL, max_steps=50)
    for module in (zoo.atari.emulator, zoo.recorders.play, zoo.frames.replay):
        monkeypatch.setattr(module, "PROTOCOL", short)
    players = Players("Breakout", 1, "random", 3)
    while not players.finished:
        players.step(np.array([len(players.finished)]))
    episode = players.finished[0]
    assert (episode.length, episode.terminated, episode.truncated) == (50, False, True)
    assert verify_episode("Breakout", episode) is None
    frames = frames_of("Breakout", [episode])[0]
    assert len(frames) == 51
    env = make_vector_env("Breakout", 1, num_threads=1)
    env.reset(seed=np.array([3]))
    for action in episode.actions.astype(np.int64):
        stack, *_ = env.step(np.array([action]))
    assert np.array_equal(stack[0], frames[-4:])


def test_replayed_ram_is_what_the_policy_saw() -> None:
    players = Players("Breakout", 1, "random", 11)
    seen, lost, generator = [], [], np.random.default_rng(0)
    while not players.finished:
        seen.append(players.ram[0].copy())
        players.step(generator.choice([0, 1, 3, 4], size=1))
        lost.append(bool(players.lost_life[0]))
    episode = players.finished[0]
    rows = play_back("Breakout", episode.seed, episode.actions, make_ale("Breakout", 0)).rows
    lost_life = rows[1:, RAM_BYTES] < rows[:-1, RAM_BYTES]
    assert np.array_equal(rows[:-1, :RAM_BYTES], np.stack(seen))
    assert lost_life.tolist() == lost and sum(lost) == 5 and lost[-1]  # the last of five lives ends the game


def test_players_take_a_new_seed_for_each_episode() -> None:
    episodes = played("Breakout", 6, num_envs=3)
    seeds = [episode.seed for episode in episodes]
    assert len(set(seeds)) == len(seeds)
    assert episodes[0].policy_step == 0
    later = [episode for episode in episodes if episode.seed >= 3]
    assert later and all(episode.policy_step > 0 for episode in later)


def test_samples_are_episodes_of_the_recording(tmp_path: Path) -> None:
    recording = read_recording(recorded(tmp_path, count=4))
    assert sample_episodes(recording, None) == [0, 1, 2, 3]
    assert sample_episodes(recording, 9) == [0, 1, 2, 3]
    drawn = {tuple(sample_episodes(recording, 2, seed)) for seed in range(20)}
    assert len(drawn) > 2 and all(len(set(pair)) == 2 for pair in drawn)
