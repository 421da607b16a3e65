"""Starts made from another seed's state, against those that load the ROM."""

import ale_py
import numpy as np
import pytest

from zoo.atari.emulator import make_ale, minimal_actions, play_step, reseed
from zoo.atari.protocol import Variant
from zoo.atari.seeded_start import SeededStart, generator_text

DEFAULT = Variant()


def play(ale: ale_py.ALEInterface, game: str, seed: int, steps: int) -> list[tuple[int, int, bool, bytes, bytes]]:
    legal = minimal_actions(game)
    outcome = []
    for choice in np.random.default_rng(seed).integers(len(legal), size=steps):
        reward = play_step(ale, legal[choice])
        ram, screen = ale.getRAM().tobytes(), ale.getScreenGrayscale().tobytes()
        outcome.append((reward, ale.lives(), bool(ale.game_over()), ram, screen))
    return outcome


@pytest.mark.parametrize(
    ("game", "variant"),
    [
        ("Breakout", DEFAULT),
        ("Breakout", Variant(mode=12, difficulty=1)),
        *(pytest.param(game, DEFAULT, marks=pytest.mark.slow) for game in ("MsPacman", "Pong", "Qbert")),
        ("Solaris", DEFAULT),
        ("Berzerk", DEFAULT),
        ("DoubleDunk", DEFAULT),
    ],
)
def test_reseeded_emulator_plays_as_a_loaded_one(game: str, variant: Variant) -> None:
    used = make_ale(game, 5, variant)
    for seed in (0, 7, 2_000_000_003):  # the coins of the last two repeat an action at once
        loaded = make_ale(game, seed, variant)
        reseed(used, game, seed, variant)
        assert (used.getScreenGrayscale() == loaded.getScreenGrayscale()).all()
        assert (used.getRAM() == loaded.getRAM()).all()
        assert play(used, game, seed, 150) == play(loaded, game, seed, 150)


def test_most_games_start_without_loading() -> None:
    start = SeededStart(lambda seed: make_ale("SpaceInvaders", seed))
    assert start.state(9) == make_ale("SpaceInvaders", 9).cloneState(include_rng=True).serialize()
    assert start.state(9) != start.state(10)


@pytest.mark.parametrize("game", ["Solaris", "Berzerk", "DoubleDunk"])
def test_games_that_must_be_loaded_are_found(game: str) -> None:
    with pytest.raises(ValueError, match=r"generator|plays otherwise"):
        SeededStart(lambda seed: make_ale(game, seed))


def test_generator_text_is_the_twister_of_the_standard() -> None:
    # The C++ standard: the 10,000th number of a generator seeded with 5489 is 4123659995.
    words = generator_text(5489).split()
    generator = np.random.RandomState(0)
    generator.set_state(("MT19937", np.array(words[:-1], dtype=np.uint32), int(words[-1]), 0, 0.0))
    assert int(generator.randint(0, 2**32, size=10_000, dtype=np.uint32)[-1]) == 4_123_659_995
