"""`zoo list` and `zoo info`."""

import json
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub.errors import LocalEntryNotFoundError

from tests.model_helpers import GAMES, NAME, make_config, make_network
from zoo.cli import main
from zoo.commands.models import iqm_text, size_text
from zoo.models import hub
from zoo.models.model_folder import ENCODER, HEADS, read_config, write_model

IQM = {"value": 0.4321, "low": 0.3, "high": 0.56}
SCORES = {"mean": 1234.5, "low": 1000.0, "high": 1500.25, "human_normalized": 0.875}
RESULTS = {"evaluation": {"games": {GAMES[0]: SCORES}, "iqm_human": IQM}}


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A model folder with results, the only one on this machine, with no way to the Hub."""
    network, path = make_network(), tmp_path / "models" / NAME
    write_model(network, make_config(network), path, results=RESULTS)
    monkeypatch.setenv("QZOO_MODELS", str(path.parent))
    monkeypatch.setenv("COLUMNS", "200")  # tables as wide as they like

    def offline(*_: Any, **__: Any) -> str:
        raise LocalEntryNotFoundError("no network")

    monkeypatch.setattr(hub, "snapshot_download", offline)
    return path


def run(capsys: pytest.CaptureFixture[str], *arguments: str, code: int = 0) -> tuple[str, str]:
    """Standard output and error of a command that ends with `code`."""
    with pytest.raises(SystemExit) as end:
        main(arguments)
    assert end.value.code == code
    captured = capsys.readouterr()
    return captured.out, captured.err


def test_list_as_json_has_the_keys_that_scripts_rely_on(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (entry,) = json.loads(run(capsys, "list", "--json")[0])
    network = make_network()
    assert entry == {
        "name": NAME,
        "arch": "nature",
        "objective": "scaled_ql",
        "dataset": "mixed2",
        "parameters": network.encoder.num_parameters,
        "feature_dim": 8,
        "bytes": sum((folder / name).stat().st_size for name in (ENCODER, HEADS)),
        "sha256": read_config(folder).digest,
        "results": {
            "iqm_human": RESULTS["evaluation"]["iqm_human"],
            "games": {game: scores["mean"] for game, scores in RESULTS["evaluation"]["games"].items()},
        },
        "games": list(GAMES),
    }


def test_list_as_a_table(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out, _ = run(capsys, "list")
    assert NAME in out and "0.43 [0.30, 0.56]" in out and "mixed2" in out
    (folder / "results.json").unlink()
    assert "not evaluated" in run(capsys, "list")[0]


def test_an_empty_list(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("QZOO_MODELS", str(tmp_path))
    assert json.loads(run(capsys, "list", "--json")[0]) == []
    assert "no model here" in run(capsys, "list")[0]


def test_info(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    info = json.loads(run(capsys, "info", NAME, "--json")[0])
    assert info["name"] == NAME and info["path"] == str(folder) and info["results"] == RESULTS
    assert tuple(info["games"]) == GAMES and info["pretraining"] == {"alpha": 0.1, "steps": 3}
    out, _ = run(capsys, "info", NAME)
    assert "1,234.5" in out and "1,000.0 to 1,500.2" in out and "0.88" in out
    assert f'zoo.load("{NAME}")' in out and "[-10, 10]" in out and "[0.30, 0.56]" in out
    assert "not evaluated" in out  # the second game has no score


def test_an_unknown_model_is_one_line(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out, err = run(capsys, "info", "nature.tset", code=2)
    assert out == "" and err.count("\n") == 1 and err.startswith("error: ") and NAME in err


def test_texts() -> None:
    assert [size_text(count) for count in (999, 6_540_000, 2_000_000_000)] == ["999 B", "6.5 MB", "2.0 GB"]
    assert iqm_text({}) == "not evaluated"
