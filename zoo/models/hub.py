"""Finding and loading models: by path, from the package, from the cache, from the Hub.

`load` gives an encoder, `load_qnetwork` the encoder with its heads, `load_agent` a policy.
`PretrainedQNetwork` brings huggingface_hub's `from_pretrained`, `save_pretrained` and `push_to_hub`.
"""

from __future__ import annotations

import os
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any, Self

import torch
from huggingface_hub import ModelHubMixin, snapshot_download
from safetensors import safe_open
from torch import nn

from zoo.models.agent import Agent
from zoo.models.encoder import Encoder
from zoo.models.model_folder import (
    CARD,
    CONFIG,
    RESULTS,
    WEIGHTS,
    ModelConfig,
    check_protocol,
    check_weights,
    evaluation_of,
    read_config,
    read_results,
    write_model,
)
from zoo.models.qnetwork import QNetwork
from zoo.support.errors import QzooError, first_line, unknown_name

HUB_OWNER = "qzoo"
HUB_REVISION = "v1"
"""The revision of the `qzoo/*` repositories that belongs to this version of the package."""


class PretrainedQNetwork(
    QNetwork, ModelHubMixin, library_name="qzoo", license="apache-2.0", tags=["atari", "offline-rl"]
):
    """A `QNetwork` with config, card and results: `from_pretrained`, `save_pretrained`, `push_to_hub`."""

    def __init__(
        self, model_config: ModelConfig, card: str | None = None, results: dict[str, Any] | None = None
    ) -> None:
        encoder = Encoder(model_config.arch, model_config.feature_dim, model_config.feature_norm)
        super().__init__(encoder, model_config.games, model_config.num_actions, model_config.num_atoms)
        self.model_config = model_config
        self.card = card
        self.results = results

    @classmethod
    def of(
        cls,
        network: QNetwork,
        config: ModelConfig,
        card: str | None = None,
        results: dict[str, Any] | None = None,
    ) -> Self:
        """The same network (weights are shared, not copied) with what a model folder says beside it."""
        with torch.device("meta"):  # neither memory nor time for a start that is thrown away
            model = cls(config, card, results)
        model.encoder, model.weight, model.bias = network.encoder, network.weight, network.bias
        return model

    def _save_pretrained(self, save_directory: Path) -> None:
        self.model_config = write_model(self, self.model_config, save_directory, self.card, self.results)

    @classmethod
    def from_pretrained(
        cls,
        pretrained_model_name_or_path: str | Path,
        *,
        force_download: bool = False,
        token: str | bool | None = None,
        cache_dir: str | Path | None = None,
        local_files_only: bool = False,
        revision: str | None = None,
        **model_kwargs: Any,
    ) -> Self:
        """The model of a local folder, or of a Hub repository at `revision`, in eval mode.

        Without a revision the project's own repositories are read at `HUB_REVISION`, others at their main
        branch. `device` is the one further keyword. Replaces the mixin's method, which reads config.json
        leniently.

        Raises:
            QzooError: nothing to be had there, or the folder is not a sound model.
        """
        return cls._from_pretrained(
            model_id=str(pretrained_model_name_or_path),
            revision=revision,
            cache_dir=cache_dir,
            force_download=force_download,
            local_files_only=local_files_only,
            token=token,
            **model_kwargs,
        )

    @classmethod
    def _from_pretrained(
        cls,
        *,
        model_id: str,
        revision: str | None,
        cache_dir: str | Path | None,
        force_download: bool,
        local_files_only: bool,
        token: str | bool | None,
        device: str | torch.device = "cpu",
        **model_kwargs: Any,
    ) -> Self:
        if model_kwargs:
            raise QzooError(
                f"{sorted(model_kwargs)[0]}: no setting of from_pretrained; the model folder holds them all"
            )
        if Path(model_id).is_dir():
            folder = Path(model_id)
        else:
            try:
                folder = _download(
                    model_id,
                    revision,
                    cache_dir=cache_dir,
                    force_download=force_download,
                    local_files_only=local_files_only,
                    token=token,
                )
            except Exception as error:  # as in `find_model`
                raise QzooError(
                    f"{model_id}: no such folder, and the Hub did not give it at revision "
                    f"{revision or 'default'} ({first_line(error)}); check name, revision and network"
                ) from error
        model = cls._open(folder)
        _fill(model, folder / WEIGHTS, "", device)
        return model

    @classmethod
    def _open(cls, folder: Path) -> Self:
        """The checked model of a folder, its weights still without memory (on the meta device)."""
        config = read_config(folder)
        path = folder / CONFIG
        check_protocol(path, config.protocol)
        try:
            with torch.device("meta"):
                model = cls(config)
        except QzooError as error:
            raise QzooError(f"{path}: {error}") from error
        if model.encoder.num_parameters != config.parameters:
            raise QzooError(
                f"{path}: parameters is {config.parameters}, an encoder of these settings has "
                f"{model.encoder.num_parameters}; correct arch, feature_dim or parameters"
            )
        check_weights(folder / WEIGHTS, config.sha256, model.state_dict())
        card = folder / CARD
        model.card = card.read_text(encoding="utf-8") if card.is_file() else None
        model.results = read_results(folder)
        return model


def _fill(module: nn.Module, weights: Path, prefix: str, device: str | torch.device) -> None:
    """Give a checked module on the meta device memory on `device`, its weights from file, and eval mode."""
    module.to_empty(device=device)
    with safe_open(weights, framework="pt") as file:
        module.load_state_dict({key: file.get_tensor(prefix + key) for key in module.state_dict()})
    module.eval()


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


def _download(
    repo_id: str,
    revision: str | None,
    *,
    cache_dir: str | Path | None = None,
    force_download: bool = False,
    local_files_only: bool = False,
    token: str | bool | None = None,
) -> Path:
    """Folder in the cache with the files of a Hub repository, fetched unless `local_files_only`."""
    if revision is None and repo_id.startswith(f"{HUB_OWNER}/"):
        revision = HUB_REVISION
    folder = snapshot_download(
        repo_id,
        revision=revision,
        cache_dir=cache_dir,
        force_download=force_download,
        local_files_only=local_files_only,
        token=token,
        allow_patterns=[CONFIG, WEIGHTS, CARD, RESULTS],
    )
    return Path(folder)


def find_model(name_or_path: str | Path, revision: str | None = None) -> Path:
    """Folder of a model: a path, else the package's models, else the cache, else the Hub.

    Args:
        name_or_path: a model folder, a name of `list_models`, or a Hub repository as `owner/name`; a bare
            name stands for `qzoo/name` there.
        revision: of the Hub repository, `HUB_REVISION` by default. Where it is given the package's own copy
            is passed over, as its revision is not known. A path has no revisions: it is taken as it is.

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
    try:
        with suppress(Exception):  # nothing in the cache, or half of it: what the Hub says is reported instead
            folder = _download(repo_id, revision, local_files_only=True)
            if (folder / CONFIG).is_file() and (folder / WEIGHTS).is_file():  # else an interrupted download
                return folder
        return _download(repo_id, revision)
    except Exception as error:  # HTTP, cache, name: the client raises many kinds; each means that it can't be had
        where = f"{repo_id} at revision {revision or HUB_REVISION}"
        reason = f"the Hub did not give {where}: {first_line(error)}"
        if name in models:
            raise QzooError(f"{name}: {reason}; leave the revision out to use the copy in {models[name]}") from error
        raise QzooError(f"{unknown_name('model', name, models)} (no folder, not in the package; {reason})") from None


def load(name_or_path: str | Path, *, revision: str | None = None, device: str | torch.device = "cpu") -> Encoder:
    """The pretrained encoder of a model, in eval mode: uint8 (B, 4, 84, 84) to float32 (B, D).

    Args:
        name_or_path: as `find_model` takes it.
        revision: of the Hub repository; by default the one that belongs to this version of the package.
        device: where the weights go.

    Raises:
        QzooError: no such model, or a folder that is not sound; one line with file, field and fix.
    """
    folder = find_model(name_or_path, revision)
    encoder = PretrainedQNetwork._open(folder).encoder
    _fill(encoder, folder / WEIGHTS, "encoder.", device)
    return encoder


def load_qnetwork(
    name_or_path: str | Path, *, revision: str | None = None, device: str | torch.device = "cpu"
) -> PretrainedQNetwork:
    """The pretrained encoder with its heads, in eval mode. Arguments and errors as `load`."""
    return PretrainedQNetwork.from_pretrained(find_model(name_or_path, revision), device=device)


def load_agent(
    name_or_path: str | Path,
    game: str,
    epsilon: float = 0.001,
    seed: int = 0,
    *,
    revision: str | None = None,
    device: str | torch.device = "cpu",
) -> Agent:
    """A pretrained model's policy for one of its games.

    Args:
        name_or_path: as `find_model` takes it.
        game: one that the model has a head for, "SpaceInvaders".
        epsilon: probability of a random legal action.
        seed: of the policy's own generator.
        revision: as `load`.
        device: where the network runs.

    Raises:
        QzooError: as `load`, or the model has no head for the game; the nearest are offered.
    """
    network = load_qnetwork(name_or_path, revision=revision, device=device)
    game = next((known for known in network.games if known.lower() == game.lower()), game)
    config = network.model_config
    return Agent(network, game, config.support, epsilon, seed, config.return_scales.get(game, 1.0))


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
    weights = folder / WEIGHTS
    if not weights.is_file():
        raise QzooError(f"{weights}: no such file; fetch or save the model again")
    return {
        "name": config.name,
        "arch": config.arch,
        "objective": config.objective,
        "dataset": config.dataset,
        "games": list(config.games),
        "parameters": config.parameters,
        "feature_dim": config.feature_dim,
        "bytes": weights.stat().st_size,
        "sha256": config.sha256,
        "results": _scores(read_results(folder) or {}),
    }


def list_models() -> list[dict[str, Any]]:
    """The models on this machine (`models_dirs`), by name. Reads no weights.

    Returns:
        One dict a model: name, arch, objective, dataset, games, parameters (of the encoder), feature_dim, bytes (of
        the weights file), sha256 and results: mean scores by game, and iqm_human (value, low and high of the
        human-normalized interquartile mean); empty where it was not evaluated. `model_info` tells more.

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
    return {**asdict(config), **_summary(folder, config), "results": results, "path": str(folder)}
