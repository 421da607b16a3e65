"""Online fine-tuning on a game or a new variant of it: the agent plays, and learns from what it played.

Read it top to bottom: settings, the call that does it all (`online`), the replay buffer, the loop.

The objective is C51 with 3-step returns and no conservative term, whatever the model was pretrained with; the agent
starts from a whole model (its head kept, where it has one for the game), from an encoder with a new head, or from
scratch.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray

from finetune.offline import label_of
from zoo.atari.emulator import minimal_actions
from zoo.atari.games import get_game
from zoo.atari.protocol import DEFAULT_VARIANT, FRAME_SIZE, Variant
from zoo.atari.vector_env import make_vector_env
from zoo.evaluation.scores import EVALUATION_SEED, play_episodes, summarize
from zoo.frames.frames import FRAME_BYTES, RawFrames
from zoo.frames.store import FrameStore, draw
from zoo.models.agent import Agent
from zoo.models.encoder import Encoder
from zoo.models.hub import find_model, load, load_qnetwork
from zoo.models.model_folder import RESULTS, ModelConfig, read_config, write_model
from zoo.models.qnetwork import QNetwork
from zoo.objectives import Objective
from zoo.objectives.base import Inputs
from zoo.objectives.scaled_ql import ScaledQLConfig
from zoo.support.device import float32_by_default, free_memory, pick_device, pick_precision
from zoo.support.errors import QzooError
from zoo.support.files import write_json, writing
from zoo.support.interrupt import stop_signals
from zoo.support.limits import Count, Share, check_settings
from zoo.support.pool import cores
from zoo.training.config import OptimizerConfig, RunConfig
from zoo.training.loop import train_step
from zoo.training.optimizer import make_optimizer, set_learning_rates
from zoo.training.run import objective_on, start_heads

Start = Literal["model", "encoder", "scratch"]
CURVE = "online.jsonl"
"""Of a run's folder: one line an evaluation."""
REPORT_EVERY = 25
"""Steps of all emulators between reports, for which a GPU is waited for."""
PLAY_SEED = 500_000_000
"""First seed of the episodes that are played: apart from those of recordings and of evaluation."""
EPISODES_A_RUN = 499
"""Between the first seeds of runs, whose own seeds go up to a million: longer runs share episodes with the next."""


def _objective() -> ScaledQLConfig:
    return ScaledQLConfig(cql_alpha=0.0, n_step=3, tau=0.01)


@dataclass(frozen=True)
class OnlineConfig:
    """Settings of `online`."""

    start: Start = "model"
    """model: its encoder and its head for the game, where it has one (else a new head); encoder: a new head in any
    case; scratch: the same architecture, randomly initialised."""
    steps: Count = 100_000
    """Steps of play in all. Ours, for a CPU; the paper's curves are of 200,000 and more."""
    envs: Count = 8
    """Emulators side by side."""
    batch_size: int = 64
    """Transitions a gradient step."""
    steps_per_update: Count = 8
    """Steps of play for each gradient step."""
    learning_starts: int = 2_000
    """Steps of play before the first gradient step."""
    epsilon_start: Share = 0.2
    """Share of random actions at first; from scratch more, such as 1, is usual."""
    epsilon_end: Share = 0.01
    """Share that it falls to."""
    epsilon_steps: Count = 20_000
    """Steps of play over which it falls."""
    evaluate_every: Count = 20_000
    """Steps of play between evaluations; the first is before any learning, of the unadapted agent."""
    episodes: Count = 8
    """Episodes of an evaluation."""
    seed: int = 0
    """Seeds new layers, play and batches."""
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    """bfloat16 autocast where the device has it (auto), or as set."""
    objective: ScaledQLConfig = field(default_factory=_objective)
    optimizer: OptimizerConfig = field(
        default_factory=lambda: OptimizerConfig(learning_rate=1e-4, warmup_steps=100, schedule="constant")
    )

    def check(self) -> None:
        """Refuse settings that can't work.

        Raises:
            QzooError: names the setting.
        """
        check_settings(self)
        if self.objective.scaled:
            raise QzooError("scaled: online there is no recorded play to take the scale of returns from")
        if self.learning_starts < self.envs:
            raise QzooError(f"learning_starts {self.learning_starts}: must be at least `envs`, {self.envs}")
        self.run_config("nature", 1).check(1)

    def run_config(self, arch: str, feature_dim: int) -> RunConfig:
        """The training's part, in the form of the training loop."""
        updates = max(1, (self.steps - self.learning_starts) // self.steps_per_update)
        return RunConfig.of(self, arch=arch, feature_dim=feature_dim, steps=updates)


@dataclass(frozen=True)
class OnlineProgress:
    """steps: of play, of `total`. recent: mean score of the last 20 episodes played, None before the first. loss: of
    the last gradient step, None before the first."""

    steps: int
    total: int
    recent: float | None
    loss: float | None


@dataclass(frozen=True)
class OnlineResult:
    """agent: as it is at the end. curve: a dict an evaluation: steps, and `summarize`'s figures. model: its folder."""

    agent: Agent
    curve: list[dict[str, Any]]
    model: Path


@float32_by_default()
def online(
    model: str | Path,
    game: str,
    config: OnlineConfig | None = None,
    *,
    variant: Variant = DEFAULT_VARIANT,
    out: str | Path = "runs/online",
    device: str = "auto",
    seconds: float = math.inf,
    command: str = "finetune.online",
    report: Callable[[OnlineProgress], None] = lambda progress: None,
) -> OnlineResult:
    """Let an agent of the zoo play a game or a variant, and learn from it.

    Writes a model folder, `out`/GAME.VARIANT.START.NAME.seedN/model, at each evaluation, and beside it the curve, one
    line an evaluation. Ctrl-C or SIGTERM ends the learning; the model is saved and scored a last time.

    Args:
        model: a model's name or folder; for start scratch only its architecture counts.
        game: a game's name, seen in pretraining or not.
        config: start, steps of play, exploration, objective, optimizer.
        variant: mode and difficulty; any that ALE lists.
        out: folder of the runs.
        device: auto, cpu or cuda.
        seconds: stop cleanly after so long.
        command: what results.json says made the model.
        report: called with the progress now and then.

    Raises:
        QzooError: settings that can't work, no such model, game or variant, memory too small for the replay buffer.
    """
    config, began = config or OnlineConfig(), time.time()
    config.check()
    name = get_game(game).name
    make_vector_env(name, 1, variant=variant)  # refuse an unknown one now
    where = pick_device(device)
    network = start_network(find_model(model), name, config).to(where)
    objective = objective_on(network, config.objective, Inputs(network.return_scales))
    folder = Path(out) / f"{name}{variant_label(variant)}.{config.start}.{label_of(model)}.seed{config.seed}"
    if (folder / CURVE).exists():
        raise QzooError(f"{folder}: a run is here already; move it away, or give another `seed` or `out`")
    buffer = ReplayBuffer(name, config.steps, config.envs)
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
    curve: list[dict[str, Any]] = []
    agent = Agent(network, name, seed=config.seed)

    settings = config.run_config(network.encoder.arch, network.encoder.feature_dim).to_dict()
    facts = {"game": name, "variant": vars(variant), "start": config.start, "encoder": str(model), "command": command}

    def evaluated(steps: int) -> None:
        """Keep the model as it is, then score it: whatever ends the run, the last one is there."""
        made = ModelConfig.of(
            network,
            name=f"{network.encoder.arch}.online_{name.lower()}",
            objective=config.objective.name,
            dataset=f"{name}{variant_label(variant)}, {steps} steps of play",
            pretraining={"encoder": str(model), **settings},
        )
        results = {**facts, "steps": steps, "seconds": round(time.time() - began), "online": curve}
        write_model(network, made, folder / "model", results=results)
        agent.epsilon = 0.001
        scores = play_episodes(agent, name, config.episodes, num_threads=cores(), variant=variant)
        curve.append({"steps": steps, "seconds": round(time.time() - began), **summarize(name, scores)})
        with writing(folder / CURVE), (folder / CURVE).open("a") as file:
            file.write(json.dumps(curve[-1]) + "\n")
        write_json(folder / "model" / RESULTS, {**results, "online": curve, "evaluation": curve[-1]})

    learn(agent, objective, buffer, config, variant, began + seconds, evaluated, report)
    return OnlineResult(agent, curve, folder / "model")


def variant_label(variant: Variant) -> str:
    """What a folder's name says of a variant: ".mode1", ".mode1.difficulty0", nothing of the default one."""
    parts = (("mode", variant.mode), ("difficulty", variant.difficulty))
    return "".join(f".{name}{value}" for name, value in parts if value is not None)


def start_network(folder: Path, game: str, config: OnlineConfig) -> QNetwork:
    """The network that playing starts from: its head of the model where it has one and keeps it, else a fresh one."""
    about = read_config(folder)
    torch.manual_seed(config.seed)
    encoder = Encoder(about.arch, about.feature_dim, about.feature_norm)
    head = config.objective.head()
    network = QNetwork(encoder, [game], head)
    start_heads(network, config.objective)
    if config.start == "scratch":
        return network
    encoder.load_state_dict(load(folder).state_dict())
    if config.start == "model" and game in about.games:
        whole = load_qnetwork(folder)
        if whole.head != head:
            raise QzooError(f"{folder}: its head is {whole.head}, this run's {head}; give `start` encoder")
        number, scale = whole.game_index(game), whole.return_scales.get(game, 1.0)
        with torch.no_grad():
            network.weight[0], network.bias[0] = whole.weight[number], whole.bias[number]
        if scale != 1.0:
            network.return_scales = {game: scale}
    return network


class ReplayBuffer:
    """Everything that was played, in the form of a store: frames uint8 (84, 84), and columns of transitions.

    Emulator e writes to a part of its own, so that an episode's frames follow one another.

    Raises:
        QzooError: the frames of so many steps don't fit into memory.
    """

    def __init__(self, game: str, steps: int, envs: int) -> None:
        self.game, self.envs = game, envs
        # A frame for each step, one for each episode that the step limit cuts, and one at the start.
        self.part = -(-steps // envs) + 64 + steps // envs // 1_000
        size = self.part * envs
        free = free_memory()  # 0 where the system does not say
        if free and size * FRAME_BYTES > 0.9 * free:
            needed = f"{size * FRAME_BYTES / 1e9:.1f} GB for {steps:,} steps"
            raise QzooError(f"steps {steps}: a replay buffer takes {needed}, more memory than is free; take fewer")
        self.frames = torch.empty(size, FRAME_SIZE, FRAME_SIZE, dtype=torch.uint8)
        self.actions, self.frame, self.start, self.left = (torch.zeros(size, dtype=torch.int64) for _ in range(4))
        self.rewards = torch.zeros(size)
        self.terminated = torch.zeros(size, dtype=torch.bool)
        self.kept = torch.zeros(steps + envs, dtype=torch.int64)
        self.count = 0
        self._frame = np.arange(envs) * self.part - 1  # the newest frame of each emulator
        self._row = np.arange(envs) * self.part - 1  # its newest transition
        self._first = np.zeros(envs, dtype=np.int64)  # first frame of its episode
        self._first_row = np.zeros(envs, dtype=np.int64)

    def begin(self, env: int, frame: NDArray[np.uint8]) -> None:
        """An episode begins: `frame` uint8 (84, 84) is its first."""
        self._frame[env] += 1
        self._first[env], self._first_row[env] = self._frame[env], self._row[env] + 1
        self.frames[self._frame[env]] = torch.from_numpy(frame)

    def add(self, env: int, action: int, reward: float, frame: NDArray[np.uint8], terminated: bool) -> None:
        """A step: `frame` is what it led to, which after an end of the game is never looked at."""
        self._row[env] += 1
        row = int(self._row[env])
        self.actions[row], self.rewards[row] = action, reward
        self.frame[row], self.start[row] = int(self._frame[env]), int(self._first[env])
        first = int(self._first_row[env])
        self.left[first : row + 1] += 1
        self.kept[self.count] = row
        self.count += 1
        if terminated:
            self.terminated[first : row + 1] = True
        else:
            self._frame[env] += 1
            self.frames[self._frame[env]] = torch.from_numpy(frame)

    def store(self) -> FrameStore:
        """What was played so far, without copies. The end of an episode under way is where it has got to."""
        return FrameStore(
            frames=RawFrames(self.frames),
            actions=self.actions,
            rewards=self.rewards,
            frame_index=self.frame,
            episode_start=self.start,
            steps_left=self.left,
            terminated=self.terminated,
            ranges={self.game: (0, self.count)},
            kept=self.kept[: self.count],
        )


def learn(
    agent: Agent,
    objective: Objective,
    buffer: ReplayBuffer,
    config: OnlineConfig,
    variant: Variant,
    deadline: float,
    evaluated: Callable[[int], None],
    report: Callable[[OnlineProgress], None],
) -> None:
    """Play and learn until the steps are done, the deadline comes or a signal does."""
    network, game = agent.network, agent.game
    objective = objective.to(network.weight.device)
    run = config.run_config(network.encoder.arch, network.encoder.feature_dim)
    dtype = pick_precision(config.precision, network.weight.device)
    optimizer = make_optimizer(objective, run.optimizer, dtype)
    env = make_vector_env(game, config.envs, cores(), variant)
    seeds = iter(range(PLAY_SEED + EPISODES_A_RUN * config.seed, EVALUATION_SEED))
    observations, _ = env.reset(seed=np.array([next(seeds) for _ in range(config.envs)]))
    for number in range(config.envs):
        buffer.begin(number, observations[number, -1])
    generator = torch.Generator().manual_seed(config.seed)
    legal, rng = np.array(minimal_actions(game)), np.random.default_rng(config.seed)
    scores, ended = np.zeros(config.envs), []
    played = updates = 0
    loss: torch.Tensor | None = None
    evaluations, scored_at = 0, 0
    network.eval()
    with stop_signals() as interrupted:
        evaluated(0)
        while played < config.steps and not interrupted() and time.time() < deadline:
            share = min(1.0, played / config.epsilon_steps)
            agent.epsilon = 0.0
            actions = agent(observations)
            epsilon = config.epsilon_start + share * (config.epsilon_end - config.epsilon_start)
            explore = rng.random(config.envs) < epsilon
            actions = np.where(explore, legal[rng.integers(len(legal), size=config.envs)], actions)
            observations, rewards, terminated, truncated, _ = env.step(actions)
            played += config.envs
            scores += rewards
            over = terminated | truncated
            for number in range(config.envs):
                reward, frame = float(rewards[number]), observations[number, -1]
                buffer.add(number, int(actions[number]), reward, frame, bool(terminated[number]))
            if over.any():
                ended += scores[over].tolist()
                scores[over] = 0.0
                fresh = np.array([next(seeds) for _ in range(int(over.sum()))])
                observations, _ = env.reset(seed=fresh, options={"reset_mask": over})
                for number in np.flatnonzero(over).tolist():
                    buffer.begin(number, observations[number, -1])
            if played >= config.learning_starts:
                objective.train()
                while updates < (played - config.learning_starts) // config.steps_per_update:
                    loss = _update(objective, buffer, optimizer, run, dtype, updates, generator)
                    updates += 1
                network.eval()
            if played // config.evaluate_every > evaluations:
                evaluations, scored_at = played // config.evaluate_every, played
                evaluated(played)
            if played // config.envs % REPORT_EVERY == 0:
                recent = float(np.mean(ended[-20:])) if ended else None
                if loss is not None and not math.isfinite(float(loss)):
                    raise QzooError(f"the loss is {float(loss)} after {played:,} steps; lower `learning_rate`")
                report(OnlineProgress(played, config.steps, recent, None if loss is None else float(loss)))
        if scored_at != played:
            evaluated(played)


def _update(
    objective: Objective,
    buffer: ReplayBuffer,
    optimizer: torch.optim.Optimizer,
    run: RunConfig,
    dtype: torch.dtype,
    step: int,
    generator: torch.Generator,
) -> torch.Tensor:
    """A gradient step on transitions drawn from all that was played."""
    store, spec = buffer.store(), run.objective.batch()
    index = store.locate([buffer.game], draw([buffer.count], run.batch_size, generator))
    batch = store.gather(index, spec.n_step, spec.gamma, spec.reward_clip)
    set_learning_rates(optimizer, step, replace(run, steps=max(run.steps, step + 1)))
    losses = train_step(objective, batch.to(next(objective.parameters()).device), optimizer, run, dtype)
    objective.after_step(step + 1)
    return losses["loss"].detach()
