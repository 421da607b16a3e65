"""`zoo data worth`, small: real training, real play, resumed, compared."""

from __future__ import annotations

import json
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import benchmarks.data_worth.study
from benchmarks.data_worth.command import parse_candidates
from benchmarks.data_worth.study import (
    WorthJob,
    mean_return,
    measure,
    read_result,
    recorded_by,
    summarize_worth,
    taken_play,
    worth_page,
)
from tests.command_helpers import run_command
from tests.recording_helpers import as_learner, assert_replays, recorded, refused
from zoo.atari.games import get_game
from zoo.evaluation.scores import iqm_of
from zoo.frames.build import fingerprint
from zoo.recordings import library
from zoo.recordings.datasets import Part, Selection
from zoo.recordings.format import CHECK_INTERVAL, read_recording
from zoo.recordings.library import recording_paths
from zoo.training.config import RunConfig

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
CPU = ("--device", "cpu")
SMALL = (
    *("--allow-held-out", "--games", "SpaceInvaders", "--steps", "3", "--batch-size", "4"),
    *("--episodes", "2", "--transitions", "300", *CPU),
)


@pytest.mark.slow
def test_worth_measures_once_and_compares(recordings_dir: Path, tmp_path: Path) -> None:
    file = recordings_dir / "SpaceInvaders.random.parquet"
    arguments = ["--candidates", f"plain={file}", f"other={recordings_dir}:random=300", *SMALL]
    arguments += ["--sources", "random", "random"]  # twice is once
    folders = ["--out", str(tmp_path / "worth"), "--cache", str(tmp_path / "frames"), "--workers", "1"]
    rows = run_command("data worth", [*arguments, *folders, "--json"])
    assert {row["name"] for row in rows} == {"plain", "other"}
    for row in rows:
        game = row["games"]["SpaceInvaders"]
        assert game["episodes"] == 2 and len(game["scores"]) == 2 and row["samples"] == 12
        assert row["beats_data"] == int(game["mean"] > game["data"])
        assert row["iqm_human"]["low"] <= row["iqm_human"]["value"] <= row["iqm_human"]["high"]
    assert "over episodes: how much" in (tmp_path / "worth" / "worth.md").read_text()
    # The same play under two names, in two ways of asking for it, gives the same policy.
    assert rows[0]["games"] == rows[1]["games"]
    content = json.loads((tmp_path / "worth" / "worth.json").read_text())
    assert content["rows"] == rows
    for row in rows:
        (play,) = row["play"].values()
        assert row["transitions"] == sum(sum(policies.values()) for policies in play.values())
    page = (tmp_path / "worth" / "worth.md").read_text()
    assert page == worth_page(content) and "| plain | " in page and "| other | " in page
    (trained,) = rows[0]["trained"]
    assert trained["device"] == "CPU, 1 thread" and trained["torch"] == torch.__version__
    assert f"(CPU, 1 thread, {trained['precision']}, torch {torch.__version__})" in page
    assert content["recorded_by"] == ["a test"] and page.endswith("```bash\na test\n```\n")

    (done,) = (tmp_path / "worth" / "plain").glob("seed0.*/worth.json")
    before = done.stat().st_mtime_ns
    again = run_command("data worth", [*arguments, *folders, "--json"])
    assert again == rows and done.stat().st_mtime_ns == before
    refused(lambda: run_command("data worth", [*arguments, *folders, "--workers", "-3"]), "--workers -3")
    refused(lambda: run_command("data worth", [*arguments, *folders, "--device", "toaster"]), "--device toaster")


def test_best_candidate_comes_first_and_seeds_are_pooled() -> None:
    rows = summarize_worth([result("poor", 0, [1, 2]), result("good", 0, [9, 10]), result("good", 1, [11, 20])])
    assert [row["name"] for row in rows] == ["good", "poor"]
    assert rows[0]["seeds"] == 2 and rows[0]["games"]["Breakout"]["mean"] == 12.5
    assert rows[0]["iqm_human"]["value"] == pytest.approx(get_game("Breakout").human_normalized(12.5))
    assert [row["beats_data"] for row in rows] == [1, 0]
    other = {**result("good", 1, [1, 2]), "settings": {"data": "of another day"}}
    refused(lambda: summarize_worth([result("good", 0, [1, 2]), other]), "good: its recordings changed")


def result(name: str, seed: int, scores: list[float]) -> dict[str, Any]:
    return {
        "name": name,
        "seed": seed,
        "transitions": 10,
        "play": {"Breakout": {"learner": {"learner/seed=0": 10}}},
        "scores": {"Breakout": scores},
        "data": {"Breakout": 8.0},
        "training": {"samples": 1, "seconds": 60, "device": "CPU", "precision": "float32", "torch": "2"},
        "settings": {"data": "the same"},
    }


def test_the_interval_is_over_trainings_too() -> None:
    """Trainings that differ more than their episodes: the interval holds what either of them alone would give."""
    low, high = get_game("Breakout").human_normalized(10.0), get_game("Breakout").human_normalized(30.0)
    iqm = iqm_of({"Breakout": [[10.0] * 8, [30.0] * 8]})  # a quarter of two scores is less than one
    assert iqm == pytest.approx({"value": (low + high) / 2, "low": low, "high": high})
    alone = iqm_of({"Breakout": [[10.0, 10.0, 10.0, 10.0]], "Pong": [[-21.0, -21.0, 21.0, 21.0]]})
    assert alone["low"] < alone["value"] < alone["high"]


def test_the_page_tells_of_each_training(tmp_path: Path) -> None:
    rows = summarize_worth([result("one", seed, [1, 2, 3]) for seed in range(2)])
    content = {"command": "zoo x", "recorded_by": ["zoo y"], "run_config": RunConfig(steps=1).to_dict(), "rows": rows}
    page = worth_page(content)
    assert (
        "2 trainings each; each policy then played 3 episodes" in page and "over trainings and their episodes" in page
    )
    assert "| one | 10 | learner 10 |" in page and "A training took 60 s to 60 s (CPU, float32, torch 2)" in page
    elsewhere = result("two", 0, [1])
    elsewhere["training"] = {**elsewhere["training"], "device": "GPU"}
    rows = summarize_worth([result("one", 0, [2]), elsewhere, result("three", 0, [3])])
    assert "(CPU, float32, torch 2: three, one; GPU, float32, torch 2: two)" in worth_page({**content, "rows": rows})


@pytest.mark.slow
def test_seeds_follow_the_seed_and_samples_are_those_of_the_batches(recordings_dir: Path, tmp_path: Path) -> None:
    """Of a batch of 5, two games get 2 each."""
    recorded(tmp_path, "Riverraid", 1)  # short, whatever an untrained policy does
    games = ("--allow-held-out", "--games", "SpaceInvaders", "Riverraid")
    small = ("--steps", "2", "--batch-size", "5", "--episodes", "1", "--transitions", "300", "--json", *CPU)
    arguments = ["--candidates", f"a={recordings_dir},{tmp_path}", *games, *small]
    arguments += ["--workers", "1"]
    arguments += ["--out", str(tmp_path / "worth"), "--cache", str(tmp_path / "frames")]
    arguments += ["--seed", "7", "--seeds", "2"]
    (row,) = run_command("data worth", arguments)
    assert row["samples"] == 8 and row["seeds"] == 2
    assert "2 steps of 4,\n" in (tmp_path / "worth" / "worth.md").read_text()
    done = sorted((tmp_path / "worth" / "a").glob("*/worth.json"))
    assert [path.parent.name.split(".")[0] for path in done] == ["seed7", "seed8"]
    assert [read_result(path)["seed"] for path in done] == [7, 8]
    done[0].write_text("[]")
    refused(lambda: run_command("data worth", arguments), done[0], "delete it")


def test_a_damaged_file_of_results_is_named(tmp_path: Path) -> None:
    file, whole = tmp_path / "worth.json", result("a", 0, [1, 2])
    file.write_text(json.dumps(whole))
    assert read_result(file) == whole
    older = {**whole, "training": {"samples": 8, "seconds": 1}}
    for damaged in ("[]", "{}", json.dumps(whole)[:50], json.dumps(older)):
        file.write_text(damaged)
        refused(lambda: read_result(file), file, "delete it")


def test_every_candidate_is_checked_before_one_is_trained(recordings_dir: Path, tmp_path: Path) -> None:
    recorded(tmp_path, "Boxing", 1)
    (damaged := tmp_path / "damaged").mkdir()
    whole = (recordings_dir / "SpaceInvaders.random.parquet").read_bytes()
    (damaged / "SpaceInvaders.random.parquet").write_bytes(whole[: len(whole) // 2] + whole[len(whole) // 2 + 9 :])
    lacking = {
        f"bad={tmp_path}": "SpaceInvaders: no recording; `zoo record learner --games SpaceInvaders --steps 100000`",
        f"bad={recordings_dir}:planner=100": "SpaceInvaders: no recording of planner; recorded are random",
        f"bad={recordings_dir}:random=99999": "fewer than the 99,999 named",
        f"bad={damaged}": "SpaceInvaders.random.parquet: damaged",
        "bad=/no/where:at:all": "/no/where:at:all: no such file or folder",
    }
    settings = [*SMALL, "--out", str(tmp_path / "worth")]
    for candidate, message in lacking.items():
        arguments = ["--candidates", f"good={recordings_dir}", candidate, *settings]
        refused(partial(run_command, "data worth", arguments), "--candidates bad: ", message)
        assert not (tmp_path / "worth").exists()
    arguments = ["--candidates", f"good={recordings_dir}", *settings, "--transitions", "0"]
    refused(partial(run_command, "data worth", arguments), "--transitions 0")
    refused(partial(run_command, "data worth", [*arguments[:2], *SMALL[1:]]), "SpaceInvaders: held out for transfer")
    arguments = ["--candidates", f"good={recordings_dir}", *settings, "--arch", "natrue"]
    refused(partial(run_command, "data worth", arguments), "unknown arch 'natrue'; did you mean nature")


@pytest.mark.parametrize(
    "texts", [(), ("=a",), ("a", "a"), ("../a=b",), ("..=b",), (".=b",), ("a:b=/c",), ("a:b",), ("worth.md",)]
)
def test_candidates_need_names_of_their_own(texts: tuple[str, ...]) -> None:
    refused(lambda: parse_candidates(texts), "candidates")


def test_candidate_paths() -> None:
    assert parse_candidates(("shipped", "a=x,y/z")) == {"shipped": ((), ()), "a": ((Path("x"), Path("y/z")), ())}
    mixture = (Part("learner", per_game=80), Part("planner", since=0.25, until=0.5, per_game=20))
    shares = "learner=80,planner@0.25-.5=20"
    assert parse_candidates((f"a=x:{shares}", f"b:{shares}")) == {"a": ((Path("x"),), mixture), "b": ((), mixture)}
    assert parse_candidates(("a=/data/10:30/x", "b=x:y,z", f"c=x:y:{shares}")) == {
        "a": ((Path("/data/10:30/x"),), ()),
        "b": ((Path("x:y"), Path("z")), ()),
        "c": ((Path("x:y"),), mixture),
    }
    refused(lambda: parse_candidates(("a=x:random=100,random=100",)), "candidates a=x", "random twice")
    for text in ("mine=", "mine=:random=100"):  # as with a shell's variable that is not set
        refused(lambda text=text: parse_candidates((text,)), f"candidates {text}", "names no path")


def job(folder: Path, parts: tuple[Part, ...] = (), **changes: Any) -> WorthJob:
    plain = WorthJob("a", (folder,), ("Breakout",), parts, (), None, RunConfig(), 1, folder / "out", folder / "frames")
    return replace(plain, **changes)


def test_other_settings_or_other_play_are_a_run_of_their_own(tmp_path: Path) -> None:
    recorded(tmp_path, "Breakout", 2)
    recording = read_recording(tmp_path / "Breakout.random.parquet")
    less, plain = replace(recording, episodes=recording.episodes[:1]), job(tmp_path)
    runs = [(plain, recording), (plain, less), (job(tmp_path, episodes=2), recording)]
    runs += [
        (job(tmp_path, config=replace(RunConfig(), **change)), recording) for change in ({"steps": 4}, {"seed": 1})
    ]
    assert len({run.result(run.settings([play])) for run, play in runs}) == len(runs)
    same = job(tmp_path, config=RunConfig(), device="cpu")
    assert same.result(same.settings([recording])) == plain.result(plain.settings([recording]))


def test_a_name_that_is_a_datasets_is_that_dataset(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(library, "SHIPPED", tmp_path)
    random = recorded(tmp_path, "Breakout", 6)
    arguments = ["--candidates", "mixed40", "--games", "Breakout", "--out", str(tmp_path / "worth"), *CPU]
    refused(lambda: run_command("data worth", arguments), "--candidates mixed40: ", "Breakout (learner)")
    as_learner(random, tmp_path)
    mine = job(tmp_path, dataset="mixed40", transitions=300)
    taken = taken_play(mine)
    same = Selection("mixed40", ("Breakout",), per_game=300).load()
    assert fingerprint(taken) == fingerprint(same)
    assert 300 <= sum(recording.transitions for recording in taken) < 2 * read_recording(random).transitions
    assert recorded_by([mine]) == ["zoo record random"]


def starts(job: WorthJob) -> list[int]:
    return [episode.policy_step for recording in taken_play(job) for episode in recording.episodes]


def test_a_share_is_as_much_as_it_names_of_what_began_in_its_stretch(tmp_path: Path) -> None:
    recorded(tmp_path, "Breakout", 4)
    episodes = read_recording(tmp_path / "Breakout.random.parquet").episodes
    half = (episodes[-1].policy_step + episodes[-1].length) / 2
    stretches = {
        "": list(episodes),
        "@0-1": list(episodes),
        "@0-0.5": [episode for episode in episodes if episode.policy_step < half],
        "@0.5-1": [episode for episode in episodes if episode.policy_step >= half],
    }
    for stretch, wanted in stretches.items():
        every = sum(episode.length for episode in wanted)

        def of(number: int, stretch: str = stretch) -> list[int]:
            ((paths, parts),) = parse_candidates((f"a={tmp_path}:random{stretch}={number}",)).values()
            return starts(job(tmp_path, parts, paths=paths))

        assert of(every) == [episode.policy_step for episode in wanted]
        assert len(of(1)) == 1
        refused(partial(of, every + 1), f"Breakout.random holds {every:,} transitions", f"{every + 1:,} named")
    refused(lambda: starts(job(tmp_path, (Part("random", since=0.99, per_game=1),))), "holds 0 transitions in that")


def test_without_shares_sources_give_at_most_what_is_asked_for(tmp_path: Path) -> None:
    recorded(tmp_path, "Breakout", 3)
    recorded(tmp_path, "Breakout", 2, source="learner", policy="learner/seed=0")
    assert len(starts(job(tmp_path))) == 5 and len(starts(job(tmp_path, transitions=1))) == 2
    assert len(starts(job(tmp_path, sources=("random",)))) == 3
    assert len(starts(job(tmp_path, sources=("random",), transitions=1))) == 1


def test_a_policy_plays_the_episodes_of_its_training_seed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    recorded(tmp_path, "Breakout", 1)
    asked = []

    def play(agent: object, game: str, episodes: int, *, seed: int, num_threads: int) -> np.ndarray:
        asked.append((game, episodes, seed))
        return np.array([1.0] * episodes)

    monkeypatch.setattr(benchmarks.data_worth.study, "play_episodes", play)
    one = job(tmp_path, config=RunConfig(steps=1, batch_size=2, seed=7), episodes=3)
    found = measure(one)
    assert asked == [("Breakout", 3, 7)] and found["scores"] == {"Breakout": [1.0, 1.0, 1.0]}
    assert found["data"]["Breakout"] == mean_return(taken_play(one), "Breakout")


@pytest.mark.parametrize(
    "share",
    ["learner,random=5", "learner=0", "learner=1e5", "=5", "learner=-1", "a@1-0=5", "a@0-2=5", "a@0=5", "a@0-..=5"],
)
def test_shares_are_a_source_and_a_number(share: str) -> None:
    refused(lambda: parse_candidates((f"a=x:{share}",)), "candidates a=x", repr(share.split(",")[0]))


@pytest.mark.parametrize("name", ["worth", "worth_long", "worth_random"])
def test_the_table_that_was_kept_is_of_its_figures(name: str) -> None:
    """And of the trainings beside it."""
    kept = BENCHMARKS / name
    text = (kept / "worth.json").read_text(encoding="utf-8")
    content = json.loads(text)
    assert worth_page(content) == (kept / "worth.md").read_text(encoding="utf-8")
    assert "/tmp" not in text and "/home" not in text  # it names no place of the machine that made it
    rows = summarize_worth([read_result(path) for path in sorted(kept.glob("*/seed*/worth.json"))])  # seeds in order
    assert worth_page({**content, "rows": rows}) == worth_page(content)


def test_the_play_that_was_compared_is_kept() -> None:
    for path in recording_paths([BENCHMARKS / "worth" / "play", BENCHMARKS / "worth" / "take_over"]):
        assert_replays(path, 2 * CHECK_INTERVAL)
