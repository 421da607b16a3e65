"""The training loop: it learns, keeps time, saves, and goes on to the bit after a kill."""

import json
import math
import os
import re
import shlex
import signal
import subprocess
import sys
import time
from dataclasses import replace
from functools import partial
from pathlib import Path
from unittest.mock import Mock

import pytest
import torch

import zoo.training.pretrain
from tests.command_helpers import run_command
from tests.conftest import GAMES
from tests.recording_helpers import refused
from zoo.atari.emulator import action_mask
from zoo.frames.store import FrameStore
from zoo.objectives.scaled_ql import ScaledQLConfig
from zoo.recordings.datasets import Selection
from zoo.support.device import pick_device, pick_precision
from zoo.support.errors import QzooError
from zoo.support.state import load_state
from zoo.training.batches import Batches, step_generator
from zoo.training.checkpoint import RunState
from zoo.training.config import OptimizerConfig, RunConfig
from zoo.training.data import DataRecord
from zoo.training.loop import train
from zoo.training.run import new_objective, thin, write_run_model

CPU = torch.device("cpu")
SMALL = RunConfig(
    feature_dim=16, steps=100, batch_size=16, precision="float32", optimizer=OptimizerConfig(warmup_steps=5)
)


def run(store: FrameStore, out: Path, config: RunConfig = SMALL, **settings: object) -> int:
    objective = new_objective(config, store.games)
    return train(objective, store, config, out, device=CPU, **settings).step  # type: ignore[arg-type]


def log_of(out: Path) -> list[dict[str, float]]:
    lines = [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]
    return [{name: value for name, value in line.items() if name != "samples_per_second"} for line in lines]


def test_the_td_error_falls(store: FrameStore, tmp_path: Path) -> None:
    config = RunConfig(
        feature_dim=32,
        steps=250,
        batch_size=16,
        precision="float32",
        objective=ScaledQLConfig(gamma=0.01, n_step=1, prior_std=None),  # almost the next reward alone: quick to learn
        optimizer=OptimizerConfig(warmup_steps=10, learning_rate=1e-3),
    )
    assert run(store, tmp_path, config) == 250
    log = log_of(tmp_path)
    assert [line["step"] for line in log] == [50, 100, 150, 200, 250]
    assert log[0]["td"] < math.log(51) + 0.1
    assert log[-1]["td"] < 0.5 * math.log(51)
    assert list((tmp_path / "tensorboard").iterdir())


def test_a_run_in_two_parts_equals_one_to_the_bit(store: FrameStore, tmp_path: Path) -> None:
    run(store, tmp_path / "whole")

    class StopError(Exception):
        pass

    def interrupt(progress: object) -> None:
        raise StopError

    objective = new_objective(SMALL, store.games)
    with pytest.raises(StopError):
        train(
            objective,
            store,
            SMALL,
            tmp_path / "parts",
            device=CPU,
            checkpoint_seconds=-1.0,
            report=interrupt,
        )
    # Stopped before the checkpoint of step 50 was written: resumes from that of step 49.
    assert load_state(tmp_path / "parts" / "checkpoint.safetensors")[1]["step"] == 49
    assert run(store, tmp_path / "parts", resume=True, deadline=time.time() + 0.1) < 100
    assert run(store, tmp_path / "parts", resume=True) == 100
    whole, _ = load_state(tmp_path / "whole" / "checkpoint.safetensors")
    parts, _ = load_state(tmp_path / "parts" / "checkpoint.safetensors")
    assert whole.keys() == parts.keys()
    assert all(torch.equal(whole[name], parts[name]) for name in whole)
    assert log_of(tmp_path / "whole") == log_of(tmp_path / "parts")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_signals_stop_it_between_steps_and_it_goes_on(
    store: FrameStore, tmp_path: Path, number: signal.Signals
) -> None:
    handlers = [signal.getsignal(other) for other in (signal.SIGINT, signal.SIGTERM)]
    with pytest.raises(KeyboardInterrupt, match=r"saved at step 50 in .*checkpoint\.safetensors"):
        # The signal comes at step 50, where the loop reports.
        run(store, tmp_path, report=lambda progress: signal.raise_signal(number))
    assert load_state(tmp_path / "checkpoint.safetensors")[1]["step"] == 50
    assert [signal.getsignal(other) for other in (signal.SIGINT, signal.SIGTERM)] == handlers
    assert run(store, tmp_path, resume=True) == 100


def shell_command(recordings_dir: Path, out: Path, *more: str) -> list[str]:
    """`zoo pretrain` of 250 small steps."""
    return [
        *(sys.executable, "-m", "zoo", "pretrain", "--name", "nature.test", "--games", *GAMES, "--allow-held-out"),
        *("--recordings", str(recordings_dir), "--steps", "250", "--batch-size", "8", "--feature-dim", "16"),
        *("--checkpoint-every", "0.3s", "--out", str(out), "--json", *more),
    ]


@pytest.mark.slow
def test_sigterm_to_exit_takes_seconds(recordings_dir: Path, tmp_path: Path) -> None:
    """The process ends saved, with 130, within the five seconds that a small network is promised."""
    command = shell_command(recordings_dir, tmp_path, "--checkpoint-every", "1h", "--steps", "1000000")
    log = tmp_path / "nature.test" / "log.jsonl"
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True) as process:
        while not (log.exists() and log.read_text().count("\n") >= 2):
            assert process.poll() is None
            time.sleep(0.002)
        began = time.time()
        process.terminate()
        told = process.communicate()[1]
        assert time.time() - began < 5.0
    step = load_state(log.with_name("checkpoint.safetensors"))[1]["step"]
    assert process.returncode == 130 and f"interrupted; saved at step {step:,} in" in told and step >= 100


@pytest.mark.slow
def test_killed_by_sigkill_it_goes_on_to_the_bit(recordings_dir: Path, tmp_path: Path) -> None:
    def command(out: str, *more: str) -> list[str]:
        return shell_command(recordings_dir, tmp_path / out, *more)

    whole = subprocess.run(command("whole"), capture_output=True, text=True, check=True)
    assert json.loads(whole.stdout)["done"] is True
    process = subprocess.Popen(command("killed"), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    log = tmp_path / "killed" / "nature.test" / "log.jsonl"
    checkpoint = log.with_name("checkpoint.safetensors")
    while not (checkpoint.exists() and log.read_text().count("\n") >= 2):
        assert process.poll() is None, "finished before it could be killed"
        time.sleep(0.002)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    with log.open("a") as file:
        file.write('{"step": 4')  # the half line that a kill may leave
    subprocess.run(command("killed", "--resume"), capture_output=True, text=True, check=True)
    states = [load_state(tmp_path / run / "nature.test" / "checkpoint.safetensors")[0] for run in ("whole", "killed")]
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])
    assert log_of(tmp_path / "whole" / "nature.test") == log_of(log.parent)


def test_time_budget_stops_with_a_checkpoint(store: FrameStore, tmp_path: Path) -> None:
    config = RunConfig(feature_dim=16, steps=10**6, batch_size=16, precision="float32")
    began = time.time()
    steps = run(store, tmp_path, config, deadline=time.time() + 3.0)
    assert time.time() - began < 10.0
    _, info = load_state(tmp_path / "checkpoint.safetensors")
    assert 0 < steps == info["step"] < 10**6


def test_the_time_for_a_checkpoint_is_looked_at_after_every_step(store: FrameStore, tmp_path: Path) -> None:
    """Also between two lines of the log, which may be minutes apart."""

    class StopError(Exception):
        pass

    def interrupt(progress: object) -> None:
        raise StopError

    with pytest.raises(StopError):
        run(store, tmp_path, checkpoint_seconds=-1.0, report=interrupt)
    assert load_state(tmp_path / "checkpoint.previous.safetensors")[1]["step"] == 48
    rare = tmp_path / "rare"
    with pytest.raises(StopError):
        run(store, rare, checkpoint_seconds=3600.0, report=interrupt)
    assert not list(rare.glob("*.safetensors"))


def test_a_run_in_the_way_and_other_settings_are_refused(store: FrameStore, tmp_path: Path) -> None:
    run(store, tmp_path)
    with pytest.raises(QzooError, match=r"checkpoint\.safetensors: a run is here already.*`resume`"):
        run(store, tmp_path)
    other = RunConfig(**{**SMALL.__dict__, "objective": ScaledQLConfig(gamma=0.9)})
    with pytest.raises(QzooError, match=r"other settings: config\.objective\.gamma"):
        run(store, tmp_path, other, resume=True)


def test_a_loss_that_is_not_finite_stops_the_run(store: FrameStore, tmp_path: Path) -> None:
    objective = new_objective(SMALL, store.games)
    with torch.no_grad():
        objective.network.bias[0, 0] = float("nan")
    with pytest.raises(QzooError, match="the loss is nan at step 50"):
        train(objective, store, SMALL, tmp_path, device=CPU)
    assert not (tmp_path / "checkpoint.safetensors").exists()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"batch_size": 1}, "batch_size 1"),
        ({"steps": 0}, "steps 0"),
        ({"objective": ScaledQLConfig(n_step=0)}, "n_step"),
        ({"feature_dim": 0}, "feature_dim 0"),
        ({"objective": ScaledQLConfig(reward_clip=-1.0)}, "reward_clip -1"),
        ({"objective": ScaledQLConfig(tau=5.0)}, "tau 5"),
        ({"objective": ScaledQLConfig(cql_alpha=math.nan)}, "cql_alpha nan"),
        ({"objective": ScaledQLConfig(prior_std=0.0)}, "prior_std 0"),
        ({"objective": ScaledQLConfig(v_max=math.inf)}, "`v_max` inf"),
        ({"objective": ScaledQLConfig(gamma=math.nan)}, "gamma nan"),
        ({"optimizer": OptimizerConfig(warmup_steps=-5)}, "warmup_steps -5"),
        ({"optimizer": OptimizerConfig(min_lr_ratio=3.0)}, "min_lr_ratio 3"),
        ({"optimizer": OptimizerConfig(learning_rate=math.inf)}, "learning_rate inf"),
        ({"optimizer": OptimizerConfig(epsilon=0.0)}, "epsilon 0"),
        ({"optimizer": OptimizerConfig(max_gradient_norm=0.0)}, "max_gradient_norm 0"),
    ],
)
def test_settings_that_cannot_work_are_named(change: dict[str, object], message: str) -> None:
    with pytest.raises(QzooError, match=message):
        RunConfig(**{**SMALL.__dict__, **change}).check(2)


def test_settings_at_their_limits_work() -> None:
    objective = ScaledQLConfig(cql_alpha=0.0, prior_std=None, gamma=1.0, tau=1.0, reward_clip=math.inf)
    optimizer = OptimizerConfig(warmup_steps=0, min_lr_ratio=0.0, head_lr_scale=0.0, max_gradient_norm=math.inf)
    replace(SMALL, objective=objective, optimizer=optimizer).check(2)


def test_batches_depend_on_seed_and_step_alone(store: FrameStore) -> None:
    config = RunConfig(batch_size=8, random_shift=4)
    batches, again = Batches(store, config, CPU), Batches(store, config, CPU)
    in_order = [batches.get(step) for step in range(3)]
    jumped = again.get(2)
    assert torch.equal(in_order[2].observations, jumped.observations)
    assert not torch.equal(in_order[0].observations, in_order[1].observations)
    other = Batches(store, replace(config, seed=1), CPU)
    assert not torch.equal(in_order[2].actions, other.get(2).actions)
    for made in (batches, again, other):
        made.close()
    firsts = {float(torch.rand(1, generator=step_generator(seed, step))) for seed in range(5) for step in range(5)}
    assert len(firsts) == 25


def test_batches_are_game_balanced(store: FrameStore) -> None:
    index = store.sample(store.games, 50, step_generator(0, 0))
    for position, game in enumerate(store.games):
        first, last = store.ranges[game]
        mine = index[50 * position : 50 * position + 50]
        assert ((mine >= first) & (mine < last)).all()


def test_device_and_precision_are_chosen() -> None:
    assert pick_device("cpu") == CPU
    assert pick_device("auto").type in ("cpu", "cuda")
    with pytest.raises(QzooError, match="device warp: not available"):
        pick_device("warp")
    assert pick_precision("float32", CPU) == torch.float32
    assert pick_precision("bfloat16", CPU) == torch.bfloat16
    assert pick_precision("auto", CPU) in (torch.float32, torch.bfloat16)


def test_thinned_curve_keeps_the_last_line() -> None:
    curve = [{"step": step} for step in range(1001)]
    thinned = thin(curve)
    assert thinned[-1] == curve[-1]
    assert 150 <= len(thinned) <= 250


def test_a_run_may_start_from_a_model(store: FrameStore, tmp_path: Path) -> None:
    """The encoder and the heads of the games in common are copied; another game's head starts afresh."""
    objective = new_objective(SMALL, store.games)
    with torch.no_grad():
        objective.network.weight.normal_()
    folder = write_run_model(
        tmp_path, "nature.first", DataRecord((), Selection(), {}), objective, SMALL, RunState(), CPU, "a test"
    )
    config = RunConfig(**{**SMALL.__dict__, "init": str(folder)})
    network = new_objective(config, ["Pong", "Breakout"]).network
    half = network.encoder.projection.weight.half(), objective.network.encoder.projection.weight.half()
    assert torch.equal(*half)  # as models are stored
    legal, number = action_mask("Breakout"), store.games.index("Breakout")
    kept = [w.unflatten(-1, (18, -1))[:, legal].half() for w in (network.weight[1], objective.network.weight[number])]
    assert torch.equal(*kept)
    assert network.weight[0].abs().max() < 0.1
    with pytest.raises(QzooError, match=r"init .*: a model of feature_dim 16, this run of 32"):
        new_objective(RunConfig(**{**config.__dict__, "feature_dim": 32}), ["Pong"])


def test_the_time_budget_covers_the_replay(recordings_dir: Path, tmp_path: Path) -> None:
    with pytest.raises(QzooError, match=r"the time was over before the .* steps were replayed"):
        run_command(
            "pretrain",
            [
                *("--name", "x", "--games", "Breakout", "--recordings", str(recordings_dir)),
                *("--time-budget", "0.001s", "--out", str(tmp_path), "--json"),
            ],
        )


def test_held_out_games_stay_out_of_pretraining(recordings_dir: Path, tmp_path: Path) -> None:
    from zoo.commands.pretrain import Pretrain

    with pytest.raises(QzooError, match=r"SpaceInvaders: held out.*`allow_held_out`"):
        Pretrain(name="x", games=("SpaceInvaders",), recordings=(recordings_dir,), out=tmp_path).run()


def test_the_recorded_command_makes_the_model_in_one_go(
    recordings_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """How a run was parted in time is no part of what makes its model."""
    arguments = [
        *("--name", "x", "--games", "Breakout", "--recordings", str(recordings_dir), "--steps", "1"),
        *("--batch-size", "4", "--feature-dim", "8", "--out", str(tmp_path), "--json"),
    ]
    parted = ["--resume", "--time-budget", "5m"]
    monkeypatch.setattr("sys.argv", ["zoo", "pretrain", *parted, *arguments])
    result = run_command("pretrain", [*parted, *arguments])
    command = json.loads((Path(result["model"]) / "results.json").read_text())["training"]["command"]
    assert command == shlex.join(["zoo", "pretrain", *arguments])


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("--seed", "-1"),
        ("--seed", "20000000"),
        ("--learning-rate", "-1.0"),
        ("--name", "../x"),
        ("--steps", "0"),
        ("--checkpoint-every", "0.0"),
        ("--workers", "-1"),
    ],
)
def test_settings_that_cannot_work_are_refused(option: str, value: str, recordings_dir: Path, tmp_path: Path) -> None:
    settings = {"--name": "x", "--games": "Breakout", "--recordings": str(recordings_dir), "--transitions": "100"}
    words = [word for pair in {**settings, option: value}.items() for word in pair]
    with pytest.raises(QzooError, match=f"{option} '?{re.escape(value)}'?: "):
        run_command("pretrain", [*words, "--out", str(tmp_path), "--json"])


def test_other_settings_are_refused_before_the_replay(
    recordings_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    replay = Mock(wraps=zoo.training.pretrain.build_store)
    monkeypatch.setattr(zoo.training.pretrain, "build_store", replay)
    arguments = shell_command(recordings_dir, tmp_path, "--steps", "2")[4:]
    run_command("pretrain", arguments)
    for more, told in ((["--gamma", "0.5"], "config.objective.gamma"), (["--games", GAMES[0]], "the run's games are")):
        refused(partial(run_command, "pretrain", [*arguments, "--resume", *more]), told)
    refused(lambda: run_command("pretrain", [*arguments, "--name", "impala.test"]), "give --arch impala too")
    assert replay.call_count == 1
