"""The datasets: what each takes of the recordings there are, and what it refuses."""

import json
from collections import Counter
from functools import partial
from pathlib import Path

import numpy as np
import pytest

import zoo
from tests.command_helpers import run_command
from tests.recording_helpers import made_up, recorded, refused
from zoo.atari.games import OTHER_PLAYERS, games_of, get_game
from zoo.commands.finetune import FinetuneOffline
from zoo.commands.pretrain import Pretrain
from zoo.recordings.datasets import (
    CUSTOM,
    DATASETS,
    Dataset,
    Part,
    Selection,
    dataset_files,
    datasets_stats,
    form,
    get_dataset,
    take,
)
from zoo.recordings.format import Episode, Recording, new_metadata, read_recording, write_recording
from zoo.recordings.library import load_recordings, recorded_files, subsample
from zoo.support.metrics import interquartile_mean

LEARNER12 = Path(__file__).parents[2] / "model_cards" / "nature.scaledql_learner12"


def write(folder: Path, name: str, episodes: list[Episode]) -> Path:
    """A file of that name whose episodes nobody replays."""
    game, source = name.split(".")[:2]
    path = folder / f"{name}.parquet"
    write_recording(path, new_metadata(game, source, f"zoo record {source} --games {game}"), episodes)
    return path


def life(steps: int, score: int = 0, policy: str = "learner/seed=0", length: int = 10) -> list[Episode]:
    """A policy's life of `steps` steps in episodes of `length`, each scoring `score`."""
    return [made_up(length, score, step, policy) for step in range(0, steps, length)]


def held(recordings: list[Recording]) -> list[tuple[str, str, list[int]]]:
    """Game, source, and where each episode stands in its policy's life."""
    return [(r.metadata.game, r.metadata.source, [episode.policy_step for episode in r.episodes]) for r in recordings]


def test_no_dataset_of_pretraining_holds_a_held_out_game() -> None:
    assert len({dataset.name for dataset in DATASETS}) == len(DATASETS)
    for dataset in DATASETS:
        assert all((get_game(game).split == "held_out") == (dataset.name == "heldout5") for game in dataset.games)
    assert set(get_dataset("heldout5").games) == set(games_of("held_out"))
    assert len(get_dataset("novice40").games) == len(get_dataset("mixed40").games) == 40


def test_learner12_is_what_the_shipped_model_was_trained_on() -> None:
    trained = json.loads((LEARNER12 / "results.json").read_text())["training"]["recordings"]
    config = json.loads((LEARNER12 / "config.json").read_text())
    assert config["dataset"] == "learner12"
    found = zoo.data.load("learner12")
    assert [
        {
            "game": recording.metadata.game,
            "source": recording.metadata.source,
            "episodes": len(recording.episodes),
            "transitions": recording.transitions,
        }
        for recording in found
    ] == trained
    # The command that made it asked for as many again: that draws the same episodes, not fewer.
    again = Selection("learner12", transitions=200_000, seed=5).load()
    assert [[e.seed for e in r.episodes] for r in again] == [[e.seed for e in r.episodes] for r in found]


def test_novices_are_the_first_fifth_of_each_life(tmp_path: Path) -> None:
    write(tmp_path, "Breakout.learner", life(100) + life(50, policy="learner/seed=1"))
    write(tmp_path, "Breakout.learner.2of2", life(200, policy="learner/seed=0"))  # a shard is a life of its own
    write(tmp_path, "Breakout.random", life(60, policy="random/seed=0"))
    assert held(zoo.data.load("novice40", games=["Breakout"], recordings=[tmp_path])) == [
        ("Breakout", "learner", [0, 10, 0]),
        ("Breakout", "learner", [0, 10, 20, 30]),
        ("Breakout", "random", [0, 10, 20, 30, 40, 50]),
    ]
    whole = zoo.data.load("mixed40", games=["Breakout"], recordings=[tmp_path])
    assert [recording.transitions for recording in whole] == [150, 200, 60]
    write(tmp_path, "Boxing.learner", [made_up(10, 0, 90)])  # what came before was lost
    write(tmp_path, "Boxing.random", life(20))
    message = refused(lambda: zoo.data.load("novice40", ["Boxing"], recordings=[tmp_path]), "Boxing.learner")
    assert "0% to 20% of a policy's steps" in message


def test_a_part_may_name_its_policies(tmp_path: Path) -> None:
    """Play recorded later, by another seed, is no part of what a model was trained on."""
    write(tmp_path, "Breakout.learner", life(100))
    write(tmp_path, "Breakout.learner.seed1", life(300, policy="learner/seed=1"))
    write(tmp_path, "Breakout.random", life(20, policy="random/seed=0"))
    found = zoo.data.load("learner12", ["Breakout"], recordings=[tmp_path])
    assert [(r.metadata.source, r.transitions) for r in found] == [("learner", 100), ("random", 20)]
    (tmp_path / "Breakout.learner.parquet").unlink()
    message = "Breakout.learner holds no episode of learner/seed=0"
    refused(lambda: zoo.data.load("learner12", ["Breakout"], recordings=[tmp_path]), message)
    recordings = load_recordings(["Breakout"], (), [tmp_path])
    assert form(get_dataset("learner12"), recordings) == ([], list(get_dataset("learner12").games))


def test_files_of_a_dataset_are_those_it_takes_play_of(tmp_path: Path) -> None:
    """By policy where it names them; a file that can't be read may hold anything."""
    for name, policy in (
        ("learner", "learner/seed=0"),
        ("learner.seed1", "learner/seed=1"),
        ("random", "random/seed=0"),
    ):
        write(tmp_path, f"Qbert.{name}", life(3, policy=policy))
    (tmp_path / "Qbert.learner.seed2.parquet").write_bytes(b"damaged")
    found = dataset_files(get_dataset("learner12"), recorded_files([tmp_path]), ["Qbert"])
    assert [path.name.removesuffix(".parquet") for path in found] == [
        "Qbert.learner",
        "Qbert.learner.seed2",
        "Qbert.random",
    ]


def test_own_recordings_are_read(tmp_path: Path) -> None:
    paths = [recorded(tmp_path, game, 1) for game in ("Breakout", "Boxing")]
    recorded(tmp_path, "Boxing", 1, "planner")

    def names(*asked: object, **chosen: object) -> list[tuple[str, str]]:
        return [(one.metadata.game, one.metadata.source) for one in zoo.data.read(*asked, **chosen)]

    boxing = [("Boxing", "planner"), ("Boxing", "random")]
    assert names(tmp_path) == [*boxing, ("Breakout", "random")]
    assert names(str(tmp_path), games="Boxing") == boxing
    assert names(paths, sources=["random"]) == [("Boxing", "random"), ("Breakout", "random")]
    refused(partial(zoo.data.read, tmp_path, "Pong"), "Pong: no recording")
    refused(partial(zoo.data.read, tmp_path, sources="learner"), "no recording of learner")


def test_missing_games_are_all_named(tmp_path: Path) -> None:
    for name in ("Breakout.learner", "Breakout.random", "Boxing.learner", "Pong.learner"):
        write(tmp_path, name, life(20))
    message = refused(lambda: zoo.data.load("mixed40", recordings=[tmp_path]), "39 of 40", "Boxing (random)", "`games`")
    assert all(game in message for game in games_of("train") if game != "Breakout") and "Breakout" not in message
    assert len(zoo.data.load("mixed40", ["Breakout"], recordings=[tmp_path])) == 2
    refused(lambda: zoo.data.load("mixed40", ["Breakout", "Boxing"], recordings=[tmp_path]), "1 of 2", "Boxing")
    refused(lambda: zoo.data.load("mixed40", ["Pong"], recordings=[tmp_path]), "Pong is not one of its games")
    refused(lambda: zoo.data.load("mixd40", recordings=[tmp_path]), "did you mean mixed40")
    refused(lambda: zoo.data.load("heldout5", ["Pnog"], recordings=[tmp_path]), "did you mean Pong")
    listed = {row["name"]: row for row in zoo.data.list_datasets([tmp_path])}
    assert listed["mixed40"]["missing"] == [game for game in games_of("train") if game != "Breakout"]
    assert listed["heldout5"]["missing"] == [game for game in games_of("held_out") if game != "Pong"]
    assert listed["heldout5"]["sources"] == ["learner"]


def test_a_capped_part_takes_the_same_episodes_always(tmp_path: Path) -> None:
    recording = read_recording(write(tmp_path, "Breakout.learner", life(1_000)))
    part = Part("learner", until=0.5, per_game=100)
    (taken,), (again,), (other,) = (take(part, [recording], seed) for seed in (0, 0, 1))
    steps = [episode.policy_step for episode in taken.episodes]
    assert len(steps) == 10 and max(steps) < 500 and steps == sorted(steps)
    assert steps == [episode.policy_step for episode in again.episodes]
    assert steps != [episode.policy_step for episode in other.episodes]
    dataset = Dataset("test", "a test", ("Breakout",), (part,), seed=1)
    assert held(form(dataset, [recording])[0]) == held([other])


def test_shards_are_parts_of_one_source_in_their_order(tmp_path: Path) -> None:
    names = ["Breakout.learner", "Breakout.learner.2of10", "Breakout.learner.9of10", "Breakout.learner.10of10"]
    for number, name in enumerate(names):
        write(tmp_path, name, life(100, score=number))
    files = recorded_files([tmp_path])
    assert [path.name for path in files["Breakout"]["learner"]] == [f"{name}.parquet" for name in names]
    found = load_recordings(["Breakout"], ["learner"], [tmp_path])
    assert [recording.episodes[0].score for recording in found] == [0, 1, 2, 3]
    # A limit is of the source, not of each file.
    few = load_recordings(["Breakout"], ["learner"], [tmp_path], 150)
    assert sum(recording.transitions for recording in few) == 150 and len(few) > 1
    scores = [recording.episodes[0].score for recording in few]
    assert scores == sorted(scores)
    (tmp_path / "Breakout.learner.9of10.parquet").rename(tmp_path / "Breakout.random.parquet")
    refused(lambda: load_recordings(["Breakout"], ["random"], [tmp_path]), "named after Breakout.random", "learner")


def test_a_limit_a_game_is_of_all_its_sources(tmp_path: Path) -> None:
    for game in ("Breakout", "Boxing"):
        write(tmp_path, f"{game}.learner", life(900))
        write(tmp_path, f"{game}.random", life(100))
    found = zoo.data.load("mixed40", ["Boxing", "Breakout"], per_game=300, seed=2, recordings=[tmp_path])
    totals: Counter[str] = Counter()
    for recording in found:
        totals[recording.metadata.game] += recording.transitions
    assert totals == {"Boxing": 300, "Breakout": 300} and list(totals) == ["Boxing", "Breakout"]
    shares = [
        sum(r.transitions for r in zoo.data.load("mixed40", ["Boxing"], 300, seed=seed, recordings=[tmp_path])[1:])
        for seed in range(20)
    ]
    assert 15 < np.mean(shares) < 45  # a tenth of 300 is random play, as a tenth of all is
    refused(lambda: zoo.data.load("mixed40", ["Boxing"], 0, recordings=[tmp_path]), "per_game=0")


def test_uniform_draws_single_transitions_alike(tmp_path: Path) -> None:
    one = write(tmp_path, "Breakout.learner", [made_up(5, 0), made_up(40, 0, 5)])
    two = write(tmp_path, "Breakout.learner.2of2", [made_up(15, 0)])
    recordings = [read_recording(one), read_recording(two)]
    counts = np.zeros(60)
    for seed in range(200):
        drawn = subsample(recordings, 12, seed, uniform=True)
        assert sum(recording.transitions for recording in drawn) == 12
        for recording in drawn:
            first = 0 if recording.path == one else 45
            for episode in recording.episodes:
                assert episode.kept is not None and len(episode.kept) > 0
                assert list(episode.kept) == sorted(set(episode.kept))
                assert episode.kept[0] >= 0 and episode.kept[-1] < episode.length
                counts[first + episode.policy_step + episode.kept] += 1
        assert recordings[0].episodes[0].kept is None
    assert counts.sum() == 200 * 12
    assert abs(counts - 40).max() < 25  # 40 expected each, deviation 5.7
    same = [subsample(recordings, 12, 7, uniform=True) for _ in range(2)]
    assert [[list(e.kept) for e in r.episodes if e.kept is not None] for r in same[0]] == [
        [list(e.kept) for e in r.episodes if e.kept is not None] for r in same[1]
    ]


def test_uniform_draws_from_what_was_drawn(tmp_path: Path) -> None:
    recordings = [read_recording(write(tmp_path, "Breakout.learner", life(300, length=30)))]
    (some,) = subsample(recordings, 100, 1, uniform=True)
    (few,) = subsample([some], 20, 2, uniform=True)
    before = {(e.policy_step, step) for e in some.episodes for step in (e.kept if e.kept is not None else [])}
    after = {(e.policy_step, step) for e in few.episodes for step in (e.kept if e.kept is not None else [])}
    assert len(before) == 100 and len(after) == 20 and after < before
    assert few.steps == 30 * len(few.episodes) and few.transitions == 20


def test_load_takes_paths_and_strings_one_or_several(tmp_path: Path) -> None:
    for source in ("learner", "random"):
        write(tmp_path, f"Breakout.{source}", life(20))
    wanted = held(zoo.data.load("mixed40", ["Breakout"], recordings=[tmp_path]))
    files = [str(path) for path in sorted(tmp_path.iterdir())]
    for given in (tmp_path, str(tmp_path), [str(tmp_path)], files):
        assert held(zoo.data.load("mixed40", "Breakout", recordings=given)) == wanted
        listed = {row["name"]: row for row in zoo.data.list_datasets(given)}
        assert "Breakout" not in listed["mixed40"]["missing"]


def test_load_refuses_what_it_would_take_for_something_else(tmp_path: Path) -> None:
    for source in ("learner", "random"):
        write(tmp_path, f"Breakout.{source}", life(200))
    load = partial(zoo.data.load, "mixed40", recordings=tmp_path)
    # None is every game, an empty list a filter that found nothing.
    refused(partial(load, []), "games=[]", "None")
    refused(load, "39 of 40 games")
    refused(partial(load, "Breakout", uniform=True), "give per_game too")
    refused(partial(load, [None]), "unknown game 'None'")
    refused(partial(zoo.data.load, 12), "unknown dataset 12")
    for per_game in (100.5, "100", True):
        refused(partial(load, "Breakout", per_game), f"per_game={per_game!r}", "whole number")
    assert sum(recording.transitions for recording in load("Breakout", np.int64(100))) == 100
    for seed in (-1, 0.5, "1"):
        refused(partial(load, "Breakout", 100, seed=seed), f"seed={seed!r}", "0 or more")
    refused(partial(load_recordings, ["Breakout"], (), [tmp_path], 100, -1), "seed -1")


def test_a_selection_is_written_and_read(tmp_path: Path) -> None:
    selection = Selection("mixed40", ("Breakout",), per_game=100, uniform=True, seed=3)
    assert Selection.of(json.loads(json.dumps(selection.to_dict()))) == selection
    refused(lambda: Selection.of({"dataset": "mixed40", "colour": 1}), "colour")
    write(tmp_path, "Breakout.learner", life(20))
    named = Selection("mixed40", ("Breakout",), sources=("learner",))
    refused(lambda: named.load([tmp_path]), "sources: mixed40", "learner, random")
    assert held(Selection(CUSTOM, ("Breakout",), ("learner",)).load([tmp_path])) == [("Breakout", "learner", [0, 10])]


def test_figures_of_datasets_by_hand(tmp_path: Path) -> None:
    # Novices take the first fifth of the learner's 100 steps, scoring 0, and all random play.
    grown = [made_up(10, 0 if step < 20 else 30, step) for step in range(0, 100, 10)]
    for game in ("Breakout", "Carnival"):
        write(tmp_path, f"{game}.learner", grown)
        write(tmp_path, f"{game}.random", life(20, score=3, policy="random/seed=0"))
    write(tmp_path, "Boxing.learner", life(20, score=7))  # without random play: no dataset of both takes it
    recordings = [read_recording(path) for path in sorted(tmp_path.glob("*.parquet"))]
    stats = datasets_stats(recordings)
    assert [*stats] == ["novice40", "mixed40", "heldout5", "learner12"]
    breakout, carnival = get_game("Breakout"), get_game("Carnival")
    assert carnival.human_source == OTHER_PLAYERS != breakout.human_source
    novice, mixed = stats["novice40"], stats["mixed40"]
    assert (novice.games, novice.episodes, novice.transitions) == (2, 8, 80)
    means = [breakout.human_normalized(1.5), carnival.human_normalized(1.5)]
    assert novice.iqm_human == pytest.approx(interquartile_mean(np.array(means)))
    assert novice.iqm_human_sourced == pytest.approx(means[0])
    assert mixed.transitions == 240
    assert mixed.iqm_human_sourced == pytest.approx(breakout.human_normalized((8 * 30 + 2 * 3) / 12))
    assert len(mixed.missing) == 38 and "Boxing" in mixed.missing
    empty = stats["heldout5"]
    assert (empty.games, empty.transitions, empty.iqm_human, empty.iqm_human_sourced) == (0, 0, None, None)
    assert tuple(empty.missing) == games_of("held_out")


def test_held_out_games_enter_pretraining_only_by_force(tmp_path: Path) -> None:
    refused(Pretrain(name="x", dataset="heldout5").choose, "dataset heldout5", "Pong", "`allow_held_out`")
    refused(Pretrain(name="x", dataset="mixed40", games=("Pong",)).choose, "Pong: held out")
    forced = Pretrain(name="x", dataset="heldout5", allow_held_out=True).choose().selection
    assert forced == Selection("heldout5", games_of("held_out"))
    refused(Pretrain(name="x", dataset="mixd40").choose, "did you mean mixed40")
    write(tmp_path, "Pong.learner", life(20))
    refused(Pretrain(name="x", recordings=(tmp_path,)).choose, "games: no training game")


def test_finetuning_takes_learners_or_a_dataset(tmp_path: Path) -> None:
    for name in ("Pong.learner", "Pong.random"):
        write(tmp_path, name, life(200))
    own = FinetuneOffline("Pong", "nature.x", transitions=50)
    assert own.selection("Pong") == Selection(CUSTOM, ("Pong",), ("learner",), 50)
    named = FinetuneOffline("Pong", "nature.x", dataset="heldout5", transitions=50)
    assert held(named.selection("Pong").load([tmp_path])) == held(own.selection("Pong").load([tmp_path]))
    other = FinetuneOffline("Breakout", "nature.x", dataset="heldout5").selection("Breakout")
    refused(lambda: other.load([tmp_path]), "heldout5: Breakout is not one of its games")


def test_pretraining_takes_the_dataset_and_says_so(tmp_path: Path) -> None:
    from zoo.models.model_folder import read_config, read_results
    from zoo.reports.report import recorded_data

    recorded(tmp_path, "Breakout", 6, policy="learner/seed=0", source="learner")
    recorded(tmp_path, "Breakout", 2, first_seed=50)
    command = ["--name", "nature.x", "--recordings", str(tmp_path), "--steps", "2", "--batch-size", "40"]
    command += ["--feature-dim", "8", "--device", "cpu", "--json", "--out", str(tmp_path / "runs")]
    refused(lambda: run_command("pretrain", [*command, "--dataset", "novice40"]), "39 of 40 games are not recorded")
    result = run_command("pretrain", [*command, "--dataset", "novice40", "--games", "Breakout"])
    config, results = read_config(Path(result["model"])), read_results(Path(result["model"]))
    assert config.dataset == "novice40" and results is not None
    training = results["training"]
    assert Selection.of(training["selection"]) == Selection("novice40", ("Breakout",))
    learner, random = training["recordings"]
    assert 1 <= learner["episodes"] < 6 and random["episodes"] == 2
    data = recorded_data(config, results, [tmp_path])
    assert data["Breakout"]["learner"]["episodes"] == learner["episodes"]
    assert data["Breakout"]["random"]["transitions"] == random["transitions"]
    refused(
        lambda: recorded_data(config, results, [tmp_path], "mixed40"), "Breakout.learner with 6 episodes", "`dataset`"
    )
