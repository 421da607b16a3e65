"""The protocol's environment as Gymnasium makes it, features in the place of frames, and wrappers that differ."""

import logging
from typing import Any

import ale_py
import gymnasium
import numpy as np
import pytest
import torch
from gymnasium.wrappers import AtariPreprocessing, FrameStackObservation, TransformObservation

from tests.recording_helpers import refused
from zoo.atari.emulator import FrameEmulator, minimal_actions
from zoo.atari.protocol import Variant
from zoo.atari.vector_env import make_vector_env
from zoo.integrations.gymnasium import FeatureObservation, FeatureVectorObservation, check_env, make_env
from zoo.models.encoder import Encoder

gymnasium.register_envs(ale_py)


def test_frames_and_rewards_are_those_of_the_protocol() -> None:
    """The same coins (Gymnasium draws ALE's seed from its own), the game's own actions as those of the full set."""
    env = make_env("Breakout")
    check_env(env)
    _, ale_seed = np.random.SeedSequence(7).generate_state(2)
    emulator = FrameEmulator("Breakout", int(ale_seed.astype(np.int32)))
    stack, frame = np.zeros((4, 84, 84), dtype=np.uint8), np.zeros((84, 84), dtype=np.uint8)

    def push() -> np.ndarray:
        emulator.frame(frame)
        stack[:-1] = stack[1:]
        stack[-1] = frame
        return stack

    observation, _ = env.reset(seed=7)
    assert observation.shape == (4, 84, 84) and np.array_equal(observation, push())
    actions = minimal_actions("Breakout")
    assert env.action_space.n == len(actions)  # type: ignore[attr-defined]
    generator = np.random.default_rng(0)
    for _ in range(60):
        action = int(generator.integers(len(actions)))
        observation, reward, terminated, _, _ = env.step(action)
        assert reward == emulator.step(actions[action])
        assert terminated == emulator.terminated
        if terminated:
            break
        assert np.array_equal(observation, push())


def test_features_in_the_place_of_frames() -> None:
    encoder = Encoder("nature", 8)
    env, other = FeatureObservation(make_env("Pong"), encoder), make_env("Pong", variant=Variant(mode=1))
    features, _ = env.reset(seed=1)
    assert features.shape == (8,) and env.observation_space.contains(features)
    with torch.no_grad():
        frames = torch.from_numpy(make_env("Pong").reset(seed=1)[0][None])
        assert np.allclose(features, encoder(frames)[0].numpy())
    assert other.reset(seed=1)[0].shape == (4, 84, 84)
    envs = FeatureVectorObservation(make_vector_env("Pong", 2, 1), encoder)
    both, _ = envs.reset(seed=np.array([1, 2]))  # type: ignore[arg-type]
    assert both.shape == (2, 8) and envs.step(np.zeros(2, dtype=np.int64))[0].shape == (2, 8)


def wrapped(frameskip: int = 1, stack: int = 4, padding: str = "zero", **settings: Any) -> gymnasium.Env[Any, Any]:
    env = gymnasium.make("ALE/Pong-v5", frameskip=frameskip)
    return FrameStackObservation(AtariPreprocessing(env, noop_max=0, **settings), stack, padding_type=padding)


def channels_last() -> gymnasium.Env[Any, Any]:
    space = gymnasium.spaces.Box(0, 255, (84, 84, 4), np.uint8)
    return TransformObservation(wrapped(), lambda frames: frames.transpose(1, 2, 0), space)


@pytest.mark.parametrize(
    ("make", "part"),
    [
        (lambda: wrapped(scale_obs=True), "float32, expected uint8; leave scaling out"),
        (lambda: wrapped(grayscale_obs=False), "in colours; make AtariPreprocessing with grayscale_obs=True"),
        (lambda: wrapped(grayscale_newaxis=True), "an axis too many"),
        (lambda: wrapped(screen_size=64), "shape (4, 64, 64): expected (4, 84, 84)"),
        (lambda: wrapped(stack=3), "shape (3, 84, 84)"),
        (channels_last, "channels last; transpose them"),
        (lambda: AtariPreprocessing(gymnasium.make("ALE/Pong-v5", frameskip=1)), "one frame; stack 4"),
        (lambda: gymnasium.make("ALE/Pong-v5"), "raw screens; wrap AtariPreprocessing"),
        (lambda: wrapped(frame_skip=2), "frame skip 2 (1 x 2): training skipped 4"),
        (lambda: gymnasium.make("CartPole-v1"), "observations"),
    ],
)
def test_wrong_wrappers_are_one_line(make: Any, part: str) -> None:
    refused(lambda: FeatureObservation(make(), Encoder("nature", 8)), part)


def test_an_environment_that_is_not_ales_says_nothing_of_its_skip() -> None:
    class Frames(gymnasium.Env[Any, Any]):
        observation_space = gymnasium.spaces.Box(0, 255, (4, 84, 84), np.uint8)

    check_env(Frames())


def test_frames_skipped_at_random_are_told() -> None:
    legacy = gymnasium.make("ALE/Breakout-v5", frameskip=(2, 5))
    env = FrameStackObservation(AtariPreprocessing(legacy, frame_skip=1), 4, padding_type="zero")
    refused(lambda: check_env(env), "2 to 5 frames at random", "-v5")


def test_a_stack_that_begins_otherwise_is_warned_of(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        check_env(wrapped(padding="reset"))
    assert "padding_type='zero'" in caplog.text


def test_several_environments_play_episodes_of_their_own() -> None:
    env = make_env("Breakout", 2)
    frames, _ = env.reset(seed=3)
    assert frames.shape == (2, 4, 84, 84) and frames.dtype == np.uint8
    alone = [make_env("Breakout") for _ in range(2)]
    own = [one.reset(seed=3 + number)[0] for number, one in enumerate(alone)]
    ended = 0
    for step in range(400):
        action = np.array([1 + step % 3, 1 + step % 2])
        frames, rewards, terminated, *_ = env.step(action)
        ended += int(terminated.sum())
        if ended:
            break
        for number, one in enumerate(alone):
            own[number], reward, *_ = one.step(action[number])
            assert reward == rewards[number] and np.array_equal(own[number], frames[number])
    assert ended and not frames[int(terminated.argmax()), :3].any()  # the first state of the next episode
    refused(lambda: make_env("Breakout", 0), "num_envs 0")
