"""Model folders: what is in them, writing them, and refusing unsound ones.

A model is a folder, `model_cards/<name>/` or a repository of the Hub: `config.json`, `encoder.safetensors`,
`heads.safetensors` (a bare encoder has none), `README.md` (the card) and `results.json`. Weights are read by
safetensors only and never unpickled. Their sha256 stands in `config.json` and is checked at each load; what
`config.json` says of architecture, games, heads and protocol stands in the weights' metadata too and must agree. What
is wrong with a folder is said in one line.

Format 1, of before, had one `model.safetensors` of float32; it is read, and no longer written.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from zoo.atari.emulator import minimal_actions
from zoo.atari.protocol import NUM_ACTIONS, PROTOCOL
from zoo.models.distributions import Support
from zoo.models.encoder import Encoder
from zoo.models.qnetwork import Head, HeadKind, QNetwork
from zoo.support.device import checked_device
from zoo.support.errors import QzooError, first_line
from zoo.support.files import refuse_special, replacing, write_json, write_text, writing

FORMAT_VERSION = 2
CONFIG, ENCODER, HEADS, CARD, RESULTS = (
    *("config.json", "encoder.safetensors", "heads.safetensors"),
    *("README.md", "results.json"),
)
WEIGHTS_1 = "model.safetensors"
"""The weights of a folder of format 1."""
MAX_JSON_BYTES = 64 * 2**20
"""Of a JSON file that is read; the largest results.json has a few megabytes."""
MODEL_FILES = (CONFIG, ENCODER, HEADS, WEIGHTS_1, CARD, RESULTS)
Precision = Literal["float16", "float32"]
STORED = {"float16": "F16", "float32": "F32"}
BOUND = ("arch", "feature_dim", "feature_norm", "games", "head", "return_scales", "temperatures", "protocol")
"""Fields of the config that the weights' metadata repeats under the key "qzoo"."""


class HeadConfig(BaseModel):
    """What config.json says of the heads; v_min, v_max and num_atoms are of kind categorical_q alone."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)
    kind: HeadKind
    v_min: float | None = None
    v_max: float | None = None
    num_atoms: Annotated[int, Field(le=2**16)] | None = None

    @classmethod
    def of(cls, head: Head) -> HeadConfig:
        """That of a network's head."""
        support = head.support
        if support is None:
            return cls(kind=head.kind)
        return cls(kind=head.kind, v_min=support.v_min, v_max=support.v_max, num_atoms=support.num_atoms)

    def head(self) -> Head:
        """The head of a network.

        Raises:
            ValueError: a support where there is none, or none where there must be.
        """
        numbers = (self.v_min, self.v_max, self.num_atoms)
        if self.kind != "categorical_q":
            if numbers != (None, None, None):
                raise ValueError(f"a head of kind {self.kind} has no v_min, v_max, num_atoms")
            return Head(self.kind)
        if self.v_min is None or self.v_max is None or self.num_atoms is None:
            raise ValueError("a head of kind categorical_q needs v_min, v_max, num_atoms")
        return Head(self.kind, Support(self.v_min, self.v_max, self.num_atoms))


class ModelConfig(BaseModel):
    """What config.json says of a model. `ModelConfig.of` makes one from a network.

    games, head: empty and None for a bare encoder. pretraining: the settings of the run that made it. parameters: of
    the encoder only, as published sizes count. return_scales: what a game's clipped rewards were multiplied by, 1 for
    those not named. temperatures: of the policy that a game is played by, as `QNetwork` has them. precision: of the
    stored weights. sha256: by file, filled by `write_model`.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)
    name: Annotated[str, Field(pattern=r"^[^\x00-\x1f\x7f-\x9f]*$")]
    arch: str
    feature_dim: Annotated[int, Field(ge=1, le=2**20)]
    feature_norm: bool
    games: tuple[str, ...]
    head: HeadConfig | None
    objective: str
    dataset: str
    protocol: dict[str, Any]
    pretraining: dict[str, Any]
    parameters: int
    return_scales: dict[str, Annotated[float, Field(gt=0.0)]] = {}
    temperatures: dict[str, Annotated[float, Field(gt=0.0)]] = {}
    precision: Precision = "float16"
    sha256: dict[str, str] = {}
    format_version: int = FORMAT_VERSION

    @classmethod
    def of(
        cls,
        network: QNetwork | Encoder,
        *,
        name: str,
        objective: str,
        dataset: str,
        pretraining: Mapping[str, Any],
        precision: Precision = "float16",
    ) -> ModelConfig:
        """The config of a trained network or bare encoder, under the protocol of this version."""
        encoder = network.encoder if isinstance(network, QNetwork) else network
        heads = network if isinstance(network, QNetwork) else None
        return cls(
            name=name,
            arch=encoder.arch,
            feature_dim=encoder.feature_dim,
            feature_norm=encoder.feature_norm,
            games=heads.games if heads else (),
            head=HeadConfig.of(heads.head) if heads else None,
            objective=objective,
            dataset=dataset,
            protocol=PROTOCOL.to_dict(),
            pretraining=json.loads(json.dumps(dict(pretraining))),
            parameters=encoder.num_parameters,
            return_scales=heads.return_scales if heads else {},
            temperatures=heads.temperatures if heads else {},
            precision=precision,
        )

    @property
    def digest(self) -> str:
        """Of all weights, hex: names a model in recordings of its play."""
        return self.sha256.get(WEIGHTS_1) or hashlib.sha256("".join(self.sha256.values()).encode()).hexdigest()

    def bound(self) -> dict[str, Any]:
        """The fields that the weights' metadata repeats, JSON types."""
        return self.model_dump(mode="json", include=set(BOUND))


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object of a file.

    Raises:
        QzooError: no such file, or something else in it.
    """
    try:
        if path.exists() and not path.is_file():
            raise QzooError(f"{path}: not a file; save or fetch the model again")
        if path.exists() and path.stat().st_size > MAX_JSON_BYTES:
            raise QzooError(f"{path}: {path.stat().st_size:,} bytes are no such file; save or fetch the model again")
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise QzooError(f"{path}: no such file; a model folder holds {CONFIG} and {ENCODER}") from error
    except PermissionError as error:
        raise QzooError(f"{path}: could not be read ({error.strerror}); allow reading it") from error
    except (OSError, ValueError, RecursionError) as error:
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
    version = content.get("format_version", 1)
    if version not in (1, FORMAT_VERSION):
        raise QzooError(
            f"{path}: format_version is {version!r}, this qzoo reads 1 and {FORMAT_VERSION}; "
            "use the version of qzoo that wrote it"
        )
    try:
        config = ModelConfig.model_validate_json(json.dumps(_from_format_1(path, content) if version == 1 else content))
        if config.head is not None:
            config.head.head()
    except ValidationError as error:
        first = error.errors()[0]
        field = ".".join(map(str, first["loc"])) or "config"
        raise QzooError(f"{path}: {field}: {first['msg']}; save or fetch the model again") from error
    except ValueError as error:
        raise QzooError(f"{path}: head: {first_line(error)}; save or fetch the model again") from error
    if bool(config.games) != (config.head is not None):
        raise QzooError(f"{path}: games: expected some with a head, none without; save or fetch the model again")
    for setting in ("return_scales", "temperatures"):
        if unknown := sorted(set(getattr(config, setting)) - set(config.games)):
            raise QzooError(f"{path}: {setting}: {unknown[0]} is no game of the model; save or fetch the model again")
    return config


def _from_format_1(path: Path, content: Mapping[str, Any]) -> dict[str, Any]:
    """A config of format 1 as one of format 2: its head was categorical, of 18 actions."""
    moved = {"num_actions", "num_atoms", "v_min", "v_max", "sha256"}
    if missing := sorted(moved - set(content)):
        raise QzooError(f"{path}: {missing[0]} is missing; save or fetch the model again")
    if content["num_actions"] != NUM_ACTIONS:
        raise QzooError(f"{path}: num_actions is {content['num_actions']}, the full action set has {NUM_ACTIONS}")
    head = {"kind": "categorical_q", **{name: content[name] for name in ("v_min", "v_max", "num_atoms")}}
    kept = {name: value for name, value in content.items() if name not in moved}
    return {**kept, "head": head, "sha256": {WEIGHTS_1: content["sha256"]}, "precision": "float32"}


def check_protocol(path: Path, protocol: Mapping[str, Any]) -> None:
    """Refuse a model that was trained on other frames, actions or rules than this version plays."""
    ours = PROTOCOL.to_dict()
    for key in sorted(set(ours) | set(protocol)):
        if key not in protocol or key not in ours or protocol[key] != ours[key]:
            raise QzooError(
                f"{path}: protocol.{key} is {protocol.get(key, 'missing')!r}, this qzoo plays with "
                f"{ours.get(key, 'no such field')!r}; use the version of qzoo that trained the model"
            )


def weight_files(config: ModelConfig) -> tuple[str, ...]:
    """Names of the files that hold a model's weights."""
    if config.format_version == 1:
        return (WEIGHTS_1,)
    return (ENCODER, HEADS) if config.head else (ENCODER,)


def read_encoder(folder: Path, device: str | torch.device | None = "cpu") -> Encoder:
    """The encoder of a model folder in eval mode; of format 2 its own file alone is read.

    Raises:
        QzooError: a folder that is not sound; one line with file, field and fix.
    """
    where = checked_device("cpu" if device is None else device)
    config, encoder = _open(folder)
    shapes = _shapes(encoder.state_dict())
    if config.format_version == 1:
        expected = {f"encoder.{key}": shape for key, shape in shapes.items()} | _shapes_of_heads_1(config)
        tensors = _read(folder, WEIGHTS_1, config, expected, only="encoder.")
        tensors = {key.removeprefix("encoder."): value for key, value in tensors.items()}
    else:
        tensors = _read(folder, ENCODER, config, shapes)
    encoder.to_empty(device=where)
    encoder.load_state_dict(tensors)
    return encoder.eval()


def read_network(folder: Path, device: str | torch.device | None = "cpu") -> QNetwork:
    """The encoder of a model folder with its heads, in eval mode; actions that a game doesn't know have zero outputs.

    Raises:
        QzooError: a folder that is not sound, or a bare encoder.
    """
    encoder = read_encoder(folder, device)
    config = read_config(folder)
    if config.head is None:
        raise QzooError(f"{folder}: a bare encoder, without heads; `zoo.load` gives it")
    try:
        with torch.device("meta"):
            network = QNetwork(encoder, config.games, config.head.head())
    except QzooError as error:
        raise QzooError(f"{folder / CONFIG}: {error}") from error
    network.return_scales, network.temperatures = dict(config.return_scales), dict(config.temperatures)
    heads = _heads_1(folder, config) if config.format_version == 1 else _heads(folder, config)
    for name, value in heads.items():
        setattr(network, name, torch.nn.Parameter(value.to(device or "cpu")))
    return network.eval()


def _open(folder: Path) -> tuple[ModelConfig, Encoder]:
    """A checked config, and its encoder still without memory (on the meta device)."""
    config, path = read_config(folder), folder / CONFIG
    check_protocol(path, config.protocol)
    try:
        with torch.device("meta"):
            encoder = Encoder(config.arch, config.feature_dim, config.feature_norm)
    except QzooError as error:
        raise QzooError(f"{path}: {error}") from error
    if encoder.num_parameters != config.parameters:
        raise QzooError(
            f"{path}: parameters is {config.parameters}, an encoder of these settings has "
            f"{encoder.num_parameters}; correct arch, feature_dim or parameters"
        )
    return config, encoder


def _shapes(tensors: Mapping[str, Tensor]) -> dict[str, tuple[int, ...]]:
    return {key: tuple(value.shape) for key, value in tensors.items()}


def _shapes_of_heads_1(config: ModelConfig) -> dict[str, tuple[int, ...]]:
    assert config.head is not None
    outputs = NUM_ACTIONS * config.head.head().size
    return {"weight": (len(config.games), config.feature_dim, outputs), "bias": (len(config.games), outputs)}


def _heads_1(folder: Path, config: ModelConfig) -> dict[str, Tensor]:
    with safe_open(folder / WEIGHTS_1, framework="pt") as file:  # which was checked when the encoder was read
        return {key: file.get_tensor(key).float() for key in ("weight", "bias")}


def _heads(folder: Path, config: ModelConfig) -> dict[str, Tensor]:
    """Weight (G, D, 18 * size) and bias (G, 18 * size) of the rows that are stored, zero elsewhere."""
    assert config.head is not None
    size, games = config.head.head().size, config.games
    try:
        actions = {game: list(minimal_actions(game)) for game in games}
    except QzooError as error:
        raise QzooError(f"{folder / CONFIG}: games: {error}") from error
    expected: dict[str, tuple[int, ...]] = {}
    for game in games:
        outputs = len(actions[game]) * size
        expected |= {f"{game}.weight": (config.feature_dim, outputs), f"{game}.bias": (outputs,)}
    stored = _read(folder, HEADS, config, expected)
    weight = torch.zeros(len(games), config.feature_dim, NUM_ACTIONS, size)
    bias = torch.zeros(len(games), NUM_ACTIONS, size)
    for number, game in enumerate(games):
        weight[number][:, actions[game]] = stored[f"{game}.weight"].unflatten(-1, (-1, size))
        bias[number][actions[game]] = stored[f"{game}.bias"].unflatten(-1, (-1, size))
    return {"weight": weight.flatten(2), "bias": bias.flatten(1)}


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _what_is_wrong(path: Path, error: Exception) -> str:
    if not path.is_file():
        return "no such file"
    try:
        with path.open("rb") as file:
            start = file.read(2)
    except OSError as failure:
        return f"could not be read ({failure.strerror})"
    # A pickle of protocol 2 or later, or the zip file that torch.save writes. Asked only of a file that
    # safetensors refused: the header's length, at the start of a sound one, may read the same.
    if start == b"PK" or (start[:1] == b"\x80" and start[1:2] in b"\x02\x03\x04\x05"):
        return "a pickle, not safetensors, and never unpickled here"
    return f"truncated, damaged or not safetensors ({first_line(error)})"


def _read(
    folder: Path, name: str, config: ModelConfig, expected: Mapping[str, tuple[int, ...]], only: str = ""
) -> dict[str, Tensor]:
    """The tensors of a weight file, in float32, those whose names begin with `only`.

    Raises:
        QzooError: it is not intact, holds not exactly the tensors expected, or is not of this config.
    """
    path, dtype = folder / name, STORED[config.precision]
    refuse_special(path)
    try:
        with safe_open(path, framework="pt") as weights:
            parts = {key: weights.get_slice(key) for key in weights.keys()}  # noqa: SIM118 (not a mapping)
            found = {key: (tuple(part.get_shape()), part.get_dtype()) for key, part in parts.items()}
            metadata = weights.metadata() or {}
            actual = _sha256(path)
            told = config.sha256.get(name)
            if actual != told:
                raise QzooError(
                    f"{path}: sha256 is {actual}, {CONFIG} says {told or 'nothing'}; fetch or save it again"
                )
            for key in sorted(expected.keys() | found.keys()):
                if key not in found:
                    raise QzooError(f"{path}: tensor {key} is missing; save the model again or correct {CONFIG}")
                if key not in expected:
                    raise QzooError(
                        f"{path}: tensor {key} is not part of this model; save it again or correct {CONFIG}"
                    )
                if found[key] != (wanted := (expected[key], dtype)):
                    raise QzooError(
                        f"{path}: tensor {key} is {found[key][1]} {found[key][0]}, the model needs "
                        f"{wanted[1]} {wanted[0]}; save it again or correct {CONFIG}"
                    )
            if config.format_version != 1:
                _check_bound(folder / CONFIG, path, metadata, config)
            return {key: weights.get_tensor(key).float() for key in found if key.startswith(only)}
    except (SafetensorError, OSError) as error:
        wrong = _what_is_wrong(path, error)
        advice = "allow reading it" if wrong.startswith("could not") else "fetch or save it again"
        raise QzooError(f"{path}: header: {wrong}; {advice}") from error


def _check_bound(config_path: Path, path: Path, metadata: Mapping[str, str], config: ModelConfig) -> None:
    """Refuse a config that says something else than the weights' own metadata."""
    try:
        stored = dict(json.loads(metadata["qzoo"]))
    except (KeyError, ValueError, TypeError) as error:
        raise QzooError(f"{path}: its metadata does not say what it is of; fetch or save it again") from error
    for key, value in config.bound().items():
        if stored.get(key) != value and (key in stored or key != "temperatures"):  # which it did not repeat once
            raise QzooError(
                f"{config_path}: {key} is {value!r}, the weights in {path.name} are of {stored.get(key)!r}; fetch or "
                "save the model again"
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
    if not isinstance(evaluation, dict):
        return {"games": {}, "iqm_human": None}
    games = evaluation.get("games")
    if games is None:
        games = {results["game"]: evaluation} if isinstance(results.get("game"), str) else {}
    rows = games.items() if isinstance(games, dict) else ()
    sound = {game: row for game, row in rows if _numbers(row, "mean", "low", "high", "human_normalized")}
    iqm = evaluation.get("iqm_human")
    return {"games": sound, "iqm_human": iqm if _numbers(iqm, "value", "low", "high") else None}


def training_facts(results: Mapping[str, Any]) -> Mapping[str, Any]:
    """What results.json says of the training: pretraining has a key of its own for it, fine-tuning not."""
    facts: Mapping[str, Any] = results.get("training", results)
    return facts


def _numbers(of: Any, *names: str) -> bool:
    """Whether it is a dict that holds numbers under these names."""
    return isinstance(of, dict) and all(isinstance(of.get(name), int | float) for name in names)


def default_card(config: ModelConfig) -> str:
    """A minimal README.md, for a model that was saved without a card of its own."""
    games = f" on `{config.dataset}`: {', '.join(config.games)}" if config.games else f" on `{config.dataset}`"
    start = config.pretraining.get("encoder")
    base = f"base_model: {json.dumps(str(start))}\n" if start else ""
    tuned = f"fine-tuned from `{start}`" if start else "trained"
    return (
        f"---\nlibrary_name: qzoo\nlicense: apache-2.0\ntags: [atari, offline-rl]\n{base}---\n\n# {config.name}\n\n"
        f"Encoder `{config.arch}`, {config.parameters:,} parameters, {config.feature_dim} features, "
        f"{tuned} with `{config.objective}`{games}.\n\n"
        f'```python\nimport zoo\n\nencoder = zoo.load("FOLDER")  # this folder, or its repository on the Hub\n```\n\n'
        f"`{CONFIG}` and `{RESULTS}` say how it was made; `zoo report FOLDER` scores it and writes its card.\n"
    )


def write_model(
    network: QNetwork | Encoder,
    config: ModelConfig,
    folder: str | Path,
    card: str | None = None,
    results: Mapping[str, Any] | None = None,
) -> ModelConfig:
    """Write a model folder. config.json comes last, so that an interrupted write is refused by its sha256.

    Args:
        network: what to save, in the config's precision; of heads the rows of each game's minimal actions.
        config: `ModelConfig.of(network, ...)`.
        folder: created if need be. Other files in it stay.
        card: README.md; None keeps the one that is there, or writes `default_card`.
        results: results.json; None keeps the one that is there, or writes none.

    Returns:
        The config as written, with the sha256 of the weights.

    Raises:
        QzooError: the config is of another network, a weight is beyond the precision, or the disk is full.
    """
    folder = Path(folder)
    about = {"name": config.name, "objective": config.objective, "dataset": config.dataset}
    actual = ModelConfig.of(network, **about, pretraining=config.pretraining, precision=config.precision)
    actual = actual.model_copy(update={"protocol": config.protocol, "sha256": config.sha256})
    said = config.model_copy(update={"format_version": FORMAT_VERSION}).model_dump()
    for key, value in actual.model_dump().items():
        if value != said[key]:
            raise QzooError(f"{folder / CONFIG}: {key} is {said[key]!r}, the network's is {value!r}")
    if isinstance(network, QNetwork):  # its names of the encoder's weights have no wrapper's in them
        of_encoder = {key: value for key, value in network.state_dict().items() if key.startswith("encoder.")}
        encoder = {key.removeprefix("encoder."): value for key, value in of_encoder.items()}
        files = {ENCODER: encoder, HEADS: _stored_heads(network)}
    else:
        files = {ENCODER: network.state_dict()}
    metadata = {"qzoo": json.dumps(actual.bound())}  # one key: of several, safetensors shuffles the order
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
        for name, tensors in files.items():
            stored = {key: _stored(folder / name, key, value, config.precision) for key, value in tensors.items()}
            with replacing(folder / name) as temporary:
                save_file(stored, temporary, metadata=metadata)
        written = actual.model_copy(update={"sha256": {name: _sha256(folder / name) for name in files}})
        if results is not None:
            write_json(folder / RESULTS, results)
        if card is not None or not (folder / CARD).exists():
            write_text(folder / CARD, card or default_card(written))
        write_json(folder / CONFIG, written.model_dump(mode="json"))
        for name in {ENCODER, HEADS, WEIGHTS_1} - set(files):  # of what stood here before
            (folder / name).unlink(missing_ok=True)
    return written


def _stored(path: Path, key: str, value: Tensor, precision: Precision) -> Tensor:
    """A tensor as it is stored."""
    stored = value.detach().to("cpu", getattr(torch, precision)).contiguous()
    if not math.isfinite(stored.float().sum()):
        raise QzooError(f"{path}: tensor {key} holds values that are not finite in {precision}; store float32 instead")
    return stored


def _stored_heads(network: QNetwork) -> dict[str, Tensor]:
    """Weight (D, A * size) and bias (A * size) of each game, for its A minimal actions."""
    tensors, size = {}, network.head.size
    for number, game in enumerate(network.games):
        actions = list(minimal_actions(game))
        weight = network.weight[number].unflatten(-1, (NUM_ACTIONS, size))[:, actions]
        tensors[f"{game}.weight"] = weight.flatten(1)
        tensors[f"{game}.bias"] = network.bias[number].unflatten(-1, (NUM_ACTIONS, size))[actions].flatten()
    return tensors
