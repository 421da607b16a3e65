"""A map of features: as many states of each game, values ranked within it."""

from pathlib import Path

import numpy as np

from tests.command_helpers import run_command
from tests.model_helpers import make_config, make_network
from tests.recording_helpers import refused
from zoo.frames.store import FrameStore
from zoo.models.model_folder import write_model
from zoo.reports.embedding import draw_embedding, embed


def test_states_of_each_game_get_a_place(store: FrameStore, tmp_path: Path) -> None:
    network = make_network()  # with a head for one of the two games
    places, games, values = embed(network, store, states=20)
    assert places.shape == (40, 2) and np.isfinite(places).all()
    assert [games.count(game) for game in store.games] == [20, 20]
    for game in store.games:
        mine = values[[each == game for each in games]]
        assert sorted(mine) == [number / 19 for number in range(20)]
    again, _, _ = embed(network, store, states=20)
    assert np.array_equal(places, again)
    draw_embedding(tmp_path / "map.png", places, games, values, "some")
    assert (tmp_path / "map.png").stat().st_size > 10_000
    refused(lambda: embed(network, store, states=2), "states 4")


def test_the_command_draws_a_models_own_games(tmp_path: Path) -> None:
    network = make_network()
    write_model(network, make_config(network), tmp_path / "model")
    words = [str(tmp_path / "model"), "--games", "Breakout", "--states", "12", "--per-game", "200"]
    result = run_command("embed", [*words, "--out", str(tmp_path / "map.png")])
    assert result["states"] == 12 and (tmp_path / "map.png").exists()
