"""Importing Minari datasets that Minari wrote of real play: frames, actions, rewards and ends, or why not."""

import json
import os
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import cv2
import gymnasium
import h5py
import minari
import numpy as np
import pytest
import torch
from gymnasium import spaces
from gymnasium.wrappers import AtariPreprocessing, FrameStackObservation
from minari.data_collector import EpisodeBuffer

from tests.command_helpers import run_command
from tests.recording_helpers import refused
from zoo.atari.emulator import minimal_actions
from zoo.converters.frame_set import open_frame_set
from zoo.converters.minari import import_minari

GAME, STEPS = "Breakout", 25
pytestmark = pytest.mark.filterwarnings("ignore::UserWarning:minari")


@dataclass
class Played:
    """What an environment showed and did in an episode, and the emulator's own grey screens."""

    observations: list[np.ndarray] = field(default_factory=list)
    actions: list[int] = field(default_factory=list)
    rewards: list[float] = field(default_factory=list)
    terminated: bool = False
    screens: list[np.ndarray] = field(default_factory=list)

    def buffer(self, **changes: Any) -> EpisodeBuffer:
        last = np.arange(len(self.actions)) == len(self.actions) - 1
        columns: dict[str, Any] = {
            "observations": np.stack(self.observations),
            "actions": np.array(self.actions),
            "rewards": np.array(self.rewards),
            "terminations": last & self.terminated,
            "truncations": last & (not self.terminated),
        }
        return EpisodeBuffer(**{**columns, **changes})


@pytest.fixture(autouse=True)
def datasets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path / "minari"))
    yield tmp_path / "minari"


def make_env(**settings: Any) -> gymnasium.Env[Any, Any]:
    return gymnasium.make(f"ALE/{GAME}-v5", **settings)


def preprocessed(**settings: Any) -> gymnasium.Env[Any, Any]:
    return AtariPreprocessing(make_env(frameskip=1, **settings), noop_max=0, frame_skip=4)


def play(env: gymnasium.Env[Any, Any], steps: int = STEPS, seed: int = 0) -> Played:
    """An episode of random play that is cut after `steps`, or ends by itself before."""
    played, generator = Played(), np.random.default_rng(seed)
    ale = env.unwrapped.ale
    played.observations.append(env.reset(seed=seed)[0])
    played.screens.append(ale.getScreenGrayscale())
    while len(played.actions) < steps and not played.terminated:
        action = int(generator.integers(env.action_space.n))
        observation, reward, played.terminated, _, _ = env.step(action)
        played.observations.append(observation)
        played.actions.append(action)
        played.rewards.append(float(reward))
        played.screens.append(ale.getScreenGrayscale())
    return played


def dataset(episodes: list[EpisodeBuffer], env: gymnasium.Env[Any, Any] | None, **options: Any) -> Path:
    """Written by Minari; without loss unless told otherwise."""
    options = {"env": env, "jpeg_encoding": False, **options}
    made = minari.create_dataset_from_buffers("test/set-v0", episodes, **options)
    return Path(made.storage.data_path).parent


def check(path: Path, episodes: list[Played], frames: list[list[np.ndarray]], lookup: tuple[int, ...]) -> None:
    """Every transition of a set, against episodes and their frames."""
    store = open_frame_set(path).store
    assert store.transitions == sum(len(episode.actions) for episode in episodes)
    batch = store.gather(torch.arange(store.transitions), 1, 0.9, reward_clip=None)
    index = 0
    for episode, shown in zip(episodes, frames, strict=True):
        for step, action in enumerate(episode.actions):
            assert np.array_equal(batch.observations[index, -1].numpy(), shown[step])
            assert (int(batch.actions[index]), float(batch.returns[index])) == (lookup[action], episode.rewards[step])
            ended = episode.terminated and step == len(episode.actions) - 1
            assert (float(batch.discounts[index]) == 0) == ended
            if not ended:
                assert np.array_equal(batch.next_observations[index, -1].numpy(), shown[step + 1])
            index += 1


def test_frames_come_back(tmp_path: Path) -> None:
    env = preprocessed(full_action_space=True)
    episodes = [play(env), play(env, steps=3000, seed=1)]
    assert [episode.terminated for episode in episodes] == [False, True]
    path, origin = import_minari(dataset([episode.buffer() for episode in episodes], env), tmp_path)
    assert path.name == "Breakout.minari.frames"
    check(path, episodes, [episode.observations for episode in episodes], tuple(range(18)))
    assert origin.recorded["settings"]["repeat_action_probability"] == 0.25
    assert not any("sticky" in line or "JPEG" in line for line in origin.differs)
    assert any("AtariPreprocessing" in line for line in origin.differs)


def test_minimal_actions_are_mapped_and_jpeg_is_told(tmp_path: Path) -> None:
    env = preprocessed(repeat_action_probability=0.0)
    episode = play(env)
    path, origin = import_minari(dataset([episode.buffer()], env, jpeg_encoding=True), tmp_path)
    store = open_frame_set(path).store
    assert store.actions.tolist() == [minimal_actions(GAME)[action] for action in episode.actions]
    assert not np.array_equal(store.frames.tensor[0].numpy(), episode.observations[0])
    assert any("JPEG" in line for line in origin.differs)
    assert "sticky actions: 0.0, ours 0.25" in origin.differs


@pytest.mark.parametrize("last", [False, True])
def test_stacks_keep_what_stood_before_the_first_frame(tmp_path: Path, last: bool) -> None:
    env = FrameStackObservation(preprocessed(), 4)  # begins with the first frame four times
    episode = play(env)
    stacks = np.stack(episode.observations)
    if last:
        space = spaces.Box(0, 255, (84, 84, 4), np.uint8)
        buffer = episode.buffer(observations=np.moveaxis(stacks, 1, -1))
        folder = dataset([buffer], env, observation_space=space)
    else:
        folder = dataset([episode.buffer()], env)
    path, _ = import_minari(folder, tmp_path)
    check(path, [episode], [[stack[-1] for stack in stacks]], minimal_actions(GAME))
    store = open_frame_set(path).store
    assert np.array_equal(store.gather(torch.arange(STEPS), 1, 0.9).observations.numpy(), stacks[:-1])


@pytest.mark.parametrize("stacked", [False, True])
@pytest.mark.parametrize("grey", [False, True])
def test_screens_become_frames_as_the_protocol_makes_them(tmp_path: Path, grey: bool, stacked: bool) -> None:
    env = make_env(obs_type="grayscale" if grey else "rgb")
    if stacked:
        env = FrameStackObservation(env, 1)  # screens of (1, 210, 160)
    episode = play(env)
    path, origin = import_minari(dataset([episode.buffer()], env), tmp_path)
    size = (84, 84)
    shown = [cv2.resize(screen, size, interpolation=cv2.INTER_AREA) for screen in episode.screens]
    check(path, [episode], [shown], minimal_actions(GAME))
    assert any("last screen alone" in line for line in origin.differs)


def test_an_episode_without_its_last_state_loses_a_step(tmp_path: Path) -> None:
    env = preprocessed()
    episode = play(env)
    path, origin = import_minari(
        dataset([episode.buffer(observations=np.stack(episode.observations[:-1]))], env), tmp_path
    )
    shorter = Played(episode.observations[:-1], episode.actions[:-1], episode.rewards[:-1])
    check(path, [shorter], [shorter.observations], minimal_actions(GAME))
    assert origin.left_out == {"cut": 1}


def test_datasets_that_cannot_be_used_are_one_line(tmp_path: Path) -> None:
    def fails(env: gymnasium.Env[Any, Any], *parts: object, **changes: Any) -> None:
        folder = dataset([play(env, steps=6).buffer(**changes)], env)
        refused(lambda: import_minari(folder, tmp_path), *parts)
        minari.delete_dataset("test/set-v0")

    fails(make_env(frameskip=1), "its frame skip is 1, the protocol's is 4")
    fails(make_env(frameskip=(2, 5)), "its frame skip is random")
    fails(make_env(obs_type="ram"), "observations are Box(0, 255, (128,), uint8)")
    fails(AtariPreprocessing(make_env(frameskip=1), scale_obs=True), "float32", "neither uint8 frames")
    env = preprocessed()
    rewards = np.array([0.0, 0.0, np.nan, 0.0, 0.0, 0.0])
    fails(env, "episode 0, step 2: a reward that is no finite number", rewards=rewards)
    fails(env, "episode 0, step 1: an end, but the episode has 6 steps", terminations=np.arange(6) == 1)
    fails(env, "episode 0, step 0: an action that the environment has not", actions=np.array([4, 0, 0, 0, 0, 0]))
    fails(env, "4 observations of 6 steps", observations=np.zeros((4, 84, 84), dtype=np.uint8))
    stacks = np.random.default_rng(0).integers(256, size=(7, 4, 84, 84), dtype=np.uint8)
    fails(FrameStackObservation(env, 4), "episode 0, step 1: its stack does not continue", observations=stacks)


def test_what_does_not_fit_the_dataset_s_spaces_is_one_line(tmp_path: Path) -> None:
    env = preprocessed()
    episode = play(env, steps=6)
    frames = np.stack(episode.observations)

    def fails(*parts: object, **changes: Any) -> None:
        folder = dataset([episode.buffer(**changes)], env)
        refused(lambda: import_minari(folder, tmp_path / "sets"), f"{folder}: episode 0", *parts)
        minari.delete_dataset("test/set-v0")

    fails("observations are int64 of (84, 84), its space is uint8 of (84, 84)", observations=frames.astype(np.int64))
    fails("observations are uint8 of (168, 84)", observations=np.concatenate([frames, frames], axis=1))
    fails("observations are uint8 of (83, 84)", observations=frames[:, :83])
    fails("actions are float64 of (), not whole numbers", actions=np.array(episode.actions) + 0.7)
    fails("actions are int64 of (2,)", actions=np.ones((6, 2), dtype=np.int64))
    fails("actions are |S1 of ()", actions=np.array([b"a"] * 6))
    fails("rewards are |S1 of (), not numbers", rewards=np.array([b"a"] * 6))
    fails("rewards are float64 of (2,)", rewards=np.zeros((6, 2)))
    fails("terminations are |S1 of ()", terminations=np.array([b"a"] * 6))
    rewards = np.array([0.0, 0.0, 0.0, 1e60, 0.0, 0.0])  # finite, but not as float32
    fails("step 3: a reward that is no finite number", rewards=rewards)


def test_damage_is_one_line(tmp_path: Path) -> None:
    env = preprocessed()
    whole = dataset([play(env, steps=6, seed=seed).buffer() for seed in range(2)], env)

    def fails(damage: Callable[[Path], object], *parts: object) -> None:
        folder, out = tmp_path / "damaged", tmp_path / "sets"
        shutil.copytree(whole, folder)
        damage(folder / "data")
        refused(lambda: import_minari(folder, out), folder, *parts, "fetch it again")
        shutil.rmtree(folder)
        shutil.rmtree(out, ignore_errors=True)

    def edit(change: Callable[[h5py.File], object]) -> Callable[[Path], object]:
        def damage(data: Path) -> None:
            with h5py.File(data / "main_data.hdf5", "a") as file:
                change(file)

        return damage

    def describe(**changes: object) -> Callable[[Path], object]:
        def damage(data: Path) -> None:
            content = json.loads((data / "metadata.json").read_text())
            (data / "metadata.json").write_text(json.dumps({**content, **changes}))

        return damage

    def wrapped(skip: object) -> Callable[[Path], object]:
        spec = json.loads(json.loads((whole / "data" / "metadata.json").read_text())["env_spec"])
        spec["additional_wrappers"][0]["kwargs"]["frame_skip"] = skip
        return describe(env_spec=json.dumps(spec))

    size = (whole / "data" / "main_data.hdf5").stat().st_size
    fails(lambda data: os.truncate(data / "main_data.hdf5", size // 2), "episode 0", "truncated file")
    fails(lambda data: (data / "main_data.hdf5").write_bytes(bytes(size)), "episode 0", "signature")
    fails(edit(lambda file: file.__delitem__("episode_1")), "episode 1", "'episode_1' doesn't exist")
    fails(edit(lambda file: file.__delitem__("episode_1/actions")), "episode 1", "'actions' doesn't exist")
    fails(edit(lambda file: file["episode_1"].attrs.pop("total_steps")), "episode 1", "total_steps")
    fails(describe(total_episodes=3), "episode 2", "'episode_2' doesn't exist")
    fails(describe(total_steps="many"), "metadata", "'many'")
    fails(wrapped("x"), "metadata", "'x'")
    fails(wrapped(None), "metadata", "NoneType")


def test_without_an_environment_the_actions_must_tell_their_set(tmp_path: Path) -> None:
    episode = play(preprocessed())
    spaces_ = {"observation_space": spaces.Box(0, 255, (84, 84), np.uint8)}
    folder = dataset([episode.buffer()], None, **spaces_, action_space=spaces.Discrete(18))
    path, origin = import_minari(folder, tmp_path, game=GAME)
    check(path, [episode], [episode.observations], tuple(range(18)))
    assert origin.recorded["env"] is None and "sticky actions: not told, ours 0.25" in origin.differs
    minari.delete_dataset("test/set-v0")
    for wrong in (spaces.Discrete(5), spaces.Discrete(4, start=1), spaces.Box(-1, 1, (2,))):
        changed = np.zeros((STEPS, 2)) if isinstance(wrong, spaces.Box) else np.ones(STEPS, dtype=np.int64)
        folder = dataset([episode.buffer(actions=changed)], None, **spaces_, action_space=wrong)
        refused(lambda: import_minari(folder, tmp_path / "x", game=GAME), f"actions are {wrong}", "the 4 of Breakout")  # noqa: B023
        minari.delete_dataset("test/set-v0")


def test_unknown_games_and_datasets_are_one_line(tmp_path: Path) -> None:
    env = preprocessed()
    folder = dataset([play(env, steps=6).buffer()], env)
    refused(lambda: import_minari(folder, tmp_path, game="Pong"), "game Pong", "recorded on Breakout")
    refused(lambda: import_minari(tmp_path, tmp_path), "no Minari dataset")
    metadata = folder / "data" / "metadata.json"
    content = json.loads(metadata.read_text())
    metadata.write_text(json.dumps({**content, "minari_version": "99.0"}))
    refused(lambda: import_minari(folder, tmp_path), "Minari can't open it", "99.0")
    metadata.write_text("{")
    refused(lambda: import_minari(folder, tmp_path), "Minari can't open it")
    del content["env_spec"]
    metadata.write_text(json.dumps(content))
    refused(lambda: import_minari(folder, tmp_path), "names no game", "`game`")
    refused(lambda: import_minari(folder, tmp_path, game="Pong"), "Discrete(4)", "the 6 of Pong")
    path, origin = import_minari(folder, tmp_path, game="Breakout")
    assert set(open_frame_set(path).store.actions.tolist()) <= set(minimal_actions(GAME))
    assert any("frame skip: not told" in line for line in origin.differs)


def test_a_killed_import_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("zoo.converters.minari.COMMIT_FRAMES", 10)
    env = preprocessed()
    episodes = [play(env, seed=seed) for seed in range(4)]
    folder = dataset([episode.buffer() for episode in episodes], env)
    seen: list[int] = []

    def kill(steps: int) -> None:
        seen.append(steps)
        if len(seen) == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        import_minari(folder, tmp_path, on_steps=kill)
    again: list[int] = []
    path, _ = import_minari(folder, tmp_path, on_steps=again.append)
    assert again == [2 * STEPS, STEPS, STEPS]
    check(path, episodes, [episode.observations for episode in episodes], minimal_actions(GAME))


def test_the_command(tmp_path: Path) -> None:
    env = preprocessed()
    folder = dataset([play(env).buffer()], env)
    arguments = [str(folder), "--format", "minari", "--out", str(tmp_path), "--json"]
    result = json.loads(json.dumps(run_command("data import", arguments)))
    assert result["transitions"] == STEPS and result["recorded"]["id"] == "test/set-v0"
    refused(lambda: run_command("data import", arguments), "is there already")
