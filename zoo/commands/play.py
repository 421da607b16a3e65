"""`zoo play`: watch a model play a game."""

from __future__ import annotations

import shutil
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import tyro

from zoo.commands.common import Command, progress_bar
from zoo.support.errors import QzooError

if TYPE_CHECKING:
    from zoo.reports.video import Moment


@dataclass
class PlayGame(Command):
    """Watch a model play one episode: in the terminal, or as a video with score and values beside the screen."""

    name: tyro.conf.Positional[str]
    """A model's name (`zoo list`) or folder, or random."""
    game: str
    """A game that it has a head for, as in Breakout."""
    video: Path | None = None
    """Write an MP4 file instead of showing play in the terminal."""
    seed: int = 0
    """Which of the evaluation's episodes."""
    epsilon: float = 0.001
    """Share of actions taken at random."""
    greedy: bool = False
    """Take the best action, also where the model plays by softmax(Q / t), as those that critics taught do."""
    mode: int | None = None
    """A mode that ALE lists for the game; by default its own."""
    difficulty: int | None = None
    """A difficulty that ALE lists for the game; by default its own."""
    max_steps: int = 5_400
    """Stop after so many steps; 15 are a second of play."""

    def run(self) -> dict[str, Any]:
        """Play; returns score and steps."""
        from zoo.reports.video import write_video
        from zoo.support.files import refuse_folder

        refuse_folder(self.video)
        moments = self.moments()
        last: list[Moment] = []

        def kept(moments: Iterator[Moment]) -> Iterator[Moment]:
            for moment in moments:
                last[:] = [moment]
                yield moment

        if self.video is not None:
            with progress_bar(quiet=self.json) as bar:
                task = bar.add_task(self.game, total=self.max_steps, note="")

                def shown() -> Iterator[Moment]:
                    for moment in kept(moments):
                        bar.update(task, completed=moment.step, note=f"score {moment.score:,.0f}")
                        yield moment

                write_video(self.video, self.game, shown())
        else:
            if self.json or not sys.stdout.isatty():
                raise QzooError("video: name a file for the video, as standard output is no terminal")
            show_in_terminal(kept(moments))
        score, steps = last[0].score, last[0].step
        print(f"score {score:,.0f} after {steps:,} steps", file=sys.stderr)
        video = {} if self.video is None else {"video": str(self.video)}
        return {"game": self.game, "score": score, "steps": steps, **video}

    def moments(self) -> Iterator[Moment]:
        """The episode, step by step; whatever can't work is refused here."""
        from zoo.atari.games import get_game
        from zoo.atari.protocol import Variant
        from zoo.evaluation.scores import EVALUATION_SEED, RANDOM, check_evaluation, random_policy
        from zoo.models.hub import load_agent
        from zoo.reports.video import watch

        self.game = get_game(self.game).name
        check_evaluation(1, self.epsilon, self.seed)
        if self.max_steps < 1:
            raise QzooError(f"max_steps {self.max_steps}: must be at least 1")
        if self.name == RANDOM:
            policy: Any = random_policy(self.game, self.seed)
        else:
            policy = load_agent(self.name, self.game, epsilon=self.epsilon, greedy=self.greedy)
        variant = Variant(self.mode, self.difficulty)
        return watch(policy, self.game, EVALUATION_SEED + self.seed, variant, self.max_steps)


def show_in_terminal(moments: Iterator[Moment]) -> None:
    """Draw play in the terminal at the game's own speed, or as fast as the model is."""
    from zoo.reports.video import FRAMES_PER_SECOND, LINES_A_COLUMN, terminal_lines

    columns, rows = shutil.get_terminal_size()
    width = max(20, min(columns, int((rows - 2) / LINES_A_COLUMN), 80))
    print("\x1b[2J\x1b[?25l", end="")
    try:
        due = time.perf_counter()
        for moment in moments:
            text = f"score {moment.score:,.0f}   step {moment.step:,}"
            print("\x1b[H" + "\n".join([*terminal_lines(moment.screen, width), f"{text:<{width}}"]), flush=True)
            due = max(due + 1 / FRAMES_PER_SECOND, time.perf_counter())
            time.sleep(max(0.0, due - time.perf_counter()))
    finally:
        print("\x1b[?25h", end="", flush=True)
