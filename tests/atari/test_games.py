"""The game table: splits, scores, names."""

import pytest

from tests.recording_helpers import refused
from zoo.atari.emulator import make_ale, minimal_actions
from zoo.atari.games import all_games, games_of, get_game


def test_splits_are_the_papers() -> None:
    assert {split: len(games_of(split)) for split in ("train", "held_out", "extra")} == {
        "train": 40,
        "held_out": 5,
        "extra": 17,
    }
    assert set(games_of("held_out")) == {"Alien", "MsPacman", "Pong", "SpaceInvaders", "StarGunner"}
    assert len(all_games()) == 62


def test_names_and_rom_ids_are_found() -> None:
    assert get_game("SpaceInvaders").name == "SpaceInvaders"
    assert get_game("space_invaders") is get_game("SpaceInvaders")


def test_unknown_name_offers_the_nearest() -> None:
    refused(lambda: get_game("Breakot"), "Breakot", "Breakout")


@pytest.mark.parametrize("name", all_games())
def test_human_and_random_are_one_and_zero(name: str) -> None:
    game = get_game(name)
    assert game.human > game.random  # else more would be worse
    assert game.human_normalized(game.random) == 0.0
    assert game.human_normalized(game.human) == pytest.approx(1.0)


def test_human_normalized_by_hand() -> None:
    # Breakout: random 1.7, human 30.5.
    assert get_game("Breakout").human_normalized(16.1) == pytest.approx(0.5)


def test_dqn_normalized_keeps_more_better_where_dqn_is_worse_than_random() -> None:
    worse = [game for game in all_games().values() if (game.dqn_replay_final or game.random) < game.random]
    assert worse, "no game left in which the reference agent is worse than random play"
    for game in worse:
        higher, lower = game.dqn_normalized(game.random + 1), game.dqn_normalized(game.random - 1)
        assert higher is not None and lower is not None and higher > 0 > lower
    breakout = get_game("Breakout")
    assert breakout.dqn_replay_final is not None
    assert breakout.dqn_normalized(breakout.dqn_replay_final) == pytest.approx(1.0)


def test_dqn_normalized_without_a_reference_is_none() -> None:
    without = [game for game in all_games().values() if game.dqn_replay_final is None]
    assert all(game.dqn_normalized(1.0) is None for game in without)


@pytest.mark.parametrize("name", ["AirRaid", "Breakout", "Freeway", "MsPacman", "VideoPinball"])
def test_table_agrees_with_the_emulator(name: str) -> None:
    game, ale = get_game(name), make_ale(name, seed=0)
    assert len(minimal_actions(name)) == game.minimal_actions
    assert set(ale.getAvailableModes()) == set(game.modes)
    assert set(ale.getAvailableDifficulties()) == set(game.difficulties)
