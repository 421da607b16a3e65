"""`zoo finetune`: adapt a pretrained encoder to a game."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import tyro

from finetune.offline import FinetuneConfig, Mode
from zoo.commands.common import parse_duration, progress_bar, typed_command
from zoo.recordings.datasets import CUSTOM, Selection


@dataclass
class FinetuneOffline:
    """Fine-tune on recorded play of one game, with new heads, then score the agent.

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
    """Take about this many transitions of each source, whole episodes at random."""
    uniform: bool = False
    """Draw single transitions, not whole episodes."""
    recordings: tuple[Path, ...] = ()
    """Recording files or folders; by default those that travel with the package."""
    sources: tuple[str, ...] = ()
    """Sources of play of a custom selection, such as learner and random; by default learner."""
    finetune_config: FinetuneConfig = field(default_factory=FinetuneConfig)
    episodes: int = 32
    """Episodes to score the agent by, 0 to leave that out."""
    device: str = "auto"
    """auto, cpu, cuda."""
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

    def run(self) -> dict[str, Any]:
        """Fine-tune, save, evaluate."""
        from finetune.offline import finetune
        from zoo.agent import Agent
        from zoo.device import pick_device
        from zoo.evaluate import play_episodes, summarize
        from zoo.games import get_game
        from zoo.hub import load
        from zoo.model_folder import ModelConfig, write_model
        from zoo.pretrain.loop import TrainingProgress
        from zoo.recordings.store import build_store, place_store

        started = time.time()
        deadline = started + parse_duration(self.time_budget) if self.time_budget else float("inf")
        game = get_game(self.game).name
        device = pick_device(self.device)
        encoder = load(self.encoder, device=device)
        selection = self.selection(game)
        recordings = selection.load(self.recordings)
        folder = self.out / f"{game}.{self.mode}.{Path(self.encoder).name}"
        with progress_bar(quiet=self.json) as bar:
            replayed = bar.add_task("replay", total=sum(r.steps for r in recordings), note="")
            store = place_store(build_store(recordings, on_steps=lambda steps: bar.advance(replayed, steps)), device)
            trained = bar.add_task(f"{self.mode}", total=self.finetune_config.steps, note="")

            def show(progress: TrainingProgress) -> None:
                note = f"{progress.samples_per_second:.0f} samples/s, td {progress.losses['td']:.3f}"
                bar.update(trained, completed=progress.step, note=note)

            network, result = finetune(
                encoder,
                game,
                store,
                self.mode,
                self.finetune_config,
                folder,
                deadline=deadline,
                resume=self.resume,
                force=self.force_resume,
                report=show,
            )
            support = self.finetune_config.objective.support
            scores = None
            if self.episodes:
                scored = bar.add_task("evaluate", total=self.episodes, note="")
                agent = Agent(network, game, support)
                scores = play_episodes(agent, game, self.episodes, on_episode=lambda score: bar.advance(scored))
        result |= {
            "game": game,
            "encoder": self.encoder,
            "transitions": store.transitions,
            "selection": selection.to_dict(),
            "data_mean": sum(e.score for r in recordings for e in r.episodes)
            / sum(len(r.episodes) for r in recordings),
            "evaluation": summarize(game, scores) if scores is not None else None,
            "command": typed_command(),
        }
        config = ModelConfig.of(
            network,
            name=f"{encoder.arch}.{self.mode}_{game.lower()}",
            support=support,
            objective="scaled_ql",
            dataset=f"{game}, {store.transitions} transitions",
            pretraining={
                "encoder": self.encoder,
                **self.finetune_config.run_config(encoder.arch, encoder.feature_dim).to_dict(),
            },
        )
        write_model(network, config, folder / "model", results=result)
        if not self.json:
            print(summary(result))
        return {**result, "model": str(folder / "model"), "wall_seconds": time.time() - started}

    def selection(self, game: str) -> Selection:
        """Which recordings to train on."""
        sources = self.sources or (("learner",) if self.dataset == CUSTOM else ())
        seed = self.finetune_config.seed
        return Selection(self.dataset, (game,), sources, self.transitions, uniform=self.uniform, seed=seed)


def summary(result: dict[str, Any]) -> str:
    """One line for a person."""
    scored = result["evaluation"]
    line = f"{result['game']}, {result['mode']}: {result['steps']} steps in {result['seconds']['total']:.0f} s"
    if scored is None:
        return line
    return (
        f"{line}; score {scored['mean']:.1f} [{scored['low']:.1f}, {scored['high']:.1f}] over {scored['episodes']} "
        f"episodes (human-normalized {scored['human_normalized']:.3f}); mean of its data {result['data_mean']:.1f}"
    )
