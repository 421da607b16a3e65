"""What Python calls directly: play, stores and datasets, pretraining, evaluation, recording, export."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

import finetune
import zoo
from tests.conftest import GAMES
from tests.recording_helpers import refused
from zoo.models.encoder import Encoder
from zoo.objectives.bc import CloningConfig

TINY = zoo.PretrainConfig(steps=3, batch_size=8, feature_dim=8)


def test_everything_that_is_announced_is_there() -> None:
    assert all(getattr(zoo, name) is not None for name in zoo.__all__)
    with pytest.raises(AttributeError, match="no attribute 'lod'"):
        zoo.lod  # noqa: B018


def test_play_gives_stores_and_datasets(recordings_dir: Path, tmp_path: Path) -> None:
    play = zoo.data.read(recordings_dir)
    assert play.games == GAMES and len(play) == 2 and play.transitions == sum(r.steps for r in play)
    assert repr(play) == f"Play of 2 games in 2 recordings: {play.transitions:,} transitions"
    store = play.store("blocks", tmp_path, workers=1)
    assert store.transitions == play.transitions and list(tmp_path.glob("*.blocks"))
    dataset = play.dataset(n_step=3, gamma=0.9, store=store)
    assert len(dataset) == play.transitions
    wanted = store.gather(torch.tensor([5, len(dataset) - 1]), 3, 0.9)
    for row, number in enumerate((5, len(dataset) - 1)):
        sample = dataset[number]
        assert torch.equal(sample["observation"], wanted.observations[row])
        assert torch.equal(sample["next_observation"], wanted.next_observations[row])
        assert (sample["action"], sample["reward"], sample["discount"]) == (
            wanted.actions[row],
            wanted.returns[row],
            wanted.discounts[row],
        )
        assert int(sample["game"]) == row
    with pytest.raises(IndexError):
        dataset[len(dataset)]


def test_a_dataset_of_drawn_transitions_goes_to_a_loaders_workers(tmp_path: Path) -> None:
    play = zoo.data.load("learner12", games="Freeway", per_game=6, uniform=True)
    dataset = play.dataset(store=play.store("memmap", tmp_path, workers=1))
    assert len(dataset) == 6
    batches = list(DataLoader(dataset, batch_size=4, num_workers=1))
    assert [len(batch["action"]) for batch in batches] == [4, 2]
    assert torch.equal(batches[0]["observation"][3], dataset[3]["observation"])


def test_pretraining_is_one_call(recordings_dir: Path, tmp_path: Path) -> None:
    play = zoo.data.read(recordings_dir, games=["Breakout"])
    stages: list[tuple[str, int, int]] = []

    def train(config: zoo.PretrainConfig = TINY, **settings: object) -> object:
        return zoo.pretrain(play, config, out=tmp_path, report=told, **settings)  # type: ignore[arg-type]

    def told(progress: object) -> None:
        stages.append((progress.stage, progress.done, progress.total))  # type: ignore[attr-defined]

    made = train()
    assert made is not None and made.done and made.model == tmp_path / "nature.scaledql_custom" / "model"  # type: ignore[attr-defined]
    assert stages[-1] == ("train", 3, 3) and ("replay", play.transitions, play.transitions) in stages
    assert torch.equal(
        zoo.load_qnetwork(made.model).encoder.projection.bias.half(), made.network.encoder.projection.bias.half()
    )  # type: ignore[attr-defined]
    stages.clear()
    refused(train, "a run is here already", "`resume`")
    refused(lambda: train(name="impala.x"), "name impala.x", "`arch` impala")
    refused(lambda: train(name="../x"), "must be a name, not a path")
    refused(lambda: train(zoo.PretrainConfig(steps=0)), "steps 0: must be at least 1")
    assert not stages  # all before anything is replayed
    cloned = train(zoo.PretrainConfig(steps=3, batch_size=8, feature_dim=8, objective=CloningConfig()))
    assert zoo.model_info(cloned.model)["head"]["kind"] == "policy"  # type: ignore[attr-defined]
    held_out = zoo.data.read(recordings_dir, games=["SpaceInvaders"])
    refused(lambda: zoo.pretrain(held_out, TINY, out=tmp_path), "SpaceInvaders: held out", "`allow_held_out`")


def test_policies_are_evaluated_as_models_are() -> None:
    def fire(observations: np.ndarray) -> np.ndarray:
        assert observations.shape[1:] == (4, 84, 84)
        return np.ones(len(observations), dtype=np.int64)

    told: list[int] = []
    result = zoo.evaluate({"Breakout": fire}, episodes=2, report=lambda progress: told.append(progress.ended))
    assert result["games"]["Breakout"]["episodes"] == 2 == max(told)
    assert result["games"]["Breakout"] == zoo.evaluate({"Breakout": fire}, episodes=2)["games"]["Breakout"]
    refused(lambda: zoo.evaluate({"Breakout": fire}, ["Pong"]), "games Pong: no policy")
    refused(lambda: zoo.evaluate("random"), "games")
    refused(lambda: zoo.evaluate({"Breakout": fire}, episodes=0), "episodes 0")


def test_recording_and_export_are_one_call_each(tmp_path: Path) -> None:
    (done,) = zoo.record(["Breakout"], "random", 300, out=tmp_path, workers=1)
    assert done.done and done.steps >= 300
    play = zoo.data.read(tmp_path)
    assert play[0].metadata.command == "zoo record random --games Breakout --steps 300 --seed 0"
    told: list[int] = []
    (part,) = zoo.export(play, "parquet", tmp_path / "out", workers=1, report=lambda p: told.append(p.steps))
    assert Path(part["path"]).exists() and told[-1] == part["steps"] == play.transitions
    refused(lambda: zoo.record(["Breakout"], "random", 0, out=tmp_path), "steps 0")
    refused(lambda: zoo.export(play, "parquet", tmp_path / "out", workers=-1), "workers -1")


def test_fine_tuning_is_one_call(recordings_dir: Path, tmp_path: Path) -> None:
    play = zoo.data.read(recordings_dir, games=["SpaceInvaders"])
    training = finetune.FinetuneConfig(steps=3, batch_size=8)
    config = finetune.OfflineConfig(mode="full", seeds=2, episodes=1, training=training)
    encoder = Encoder("nature", 8)
    before = encoder.projection.weight.clone()
    result = finetune.offline(encoder, play, config, out=tmp_path)
    assert result.game == "SpaceInvaders" and result.scores.shape == (2, 1) and len(result.agents) == 2
    assert [run.model.parent.name for run in result.runs] == [
        "SpaceInvaders.full.nature",
        "SpaceInvaders.full.nature.seed1",
    ]
    one, other = (zoo.load_agent(run.model, "SpaceInvaders") for run in result.runs)
    assert not torch.equal(one.network.weight, other.network.weight)
    assert torch.equal(encoder.projection.weight, before)
    refused(lambda: finetune.offline(encoder, zoo.data.read(recordings_dir), config, out=tmp_path), "play of one game")
    for wrong, part in (({"mode": "frozenn"}, "did you mean frozen"), ({"seeds": 0}, "seeds 0")):
        refused(lambda: finetune.offline(encoder, play, replace(config, **wrong), out=tmp_path), part)  # type: ignore[arg-type]  # noqa: B023


@pytest.mark.slow
def test_a_dataset_of_all_its_games_is_trained_on(tmp_path: Path) -> None:
    play = zoo.data.load("novice40", per_game=1)
    assert len(play.games) == 40
    made = zoo.pretrain(play, replace(TINY, batch_size=40, steps=1), out=tmp_path)
    assert made is not None and made.network.games == play.games
