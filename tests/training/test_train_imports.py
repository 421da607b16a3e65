"""Training on imported sets: alone or beside recordings, from the command to the card."""

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests.command_helpers import run_command
from tests.converters.dqn_replay_helpers import rows_of, write_dqn_replay
from tests.model_helpers import one_line
from tests.recording_helpers import refused
from zoo.cli import main
from zoo.commands.finetune import FinetuneOffline
from zoo.commands.pretrain import Pretrain
from zoo.converters.dqn_replay import import_dqn_replay
from zoo.converters.export_minari import export_minari
from zoo.converters.minari import import_minari
from zoo.models.hub import load_qnetwork
from zoo.models.model_folder import read_config, read_results
from zoo.recordings.datasets import CUSTOM, Selection
from zoo.recordings.format import Recording
from zoo.reports.report import recorded_data

SMALL = ("--steps", "2", "--batch-size", "8", "--feature-dim", "8", "--device", "cpu", "--json")


@pytest.fixture(scope="module")
def imports(recordings: list[Recording], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Sets of Breakout: the recordings by way of Minari, and two runs of DQN Replay; and one of MsPacman."""
    folder = tmp_path_factory.mktemp("imports")
    rows = rows_of("Breakout", 3)
    write_dqn_replay(folder / "dqn", rows, 300)
    write_dqn_replay(folder / "other", [row for row in rows if row.episode == 1], 300)
    write_dqn_replay(folder / "pacman", rows_of("MsPacman", 1), 2000)
    _, dataset = export_minari(recordings[:1], folder, workers=1)
    out = folder / "sets"
    return {
        "minari": import_minari(dataset, out, command="zoo data import x")[0],
        "dqn": import_dqn_replay(folder / "dqn", out, game="Breakout", source="run1")[0],
        "other": import_dqn_replay(folder / "other", out, game="Breakout", source="run2")[0],
        "pacman": import_dqn_replay(folder / "pacman", out, game="MsPacman")[0],
        "all": out,
    }


def pretrained(out: Path, *arguments: object) -> Path:
    """The model folder of a short run."""
    words = ["--name", "nature.x", "--out", str(out), *map(str, arguments), *SMALL]
    return Path(run_command("pretrain", words)["model"])


def choose(**settings: Any) -> Any:
    return Pretrain(name="x", **settings).choose()


def test_imported_recordings_train_as_the_recordings_do(
    imports: dict[str, Path], recordings_dir: Path, tmp_path: Path
) -> None:
    """The same frames, actions, rewards and ends: the same weights, to the bit."""
    ours = pretrained(tmp_path / "ours", "--games", "Breakout", "--recordings", recordings_dir)
    theirs = pretrained(tmp_path / "theirs", "--imports", imports["minari"])
    one, other = (load_qnetwork(folder).state_dict() for folder in (ours, theirs))
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_a_model_tells_what_was_imported(imports: dict[str, Path], tmp_path: Path) -> None:
    model = pretrained(tmp_path, "--imports", imports["dqn"], "--transitions", "100")
    assert read_config(model).dataset == "imported" and read_config(model).games == ("Breakout",)
    training = (read_results(model) or {})["training"]
    assert training["selection"] is None and training["recordings"] == []
    (facts,) = training["imports"]
    assert (facts["name"], facts["kind"], facts["game"]) == ("Breakout.run1.frames", "dqn_replay", "Breakout")
    assert 100 <= facts["transitions"] < facts["set_transitions"] and re.fullmatch("2.[0-9a-f]{16}", facts["digest"])
    assert any("ROM" in line for line in facts["differs"])
    assert str(imports["all"]) not in json.dumps(facts)  # paths of this machine mean nothing elsewhere


def test_a_run_goes_on_with_its_own_data_only(imports: dict[str, Path], tmp_path: Path) -> None:
    pretrained(tmp_path, "--imports", imports["dqn"])
    pretrained(tmp_path, "--imports", imports["dqn"], "--resume")
    moved = tmp_path / "Breakout.moved.frames"
    moved.symlink_to(imports["dqn"])
    pretrained(tmp_path, "--imports", moved, "--resume")
    for other in (["--imports", imports["other"]], ["--imports", imports["dqn"], "--transitions", "100"]):
        refused(lambda: pretrained(tmp_path, *other, "--resume"), "other settings", "imports")  # noqa: B023


def test_recordings_and_imports_are_mixed_by_request(
    imports: dict[str, Path], recordings_dir: Path, tmp_path: Path
) -> None:
    both = ["--imports", imports["dqn"], imports["minari"], "--recordings", recordings_dir]
    both += ["--games", "SpaceInvaders", "Breakout", "--allow-held-out"]
    refused(lambda: pretrained(tmp_path, *both), imports["dqn"], "not recorded alike", "--allow-mixed-origins")
    model = pretrained(tmp_path, *both, "--allow-mixed-origins")
    assert read_config(model).games == ("SpaceInvaders", "Breakout")
    assert read_config(model).dataset == "custom and imported"
    training = (read_results(model) or {})["training"]
    assert [facts["name"] for facts in training["imports"]] == [imports["dqn"].name, imports["minari"].name]
    assert [entry["game"] for entry in training["recordings"]] == ["SpaceInvaders", "Breakout"]
    data = recorded_data(read_config(model), read_results(model) or {}, [recordings_dir])
    assert set(data["Breakout"]) == {"run1, imported", "minari, imported", "random"}
    # The set of Minari holds the very recordings, the other's rewards were clipped.
    assert data["Breakout"]["minari, imported"]["mean_return"] == data["Breakout"]["random"]["mean_return"]
    assert data["Breakout"]["run1, imported"]["mean_return"] is None


def test_what_is_chosen(imports: dict[str, Path], recordings_dir: Path) -> None:
    """Imports alone are all the data; a dataset, recordings or sources named are trained on beside them."""
    dqn, other, pacman = ([imports[name]] for name in ("dqn", "other", "pacman"))
    alone = choose(imports=(*dqn, *other))
    assert (alone.games, alone.selection, [*alone.origins]) == (("Breakout",), None, [*dqn, *other])
    every = choose(imports=(*dqn, *pacman), allow_held_out=True)
    assert every.games == ("Breakout", "MsPacman")
    some = choose(imports=(imports["all"],), games=("held_out",), allow_held_out=True)
    assert some.games == ("MsPacman",) and [*some.origins] == pacman
    mixed = {"allow_mixed_origins": True, "imports": dqn}
    beside = choose(**mixed, dataset="learner12")
    assert beside.selection.dataset == "learner12" and beside.games == beside.selection.games
    assert len(beside.games) == 12
    beside = choose(**mixed, recordings=(recordings_dir,), games=("SpaceInvaders", "Breakout"), allow_held_out=True)
    assert beside.selection == Selection(CUSTOM, ("SpaceInvaders", "Breakout"))
    # A game that is imported and not recorded comes from the import alone.
    held_out = {**mixed, "imports": (*dqn, *pacman), "allow_held_out": True}
    beside = choose(**held_out, recordings=(recordings_dir,))
    assert beside.games == ("Breakout", "MsPacman") and beside.selection.games == ("Breakout",)
    assert choose(**mixed, sources=("random",)).selection.sources == ("random",)


def test_what_is_not_clear_is_one_line(imports: dict[str, Path], recordings_dir: Path) -> None:
    dqn, pacman = imports["dqn"], imports["pacman"]

    def fails(*parts: object, **settings: Any) -> None:
        refused(lambda: choose(**settings), *parts)

    fails(f"imports {pacman}: MsPacman", "`allow_held_out`", imports=(dqn, pacman))
    fails("games MsPacman: held out", "`allow_held_out`", imports=(pacman,), games=("MsPacman",))
    fails("games Boxing: no imported set", "of Breakout", "`recordings`", imports=(dqn,), games=("Boxing",))
    fails("games extra: no imported set", imports=(dqn,), games=("extra",))
    fails("did you mean Breakout", imports=(dqn,), games=("Brekout",))
    fails("not recorded alike", "recordings of qzoo", imports=(dqn,), dataset="learner12")
    fails("not recorded alike", imports["minari"], imports=(dqn, imports["minari"]))
    fails("uniform", "`transitions`", imports=(dqn,), uniform=True)
    fails("per_game", imports=(dqn,), per_game=100)
    fails("no imported set", imports=(recordings_dir / "Breakout.random.parquet",))
    fails("no set is of Boxing", "Breakout", imports=(dqn,), dataset="learner12", games=("Boxing",))
    beside = {"imports": (dqn,), "recordings": (recordings_dir,), "allow_mixed_origins": True}
    fails(
        "none of them is in the recordings",
        **{**beside, "imports": (pacman,)},
        games=("MsPacman",),
        allow_held_out=True,
    )


def test_time_may_be_over_before_all_is_read(imports: dict[str, Path], tmp_path: Path) -> None:
    refused(
        lambda: pretrained(tmp_path, "--imports", imports["dqn"], "--time-budget", "0.001s"),
        "the time was over before the frames of",
        imports["dqn"].name,
    )


def report(model: Path, capsys: pytest.CaptureFixture[str], *more: str) -> dict[str, Any]:
    capsys.readouterr()
    with pytest.raises(SystemExit) as end:
        main(["report", str(model), "--episodes", "2", "--epsilon", "1", "--device", "cpu", "--json", *more])
    assert end.value.code == 0
    return dict(json.loads(capsys.readouterr().out))


def test_the_card_of_play_whose_scores_are_unknown(
    imports: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = pretrained(tmp_path, "--imports", imports["dqn"], imports["other"])
    results = report(model, capsys)
    sources = results["data"]["Breakout"]
    assert [*sources] == ["run1, imported", "run2, imported"]
    assert sources["run1, imported"]["mean_return"] is None
    card = (model / "README.md").read_text()
    (row,) = [line for line in card.splitlines() if line.startswith("| Breakout |")]
    assert [cell.strip() for cell in row.split("|")][5:7] == ["–", "–"]
    for facts in results["training"]["imports"]:
        assert f"`{facts['name']}` (digest `{facts['digest']}`), from DQN Replay: {facts['transitions']:,} tr" in card
    assert "that of atari-py 0.2.5" in card
    assert "The mean return of `Breakout.run1.frames`, `Breakout.run2.frames` is not known: its rewards were" in card
    assert "others recorded" in card and "seeds and actions" not in card
    assert "mean of its own data" not in card
    one_line(lambda: recorded_data(read_config(model), results, [tmp_path]), "imported sets alone", "`recordings`")


def test_the_card_of_play_whose_scores_are_known(
    imports: dict[str, Path], recordings: list[Recording], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = pretrained(tmp_path, "--imports", imports["minari"])
    results = report(model, capsys)
    scores = [episode.score for episode in recordings[0].episodes]
    assert results["data"]["Breakout"]["minari, imported"]["mean_return"] == np.mean(scores)
    assert results["data"]["Breakout"]["minari, imported"]["episodes"] == len(scores)
    card = (model / "README.md").read_text()
    (row,) = [line for line in card.splitlines() if line.startswith("| Breakout |")]
    assert [cell.strip() for cell in row.split("|")][5] == f"{np.mean(scores):.1f}"
    assert "from Minari" in card and "is not known:" not in card and "mean of its own data" in card
    assert "zoo data import x" in card


@pytest.fixture(scope="module")
def encoder(imports: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    return pretrained(tmp_path_factory.mktemp("encoder"), "--imports", imports["dqn"])


def tuned(encoder: Path, out: Path, *arguments: object) -> dict[str, Any]:
    words = ["--encoder", str(encoder), "--out", str(out), "--episodes", "0", "--device", "cpu", "--json"]
    words += ["--steps", "2", "--batch-size", "8", *map(str, arguments)]
    return dict(run_command("finetune offline", words))


@pytest.mark.parametrize("mode", ["frozen", "full"])
def test_finetuning_on_imports(mode: str, encoder: Path, imports: dict[str, Path], tmp_path: Path) -> None:
    taken = ["--imports", imports["all"], "--mode", mode]
    result = tuned(encoder, tmp_path, "MsPacman", *taken, "--transitions", "200")
    (facts,) = result["imports"]
    assert facts["name"] == "MsPacman.dqn_replay.frames" and result["transitions"] == facts["transitions"] > 200
    assert result["selection"] is None and result["data_mean"] is None
    assert load_qnetwork(result["model"]).games == ("MsPacman",)
    assert (read_results(result["model"]) or {})["imports"] == [facts]
    refused(lambda: tuned(encoder, tmp_path, "Boxing", *taken), "no set is of Boxing", "Breakout")
    refused(lambda: tuned(encoder, tmp_path, "Breakout", *taken), "not recorded alike", "--allow-mixed-origins")


def test_finetuning_goes_on_with_its_own_data_only(
    encoder: Path, imports: dict[str, Path], recordings: list[Recording], recordings_dir: Path, tmp_path: Path
) -> None:
    scores = [episode.score for episode in recordings[0].episodes]
    result = tuned(encoder, tmp_path, "Breakout", "--imports", imports["minari"])
    assert result["data_mean"] == pytest.approx(np.mean(scores))
    ours = ["--recordings", recordings_dir, "--sources", "random", "--resume"]
    refused(lambda: tuned(encoder, tmp_path, "Breakout", *ours), "other settings", "data")
    tuned(encoder, tmp_path, "Breakout", "--imports", imports["minari"], "--resume")
    beside = FinetuneOffline("Breakout", "x", imports=(imports["dqn"],), dataset="learner12", allow_mixed_origins=True)
    assert beside.choose("Breakout").selection == Selection("learner12", ("Breakout",), (), 100_000)


def test_help_says_what_is_taken(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["pretrain", "--help"])
    shown = " ".join(re.sub(r"[│]", " ", capsys.readouterr().out).split())
    assert "With --imports, recordings are trained on too only where --dataset, --recordings or --sources" in shown
