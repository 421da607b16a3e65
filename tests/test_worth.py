"""`zoo data worth`, small: real training, real play, resumed, compared."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.command_helpers import run_command
from tests.recording_helpers import refused
from zoo.commands.worth import parse_candidates
from zoo.worth import summarize_worth, worth_page

SMALL = ("--games", "SpaceInvaders", "--steps", "3", "--batch-size", "4", "--episodes", "2", "--transitions", "300")


def test_worth_measures_once_and_compares(recordings_dir: Path, tmp_path: Path) -> None:
    file = recordings_dir / "SpaceInvaders.random.parquet"
    arguments = ["--candidates", f"plain={file}", f"other={recordings_dir}:random=300", *SMALL]
    folders = ["--out", str(tmp_path / "worth"), "--cache", str(tmp_path / "frames"), "--workers", "1"]
    rows = run_command("data worth", [*arguments, *folders, "--json"])
    assert {row["name"] for row in rows} == {"plain", "other"}
    for row in rows:
        game = row["games"]["SpaceInvaders"]
        assert game["episodes"] == 2 and len(game["scores"]) == 2 and row["samples"] == 12
        assert row["beats_data"] == int(game["mean"] > game["data"])
        assert row["iqm_human"]["low"] <= row["iqm_human"]["value"] <= row["iqm_human"]["high"]
    # The same play under two names, in two ways of asking for it, gives the same policy.
    assert rows[0]["games"] == rows[1]["games"]
    content = json.loads((tmp_path / "worth" / "worth.json").read_text())
    assert content["rows"] == rows
    for row in rows:
        assert row["transitions"] == sum(sum(policies.values()) for policies in row["play"].values())
    page = (tmp_path / "worth" / "worth.md").read_text()
    assert page == worth_page(content) and "| plain | " in page and "- other: " in page

    (done,) = (tmp_path / "worth" / "plain").glob("seed0.*/worth.json")
    before = done.stat().st_mtime_ns
    again = run_command("data worth", [*arguments, *folders, "--json"])
    assert again == rows and done.stat().st_mtime_ns == before
    more = run_command("data worth", [*arguments, *folders, "--json", "--steps", "4"])  # a run of its own
    assert {row["samples"] for row in more} == {16}
    refused(lambda: run_command("data worth", [*arguments, *folders, "--workers", "-3"]), "--workers -3")


def test_best_candidate_comes_first_and_seeds_are_pooled() -> None:
    def result(name: str, seed: int, scores: list[float]) -> dict[str, object]:
        return {
            "name": name,
            "seed": seed,
            "transitions": 10,
            "play": {"learner": {"learner/seed=0": 10}},
            "scores": {"Breakout": scores},
            "data": {"Breakout": 8.0},
            "training": {"samples": 1},
        }

    rows = summarize_worth([result("poor", 0, [1, 2]), result("good", 0, [9, 10]), result("good", 1, [11, 12])])
    assert [row["name"] for row in rows] == ["good", "poor"]
    assert rows[0]["seeds"] == 2 and rows[0]["games"]["Breakout"]["mean"] == 10.5
    assert [row["beats_data"] for row in rows] == [1, 0]


@pytest.mark.parametrize("texts", [(), ("=a",), ("a", "a"), ("../a=b",)])
def test_candidates_need_names_of_their_own(texts: tuple[str, ...]) -> None:
    refused(lambda: parse_candidates(texts), "--candidates")


def test_candidate_paths() -> None:
    every = (("learner",), 5)
    assert parse_candidates(("shipped", "a=x,y/z"), every) == {
        "shipped": ((), (every,)),
        "a": ((Path("x"), Path("y/z")), (every,)),
    }
    mixture = ((("learner",), 80), (("planner",), 20))
    assert parse_candidates(("a=x:learner=80,planner=20", "b:learner=80,planner=20"), every) == {
        "a": ((Path("x"),), mixture),
        "b": ((), mixture),
    }


@pytest.mark.parametrize("share", ["learner", "learner=0", "learner=1e5", "=5", "learner=-1"])
def test_shares_are_a_source_and_a_number(share: str) -> None:
    refused(lambda: parse_candidates((f"a=x:{share}",)), "--candidates a=x", repr(share))
