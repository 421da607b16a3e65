"""Finding and loading models: by path, from the package, from the cache, from the Hub.

`load` gives an encoder, `load_qnetwork` the encoder with its heads, `load_agent` a policy; `push` uploads a folder.
"""

from __future__ import annotations

import os
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import create_branch, create_repo, snapshot_download, upload_folder

from zoo.atari.games import get_game
from zoo.models.agent import Agent
from zoo.models.encoder import Encoder
from zoo.models.model_folder import (
    CONFIG,
    MODEL_FILES,
    ModelConfig,
    evaluation_of,
    read_config,
    read_encoder,
    read_network,
    read_results,
    weight_files,
)
from zoo.models.qnetwork import QNetwork
from zoo.support.errors import QzooError, first_line, unknown_name

HUB_OWNER = "qzoo"
HUB_REVISION = "v1"
"""The revision of the `qzoo/*` repositories that belongs to this version of the package."""


def models_dirs() -> list[Path]:
    """The folders that hold models on this machine, the first to be searched first.

    The environment variable QZOO_MODELS (folders separated as in PATH) replaces them. Otherwise:
    `_model_cards` in an installed package, `model_cards` beside the package in a source checkout.
    """
    override = os.environ.get("QZOO_MODELS")
    if override:
        return [Path(entry).expanduser() for entry in override.split(os.pathsep) if entry]
    package = Path(__file__).resolve().parents[1]
    candidates = [package / "_model_cards"]
    if (package.parent / "pyproject.toml").is_file():  # not the site-packages of an installation
        candidates.append(package.parent / "model_cards")
    return [path for path in candidates if path.is_dir()]


def _local_models() -> dict[str, Path]:
    """Folder of each model on this machine, by name, in alphabetical order."""
    found: dict[str, Path] = {}
    for directory in models_dirs():
        for config in directory.glob(f"*/{CONFIG}"):
            found.setdefault(config.parent.name, config.parent)
    return dict(sorted(found.items()))


def find_model(name_or_path: str | Path, revision: str | None = None) -> Path:
    """Folder of a model: a path, else the package's models, else the cache, else the Hub.

    Args:
        name_or_path: a model folder, a name of `list_models`, or a Hub repository as `owner/name`; a bare
            name stands for `qzoo/name` there.
        revision: of the Hub repository; by default `HUB_REVISION` of qzoo's own, the newest of others. Where it is
            given the package's own copy is passed over, as its revision is not known. A path has none.

    Raises:
        QzooError: nothing of that name; the nearest names are offered.
    """
    name = os.fspath(name_or_path)
    path = Path(name).expanduser()
    path_like = isinstance(name_or_path, Path) or name.startswith((".", "~", os.sep)) or name.count("/") > 1
    if path.is_dir() and (path_like or "/" in name or (path / CONFIG).is_file()):
        return path
    if path_like or ("/" in name and path.parent.is_dir()):
        raise QzooError(f"{name}: no such folder; give a model folder, or a name that `zoo list` shows")
    models = _local_models()
    if name in models and revision is None:
        return models[name]
    repo_id = name if "/" in name else f"{HUB_OWNER}/{name}"
    if revision is None and repo_id.startswith(f"{HUB_OWNER}/"):
        revision = HUB_REVISION
    fetch = partial(snapshot_download, repo_id, revision=revision, allow_patterns=list(MODEL_FILES))
    try:
        with suppress(Exception):  # nothing in the cache, or half of it: what the Hub says is reported instead
            folder = Path(fetch(local_files_only=True))
            if all((folder / name).is_file() for name in weight_files(read_config(folder))):
                return folder  # else an interrupted download
        return Path(fetch())
    except Exception as error:  # HTTP, cache, name: the client raises many kinds; each means that it can't be had
        where = repo_id + (f" at revision {revision}" if revision else "")
        reason = f"the Hub did not give {where}: {first_line(error)}"
        if name in models:
            raise QzooError(f"{name}: {reason}; leave the revision out to use the copy in {models[name]}") from error
        raise QzooError(f"{unknown_name('model', name, models)} (no folder, not in the package; {reason})") from None


def load(
    name_or_path: str | Path, *, revision: str | None = None, device: str | torch.device | None = "cpu"
) -> Encoder:
    """The pretrained encoder of a model, in eval mode: uint8 (B, 4, 84, 84) to float32 (B, D).

    Args:
        name_or_path: as `find_model` takes it.
        revision: of the Hub repository; by default the one that belongs to this version of the package.
        device: where the weights go.

    Raises:
        QzooError: no such model, or a folder that is not sound; one line with file, field and fix.
    """
    return read_encoder(find_model(name_or_path, revision), device)


def load_qnetwork(
    name_or_path: str | Path, *, revision: str | None = None, device: str | torch.device | None = "cpu"
) -> QNetwork:
    """The pretrained encoder with its heads, in eval mode. Arguments and errors as `load`; a bare encoder is none."""
    return read_network(find_model(name_or_path, revision), device)


def load_agent(
    name_or_path: str | Path,
    game: str,
    epsilon: float = 0.001,
    seed: int = 0,
    *,
    greedy: bool = False,
    revision: str | None = None,
    device: str | torch.device | None = "cpu",
) -> Agent:
    """A pretrained model's policy for one of its games.

    Args:
        name_or_path: as `find_model` takes it.
        game: one that the model has a head for, "SpaceInvaders".
        epsilon: probability of a random legal action.
        seed: of the policy's own generator.
        greedy: take the best action in any case; see `Agent`.
        revision: as `load`.
        device: where the network runs.

    Raises:
        QzooError: as `load`, or the model has no head for the game; the nearest are offered.
    """
    network = load_qnetwork(name_or_path, revision=revision, device=device)
    with suppress(QzooError):  # one that is no game gets the names of the model's
        game = get_game(game).name
    return Agent(network, game, epsilon, seed, greedy)


def push(folder: str | Path, repo_id: str, *, branch: str | None = None, private: bool = False) -> str:
    """Upload a model folder to the Hub, after it was read and checked as a whole.

    Args:
        repo_id: owner/name; the repository is created if need be.
        branch: to upload to; by default the main one.

    Returns:
        The address of the commit.

    Raises:
        QzooError: the folder is not sound, or the Hub refuses it (as without a token: `hf auth login`).
    """
    folder = Path(folder)
    read_network(folder) if read_config(folder).head else read_encoder(folder)
    try:
        create_repo(repo_id, private=private, exist_ok=True)
        if branch is not None:
            create_branch(repo_id, branch=branch, exist_ok=True)
        done = upload_folder(
            repo_id=repo_id, folder_path=folder, revision=branch, allow_patterns=[*MODEL_FILES, "*.png"]
        )
    except Exception as error:  # the client raises many kinds
        raise QzooError(
            f"{repo_id}: the Hub did not take it ({first_line(error)}); `hf auth login` sets a token"
        ) from error
    return str(done.commit_url)


def _scores(results: dict[str, Any]) -> dict[str, Any]:
    """Of a model's results the scores alone, or nothing where it was not evaluated."""
    evaluation = evaluation_of(results)
    if not evaluation["games"]:
        return {}
    return {
        "iqm_human": evaluation["iqm_human"],
        "games": {game: scores["mean"] for game, scores in evaluation["games"].items()},
    }


def _summary(folder: Path, config: ModelConfig) -> dict[str, Any]:
    files = [folder / name for name in weight_files(config)]
    if missing := [file for file in files if not file.is_file()]:
        raise QzooError(f"{missing[0]}: no such file; fetch or save the model again")
    return {
        "name": config.name,
        "arch": config.arch,
        "objective": config.objective,
        "dataset": config.dataset,
        "games": list(config.games),
        "parameters": config.parameters,
        "feature_dim": config.feature_dim,
        "bytes": sum(file.stat().st_size for file in files),
        "sha256": config.digest,
        "results": _scores(read_results(folder) or {}),
    }


def list_models() -> list[dict[str, Any]]:
    """The models on this machine (`models_dirs`), by name. Reads no weights.

    Returns:
        One dict a model: name, arch, objective, dataset, games, parameters (of the encoder), feature_dim, bytes and
        sha256 (of all weights), and results: mean scores by game, and iqm_human (value, low and high of the
        human-normalized interquartile mean); empty where it was not evaluated. `model_info` gives more.

    Raises:
        QzooError: one of the folders is not sound.
    """
    # The folder's name is the one that `load` takes.
    return [{**_summary(folder, read_config(folder)), "name": name} for name, folder in _local_models().items()]


def model_info(name_or_path: str | Path, *, revision: str | None = None) -> dict[str, Any]:
    """All that is known of one model: the keys of `list_models`, every field of its config, all results and its path.

    Raises:
        QzooError: as `load`, weights unread.
    """
    folder = find_model(name_or_path, revision)
    config = read_config(folder)
    results = read_results(folder) or {}
    facts = {**config.model_dump(mode="json"), "files": dict(config.sha256), **_summary(folder, config)}
    return {**facts, "results": results, "path": str(folder)}
