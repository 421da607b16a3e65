"""A plain emulator under the protocol: RAM, rewards and, where asked for, the frames of ale-py's vector environment."""

from __future__ import annotations

import hashlib
from functools import cache
from pathlib import Path

import ale_py
import cv2
import numpy as np
from ale_py import roms
from numpy.typing import NDArray

from zoo.atari.games import get_game
from zoo.atari.protocol import DEFAULT_VARIANT, NUM_ACTIONS, PROTOCOL, RAM_BYTES, Variant
from zoo.atari.seeded_start import SeededStart
from zoo.support.errors import QzooError

ACTION_NAMES = tuple(ale_py.Action(index).name for index in range(NUM_ACTIONS))
"""Of the full 18 actions: NOOP, FIRE, UP, ..."""
ale_py.ALEInterface.setLoggerMode(ale_py.LoggerMode.Error)


@cache
def rom_path(game: str) -> Path:
    """Path of the ROM that ale-py ships for `game`."""
    path = roms.get_rom_path(get_game(game).rom)
    if path is None:
        raise QzooError(f"{game}: ale-py {ale_py.__version__} ships no ROM {get_game(game).rom!r}")
    return Path(path)


@cache
def rom_md5(game: str) -> str:
    """md5 of the ROM file, in hex: a recording replays on this ROM only."""
    return hashlib.md5(rom_path(game).read_bytes(), usedforsecurity=False).hexdigest()


@cache
def action_sets(game: str) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """The game's minimal and its legal set, as ALE numbers actions; both at once, as it takes a ROM to be loaded."""
    ale = make_ale(game, seed=0)
    minimal, legal = ale.getMinimalActionSet(), ale.getLegalActionSet()
    return tuple(int(action.value) for action in minimal), tuple(int(action.value) for action in legal)


def minimal_actions(game: str) -> tuple[int, ...]:
    """The game's own legal actions, as indices in the full 18-action set."""
    return action_sets(game)[0]


def action_mask(game: str) -> NDArray[np.bool_]:
    """Which of the full 18 actions the game knows: bool (18,), True where legal."""
    mask = np.zeros(NUM_ACTIONS, dtype=np.bool_)
    mask[list(minimal_actions(game))] = True
    return mask


def _check_variant(game: str, variant: Variant) -> None:
    table = get_game(game)
    if variant.mode is not None and variant.mode not in table.modes:
        raise QzooError(f"{game}: mode {variant.mode} does not exist; choose from {list(table.modes)}")
    if variant.difficulty is not None and variant.difficulty not in table.difficulties:
        raise QzooError(
            f"{game}: difficulty {variant.difficulty} does not exist; choose from {list(table.difficulties)}"
        )


def make_ale(game: str, seed: int, variant: Variant = DEFAULT_VARIANT) -> ale_py.ALEInterface:
    """A plain emulator at the start of the episode that `seed` names (0 <= seed < 2**31)."""
    _check_variant(game, variant)
    ale = ale_py.ALEInterface()
    ale.setFloat("repeat_action_probability", PROTOCOL.sticky_actions)
    # Not PROTOCOL.frame_skip: Berzerk and DoubleDunk press buttons before they start, and would press them longer
    # than in the vector environment, which skips by itself.
    ale.setInt("frame_skip", 1)
    _load(ale, game, seed, variant)
    return ale


def _load(ale: ale_py.ALEInterface, game: str, seed: int, variant: Variant) -> None:
    ale.setInt("random_seed", seed)  # takes effect when the ROM is loaded
    ale.loadROM(rom_path(game))
    if variant.mode is not None:
        ale.setMode(variant.mode)
    if variant.difficulty is not None:
        ale.setDifficulty(variant.difficulty)
    ale.reset_game()


@cache
def _seeded_start(game: str, variant: Variant) -> SeededStart | None:
    try:
        return SeededStart(lambda seed: make_ale(game, seed, variant))
    except ValueError:
        return None


def reseed(ale: ale_py.ALEInterface, game: str, seed: int, variant: Variant = DEFAULT_VARIANT) -> None:
    """Start another episode on an emulator that `make_ale` made for this game and variant."""
    start = _seeded_start(game, variant)
    if start is None:
        _load(ale, game, seed, variant)
    else:
        start(ale, seed)


def play_step(ale: ale_py.ALEInterface, action: int) -> int:
    """Advance an emulator by one step of the protocol: 4 frames, in each of which the action before may stick.

    Args:
        action: an index in the full set of 18.

    Returns:
        The raw reward.
    """
    return sum(ale.act(action) for _ in range(PROTOCOL.frame_skip))


def take_row(ale: ale_py.ALEInterface, row: NDArray[np.uint8]) -> None:
    """Put an emulator's RAM and the lives left into a row, uint8 (129,), contiguous."""
    ale.getRAM(row[:RAM_BYTES])
    row[RAM_BYTES] = ale.lives()


class FrameEmulator:
    """One emulator and its newest frame: the maximum of the last two screens, grey, resized by area.

    On a game's default variant the frames are those of ale-py's vector environment (tested), the last one of an episode
    included: that environment takes no screen where an episode ends, so its maximum is then over what it has from
    before. Where a game ends within a step, the frame is that of the step before; where it ends with the step, or the
    step limit cuts it, the frame is the maximum of that one and of the last screen but one.

    Attributes:
        length: steps of this episode so far.
        terminated: whether the game is over. truncated: whether the step limit cut it instead.
    """

    def __init__(
        self, game: str, seed: int, variant: Variant = DEFAULT_VARIANT, max_steps: int = PROTOCOL.max_steps
    ) -> None:
        self.game, self.variant, self.max_steps = game, variant, max_steps
        self._ale = make_ale(game, seed, variant)
        self._newest: NDArray[np.uint8] = self._ale.getScreenGrayscale()
        self._before = np.zeros_like(self._newest)
        self._begin()

    def reset(self, seed: int) -> None:
        """Start the episode that `seed` names."""
        reseed(self._ale, self.game, seed, self.variant)
        self._ale.getScreenGrayscale(self._newest)
        self._before[:] = 0
        self._begin()

    def _begin(self) -> None:
        self.length, self.terminated, self.truncated = 0, False, False

    def step(self, action: int) -> int:
        """One step, up to the episode's end if that comes: `action` in the full set of 18; returns the raw reward."""
        ale, reward = self._ale, 0
        self.length += 1
        for left in reversed(range(PROTOCOL.frame_skip)):
            reward += ale.act(action)
            self.terminated = ale.game_over()
            self.truncated = left == 0 and self.length >= self.max_steps and not self.terminated
            if self.terminated or self.truncated:
                break  # takes no screen
            if left == 1:
                ale.getScreenGrayscale(self._before)
            if left == 0:
                ale.getScreenGrayscale(self._newest)
        np.maximum(self._newest, self._before, out=self._newest)
        return reward

    def frame(self, out: NDArray[np.uint8]) -> None:
        """Put the newest frame into `out`, uint8 (84, 84), contiguous."""
        cv2.resize(self._newest, (PROTOCOL.width, PROTOCOL.height), dst=out, interpolation=cv2.INTER_AREA)

    def screen(self) -> NDArray[np.uint8]:
        """The screen in colour, uint8 (210, 160, 3), of some games higher."""
        screen: NDArray[np.uint8] = self._ale.getScreenRGB()
        return screen

    def ram(self, out: NDArray[np.uint8]) -> None:
        """Put the RAM and the lives left into `out`, uint8 (129,), contiguous."""
        take_row(self._ale, out)
