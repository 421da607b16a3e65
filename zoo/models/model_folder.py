"""Model folders: what is in them, writing them, and refusing unsound ones.

A model is a folder, `model_cards/<name>/` or a repository of the Hub: `config.json`, `model.safetensors`,
`README.md` (the card) and `results.json`. Weights are read by safetensors only and never unpickled; their
sha256 stands in `config.json` and is checked at each load. What is wrong with a folder is said in one line.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from zoo.atari.protocol import NUM_ACTIONS, PROTOCOL
from zoo.models.c51 import Support
from zoo.models.qnetwork import QNetwork
from zoo.support.errors import QzooError, first_line
from zoo.support.files import replacing, write_json, write_text, writing

FORMAT_VERSION = 1

CONFIG, WEIGHTS, CARD, RESULTS = "config.json", "model.safetensors", "README.md", "results.json"


@dataclass(frozen=True)
class ModelConfig:
    """What config.json says of a model. `ModelConfig.of` makes one from a network.

    `pretraining` holds the settings of the run that made it. `parameters` counts the encoder only: heads are
    left out when it is loaded for other work, and the sizes that are published leave them out too.
    `write_model` fills `sha256`.
    """

    name: str
    arch: str
    feature_dim: int
    feature_norm: bool
    games: tuple[str, ...]
    num_actions: int
    num_atoms: int
    v_min: float
    v_max: float
    objective: str
    dataset: str
    protocol: dict[str, Any]
    pretraining: dict[str, Any]
    parameters: int
    sha256: str = ""
    format_version: int = FORMAT_VERSION
    return_scales: dict[str, Any] = field(default_factory=dict)
    """What a game's clipped rewards were multiplied by: values are divided by it. 1 for games that are not named."""

    @classmethod
    def of(
        cls,
        network: QNetwork,
        *,
        name: str,
        support: Support,
        objective: str,
        dataset: str,
        pretraining: Mapping[str, Any],
        return_scales: Mapping[str, float] = MappingProxyType({}),
    ) -> ModelConfig:
        """The config of a trained network, under the protocol of this version."""
        encoder = network.encoder
        return cls(
            name=name,
            arch=encoder.arch,
            feature_dim=encoder.feature_dim,
            feature_norm=encoder.feature_norm,
            games=network.games,
            num_actions=network.num_actions,
            num_atoms=network.num_atoms,
            v_min=support.v_min,
            v_max=support.v_max,
            objective=objective,
            dataset=dataset,
            protocol=PROTOCOL.to_dict(),
            pretraining=dict(pretraining),
            parameters=encoder.num_parameters,
            return_scales=dict(return_scales),
        )

    @property
    def support(self) -> Support:
        """The atoms of the return distributions."""
        return Support(self.v_min, self.v_max, self.num_atoms)


def _is_int(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


# By annotation: what JSON must hold there, in words and as a check.
_JSON_TYPES: dict[str, tuple[str, Callable[[Any], bool]]] = {
    "str": ("a string", lambda value: isinstance(value, str)),
    "int": ("a whole number", _is_int),
    "float": ("a number", lambda value: _is_int(value) or isinstance(value, float)),
    "bool": ("true or false", lambda value: isinstance(value, bool)),
    "dict[str, Any]": ("an object", lambda value: isinstance(value, dict)),
    "tuple[str, ...]": (
        "a list of strings",
        lambda value: isinstance(value, list) and all(isinstance(item, str) for item in value),
    ),
}


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object of a file.

    Raises:
        QzooError: no such file, or something else in it.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise QzooError(f"{path}: no such file; a model folder holds {CONFIG} and {WEIGHTS}") from error
    except (OSError, ValueError) as error:
        raise QzooError(f"{path}: not readable as JSON ({first_line(error)}); save or fetch the model again") from error
    if not isinstance(content, dict):
        raise QzooError(f"{path}: expected a JSON object, got {type(content).__name__}; save or fetch the model again")
    return content


def read_config(folder: str | Path) -> ModelConfig:
    """The config.json of a model folder.

    Raises:
        QzooError: no such file, or a field is missing, unknown, of another type or out of range.
    """
    path = Path(folder) / CONFIG
    content = read_json(path)
    if content.get("format_version", FORMAT_VERSION) != FORMAT_VERSION:
        raise QzooError(
            f"{path}: format_version is {content['format_version']!r}, this qzoo reads {FORMAT_VERSION}; "
            "use the version of qzoo that wrote it"
        )
    content.setdefault("return_scales", {})  # models of before have none
    for entry in fields(ModelConfig):
        expected, accepts = _JSON_TYPES[str(entry.type)]
        if entry.name not in content:
            raise QzooError(f"{path}: {entry.name} is missing; save or fetch the model again")
        if not accepts(content[entry.name]):
            raise QzooError(f"{path}: {entry.name} must be {expected}, got {content[entry.name]!r}")
    unknown = sorted(set(content) - {entry.name for entry in fields(ModelConfig)})
    if unknown:
        raise QzooError(f"{path}: {unknown[0]} is no field of a model config; remove it or update qzoo")
    config = ModelConfig(**{**content, "games": tuple(content["games"])})
    if config.num_actions != NUM_ACTIONS:
        raise QzooError(f"{path}: num_actions is {config.num_actions}, the full action set has {NUM_ACTIONS}")
    if config.num_atoms < 2 or not config.v_min < config.v_max:
        raise QzooError(f"{path}: num_atoms, v_min, v_max: expected at least 2 atoms and v_min < v_max")
    for game, scale in config.return_scales.items():
        if game not in config.games or not isinstance(scale, int | float) or not 0.0 < scale < math.inf:
            raise QzooError(
                f"{path}: return_scales: {game} has {scale!r}; expected games of the model and positive numbers"
            )
    return config


def check_protocol(path: Path, protocol: Mapping[str, Any]) -> None:
    """Refuse a model that was trained on other frames, actions or rules than this version plays."""
    ours = json.loads(json.dumps(PROTOCOL.to_dict()))  # as JSON would return it: lists for tuples
    for key in sorted(set(ours) | set(protocol)):
        if key not in protocol or key not in ours or protocol[key] != ours[key]:
            raise QzooError(
                f"{path}: protocol.{key} is {protocol.get(key, 'missing')!r}, this qzoo plays with "
                f"{ours.get(key, 'no such field')!r}; use the version of qzoo that trained the model"
            )


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _what_is_wrong(path: Path, error: Exception) -> str:
    if not path.is_file():
        return "no such file"
    with path.open("rb") as file:
        start = file.read(2)
    # A pickle of protocol 2 or later, or the zip file that torch.save writes. Asked only of a file that
    # safetensors refused: the header's length, at the start of a sound one, may read the same.
    if start[:1] == b"\x80" or start == b"PK":
        return "a pickle, not safetensors, and never unpickled here"
    return f"truncated, damaged or not safetensors ({first_line(error)})"


def check_weights(path: Path, sha256: str, expected: Mapping[str, Tensor]) -> None:
    """Refuse a weight file unless it is intact and holds exactly the tensors `expected`."""
    try:
        with safe_open(path, framework="pt") as weights:
            parts = {key: weights.get_slice(key) for key in weights.keys()}  # noqa: SIM118 (not a mapping)
            found = {key: (tuple(part.get_shape()), part.get_dtype()) for key, part in parts.items()}
    except (SafetensorError, OSError) as error:
        raise QzooError(f"{path}: header: {_what_is_wrong(path, error)}; fetch or save it again") from error
    actual = _sha256(path)
    if actual != sha256:
        raise QzooError(f"{path}: sha256 is {actual}, {CONFIG} says {sha256 or 'nothing'}; fetch or save it again")
    for key in sorted(expected.keys() | found.keys()):
        if key not in found:
            raise QzooError(f"{path}: tensor {key} is missing; save the model again or correct {CONFIG}")
        if key not in expected:
            raise QzooError(f"{path}: tensor {key} is not part of this model; save it again or correct {CONFIG}")
        wanted = (tuple(expected[key].shape), "F32")
        if found[key] != wanted:
            raise QzooError(
                f"{path}: tensor {key} is {found[key][1]} {found[key][0]}, the model needs "
                f"{wanted[1]} {wanted[0]}; save it again or correct {CONFIG}"
            )


def read_results(folder: str | Path) -> dict[str, Any] | None:
    """The results.json of a model folder, or None where there is none."""
    path = Path(folder) / RESULTS
    return read_json(path) if path.is_file() else None


def evaluation_of(results: Mapping[str, Any]) -> dict[str, Any]:
    """What results.json says of scores: `games`, as `zoo.evaluation.scores.evaluate` has them, and `iqm_human` or None.

    `zoo evaluate` writes it in this form. `zoo finetune offline` writes the summary of its one game, or null.
    """
    evaluation = results.get("evaluation")
    if not isinstance(evaluation, dict) or not evaluation:
        return {"games": {}, "iqm_human": None}
    games = evaluation.get("games")
    if games is None:
        games = {results["game"]: evaluation} if "game" in results and "mean" in evaluation else {}
    return {"games": games, "iqm_human": evaluation.get("iqm_human")}


def default_card(config: ModelConfig) -> str:
    """A minimal README.md, for a model that was saved without a card of its own."""
    return (
        f"---\nlibrary_name: qzoo\nlicense: apache-2.0\ntags: [atari, offline-rl]\n---\n\n# {config.name}\n\n"
        f"Encoder `{config.arch}`, {config.parameters:,} parameters, {config.feature_dim} features, "
        f"trained with `{config.objective}` on `{config.dataset}`: {', '.join(config.games)}.\n\n"
        f'```python\nimport zoo\n\nencoder = zoo.load("FOLDER")  # this folder, or its repository on the Hub\n```\n\n'
        f"`{CONFIG}` and `{RESULTS}` tell how it was made; `zoo report FOLDER` scores it and writes its card.\n"
    )


def write_model(
    network: QNetwork,
    config: ModelConfig,
    folder: str | Path,
    card: str | None = None,
    results: Mapping[str, Any] | None = None,
) -> ModelConfig:
    """Write a model folder. config.json comes last, so that an interrupted write is refused by its sha256.

    Args:
        network: what to save; moved to CPU float32.
        config: `ModelConfig.of(network, ...)`.
        folder: created if need be. Other files in it stay.
        card: README.md; None keeps the one that is there, or writes `default_card`.
        results: results.json; None keeps the one that is there, or writes none.

    Returns:
        The config as written, with the sha256 of the weights.

    Raises:
        QzooError: the config is of another network, or the disk is full.
    """
    folder = Path(folder)
    actual = ModelConfig.of(
        network,
        name=config.name,
        support=config.support,
        objective=config.objective,
        dataset=config.dataset,
        pretraining=config.pretraining,
        return_scales=config.return_scales,
    )
    for key, value in asdict(replace(actual, protocol=config.protocol, sha256=config.sha256)).items():
        if value != asdict(config)[key]:
            raise QzooError(f"{folder / CONFIG}: {key} is {asdict(config)[key]!r}, the network's is {value!r}")
    tensors = {key: value.detach().float().cpu().contiguous() for key, value in network.state_dict().items()}
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
        with replacing(folder / WEIGHTS) as temporary:
            save_file(tensors, temporary, metadata={"format": "pt"})
        written = replace(config, sha256=_sha256(folder / WEIGHTS))
        if results is not None:
            write_json(folder / RESULTS, results)
        if card is not None or not (folder / CARD).exists():
            write_text(folder / CARD, card or default_card(written))
        write_json(folder / CONFIG, asdict(written))
    return written
