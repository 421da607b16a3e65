"""`zoo report`: what results.json says is on the card, and nothing else is."""

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from huggingface_hub import ModelCard

from tests.model_helpers import GAMES, NAME, make_config, make_network, one_line
from zoo.atari.games import get_game
from zoo.cli import main
from zoo.commands.report import Report
from zoo.models.model_folder import HeadConfig, ModelConfig, read_config, read_results, write_model
from zoo.recordings.datasets import Selection
from zoo.recordings.format import Episode, Recording, new_metadata, read_recording, write_recording
from zoo.recordings.library import file_name, subsample
from zoo.reports.model_card import limitations, render_card, score_rows, score_text
from zoo.reports.report import recorded_data, write_report
from zoo.support.files import write_json
from zoo.support.markdown import duration_text

PNG = b"\x89PNG\r\n"


def scores(mean: float, episodes: int = 32) -> dict[str, Any]:
    return {
        "mean": mean,
        "low": mean - 1.5,
        "high": mean + 1.25,
        "episodes": episodes,
        "human_normalized": mean / 50,
        "dqn_normalized": None,
        "scores": [mean] * episodes,
    }


def played(means: dict[str, float], command: str) -> dict[str, Any]:
    value = sum(means.values()) / 91
    return {
        "games": {game: scores(mean) for game, mean in means.items()},
        "iqm_human": {"value": value, "low": value - 0.111, "high": value + 0.222},
        "command": command,
        "epsilon": 0.001,
        "seed": 0,
    }


def source(episodes: int, mean: float, last: float, command: str) -> dict[str, Any]:
    return {
        "episodes": episodes,
        "transitions": episodes * 1013,
        "mean_return": mean,
        "last20_return": last,
        "command": command,
    }


def example(factor: float = 1.0) -> dict[str, Any]:
    """Results of two games; every score is a multiple of `factor`."""
    record = "zoo record {} --games {} --steps 1000"
    return {
        "evaluation": played({"Pong": 3.3 * factor, "Breakout": 17.7 * factor}, "zoo evaluate model"),
        "random": played({"Pong": -20.4, "Breakout": 1.6 * factor}, "zoo evaluate random"),
        "data": {
            "Pong": {"learner": source(300, 5.7 * factor, 9.1 * factor, record.format("learner", "Pong"))},
            "Breakout": {
                "learner": source(300, 8.2 * factor, 13.6 * factor, record.format("learner", "Breakout")),
                "random": source(100, 1.0 * factor, 1.4 * factor, record.format("random", "Breakout")),
            },
        },
        "training": {
            "command": "zoo pretrain model",
            "steps": 43_210,
            "batch_size": 100,
            "seconds": 11_100.0,
            "device": "a machine",
            "precision": "float32",
            "torch": "9.9",
            "final": {"td": 2.345, "cql": 1.234},
        },
        "curve": [{"step": step, "td": 4.0 - step / 100, "cql": 1.0} for step in range(50, 150, 50)],
    }


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    path, network = tmp_path / NAME, make_network()
    write_model(network, make_config(network), path, results=example())
    return path


@pytest.fixture
def config(folder: Path) -> ModelConfig:
    return read_config(folder)


def row_of(card: str, game: str) -> list[str]:
    (line,) = [line for line in card.splitlines() if line.startswith(f"| {game} |")]
    return [cell.strip() for cell in line.strip("|").split("|")]


def test_the_score_table(config: ModelConfig) -> None:
    card = render_card(config, example())
    assert row_of(card, "Pong") == ["Pong", "3.3", "1.8 to 4.5", "-20.4", "5.7", "9.1", "0.07", "32"]
    # Data: the mean is over all episodes, (300 * 8.2 + 100 * 1.0) / 400; the last 20% of the better source.
    assert row_of(card, "Breakout")[1:6] == ["17.7", "16.2 to 18.9", "1.6", "6.4", "13.6"]
    assert "Policy: 0.231 (0.120 to 0.453)" in card


def test_how_it_was_made(config: ModelConfig) -> None:
    card = render_card(config, example())
    assert row_of(card, "learner") == ["learner", "2", "600", f"{600 * 1013:,}"]
    assert row_of(card, "random") == ["random", "1", "100", f"{100 * 1013:,}"]
    for part in (
        "43,210, 4,321,000 training samples",
        "a machine, 3 h 05 min, float32, torch 9.9",
        "td 2.345",
    ):
        assert part in card
    commands = re.search(r"```bash\n(.*?)```", card, re.DOTALL)
    assert commands is not None
    assert commands[1].splitlines() == [
        "zoo record learner --games Pong Breakout --steps 1000",
        "zoo record random --games Breakout --steps 1000",
        "zoo pretrain model",
        "zoo evaluate model",
        "zoo evaluate random",
    ]
    assert f'zoo.load("{NAME}")' in card and "0.1" in row_of(card, "weight of the conservative term")[2]


def test_no_figure_is_written_by_hand(config: ModelConfig) -> None:
    """With other results, every score of the first card is gone."""
    before, after = render_card(config, example()), render_card(config, example(factor=3.17))
    for figure in ("3.3", "17.7", "5.7", "9.1", "6.4", "13.6", "16.2", "18.9", "0.231"):
        pattern = rf"(?<![\d.]){re.escape(figure)}(?![\d.]*\d)"
        assert re.search(pattern, before), figure
        assert not re.search(pattern, after), figure
    assert row_of(after, "Pong")[1] == "10.5" and row_of(after, "Breakout")[1] == "56.1"


def test_front_matter_is_the_hubs(folder: Path) -> None:
    write_report(folder)
    data = ModelCard.load(folder / "README.md").data
    assert (data.license, data.library_name, data.datasets) == ("apache-2.0", "qzoo", ["mixed2"])
    assert data.model_name == NAME and "atari" in data.tags
    results = {result.dataset_name: result.metric_value for result in data.eval_results}
    assert results == {"Pong": 3.3, "Breakout": 17.7}


def test_limitations_follow_from_the_figures(config: ModelConfig) -> None:
    results = example()
    text = "\n".join(limitations(score_rows(results), config, results))
    assert "In 1 of 2 games the policy does not beat the mean of its own data: Pong (3.3 against 5.7)." in text
    assert "In 1 of 2 games the policy stays below the last 20% of its data: Pong (3.3 against 9.1)." in text
    assert "In every game scored the policy is clearly better than random play." in text
    assert f"Breakout (17.7 against {get_game('Breakout').human:.1f})" in text
    assert "a policy that is stuck, in Pong (32 of 32 episodes scored 3.3), Breakout (32 of 32 " in text
    for row in results["evaluation"]["games"].values():
        row["scores"] = list(range(len(row["scores"])))
    assert "stuck" not in "\n".join(limitations(score_rows(results), config, results))
    results["evaluation"]["games"]["Pong"] = scores(5.7)  # meets its data's mean: not beaten
    results["evaluation"]["games"]["Breakout"] = scores(3.0)  # its interval meets that of random play
    text = "\n".join(limitations(score_rows(results), config, results))
    assert "mean of its own data: Pong (5.7 against 5.7), Breakout (3.0 against 6.4)." in text
    assert "worse than random play, or not clearly better (intervals meet): Breakout (3.0 against 1.6)." in text
    results["evaluation"]["games"] = {"Pong": scores(20.0)}
    text = "\n".join(limitations(score_rows(results), config, results))
    assert "In every game scored the policy beats the mean of its own data." in text
    assert "reaches the last 20% of its data" in text and "reaches the human reference" in text
    assert "Not evaluated: Breakout." in text


def test_card_and_plots_are_written(folder: Path) -> None:
    written = write_report(folder)
    assert sorted(path.name for path in written) == ["README.md", "scores.png", "training.png"]
    assert (folder / "scores.png").read_bytes().startswith(PNG)
    assert (folder / "training.png").read_bytes().startswith(PNG)
    assert (folder / "README.md").read_text() == render_card(read_config(folder), example())
    assert not list(folder.glob(".*"))
    before = (folder / "scores.png").read_bytes()
    write_report(folder)
    assert (folder / "scores.png").read_bytes() == before
    results = example(factor=20.0)  # beyond the linear axis
    del results["curve"]
    write_json(folder / "results.json", results)
    assert [path.name for path in write_report(folder)] == ["scores.png", "README.md"]
    assert (folder / "scores.png").read_bytes() != before and not (folder / "training.png").exists()
    assert "training.png" not in (folder / "README.md").read_text()


def test_values_that_left_their_returns_are_marked(folder: Path, config: ModelConfig) -> None:
    values = {
        "Pong": {"q_data": -1.4, "return_data": -1.5, "edge_high": 0.0},
        "Breakout": {"q_data": 6.5, "return_data": 1.25, "edge_high": 0.4},
    }
    results = {**example(), "values": [{"step": 250, "games": values}, {"step": 500, "games": values}]}
    assert "In 1 of 2 games its values are more than half off" in render_card(config, results)
    assert "Breakout (6.50 for 1.25)" in render_card(config, results)
    right = {**values, "Breakout": {**values["Breakout"], "q_data": 1.5}}
    assert "more than half off" not in render_card(config, {**results, "values": [{"step": 500, "games": right}]})
    assert "more than half off" not in render_card(config, example())
    write_json(folder / "results.json", results)
    assert folder / "values.png" in write_report(folder)
    assert (folder / "values.png").read_bytes().startswith(PNG)


@pytest.mark.parametrize("part", ["evaluation", "random", "data"])
def test_missing_parts_are_named(part: str, folder: Path) -> None:
    results = example()
    del results[part]
    write_json(folder / "results.json", results)
    card = (folder / "README.md").read_text()
    one_line(lambda: write_report(folder), part, "`card_only`")
    assert (folder / "README.md").read_text() == card and not (folder / "scores.png").exists()
    results = example()
    del results["random"]["games"]["Pong"]
    one_line(lambda: score_rows(results), "Pong")


@pytest.mark.parametrize(
    ("part", "value"),
    [("training", []), ("training", {**example()["training"], "seconds": None}), ("curve", 3), ("data", {"Pong": 1})],
)
def test_figures_of_another_type_are_one_line(part: str, value: object, folder: Path) -> None:
    card = (folder / "README.md").read_text()
    write_json(folder / "results.json", {**example(), part: value})
    one_line(lambda: write_report(folder), "results.json", "run `zoo report`")
    assert (folder / "README.md").read_text() == card


def demo_run(game: str, seed: int, frozen: float) -> dict[str, Any]:
    arms = {"random": 101.0, "data": 202.0, "scratch": 303.0, "frozen": frozen, "full": 505.0}
    return {
        "game": game,
        "seed": seed,
        "steps": 500,
        "batch_size": 128,
        "transitions": 50_321,
        "episodes": 32,
        "encoder_sha256": "",
        "command": f"zoo demo --game {game} --seed {seed}",
        "arms": {arm: {"score": score} for arm, score in arms.items()},
    }


def test_transfer_is_on_the_card(folder: Path, config: ModelConfig, tmp_path: Path) -> None:
    assert "Transfer" not in (folder / "README.md").read_text()
    paths = [tmp_path / f"{number}.json" for number in range(3)]
    runs = [demo_run("StarGunner", 1, 440.0), demo_run("StarGunner", 0, 400.0), demo_run("MsPacman", 0, 1404.0)]
    for path, run in zip(paths, runs, strict=True):
        write_json(path, {**run, "encoder_sha256": config.digest})
    Report(folder, transfer=tuple(paths), card_only=True).run()
    results = read_results(folder) or {}
    assert [(run["game"], run["seed"]) for run in results["transfer"]] == [
        ("MsPacman", 0),
        ("StarGunner", 0),
        ("StarGunner", 1),
    ]
    card = (folder / "README.md").read_text()
    assert row_of(card, "MsPacman")[1:] == ["50,000", "500 x 128", "1", "101", "202", "303", "1,404", "505"]
    ranges = ["101 (101 to 101)", "202 (202 to 202)", "303 (303 to 303)", "420 (400 to 440)", "505 (505 to 505)"]
    assert row_of(card, "StarGunner")[3:] == ["2", *ranges]
    assert "zoo demo --game StarGunner --seed 1" in card
    write_json(paths[0], demo_run("StarGunner", 1, 440.0))
    refusals = {paths[0]: "encoder_sha256", tmp_path / "none": "zoo demo", folder / "results.json": "zoo demo"}
    for path, part in refusals.items():
        one_line(lambda path=path: Report(folder, transfer=(path,), card_only=True).run(), str(path), part)


def test_data_without_a_last_fifth(folder: Path) -> None:
    """A recording whose last episode is long may have no episode that began in its last fifth."""
    results = example()
    results["data"]["Pong"]["learner"]["last20_return"] = None
    write_json(folder / "results.json", results)
    write_report(folder)
    card = (folder / "README.md").read_text()
    assert row_of(card, "Pong")[5] == "–" and "reaches the last 20% of its data" in card


def test_a_card_without_training_facts(config: ModelConfig) -> None:
    results = {key: value for key, value in example().items() if key in ("evaluation", "random", "data")}
    card = render_card(config, results)
    assert "Gradient steps" not in card and "Device" not in card and "Losses" not in card


def record(path: Path, game: str, name: str, returns: list[int]) -> Recording:
    """A recording with these returns; nobody replays it."""
    episodes = [
        Episode(
            seed=number,
            actions=np.zeros(10 + number, dtype=np.uint8),
            rewards=np.array([score] + [0] * (9 + number), dtype=np.int32),
            terminated=True,
            truncated=False,
            checks=np.zeros(1, dtype=np.uint32),
            policy=name,
            policy_step=sum(range(10, 10 + number)),
        )
        for number, score in enumerate(returns)
    ]
    file = path / file_name(game, name)
    write_recording(file, new_metadata(game, name, f"zoo record {name} --games {game}"), episodes)
    return read_recording(file)


def test_data_is_what_the_training_took(config: ModelConfig, tmp_path: Path) -> None:
    data = tmp_path / "recordings"
    whole = record(data, "Pong", "learner", list(range(20)))
    record(data, "Breakout", "learner", [1, 2, 3, 4, 10])
    record(data, "Breakout", "random", [0, 1])
    every = recorded_data(config, {}, [data])
    assert set(every["Breakout"]) == {"learner", "random"}
    learner = every["Breakout"]["learner"]
    assert (learner["episodes"], learner["transitions"]) == (5, 10 + 11 + 12 + 13 + 14)
    assert learner["mean_return"] == 4.0 and learner["command"] == "zoo record learner --games Breakout"
    # Of 390 steps the last fifth begins with step 312, inside the episode of score 17.
    assert every["Pong"]["learner"]["last20_return"] == 18.5
    (part,) = subsample([whole], 100)
    assert len(part.episodes) < 20
    entry = {
        "game": "Pong",
        "source": "learner",
        "episodes": len(part.episodes),
        "transitions": part.transitions,
    }
    selection = Selection(games=("Pong",), transitions=100).to_dict()
    made = {"training": {"selection": selection, "recordings": [entry]}}
    found = recorded_data(config, made, [data])
    assert found["Breakout"] == {} and set(found["Pong"]) == {"learner"}
    assert found["Pong"]["learner"]["mean_return"] == np.mean([episode.score for episode in part.episodes])
    other = {"training": {"selection": selection, "recordings": [{**entry, "episodes": 3}]}}
    one_line(lambda: recorded_data(config, other, [data]), "Pong.learner", "with 3 episodes", "`recordings`")
    shorter = {"training": {"selection": selection, "recordings": []}}
    one_line(lambda: recorded_data(config, shorter, [data]), "trained on nothing")


def test_data_of_a_named_dataset(config: ModelConfig, tmp_path: Path) -> None:
    """By its name alone where the training told no more, or by the name given."""
    record(tmp_path, "Breakout", "learner", [1, 2, 3])
    record(tmp_path, "Breakout", "random", [0, 1])
    named = config.model_copy(update={"dataset": "mixed40", "games": ("Breakout",)})
    assert set(recorded_data(named, {}, [tmp_path])["Breakout"]) == {"learner", "random"}
    (tmp_path / "Breakout.random.parquet").unlink()
    one_line(lambda: recorded_data(named, {}, [tmp_path]), "mixed40", "Breakout (random)")
    assert set(recorded_data(named.model_copy(update={"dataset": "other"}), {}, [tmp_path])["Breakout"]) == {"learner"}
    one_line(lambda: recorded_data(named, {}, [tmp_path], "heldout5"), "heldout5: Breakout")


def test_report_scores_a_folder_and_keeps_what_training_wrote(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, data, network = tmp_path / NAME, tmp_path / "recordings", make_network()
    training = {"training": example()["training"], "curve": example()["curve"]}
    write_model(network, make_config(network), folder, results=training)
    for game in GAMES:
        record(data, game, "learner", [1, 2, 3])
    settings = ["--episodes", "1", "--epsilon", "1", "--device", "cpu", "--json"]
    with pytest.raises(SystemExit) as end:
        main(["report", str(folder), "--recordings", str(data), *settings])
    assert end.value.code == 0
    results = json.loads(capsys.readouterr().out)
    assert results == read_results(folder)
    assert results["training"] == training["training"] and results["curve"] == training["curve"]
    assert results["evaluation"]["games"].keys() == results["random"]["games"].keys() == set(GAMES)
    assert results["random"]["games"]["Pong"]["episodes"] == 1
    card = (folder / "README.md").read_text()
    assert row_of(card, "Pong")[1] == score_text(results["evaluation"]["games"]["Pong"]["mean"])
    (folder / "README.md").unlink()
    with pytest.raises(SystemExit) as end:
        main(["report", str(folder), "--card-only"])
    assert end.value.code == 0 and (folder / "README.md").read_text() == card


def test_a_card_says_what_its_objective_is(config: ModelConfig) -> None:
    ours = render_card(config, example())
    assert "pretrained offline by Q-learning" in ours and "best action by its Q-values" in ours
    assert "The method is Scaled Q-learning" in ours
    taught = config.model_copy(update={"temperatures": {config.games[0]: 0.1}})
    assert "draws actions from softmax(Q / t)" in render_card(taught, example())
    greedily = {**example(), "evaluation": {**example()["evaluation"], "acting": "greedy"}}
    assert "best action by its Q-values" in render_card(taught, greedily)
    cloned = config.model_copy(update={"objective": "bc", "head": HeadConfig(kind="policy")})
    results = {**example(), "curve": []}
    results["training"]["final"] = {"accuracy": 0.25, "td": 1.0}
    card = render_card(cloned, results)
    assert "pretrained offline by behaviour cloning" in card and "likeliest action" in card
    assert "At the end of training: accuracy 0.250." in card
    assert "The method is" not in card and "not recorded" not in card


def test_no_model_there_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        main(["report", str(tmp_path / "nothing")])
    assert end.value.code == 2
    assert "config.json" in capsys.readouterr().err


def test_texts() -> None:
    assert [score_text(score) for score in (0.04, -0.04, 12.34, 743.2, 12345.6)] == [
        *("0.0", "0.0", "12.3", "743", "12,346"),
    ]
    assert [duration_text(seconds) for seconds in (45.2, 600, 7200, 11_100)] == [
        *("45 s", "10 min", "2 h 00 min", "3 h 05 min"),
    ]
