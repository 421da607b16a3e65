"""Videos of play: an episode is played once for its actions, and once more, from seed and actions, for its colours."""

from __future__ import annotations

from pathlib import Path

import imageio_ffmpeg
import numpy as np
from numpy.typing import NDArray

from zoo.atari.emulator import action_values, make_ale, play_step
from zoo.atari.protocol import PROTOCOL
from zoo.atari.vector_env import make_vector_env
from zoo.evaluation.episodes import EVALUATION_SEED, Policy
from zoo.support.errors import QzooError
from zoo.support.files import replacing

FRAMES_PER_SECOND = 60 // PROTOCOL.frame_skip
SCALE = 2


def play_actions(policy: Policy, game: str, seed: int = EVALUATION_SEED, max_steps: int = 1_800) -> list[int]:
    """The actions that a policy takes in the episode of `seed`, up to its end or `max_steps` (two minutes of play)."""
    env = make_vector_env(game, 1, num_threads=1)
    observations, _ = env.reset(seed=np.array([seed]))
    actions: list[int] = []
    ended = False
    while not ended and len(actions) < max_steps:
        chosen = policy(observations)
        actions.append(int(chosen[0]))
        observations, _, terminated, truncated, _ = env.step(chosen)
        ended = bool(terminated[0] or truncated[0])
    return actions


def write_video(path: Path, game: str, seed: int, actions: list[int]) -> None:
    """Play actions on a plain emulator and write its screens as an H.264 file, 15 frames a second, double size.

    Raises:
        QzooError: the file can't be written.
    """
    ale, values = make_ale(game, seed), action_values()
    height, width, _ = enlarge(ale.getScreenRGB()).shape
    try:
        with replacing(path) as temporary:
            writer = imageio_ffmpeg.write_frames(
                str(temporary), (width, height), fps=FRAMES_PER_SECOND, codec="libx264", macro_block_size=2
            )
            writer.send(None)
            for action in actions:
                writer.send(enlarge(ale.getScreenRGB()))
                play_step(ale, values[action])
            writer.close()
    except OSError as error:
        raise QzooError(f"{path}: the video could not be written ({error})") from error


def enlarge(screen: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """uint8 (210, 160, 3) with every pixel doubled, so that players show it sharp."""
    return screen.repeat(SCALE, axis=0).repeat(SCALE, axis=1)
