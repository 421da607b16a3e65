"""Critics on RAM: data and loss by hand, resuming, files, play; and learning from them."""

import json
import os
from dataclasses import replace
from itertools import product
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.command_helpers import run_command
from tests.conftest import GAMES
from tests.recording_helpers import refused
from zoo.atari.emulator import minimal_actions
from zoo.critics.config import CriticConfig
from zoo.critics.data import CriticData, critic_data
from zoo.critics.evaluate import play_critic
from zoo.critics.jobs import Played, evaluate_critics
from zoo.critics.network import Critic, Teachers, critics_identity, encode_ram, load_critics
from zoo.critics.train import CriticTraining, train_critic
from zoo.frames.ram import ram_rows
from zoo.frames.store import build_store
from zoo.models import compiled
from zoo.models.distributions import expectation
from zoo.models.encoder import Encoder
from zoo.models.qnetwork import Head, QNetwork
from zoo.objectives.base import Inputs
from zoo.objectives.bc import BehaviourCloning, CloningConfig
from zoo.objectives.from_critic import FromCritic, FromCriticConfig
from zoo.objectives.scaled_ql import ScaledQLConfig
from zoo.recordings.format import Recording
from zoo.support.state import load_state
from zoo.training.checkpoint import CHECKPOINT
from zoo.training.config import RunConfig
from zoo.training.run import action_gaps, by_action_gap, critic_features, new_objective

TINY = CriticConfig(samples=64 * 40, batch_size=64, width=16, n_step=3)


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("ram")


@pytest.fixture(scope="module")
def data(recordings: list[Recording], cache: Path) -> CriticData:
    return critic_data([recordings[0]], ram_rows([recordings[0]], cache), TINY)


@pytest.fixture(scope="module")
def critics(recordings: list[Recording], cache: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a critic of each game, hardly trained."""
    folder = tmp_path_factory.mktemp("critics")
    for recording in recordings:
        mine = critic_data([recording], ram_rows([recording], cache), TINY)
        identity = {"data_mean": 1.0, "data_last20": None}
        assert train_critic(recording.metadata.game, mine, TINY, folder, identity=identity) is not None
    return folder


@pytest.mark.parametrize("life_ends", [True, False])
def test_returns_discounts_and_successors_are_those_of_the_play(
    recordings: list[Recording], cache: Path, life_ends: bool
) -> None:
    recording, config = recordings[0], replace(TINY, life_ends=life_ends, scaled=False)
    rows = ram_rows([recording], cache)
    data = critic_data([recording], rows, config)
    t = first = 0
    for episode in recording.episodes:
        lives = rows[first : first + episode.length, 128].tolist()
        rewards = np.clip(episode.rewards, -1, 1)
        lost = [life_ends and s + 1 < episode.length and lives[s + 1] < lives[s] for s in range(episode.length)]
        for step in range(episode.length):
            total, discount, at = 0.0, 1.0, step
            while at < step + config.n_step:
                total += discount * rewards[at]
                discount *= config.gamma
                at += 1
                if lost[at - 1] or at == episode.length:
                    discount = 0.0
                    break
            assert data.returns[t] == pytest.approx(total, abs=1e-6)
            assert data.discounts[t] == pytest.approx(discount, abs=1e-6)
            if discount:
                assert data.successor[t] == first + at
                assert minimal_actions(GAMES[0])[data.next_action[t]] == episode.actions[at]
            t += 1
        first += episode.length
    assert len(data) == t
    assert any(discount == 0.0 for discount in data.discounts)


def test_the_scale_fills_the_support(data: CriticData) -> None:
    assert np.percentile(data.monte_carlo.abs(), 99) == pytest.approx(8.0, rel=1e-4)


@pytest.mark.parametrize("double_q, data_action", [(False, 0.0), (True, 0.0), (False, 1.0)])
def test_targets_are_those_of_the_equation(data: CriticData, double_q: bool, data_action: float) -> None:
    training = CriticTraining(GAMES[0], data, replace(TINY, double_q=double_q, data_action=data_action))
    with torch.no_grad():
        training.target.head.weight.mul_(20)
        training.network.head.weight.mul_(-20)
    index = torch.arange(0, len(data), 7)
    found = training.target_distribution(index)
    atoms = training.atoms.double()
    spacing = float(atoms[1] - atoms[0])
    with torch.no_grad():
        following = training.target(data.successors(index)).double().softmax(-1)
        choosing = (training.network if double_q else training.target)(data.successors(index)).double().softmax(-1)
    for row, t in enumerate(index.tolist()):
        action = int(data.next_action[t]) if data_action else int((choosing[row] @ atoms).argmax())
        wanted = np.zeros(len(atoms))
        for p, z in zip(following[row, action].tolist(), atoms.tolist(), strict=True):
            moved = min(max(float(data.returns[t]) + float(data.discounts[t]) * z, -10.0), 10.0)
            place = (moved + 10.0) / spacing
            low = min(int(place), len(atoms) - 2)
            wanted[low] += p * (1 - (place - low))
            wanted[low + 1] += p * (place - low)
        assert found[row].numpy() == pytest.approx(wanted, abs=1e-4)


def test_the_conservative_term_is_that_of_the_equation(data: CriticData) -> None:
    config = replace(TINY, data_action=0.0, precision="float32", cql_alpha=0.0, cql_temperature=0.2)
    plain, conservative = (CriticTraining(GAMES[0], data, replace(config, cql_alpha=alpha)) for alpha in (0.0, 0.5))
    for training in (plain, conservative):
        with torch.no_grad():
            training.network.head.weight.mul_(20)
    index = torch.randint(len(data), (config.batch_size,), generator=torch.Generator().manual_seed(config.seed))
    with torch.no_grad():
        q = (plain.network(data.states(index)).double().softmax(-1) @ plain.atoms.double()).numpy()
    played = q[np.arange(len(q)), data.actions[index].numpy()]
    term = np.mean(0.2 * np.log(np.exp(q / 0.2).sum(1)) - played)
    assert term > 0.1
    assert float(conservative.train_step() - plain.train_step()) == pytest.approx(0.5 * term, rel=1e-3)


def test_the_conservative_term_keeps_actions_never_tried_below_those_that_were(data: CriticData) -> None:
    """The games' play tries every action; here one is taken out of it."""
    without_first = replace(data, actions=data.actions.clamp(min=1))

    def gap(alpha: float) -> float:
        training = CriticTraining(GAMES[0], without_first, replace(TINY, cql_alpha=alpha))
        for _ in range(TINY.steps):
            training.train_step()
        with torch.no_grad():
            q_values = expectation(training.network(data.states(torch.arange(len(data)))), training.atoms)
        return float((q_values[:, 0] - q_values[:, 1:].mean(1)).mean())

    assert gap(1.0) < gap(0.0) - 0.1


def test_a_run_that_was_stopped_ends_as_one_that_was_not(data: CriticData, tmp_path: Path) -> None:
    whole = train_critic(GAMES[0], data, TINY, tmp_path / "whole", identity={})
    stopped = tmp_path / "stopped"
    assert train_critic(GAMES[0], data, TINY, stopped, identity={}, deadline=0.0) is None
    assert (stopped / f"{GAMES[0]}.checkpoint.safetensors").exists()
    refused(lambda: train_critic(GAMES[0], data, replace(TINY, tau=0.5), stopped, identity={}), "other settings")
    resumed = train_critic(GAMES[0], data, TINY, stopped, identity={})
    assert whole is not None and resumed is not None
    assert critics_identity({GAMES[0]: whole}) == critics_identity({GAMES[0]: resumed})
    assert [path.name for path in stopped.glob("*.safetensors")] == [f"{GAMES[0]}.safetensors"]
    last = json.loads((stopped / f"{GAMES[0]}.log.jsonl").read_text().splitlines()[-1])
    assert last["samples"] == TINY.samples and last["return_data"] > 0.0


def test_files_hold_the_critic_and_damage_is_refused(critics: Path, tmp_path: Path) -> None:
    path = critics / f"{GAMES[0]}.safetensors"
    critic = Critic.load(path)
    assert critic.game == GAMES[0] and critic.scale > 0 and critic.spread > 0
    critic.save(tmp_path / "again.safetensors")
    assert (tmp_path / "again.safetensors").read_bytes() == path.read_bytes()
    config = {name: value for name, value in critic.facts["config"].items() if not name.startswith("cql")}
    replace(critic, facts={**critic.facts, "config": config}).save(tmp_path / "before.safetensors")
    assert Critic.load(tmp_path / "before.safetensors").facts == critic.facts
    (tmp_path / "cut.safetensors").write_bytes(path.read_bytes()[:-100])
    refused(lambda: Critic.load(tmp_path / "cut.safetensors"), "cut.safetensors", "train it again")
    refused(lambda: load_critics(critics, [GAMES[0], "Pong"]), critics, "Pong", "zoo critic train")


def test_play_is_seeded_and_whole(critics: Path) -> None:
    critic = Critic.load(critics / f"{GAMES[0]}.safetensors")
    one, two = (play_critic(critic, 3, epsilon=0.2) for _ in range(2))
    assert one.scores.tolist() == two.scores.tolist() and one.steps > 100
    assert one.earned >= 0.0
    assert play_critic(critic, 2, seed=1, epsilon=0.2).scores.tolist() != one.scores[:2].tolist()


def test_stacked_critics_are_the_critics(critics: Path) -> None:
    loaded = load_critics(critics, GAMES)
    states = torch.randint(0, 256, (2, 5, 2, 128), dtype=torch.uint8)
    teachers = Teachers([loaded[game] for game in GAMES])
    found = teachers.distributions(teachers.features(states))
    for number, game in enumerate(GAMES):
        wanted = loaded[game].network(states[number]).softmax(-1)
        assert torch.allclose(found[number][:, list(minimal_actions(game))], wanted, atol=1e-5)
    one = torch.tensor([1])
    assert torch.allclose(teachers.distributions(teachers.features(states[1:], one), one), found[1:], atol=1e-6)
    hidden = loaded[GAMES[1]].network.trunk(encode_ram(states[1]))
    assert torch.allclose(teachers.features(states)[1], hidden, atol=1e-5)


def test_the_loss_of_learning_from_critics_is_that_of_the_equation(
    recordings: list[Recording], critics: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = FromCriticConfig(policy_weight=0.7, policy_temperature=0.4, acting_temperature=0.3, feature_weight=3.0)
    torch.manual_seed(0)
    store, teachers = build_store(recordings, "ram", cache, workers=1, ram=True), load_critics(critics, GAMES)
    known = critic_features(store, teachers)
    objective = FromCritic(QNetwork(Encoder("nature", 16), GAMES), config, Inputs({}, teachers, known))
    with torch.no_grad():
        objective.network.weight.mul_(30)
    batch = store.gather(store.sample(GAMES, 4, torch.Generator().manual_seed(0)), 1, 0.99, successors=False, ram=True)
    assert len(batch.next_observations) == 0 and batch.ram is not None
    found = objective.loss(batch)
    with torch.no_grad():
        logits = objective.network(batch.observations).double().numpy()
        encoded = objective.network.encoder(batch.observations)
        predicted = [
            (encoded[4 * g : 4 * g + 4] @ objective.predictor[0][g] + objective.predictor[1][g]).double().numpy()
            for g in range(len(GAMES))
        ]
    atoms = objective.atoms.double().numpy()
    values, policies, agreements, errors = [], [], [], []

    def log_softmax(x: np.ndarray) -> np.ndarray:
        x = x - x.max(-1, keepdims=True)
        return x - np.log(np.exp(x).sum(-1, keepdims=True))

    for g, game in enumerate(GAMES):
        critic, legal = Critic.load(critics / f"{game}.safetensors"), list(minimal_actions(game))
        with torch.no_grad():
            states = batch.ram[4 * g : 4 * g + 4]
            wanted = critic.network(states).double().softmax(-1).numpy()
            hidden = critic.network.trunk(encode_ram(states)).double().numpy()
        mean, deviation = map(np.array, known[game])
        errors.append((predicted[g] - ((hidden - mean) / deviation).clip(-5, 5)) ** 2)
        for b in range(4):
            mine = log_softmax(logits[g, b, legal])
            values.append(-(wanted[b] * mine).sum(-1).mean())
            q, t = np.exp(mine) @ atoms, 0.4 * critic.spread
            theirs, ours = log_softmax(wanted[b] @ atoms / t), log_softmax(q / t)
            policies.append((np.exp(theirs) * (theirs - ours)).sum())
            agreements.append(float((wanted[b] @ atoms).argmax() == q.argmax()))
    assert float(found["values"]) == pytest.approx(np.mean(values), rel=1e-4)
    assert float(found["policy"]) == pytest.approx(np.mean(policies), rel=1e-3)
    assert float(found["features"]) == pytest.approx(np.mean(errors), rel=1e-4)
    wanted_loss = np.mean(values) + 0.7 * np.mean(policies) + 3.0 / 2 * np.mean(errors)
    assert found["loss"].item() == pytest.approx(wanted_loss, rel=1e-3)
    assert float(found["agreement"]) == pytest.approx(np.mean(agreements))
    found["loss"].backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in objective.parameters())
    part = objective.loss(batch.__class__(**{k: v[4:] for k, v in batch.tensors().items()}), torch.tensor([1]))
    assert float(part["values"]) == pytest.approx(np.mean(values[4:]), rel=1e-4)
    assert float(part["features"]) == pytest.approx(np.mean(errors[1]), rel=1e-4)
    assert part["games.agreement"][0] == 0.0 and not any("teacher" in name for name in objective.state_dict())
    monkeypatch.setattr(compiled, "BACKEND", "aot_eager")
    torch._dynamo.reset()
    objective.compile_passes(torch.device("cpu"))
    assert objective.loss(batch)["loss"].item() == pytest.approx(found["loss"].item(), rel=1e-4)
    assert objective.network.temperatures[GAMES[0]] == pytest.approx(
        0.3 * teachers[GAMES[0]].spread / teachers[GAMES[0]].scale
    )


def test_states_are_drawn_as_often_as_their_action_gaps_say(
    recordings: list[Recording], critics: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, teachers, states = build_store(recordings, cache=cache, ram=True), load_critics(critics, GAMES), []
    every = torch.arange(store.transitions)
    critic, first = teachers[GAMES[0]], every[: store.sizes[GAMES[0]]]
    q_values = expectation(critic.network(store.ram_states(first)), critic.support.atoms()).detach()
    gaps = q_values.max(1).values - q_values.mean(1)
    found = action_gaps(store, critic, first, states.append)  # maybe in bfloat16
    torch.testing.assert_close(found, gaps, atol=0.05 * float(gaps.std()) + 0.02 * float(gaps.mean()), rtol=0.0)
    assert states == [len(first)] and gaps.std() > 0

    gaps = (every % 8).float() ** 3  # of which the highest count as four times the mean
    monkeypatch.setattr("zoo.training.run.action_gaps", lambda store, critic, index, on_states: gaps[index])
    turned = replace(store, ranges=dict(reversed(store.ranges.items())))
    for config, held in product((FromCriticConfig(), FromCriticConfig(action_gap_priority=0.9)), (store, turned)):
        drawn = by_action_gap(held, config, teachers)
        assert drawn.kept is not None and drawn.sizes == {game: 4 * size for game, size in held.sizes.items()}
        for game in GAMES:
            index = store.locate([game], torch.arange(store.sizes[game])[None])
            times = torch.bincount(drawn.locate([game], torch.arange(drawn.sizes[game])[None]), minlength=len(every))
            assert times[index].sum() == 4 * len(index)
            p = config.action_gap_priority
            wanted = 1 - p + p * (gaps[index] / gaps[index].mean()).clamp(max=4.0)
            torch.testing.assert_close(
                times[index].float(), 4 * wanted * len(index) / wanted.sum(), atol=1.001, rtol=0.0
            )
    monkeypatch.setattr("zoo.training.run.action_gaps", lambda store, critic, index, on_states: 0.0 * gaps[index])
    nothing = by_action_gap(store, FromCriticConfig(), teachers).kept
    assert nothing is not None and torch.equal(torch.bincount(nothing), torch.full((len(every),), 4))
    for plain in (FromCriticConfig(action_gap_priority=0.0), ScaledQLConfig()):
        assert by_action_gap(store, plain, teachers) is store


def test_cloning_is_a_cross_entropy_over_legal_actions(recordings: list[Recording]) -> None:
    torch.manual_seed(0)
    objective = BehaviourCloning(QNetwork(Encoder("nature", 16), GAMES, Head("policy")), CloningConfig())
    with torch.no_grad():
        objective.network.weight.mul_(30)
    store = build_store(recordings, workers=1)
    batch = store.gather(store.sample(GAMES, 4, torch.Generator().manual_seed(0)), 1, 0.99, successors=False)
    with torch.no_grad():
        q = objective.network(batch.observations).double().squeeze(-1).numpy()
    wanted = []
    for g, game in enumerate(GAMES):
        for b in range(4):
            legal = q[g, b, list(minimal_actions(game))]
            wanted.append(np.log(np.exp(legal).sum()) - q[g, b, int(batch.actions[4 * g + b])])
    assert objective.loss(batch)["loss"].item() == pytest.approx(np.mean(wanted), rel=1e-4)
    odd = replace(batch, actions=torch.full_like(batch.actions, 17))  # as imported play may hold: none of Breakout's
    assert objective.loss(odd)["loss"].isfinite()


def test_heads_start_at_their_critics_mean_values(critics: Path) -> None:
    teachers = load_critics(critics, GAMES)
    config = RunConfig(feature_dim=8, objective=FromCriticConfig(prior_std=0.5))
    network = new_objective(config, GAMES, Inputs(critics=teachers)).network
    with torch.no_grad():
        network.weight.zero_()
        outputs = network(torch.zeros(2 * len(GAMES), 4, 84, 84, dtype=torch.uint8))
    atoms = teachers[GAMES[0]].support.atoms()
    for values, game in zip(expectation(outputs, atoms), GAMES, strict=True):
        wanted = 0.9 * teachers[game].mean_value  # a tenth is uniform, around 0
        assert wanted and values.numpy() == pytest.approx(np.full((2, 18), wanted), abs=0.02)


def test_the_commands_train_evaluate_and_teach(recordings_dir: Path, tmp_path: Path) -> None:
    paths = ["--dataset", "custom", "--recordings", str(recordings_dir), "--cache", str(tmp_path / "cache")]
    settings = ["--samples", "2560", "--batch-size", "64", "--width", "16", "--workers", "1"]
    folder = tmp_path / "critics"
    train = [*GAMES, *paths, *settings, "--out", str(folder)]
    made = {game: str(folder / f"{game}.safetensors") for game in GAMES}
    assert run_command("critic train", train) == made
    before = (folder / f"{GAMES[0]}.safetensors").stat().st_mtime_ns
    assert run_command("critic train", train) == made and before == Path(made[GAMES[0]]).stat().st_mtime_ns
    refused(lambda: run_command("critic train", [*train, "--tau", "0.5"]), "other settings (config)")
    results = run_command("critic evaluate", ["--critics", str(folder), "--episodes", "1", "--workers", "1"])
    assert set(results["games"]) == set(GAMES) and results["of"] == 2
    assert json.loads((folder / "results.json").read_text()) == results
    again: list[Played] = []
    assert evaluate_critics(folder, GAMES, 1, 1, report=again.append) == results and not again
    changed = Critic.load(Path(made[GAMES[0]]))
    with torch.no_grad():
        changed.network.head.bias.add_(1.0)
    changed.save(Path(made[GAMES[0]]))
    evaluate_critics(folder, GAMES, 1, 1, report=again.append)
    assert {told.game for told in again} == {GAMES[0]}
    short = ["--steps", "4", "--batch-size", "8", "--out", str(tmp_path), "--allow-held-out", "--games", *GAMES]
    pretrain = ["--name", "nature.taught", "--objective", "from_critic", "--critics", str(folder), *paths, *short]
    assert run_command("pretrain", pretrain)["done"]
    config = json.loads((tmp_path / "nature.taught" / "model" / "config.json").read_text())
    assert config["objective"] == "from_critic" and set(config["return_scales"]) == set(GAMES)
    assert (tmp_path / "nature.taught" / "values.png").exists()
    # Stopped and resumed: the states drawn by their action gaps are the same, and so are the bits.
    parts = ["--name", "nature.parts", *pretrain[2:]]
    run_command("pretrain", [*parts, "--steps", "2"])
    run_command("pretrain", [*parts, "--force-resume"])
    whole, resumed = (load_state(tmp_path / name / CHECKPOINT)[0] for name in ("nature.taught", "nature.parts"))
    assert all(torch.equal(value, resumed[name]) for name, value in whole.items() if not name.startswith("sums."))
    Path(made[GAMES[1]]).unlink()
    refused(lambda: run_command("pretrain", [*pretrain, "--resume"]), GAMES[1], "zoo critic train")


def test_a_critic_under_another_games_name_is_refused(critics: Path, tmp_path: Path) -> None:
    (tmp_path / f"{GAMES[0]}.safetensors").write_bytes((critics / f"{GAMES[1]}.safetensors").read_bytes())
    refused(lambda: load_critics(tmp_path, GAMES[:1]), GAMES[0], f"a critic of {GAMES[1]}")
    os.mkfifo(tmp_path / f"{GAMES[1]}.safetensors")
    refused(lambda: load_critics(tmp_path, GAMES[1:2]), GAMES[1], "not a regular file")
