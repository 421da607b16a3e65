"""Offline fine-tuning: what each mode trains, from what, and that it comes back as a model folder."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from finetune.offline import OfflineConfig
from finetune.training import FinetuneConfig, Mode, finetune, frozen_features, start_network
from tests.command_helpers import run_command
from tests.recording_helpers import refused
from zoo.frames.frames import RawFrames
from zoo.frames.store import FrameStore, build_store
from zoo.models.encoder import Encoder
from zoo.models.hub import load_agent, load_qnetwork, model_info
from zoo.models.model_folder import ModelConfig, read_config, write_model
from zoo.models.qnetwork import QNetwork
from zoo.objectives.scaled_ql import ScaledQL, ScaledQLConfig
from zoo.recordings.format import Recording
from zoo.support.errors import QzooError
from zoo.support.state import load_state
from zoo.training.checkpoint import CHECKPOINT
from zoo.training.config import OptimizerConfig
from zoo.training.loop import train
from zoo.training.optimizer import make_optimizer

GAME = "SpaceInvaders"
CONFIG = FinetuneConfig(
    steps=50,
    batch_size=16,
    precision="float32",
    objective=ScaledQLConfig(gamma=0.5),
    optimizer=OptimizerConfig(warmup_steps=5, learning_rate=1e-3),
)


@pytest.fixture(scope="module")
def encoder() -> Encoder:
    torch.manual_seed(7)
    return Encoder("nature", 16)


@pytest.fixture(scope="module")
def game_store(recordings: list[Recording]) -> FrameStore:
    return build_store([recordings[1]], workers=1)


def moved(network: QNetwork, start: Encoder, part: str) -> float:
    after, before = network.encoder.state_dict(), start.state_dict()
    return max(float((after[k] - before[k]).abs().max()) for k in before if k.startswith(part))


@pytest.mark.parametrize("mode", ["frozen", "full", "scratch", "frozen_random"])
def test_what_each_mode_changes(encoder: Encoder, game_store: FrameStore, mode: Mode, tmp_path: Path) -> None:
    before = {name: value.clone() for name, value in encoder.state_dict().items()}
    network, result = finetune(encoder, GAME, game_store, mode, CONFIG, tmp_path)
    assert all(torch.equal(value, before[name]) for name, value in encoder.state_dict().items())
    assert result["steps"] == CONFIG.steps and not network.training
    if mode == "frozen":
        assert moved(network, encoder, "trunk.") == 0.0
        assert moved(network, encoder, "projection.") > 0.01
    elif mode == "full":
        assert 0.0 < moved(network, encoder, "trunk.") < 0.05
        assert 0.0 < moved(network, encoder, "projection.") < 0.05
    else:
        assert moved(network, encoder, "trunk.") > 0.05
    if mode == "frozen_random":
        start = start_network(encoder, GAME, mode, CONFIG).encoder
        assert moved(network, start, "trunk.") == 0.0 and moved(network, start, "projection.") > 0.01
    fresh = start_network(encoder, GAME, mode, CONFIG)
    assert not torch.allclose(network.weight, fresh.weight, atol=1e-3)


def test_frozen_training_on_features_equals_training_on_frames(
    encoder: Encoder, game_store: FrameStore, tmp_path: Path
) -> None:
    """The shortcut (features once) against the long way: the same loop with the trunk's gradients switched off."""
    short, _ = finetune(encoder, GAME, game_store, "frozen", CONFIG, tmp_path / "short")
    long = start_network(encoder, GAME, "frozen", CONFIG)
    long.encoder.trunk.requires_grad_(False)
    run_config = CONFIG.run_config("nature", 16)
    train(
        ScaledQL(long, CONFIG.objective),
        game_store,
        run_config,
        tmp_path / "long",
        device=torch.device("cpu"),
    )
    states = game_store.stack(game_store.frame_index[::97], game_store.episode_start[::97])
    with torch.no_grad():
        one, other = (n.outputs_for(states, GAME).softmax(-1) for n in (short, long.eval()))
    # Equal up to the features' bfloat16.
    assert (one - other).abs().mean() < 0.01


def test_muon_trains_what_is_behind_frozen_features(encoder: Encoder, game_store: FrameStore, tmp_path: Path) -> None:
    config = replace(CONFIG, steps=3, optimizer=replace(CONFIG.optimizer, muon_lr_scale=1.0))
    network, _ = finetune(encoder, GAME, game_store, "frozen", config, tmp_path)
    start = start_network(encoder, GAME, "frozen", config).encoder
    assert moved(network, start, "trunk.") == 0.0 and moved(network, start, "projection.") > 1e-4
    assert "optimizer.0.momentum" in load_state(tmp_path / CHECKPOINT)[0]


def test_features_are_those_of_every_state(encoder: Encoder, game_store: FrameStore) -> None:
    features = frozen_features(encoder, game_store, CONFIG)
    index = torch.arange(0, game_store.transitions, 61)
    batch, frames = features.gather(index, 4, 0.9), game_store.gather(index, 4, 0.9)
    with torch.no_grad():
        expected = encoder.trunk_map(frames.observations)
        successors = encoder.trunk_map(frames.next_observations)
    assert torch.allclose(batch.observations.float(), expected, rtol=0.01, atol=1e-3)
    assert torch.allclose(batch.next_observations.float(), successors, rtol=0.01, atol=1e-3)
    assert torch.equal(batch.returns, frames.returns) and torch.equal(batch.actions, frames.actions)


def test_a_linear_head_on_the_features_of_all_layers(encoder: Encoder, game_store: FrameStore, tmp_path: Path) -> None:
    config = replace(CONFIG, head="linear")
    network, _ = finetune(encoder, GAME, game_store, "frozen", config, tmp_path)
    assert moved(network, encoder, "") == 0.0
    features = frozen_features(encoder, game_store, config)
    states = game_store.stack(game_store.frame_index[:3], game_store.episode_start[:3])
    with torch.no_grad():
        assert torch.equal(features.stack(game_store.frame_index[:3], states), encoder(states).bfloat16())
    fresh = start_network(encoder, GAME, "frozen", config)
    assert (network.weight - fresh.weight).abs().max() > 1e-3


def test_features_are_computed_once(
    encoder: Encoder, game_store: FrameStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    passes = []
    trunk_map = Encoder.trunk_map
    monkeypatch.setattr(Encoder, "trunk_map", lambda self, x: (passes.append(len(x)), trunk_map(self, x))[1])

    def features(
        config: FinetuneConfig = CONFIG, data: FrameStore = game_store, of: Encoder = encoder
    ) -> tuple[Tensor, int]:
        passes.clear()
        store = frozen_features(of, data, config, tmp_path)
        return store.stack(game_store.frame_index, game_store.episode_start), sum(passes)

    first, computed = features()
    assert computed == len(game_store.frames)
    again, computed = features()
    assert computed == 0 and torch.equal(first, again)
    (path,) = tmp_path.glob("*.safetensors")
    other_head = Encoder("nature", 16)
    other_head.load_state_dict(
        {**encoder.state_dict(), **{k: v for k, v in other_head.state_dict().items() if "pro" in k}}
    )
    assert features(of=other_head)[1] == 0  # the layer behind the features is not theirs
    inverted = 255 - game_store.frames.fetch(torch.arange(len(game_store.frames)))
    changed = replace(game_store, frames=RawFrames(inverted))
    for other in ({"data": changed}, {"of": Encoder("nature", 16)}, {"config": replace(CONFIG, head="linear")}):
        assert features(**other)[1] > 0  # type: ignore[arg-type]
    damaged = bytearray(path.read_bytes())
    damaged[-7] ^= 1
    path.write_bytes(damaged)
    again, computed = features()
    assert computed > 0 and torch.equal(first, again)


def test_the_encoder_waits_until_it_thaws(encoder: Encoder, game_store: FrameStore, tmp_path: Path) -> None:
    def trained(freeze_steps: int) -> QNetwork:
        config = replace(CONFIG, optimizer=replace(CONFIG.optimizer, freeze_steps=freeze_steps))
        return finetune(encoder, GAME, game_store, "full", config, tmp_path / str(freeze_steps))[0]

    waited, later = trained(CONFIG.steps), trained(CONFIG.steps - 5)
    assert moved(waited, encoder, "") == 0.0 and (waited.weight - later.weight).abs().max() > 0
    assert moved(later, encoder, "trunk.") > 0 and moved(later, encoder, "projection.") > 0


@pytest.mark.parametrize("arch", ["nature", "impala", "resnet18w16"])
def test_layers_may_learn_more_slowly_the_lower_they_are(arch: str) -> None:
    network = QNetwork(Encoder(arch, 16), [GAME], ScaledQLConfig().head())
    objective = ScaledQL(network, ScaledQLConfig())
    optimizer = make_optimizer(objective, OptimizerConfig(layer_decay=0.5, head_lr_scale=2.0), torch.float32)
    rates = {id(p): group["rate"] for group in optimizer.param_groups for p in group["params"]}
    assert len(rates) == sum(1 for _ in network.parameters())
    assert rates[id(network.weight)] == 2.0 and rates[id(network.encoder.projection.weight)] == 0.5
    trunk = [rates[id(p)] for p in network.encoder.trunk.parameters()]
    assert trunk == sorted(trunk) and trunk[-1] == 0.25 and trunk[0] == 0.5 ** len(network.encoder.layers())


def test_settings_that_contradict_a_mode_are_refused() -> None:
    linear = replace(CONFIG, head="linear")
    refused(OfflineConfig(mode="full", training=linear).check, "head linear", "full trains the whole network")
    frozen = replace(CONFIG, optimizer=OptimizerConfig(freeze_steps=3))
    refused(OfflineConfig(mode="frozen", training=frozen).check, "freeze_steps")


def test_a_run_goes_on_with_its_own_encoder_and_mode_only(
    encoder: Encoder, game_store: FrameStore, tmp_path: Path
) -> None:
    finetune(encoder, GAME, game_store, "full", CONFIG, tmp_path)
    with pytest.raises(QzooError, match="other settings: encoder"):
        finetune(Encoder("nature", 16), GAME, game_store, "full", CONFIG, tmp_path, resume=True)
    with pytest.raises(QzooError, match="other settings: mode"):
        finetune(encoder, GAME, game_store, "frozen", CONFIG, tmp_path, resume=True)


def test_command_writes_a_model_that_plays(
    encoder: Encoder, recordings_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    network = QNetwork(encoder, ["Breakout"])
    config = ModelConfig.of(network, name="nature.tiny", objective="scaled_ql", dataset="none", pretraining={})
    write_model(network, config, tmp_path / "pretrained")
    result = run_command(
        "finetune offline",
        [
            *(GAME, "--encoder", str(tmp_path / "pretrained"), "--mode", "full", "--steps", "20"),
            *("--batch-size", "8", "--recordings", str(recordings_dir), "--transitions", "300", "--sources", "random"),
            *("--episodes", "2", "--out", str(tmp_path / "out"), "--json"),
        ],
    )
    assert result["evaluation"]["episodes"] == 2
    assert 300 <= result["transitions"] < 3_000
    tuned = load_qnetwork(result["model"])
    assert tuned.games == (GAME,) and read_config(result["model"]).name == "nature.full_spaceinvaders"
    assert model_info(result["model"])["results"]["evaluation"]["episodes"] == 2
    run_command("info", [result["model"]])
    assert f"{result['evaluation']['mean']:,.1f}" in capsys.readouterr().out
    run_command("report", [result["model"], "--recordings", str(recordings_dir), "--episodes", "1"])
    card = (Path(result["model"]) / "README.md").read_text()
    assert (
        f"An agent for {GAME}, fine-tuned offline from" in card and "Gradient steps: 20, 160 training samples" in card
    )
    assert "source of play" in card and "not recorded" not in card
    actions = load_agent(result["model"], GAME)(torch.zeros(3, 4, 84, 84, dtype=torch.uint8))
    assert actions.shape == (3,)


def test_a_critic_of_the_game_may_teach(encoder: Encoder, recordings_dir: Path, tmp_path: Path) -> None:
    """And only one of this game, with the objective that wants it."""
    play = ["--recordings", str(recordings_dir), "--cache", str(tmp_path / "cache")]
    small = ["--dataset", "custom", "--samples", "2560", "--width", "16", "--workers", "1"]
    run_command("critic train", [GAME, "Breakout", *play, *small, "--out", str(tmp_path)])
    network = QNetwork(encoder, ["Breakout"])
    config = ModelConfig.of(network, name="nature.tiny", objective="bc", dataset="none", pretraining={})
    write_model(network, config, tmp_path / "pretrained")
    tune = [GAME, "--encoder", str(tmp_path / "pretrained"), *play, "--sources", "random", "--steps", "5"]
    tune += ["--transitions", "300", "--episodes", "0", "--batch-size", "8", "--out", str(tmp_path / "out")]
    taught = [*tune, "--objective", "from_critic", "--mode", "frozen", "--critic"]
    result = run_command("finetune offline", [*taught, str(tmp_path / f"{GAME}.safetensors")])
    assert model_info(result["model"])["results"]["evaluation"] is None
    run_command("info", [result["model"]])
    written = read_config(result["model"])
    assert written.objective == "from_critic" and written.return_scales[GAME] == pytest.approx(
        read_config(result["model"]).return_scales[GAME]
    )
    refused(lambda: run_command("finetune offline", [*taught, str(tmp_path / "Breakout.safetensors")]), "of Breakout")
    refused(lambda: run_command("finetune offline", taught[:-1]), "--critic")
    refused(
        lambda: run_command("finetune offline", [*tune, "--critic", str(tmp_path / f"{GAME}.safetensors")]), "--critic"
    )


def test_several_processes_are_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """They would write one folder. Rank 0 says so, the others just end."""
    command = [GAME, "--encoder", "nature.scaledql_learner12", "--out", str(tmp_path)]
    for name, value in {"TORCHELASTIC_RUN_ID": "none", "WORLD_SIZE": "2", "RANK": "0"}.items():
        monkeypatch.setenv(name, value)
    refused(lambda: run_command("finetune offline", command), "zoo finetune offline", "without torchrun")
    monkeypatch.setenv("RANK", "1")
    with pytest.raises(SystemExit) as ended:
        run_command("finetune offline", command)
    assert ended.value.code == 2 and not list(tmp_path.iterdir())
