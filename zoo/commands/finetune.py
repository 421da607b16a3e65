"""`zoo finetune`: adapt a pretrained encoder to a game."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import tyro

from finetune.offline import FinetuneConfig, Mode, objective_for
from zoo.commands.choose import refuse_limits, sets_of, takes_recordings
from zoo.commands.common import parse_duration, progress_bar, typed_command
from zoo.recordings.datasets import CUSTOM, Selection
from zoo.support.errors import QzooError
from zoo.training.config import ComputeConfig
from zoo.training.data import ChosenPlay

if TYPE_CHECKING:
    from zoo.critics.network import Critic
    from zoo.frames.store import FrameStore
    from zoo.models.encoder import Encoder
    from zoo.models.qnetwork import QNetwork
    from zoo.training.data import TrainingData


@dataclass
class FinetuneOffline:
    """Fine-tune on recorded or imported play of one game, with new heads, then score the agent.

    Writes a model folder, runs/finetune/GAME.MODE.ENCODER/model, that `zoo evaluate` and `zoo.load_agent` open.
    """

    IF_INTERRUPTED: ClassVar[str] = "the same command with --resume goes on"

    game: tyro.conf.Positional[str]
    """The game, as in SpaceInvaders."""
    encoder: str
    """A model's name (`zoo list`) or folder."""
    mode: Mode = "frozen"
    """frozen: convolutions fixed, their output computed once; full: end to end; scratch: the same network untrained."""
    dataset: str = CUSTOM
    """A named dataset that has the game, such as heldout5; custom: what --sources chooses."""
    transitions: int | None = 100_000
    """Take about this many transitions of each source and of each imported set, whole episodes at random."""
    uniform: bool = False
    """Draw single transitions, not whole episodes."""
    recordings: tuple[Path, ...] = ()
    """Recording files or folders; by default those that travel with the package."""
    sources: tuple[str, ...] = ()
    """Sources of play of a custom selection, such as learner and random; by default learner."""
    imports: tuple[Path, ...] = ()
    """Imported sets: folders GAME.SOURCE.frames that `zoo data import` made, or folders of such; those of the game are
    taken. They are all of the data, unless --dataset, --recordings or --sources is given too."""
    allow_mixed_origins: bool = False
    """Train on recordings and imported sets together, or on sets that were not recorded alike."""
    objective: str = "scaled_ql"
    """What is minimised: scaled_ql, from_critic, bc or mse_ql. Its settings are the ones that --help then shows."""
    finetune_config: FinetuneConfig = field(default_factory=FinetuneConfig)
    episodes: int = 32
    """Episodes to score the agent by, 0 to leave that out."""
    device: str = "auto"
    """auto, cpu, cuda."""
    critic: Path | None = None
    """With --objective from_critic: a critic of the game, as `zoo critic train GAME` writes it."""
    cache: Path = Path("runs/frames")
    """With a critic: folder of the files of RAM."""
    compute: ComputeConfig = field(default_factory=ComputeConfig)
    time_budget: str = ""
    """Stop training cleanly after this long, as in 9m."""
    resume: bool = False
    """Go on from the run's last checkpoint, if there is one."""
    force_resume: bool = False
    """With --resume: go on even where settings or data differ from the run's."""
    out: Path = Path("runs/finetune")
    """Where the run's folder, GAME.MODE.ENCODER, goes."""
    json: bool = False
    """Print the result as JSON on standard output."""

    @classmethod
    def default(cls, objective: str) -> FinetuneOffline:
        """The defaults with this objective."""
        config = FinetuneConfig(objective=objective_for(objective))
        return cls(game=tyro.MISSING, encoder=tyro.MISSING, objective=objective, finetune_config=config)

    def run(self) -> dict[str, Any]:
        """Fine-tune, save, evaluate."""
        from zoo.support.device import deterministic, told_when_full
        from zoo.training.ranks import refuse_ranks

        refuse_ranks("zoo finetune offline")
        full = told_when_full("lower `batch_size` or `transitions`, or take a smaller `encoder`")
        with deterministic(self.compute.deterministic), full:
            return self._run()

    def _run(self) -> dict[str, Any]:
        from zoo.atari.games import get_game
        from zoo.evaluation.scores import check_evaluation
        from zoo.frames.store import place_store
        from zoo.models.hub import load
        from zoo.models.model_folder import ModelConfig, write_model
        from zoo.support.device import pick_device
        from zoo.training.data import DataRecord

        self.finetune_config.check()
        if self.episodes:
            check_evaluation(self.episodes, 0.0, self.finetune_config.seed)
        started = time.time()
        deadline = started + parse_duration(self.time_budget) if self.time_budget else float("inf")
        game = get_game(self.game).name
        chosen = self.choose(game)
        device = pick_device(self.device)
        encoder = load(self.encoder, device=device)
        critic = self._critic(game)
        data, store = self._load(chosen, deadline)
        record = DataRecord(chosen.games, chosen.selection, data.by_game())
        folder = self.out / f"{game}.{self.mode}.{Path(self.encoder).name}"
        network, result = self._train(
            encoder, game, place_store(store, device), record.identity(), folder, deadline, critic
        )
        result |= {
            "game": game,
            "encoder": self.encoder,
            "transitions": store.transitions,
            **record.facts(),
            "data_mean": data.mean_return(),
            "evaluation": self._evaluate(network, game),
            "command": typed_command(),
        }
        run_config = self.finetune_config.run_config(encoder.arch, encoder.feature_dim)
        config = ModelConfig.of(
            network,
            name=f"{encoder.arch}.{self.mode}_{game.lower()}",
            objective=self.finetune_config.objective.name,
            dataset=f"{game}, {store.transitions} transitions" + ", imported" * bool(data.sets),
            pretraining={"encoder": self.encoder, **run_config.to_dict()},
        )
        write_model(network, config, folder / "model", results=result)
        if not self.json:
            print(summary(result))
        return {**result, "model": str(folder / "model"), "wall_seconds": time.time() - started}

    def _critic(self, game: str) -> Critic | None:
        """The teacher, where the objective wants one."""
        from zoo.critics.network import Critic

        wanted = self.finetune_config.objective.needs_critics
        if wanted != (self.critic is not None):
            raise QzooError("critic: give it with `objective` from_critic, which needs it, and with no other objective")
        if self.critic is None:
            return None
        critic = Critic.load(self.critic)
        if critic.game != game:
            raise QzooError(
                f"critic {self.critic}: it is one of {critic.game}; train one with `zoo critic train {game}`"
            )
        return critic

    def choose(self, game: str) -> ChosenPlay:
        """Which recordings and imported sets to train on.

        Raises:
            QzooError: no such set, none of the game, or a mix that is not allowed.
        """
        from zoo.converters.imports import find_sets
        from zoo.converters.origins import check_origins

        refuse_limits(self.imports, uniform=self.uniform)
        origins = sets_of(find_sets(self.imports), [game])
        recorded = takes_recordings(self.imports, self.dataset, self.recordings, self.sources)
        check_origins(origins, with_recordings=recorded, allow_mix=self.allow_mixed_origins)
        selection = self.selection(game) if recorded else None
        seed, mix = self.finetune_config.seed, self.allow_mixed_origins
        return ChosenPlay((game,), selection, origins, self.recordings, self.transitions, seed, mix)

    def selection(self, game: str) -> Selection:
        """What to take of the recordings."""
        sources = self.sources or (("learner",) if self.dataset == CUSTOM else ())
        seed = self.finetune_config.seed
        return Selection(self.dataset, (game,), sources, self.transitions, uniform=self.uniform, seed=seed)

    def _load(self, chosen: ChosenPlay, deadline: float) -> tuple[TrainingData, FrameStore]:
        """What was chosen, read, and the store that it gives."""
        from zoo.frames.store import build_store
        from zoo.training.data import TrainingData

        recordings = chosen.recordings()
        data, replayed = TrainingData(recordings, chosen.sets(deadline)), None
        if chosen.selection:
            with progress_bar(quiet=self.json) as bar:
                task = bar.add_task("replay", total=sum(recording.steps for recording in recordings), note="")
                cache, ram = self.cache, self.finetune_config.objective.needs_critics
                replayed = build_store(
                    recordings, cache=cache, on_steps=lambda steps: bar.advance(task, steps), ram=ram
                )
        return data, data.store(chosen.games, replayed, allow_mix=self.allow_mixed_origins)

    def _train(
        self,
        encoder: Encoder,
        game: str,
        store: FrameStore,
        identity: dict[str, Any],
        folder: Path,
        deadline: float,
        critic: Critic | None,
    ) -> tuple[QNetwork, dict[str, Any]]:
        """Fine-tune, with a bar."""
        from finetune.offline import finetune
        from zoo.training.loop import TrainingProgress

        with progress_bar(quiet=self.json) as bar:
            task = bar.add_task(f"{self.mode}", total=self.finetune_config.steps, note="")

            def show(progress: TrainingProgress) -> None:
                note = f"{progress.samples_per_second:.0f} samples/s, loss {progress.losses['loss']:.3f}"
                bar.update(task, completed=progress.step, note=note)

            return finetune(
                encoder,
                game,
                store,
                self.mode,
                self.finetune_config,
                folder,
                compute=self.compute,
                critic=critic,
                deadline=deadline,
                identity=identity,
                resume=self.resume,
                force=self.force_resume,
                report=show,
            )

    def _evaluate(self, network: QNetwork, game: str) -> dict[str, Any] | None:
        """Score the agent, if that is wanted."""
        from zoo.evaluation.episodes import play_episodes, summarize
        from zoo.models.agent import Agent

        if not self.episodes:
            return None
        with progress_bar(quiet=self.json) as bar:
            task = bar.add_task("evaluate", total=self.episodes, note="")
            agent = Agent(network, game)
            scores = play_episodes(agent, game, self.episodes, on_episode=lambda score: bar.advance(task))
        return summarize(game, scores)


def summary(result: dict[str, Any]) -> str:
    """One line for a person."""
    scored = result["evaluation"]
    line = f"{result['game']}, {result['mode']}: {result['steps']} steps in {result['seconds']['total']:.0f} s"
    if scored is None:
        return line
    data = "unknown" if result["data_mean"] is None else f"{result['data_mean']:.1f}"
    return (
        f"{line}; score {scored['mean']:.1f} [{scored['low']:.1f}, {scored['high']:.1f}] over {scored['episodes']} "
        f"episodes (human-normalized {scored['human_normalized']:.3f}); mean of its data {data}"
    )
