"""Variants of games: the same frames as ale-py's vector environment by default, other games by other modes."""

from dataclasses import replace

import numpy as np
import pytest

from zoo.atari.emulator import make_ale, minimal_actions
from zoo.atari.protocol import PROTOCOL, Variant
from zoo.atari.vector_env import VariantVectorEnv, make_vector_env
from zoo.support.errors import QzooError


@pytest.mark.parametrize(
    "game", ["Breakout", *(pytest.param(game, marks=pytest.mark.slow) for game in ("MsPacman", "SpaceInvaders"))]
)
def test_equals_the_vector_environment_on_the_default_variant(game: str) -> None:
    ours, theirs = VariantVectorEnv(game, 2), make_vector_env(game, 2, num_threads=1)
    seeds = np.array([5, 6])
    actions, generator = np.array(minimal_actions(game)), np.random.default_rng(0)
    one, other = ours.reset(seed=seeds)[0], theirs.reset(seed=seeds)[0]
    for step in range(150):
        assert np.abs(one.astype(int) - other.astype(int)).max() <= 1, step  # the resize may round another way
        chosen = actions[generator.integers(len(actions), size=2)]
        one, rewards, terminated, truncated, _ = ours.step(chosen)
        other, *expected, _ = theirs.step(chosen)
        for got, want in zip((rewards, terminated, truncated), expected, strict=True):
            assert np.array_equal(got, want), step
        if step == 100:
            mask = np.array([False, True])
            one = ours.reset(seed=np.array([9]), options={"reset_mask": mask})[0]
            other = theirs.reset(seed=np.array([9]), options={"reset_mask": mask})[0]


@pytest.mark.parametrize(
    ("game", "ends"),
    [
        ("Breakout", {0, 3}),
        *(pytest.param(*row, marks=pytest.mark.slow) for row in (("Qbert", {3}), ("SpaceInvaders", {0, 2}))),
    ],
)
def test_equals_the_vector_environment_to_the_last_frame(game: str, ends: set[int]) -> None:
    """Whole episodes. `ends`: within which of a step's frames the game ends in some of them, counted from 0."""
    seeds = np.arange(3)
    ours, theirs = VariantVectorEnv(game, 3), make_vector_env(game, 3, num_threads=1)
    actions, generator = np.array(minimal_actions(game)), np.random.default_rng(0)
    ours.reset(seed=seeds)
    theirs.reset(seed=seeds)
    playing, found = np.ones(3, dtype=np.bool_), set()
    while playing.any():
        chosen = actions[generator.integers(len(actions), size=3)]
        one, rewards, terminated, truncated, _ = ours.step(chosen)
        other, *expected, _ = theirs.step(chosen)
        assert np.abs(one.astype(int) - other)[playing].max() <= 1
        for got, want in zip((rewards, terminated, truncated), expected, strict=True):
            assert np.array_equal(got[playing], want[playing])
        for env in np.flatnonzero(playing & terminated):
            found.add((ours._emulators[env]._ale.getEpisodeFrameNumber() - 1) % PROTOCOL.frame_skip)
        playing &= ~terminated
    assert found >= ends


def test_equals_the_vector_environment_where_the_limit_cuts(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in ("zoo.atari.emulator", "zoo.atari.vector_env"):
        monkeypatch.setattr(f"{module}.PROTOCOL", replace(PROTOCOL, max_steps=40))
    ours, theirs = VariantVectorEnv("Boxing", 1), make_vector_env("Boxing", 1, num_threads=1)
    for env in (ours, theirs):
        env.reset(seed=np.array([3]))
    generator, cut = np.random.default_rng(0), False
    while not cut:
        chosen = generator.integers(18, size=1)
        one, _, terminated, truncated, _ = ours.step(chosen)
        other, _, *expected, _ = theirs.step(chosen)
        assert np.abs(one.astype(int) - other).max() <= 1
        assert [terminated, truncated] == expected and not terminated[0]
        cut = bool(truncated[0])
    rested, rewards, _, truncated, _ = ours.step(np.array([1]))
    assert np.array_equal(rested, one) and truncated[0] and rewards[0] == 0


@pytest.mark.parametrize(("game", "mode"), [("Freeway", 1), ("Hero", 1), ("Breakout", 12)])
def test_a_mode_looks_or_plays_otherwise(game: str, mode: int) -> None:
    default, other = VariantVectorEnv(game, 1), VariantVectorEnv(game, 1, Variant(mode=mode))
    frames = []
    for env in (default, other):
        env.reset(seed=np.array([1]))
        for _ in range(60):
            observations, *_ = env.step(np.array([1]))
        frames.append(observations)
    assert not np.array_equal(*frames)


def test_modes_and_difficulties_that_do_not_exist_are_named() -> None:
    with pytest.raises(QzooError, match=r"Breakout: mode 3 does not exist; choose from \[0, 4"):
        make_ale("Breakout", 0, Variant(mode=3))
    with pytest.raises(QzooError, match="Freeway: difficulty 7 does not exist"):
        make_vector_env("Freeway", 1, variant=Variant(difficulty=7))


def test_a_finished_environment_rests() -> None:
    env = VariantVectorEnv("Breakout", 1)
    env.reset(seed=np.array([0]))
    terminated, steps = np.array([False]), 0
    while not terminated[0]:
        _, _, terminated, _, _ = env.step(np.array([1 if steps % 2 else 3]))
        steps += 1
    before, rewards, terminated, truncated, _ = env.step(np.array([1]))
    after, *_ = env.step(np.array([1]))
    assert np.array_equal(before, after) and terminated[0] and not truncated[0] and rewards[0] == 0
