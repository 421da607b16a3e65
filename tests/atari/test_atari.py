"""The protocol: what is recorded on a plain emulator is what the vector environment plays, in every game."""

import numpy as np
import pytest
from numpy.typing import NDArray

from tests.recording_helpers import refused
from zoo.atari.emulator import action_mask, make_ale, minimal_actions, play_step, rom_md5
from zoo.atari.games import games_of
from zoo.atari.protocol import PROTOCOL, Variant
from zoo.atari.vector_env import make_vector_env
from zoo.recorders.play import Players

STEPS = 60
EXTRA = [pytest.param(game, marks=pytest.mark.slow) for game in games_of("extra")]


@pytest.mark.parametrize("game", [*games_of("train"), *games_of("held_out"), *EXTRA])
def test_plain_and_vector_play_are_the_same(game: str) -> None:
    """Rewards, ends, RAM and frames; DoubleDunk presses buttons before it starts, so its start counts too."""
    generator = np.random.default_rng(1)
    actions = generator.integers(18, size=STEPS)
    seed = int(generator.integers(2**31))
    recorder, single = Players(game, 1, "test", seed), make_ale(game, seed)
    vector = make_vector_env(game, 1, num_threads=1)
    stack, _ = vector.reset(seed=np.array([seed]))
    expected = [small(single.getScreenGrayscale(), single.getScreenGrayscale())]
    assert_same_frame(stack[0, -1], expected[0])
    assert not stack[0, :-1].any()
    for step, action in enumerate(actions.tolist()):
        recorded = recorder.step(np.array([action]))
        screens, single_reward = [], 0
        for _ in range(PROTOCOL.frame_skip):
            single_reward += single.act(action)
            screens.append(single.getScreenGrayscale())
        stack, rewards, terminated, truncated, _ = vector.step(np.array([action]))
        assert recorded[0][0] == single_reward == rewards[0], f"step {step}"
        assert recorded[1][0] == single.game_over() == terminated[0], f"step {step}"
        assert not recorded[2][0] and not truncated[0]
        if terminated[0]:
            break
        assert np.array_equal(recorder.ram[0], single.getRAM()), f"step {step}"
        expected.append(small(screens[-2], screens[-1]))
        for age, frame in enumerate(expected[: -1 - PROTOCOL.stack : -1]):
            assert_same_frame(stack[0, -1 - age], frame)


def small(before: NDArray[np.uint8], last: NDArray[np.uint8]) -> NDArray[np.float64]:
    """The protocol's frame of two screens: their maximum, each pixel the mean of the area that it covers."""
    screen = np.maximum(before, last).astype(np.float64)
    return area(screen.shape[0], PROTOCOL.height) @ screen @ area(screen.shape[1], PROTOCOL.width).T


def area(large: int, small: int) -> NDArray[np.float64]:
    """The share of each of `large` pixels in the mean of each of `small` ones: (small, large)."""
    edges = np.arange(small + 1) * large / small
    pixels = np.arange(large)
    overlap = np.minimum(edges[1:, None], pixels + 1) - np.maximum(edges[:-1, None], pixels)
    return overlap.clip(min=0.0) * small / large


def assert_same_frame(frame: NDArray[np.uint8], expected: NDArray[np.float64]) -> None:
    """Equal but for one grey level: builds of the emulator's resize round differently."""
    assert np.abs(frame - expected).max() <= 1.0


def test_sticky_actions_follow_the_seed() -> None:
    """The seed alone decides: other seeds, other play; the same seed, the same."""

    actions = np.random.default_rng(0).integers(18, size=60).tolist()

    def play(seed: int) -> bytes:
        ale = make_ale("Pong", seed)
        return b"".join((play_step(ale, action), ale.getRAM().tobytes())[1] for action in actions)

    seeds = (0, 1, 2, 2**31 - 1)
    assert play(3) == play(3)
    assert len({play(seed) for seed in seeds}) == len(seeds)


def test_masked_reset_leaves_the_others_alone() -> None:
    """A slot reset with a seed plays as a fresh environment does, and its neighbour goes on."""
    actions = np.random.default_rng(0).integers(18, size=40)
    pair, alone = make_vector_env("Breakout", 2, num_threads=1), make_vector_env("Breakout", 1, num_threads=1)
    pair.reset(seed=np.array([5, 6]))
    for action in actions[:20]:
        pair.step(np.array([action, action]))
    stacks, _ = pair.reset(seed=np.array([7]), options={"reset_mask": np.array([False, True])})
    fresh, _ = alone.reset(seed=np.array([7]))
    untouched = make_vector_env("Breakout", 1, num_threads=1)
    other, _ = untouched.reset(seed=np.array([5]))
    for action in actions[:20]:
        other, *_ = untouched.step(np.array([action]))
    assert np.array_equal(stacks, np.concatenate([other, fresh]))
    for action in actions[20:]:
        stacks, *_ = pair.step(np.array([action, action]))
        fresh, *_ = alone.step(np.array([action]))
        other, *_ = untouched.step(np.array([action]))
        assert np.array_equal(stacks, np.concatenate([other, fresh]))


def test_action_mask_marks_the_minimal_set() -> None:
    assert minimal_actions("Breakout") == (0, 1, 3, 4)
    assert np.flatnonzero(action_mask("Breakout")).tolist() == [0, 1, 3, 4]
    assert action_mask("Alien").all()


def test_variants_change_the_game_and_unknown_ones_are_refused() -> None:
    default, hard = make_ale("Breakout", 0), make_ale("Breakout", 0, Variant(mode=12, difficulty=1))
    assert not np.array_equal(default.getRAM(), hard.getRAM())
    refused(lambda: make_ale("Breakout", 0, Variant(mode=99)), "Breakout", "mode 99")
    refused(lambda: make_ale("Breakout", 0, Variant(difficulty=9)), "Breakout", "difficulty 9")


def test_rom_md5_is_that_of_the_known_dump() -> None:
    assert rom_md5("Breakout") == "f34f08e5eb96e500e851a80be3277a56"
