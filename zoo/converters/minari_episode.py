"""One episode of a Minari dataset in the protocol's terms: frames, actions of the full set, rewards and the end.

Minari writes what it is given and reads what is there, so that nothing of an episode need fit the dataset's spaces.

The emulator's screens are turned into frames as the protocol does: grey, resized by area. A screen is what
gymnasium's environment showed after its last skipped frame, without the protocol's maximum over the last two.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np
from numpy.typing import NDArray

from zoo.atari.protocol import FRAME_SIZE, PROTOCOL, STACK
from zoo.frames.replay import Frames
from zoo.support.errors import QzooError

if TYPE_CHECKING:
    from minari import EpisodeData

Layout = str
"""frames, stacks, stacks_last (the stack is the last axis), grey_screens or rgb_screens."""


@dataclass(frozen=True)
class Played:
    """An episode.

    frames: uint8 (N, 84, 84), one a step, and the last state's where the dataset has it. before: those that stood
    before the first in its stack. actions: uint8 (steps,), in the full set. rewards: float32 (steps,). terminated:
    whether the game ended it.
    """

    frames: Frames
    before: Frames
    actions: NDArray[np.uint8]
    rewards: NDArray[np.float32]
    terminated: bool


@contextmanager
def reading(where: str) -> Iterator[None]:
    """Work that reads a dataset and writes nothing: whatever fails in it is damage, which can show anywhere.

    Raises:
        QzooError: in place of any other error.
    """
    try:
        yield
    except QzooError:
        raise
    except Exception as error:
        raise QzooError(f"{where} can't be read ({reason(error)}); fetch it again") from error


def reason(error: Exception) -> str:
    """What an error says, in one line."""
    return str(error).partition("\n")[0] or type(error).__name__


def convert(
    where: str, episode: EpisodeData, shape: tuple[int, ...] | None, layout: Layout, lookup: NDArray[np.uint8]
) -> Played:
    """Make an episode the protocol's.

    Args:
        where: names it in errors.
        shape: of an observation, as the dataset's space has it.
        lookup: the dataset's actions as indices in the full set.

    Raises:
        QzooError: it contradicts itself or the dataset's spaces, or holds what can't be used; names the step.
    """
    actions, rewards, terminated = _columns(where, episode, lookup)
    steps = len(actions)
    if steps == 0:
        none = np.empty((0, FRAME_SIZE, FRAME_SIZE), dtype=np.uint8)
        return Played(none, none, actions, rewards, False)
    observations = np.asarray(episode.observations)
    if observations.dtype != np.uint8 or _squeezed(observations.shape[1:]) != _squeezed(shape or ()):
        raise QzooError(
            f"{where}: observations are {observations.dtype} of {observations.shape[1:]}, its space is uint8 of {shape}"
        )
    if len(observations) not in (steps, steps + 1):
        raise QzooError(f"{where}: {len(observations)} observations of {steps} steps")
    observations = observations.reshape(len(observations), *_squeezed(observations.shape[1:]))
    frames, before = to_frames(where, observations, layout)
    return Played(frames, before, actions, rewards, terminated)


def to_frames(where: str, observations: NDArray[np.uint8], layout: Layout) -> tuple[Frames, Frames]:
    """Frames uint8 (N, 84, 84) of N observations, and those that stood before the first in its stack.

    Args:
        observations: without axes of length 1, but for the first.

    Raises:
        QzooError: a stack does not continue the one before it.
    """
    none = np.empty((0, FRAME_SIZE, FRAME_SIZE), dtype=np.uint8)
    if layout == "frames":
        return observations, none
    if layout.endswith("screens"):
        return np.stack([_frame(screen) for screen in observations]), none
    stacks = np.moveaxis(observations, -1, 1) if layout == "stacks_last" else observations
    assert stacks.shape[1] == STACK
    for step in range(1, len(stacks)):
        if not np.array_equal(stacks[step, :-1], stacks[step - 1, 1:]):
            raise QzooError(f"{where}, step {step}: its stack does not continue the one before, oldest frame first")
    before = stacks[0, :-1]
    return np.ascontiguousarray(stacks[:, -1]), before if before.any() else none


def _columns(
    where: str, episode: EpisodeData, lookup: NDArray[np.uint8]
) -> tuple[NDArray[np.uint8], NDArray[np.float32], bool]:
    """Actions in the full set, rewards, and whether the game ended the episode."""
    actions = _column(where, "actions", episode.actions, "iu", "whole numbers")
    given = _column(where, "rewards", episode.rewards, "iufb", "numbers")
    terminations = _column(where, "terminations", episode.terminations, "iub", "true or false").astype(bool)
    truncations = _column(where, "truncations", episode.truncations, "iub", "true or false").astype(bool)
    steps = len(given)
    if not len(actions) == len(terminations) == len(truncations) == steps:
        raise QzooError(
            f"{where}: {len(actions)} actions, {steps} rewards, {len(terminations)} terminations and "
            f"{len(truncations)} truncations don't agree"
        )
    with np.errstate(over="ignore"):  # what is too large for float32 becomes infinite, and is refused below
        rewards = given.astype(np.float32)
    ends = terminations | truncations
    for wrong, what in (
        ((actions < 0) | (actions >= len(lookup)), "an action that the environment has not"),
        (~np.isfinite(rewards), "a reward that is no finite number"),
        (ends & (np.arange(steps) < steps - 1), f"an end, but the episode has {steps} steps"),
    ):
        if wrong.any():
            raise QzooError(f"{where}, step {np.flatnonzero(wrong)[0]}: {what}")
    return lookup[actions], rewards, bool(terminations[-1:].any())


def _column(where: str, name: str, values: Any, kinds: str, what: str) -> NDArray[Any]:
    """One value a step, (steps,), of a dtype whose kind is among `kinds`."""
    column = np.asarray(values)
    if column.dtype.kind not in kinds or _squeezed(column.shape[1:]):
        raise QzooError(f"{where}: {name} are {column.dtype} of {column.shape[1:]}, not {what}, one a step")
    return column.reshape(-1)


def _squeezed(shape: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(size for size in shape if size != 1)


def _frame(screen: NDArray[np.uint8]) -> Frames:
    """A screen, uint8 (height, 160) or (height, 160, 3) -> a frame, as the protocol makes it of a grey screen.

    The weights of OpenCV's grey are those of the emulator's own palette. Only AirRaid's screen now and then has
    colours whose grey they do not give.
    """
    grey = screen if screen.ndim == 2 else cv2.cvtColor(screen, cv2.COLOR_RGB2GRAY)
    size = (PROTOCOL.width, PROTOCOL.height)
    return np.asarray(cv2.resize(grey, size, interpolation=cv2.INTER_AREA), dtype=np.uint8)
