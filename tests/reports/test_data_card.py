"""The page of the recordings: in step with them, and in the Hub's form."""

import json
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import DatasetCard
from PIL import Image

from tests.command_helpers import run_command
from tests.recording_helpers import made_up, recorded
from zoo.atari.games import get_game
from zoo.recordings.format import Recording, new_metadata, read_recording, write_recording
from zoo.recordings.library import SHIPPED, recording_paths
from zoo.recordings.stats import play_stats
from zoo.reports.data_card import PICTURE, VERIFIED, limitations, picture_rows, render_page, write_page


@pytest.fixture(scope="module")
def shipped() -> list[Recording]:
    return [read_recording(path) for path in recording_paths()]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Play that nobody replays: a good learner and random play of a training game, a poor learner of a held-out one."""
    play = {
        ("Breakout", "learner"): [made_up(10, 10 * number, 10 * number) for number in range(10)],
        ("Breakout", "random"): [made_up(7, 1, 7 * number, "random/seed=0") for number in range(3)],
        ("Pong", "learner"): [made_up(10, -21, 10 * number) for number in range(10)],
        ("Pong", "random"): [made_up(7, -20, 7 * number, "random/seed=0") for number in range(3)],
    }
    for (game, source), episodes in play.items():
        metadata = new_metadata(game, source, f"zoo record {source} --games {game} --steps 100")
        write_recording(tmp_path / f"{game}.{source}.parquet", metadata, episodes)
    return tmp_path


def cells(page: str, *starts: str) -> list[str]:
    (line,) = [line for line in page.splitlines() if line.startswith(f"| {' | '.join(starts)} |")]
    return [cell.strip() for cell in line.strip("|").split("|")]


def test_the_page_that_is_shipped_is_of_the_recordings_that_are(shipped: list[Recording]) -> None:
    assert (SHIPPED / "README.md").read_text(encoding="utf-8") == render_page(shipped), "run zoo data page"
    with Image.open(SHIPPED / PICTURE) as picture:
        drawn = json.loads(picture.info["Description"])
    assert drawn == picture_rows(play_stats(shipped)), "run zoo data page"


def test_the_page_by_hand(folder: Path) -> None:
    page, picture = write_page(folder, folder / "README.md")
    text = page.read_text()
    size = sum(path.stat().st_size for path in folder.glob("*.parquet"))
    assert f"**242 transitions** in 26 whole episodes, in {size:,} bytes: **{size / 242:.2f} bytes" in text
    breakout = get_game("Breakout")
    assert cells(text, "Breakout", "train", "learner")[3:9] == [
        *("10", "100", "45.0", "85.0"),
        *(f"{breakout.human_normalized(45):.3f}", f"{breakout.human_normalized(85):.3f}"),
    ]
    assert cells(text, "Pong", "held out", "random")[3:6] == ["3", "21", "-20.0"]
    assert cells(text, "`mixed40`")[1:4] == ["1 of 40", "13", "121"]
    assert "zoo record learner --games Breakout Pong --steps 100\n" in text
    card = DatasetCard.load(page)
    assert card.data.license == "apache-2.0" and card.data.size_categories == "n<1K"
    assert [config["data_files"] for config in card.data.configs] == ["*.learner*.parquet", "*.random*.parquet"]
    assert picture is not None and picture.name in text and picture.read_bytes().startswith(b"\x89PNG")
    before = (page.read_bytes(), picture.read_bytes())
    written = run_command("data page", [str(folder), "--json"])
    assert written == {"page": str(page), "picture": str(picture)}
    assert (page.read_bytes(), picture.read_bytes()) == before


def test_the_page_tells_how_good_learners_became(folder: Path) -> None:
    normalized = get_game("Breakout").human_normalized
    told = "last 20% in the 1 training games have an interquartile mean of"
    text = write_page(folder, folder / "README.md")[0].read_text()
    assert f"{told} {normalized(85):.3f}, and are above the reference of random play in 1." in text
    # Another learner, worse than the first: episodes of both count, and its own where it counts alone.
    worse = [made_up(10, 0, 10 * number, "learner/seed=1") for number in range(10)]
    metadata = new_metadata("Breakout", "learner", "zoo record learner --games Breakout --steps 100 --seed 1")
    write_recording(folder / "Breakout.learner.seed1.parquet", metadata, worse)
    text = write_page(folder, folder / "README.md")[0].read_text()
    both, alone = f"{normalized(42.5):.3f}", f"{normalized(0):.3f}"
    assert f"{told} {both} ({alone} where of each game only the learner of the last seed counts), and are above" in text


def run_example(page: str) -> dict[str, Any]:
    """The names that the page's example gives values, of less play than it asks for."""
    (_, example), *_ = [block.split("python\n") for block in page.split("```") if block.startswith("python\n")]
    assert "20_000" in example
    names: dict[str, Any] = {}
    exec(example.replace("20_000", "1"), names)
    return names


def test_the_shipped_example_runs() -> None:
    names = run_example((SHIPPED / "README.md").read_text(encoding="utf-8"))
    assert names["store"].transitions > 0
    assert all(recording.path.parent == SHIPPED for recording in names["recordings"])


@pytest.mark.parametrize("source", ["learner", "planner"])
def test_the_example_of_another_folder_loads_what_is_there(source: str, tmp_path: Path) -> None:
    """Held-out learners are another dataset's; what no dataset takes is loaded by game."""
    path = recorded(tmp_path, "SpaceInvaders", 1, source=source)
    page, _ = write_page(tmp_path, tmp_path / "README.md")
    names = run_example(page.read_text())
    assert [recording.path for recording in names["recordings"]] == [path]
    assert names["store"].transitions == names["recordings"][0].transitions
    assert f"zoo data verify {tmp_path} --all" in page.read_text()


def test_the_page_tells_what_was_replayed_whole(tmp_path: Path) -> None:
    first, _ = recorded(tmp_path, "Frostbite", 1), recorded(tmp_path, "Breakout", 1)
    page, log = tmp_path / "README.md", tmp_path / VERIFIED
    assert "Replayed whole" not in write_page(tmp_path, page)[0].read_text()
    run_command("data verify", [str(first), "--all", "--log", str(log), "--workers", "1", "--json"])
    steps = read_recording(first).steps
    told = f"1 of 2 files, 1 episodes, {steps:,} steps; `--log {VERIFIED}`"
    assert told in write_page(tmp_path, page)[0].read_text()
    recorded(tmp_path, "Frostbite", 1, first_seed=3)  # another file under that name
    assert "Replayed whole" not in write_page(tmp_path, page)[0].read_text()


@pytest.mark.filterwarnings("error")
def test_without_learners_and_random_play_there_is_no_picture(tmp_path: Path) -> None:
    metadata = new_metadata("Pong", "planner", "zoo record planner --games Pong")
    write_recording(tmp_path / "Pong.planner.parquet", metadata, [made_up(10, 5)])
    written = run_command("data page", [str(tmp_path), "--json"])
    assert written == {"page": str(tmp_path / "README.md"), "picture": None}
    assert not (tmp_path / PICTURE).exists() and PICTURE not in (tmp_path / "README.md").read_text()


def test_the_page_tells_what_was_taken_over_from_a_learner(tmp_path: Path) -> None:
    metadata = new_metadata("Pong", "planner", "zoo record planner --games Pong")
    for policy, told in (("planner/seed=0", False), ("planner/after=learner/seed=0", True)):
        write_recording(tmp_path / "Pong.planner.parquet", metadata, [made_up(10, 5, policy=policy)])
        page, _ = write_page(tmp_path, tmp_path / "README.md")
        assert ("begins as one of a learner's" in page.read_text()) == told


def test_what_the_figures_say_against_the_data(folder: Path) -> None:
    recordings = [read_recording(path) for path in recording_paths([folder])]
    play = play_stats(recordings)
    assert [row["game"] for row in picture_rows(play)] == ["Breakout", "Pong"]
    text = "\n".join(limitations(play, recordings))
    assert "In 1 of 2 games the learner ends at the human reference or above: Breakout." in text
    assert "At its end the learner plays no better than at random in Pong." in text
    assert "A game has 121 to 121 transitions" in text
    alone = picture_rows({"Pong": {"random": play["Pong"]["random"]}})
    assert alone[0]["data"] is None and alone[0]["random"] == pytest.approx(get_game("Pong").human_normalized(-20))
