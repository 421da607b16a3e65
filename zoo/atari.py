"""The environment protocol: the one place that says what a step, a frame and an action are.

Everything that plays, records, replays or evaluates gets its environments here:

- `make_ale`: one plain emulator, fast, gives RAM and rewards; used to record and verify, and (`FrameEmulator`,
  which makes the 84x84 frames) to replay.
- `make_vector_env`: ale-py's C++ vector environment, which makes the frames as well; used to evaluate.
- `make_variant_env`: the same for a game's other modes and difficulties.

All give the same rewards, ends and frames for the same seed and actions.
"""

from __future__ import annotations

import hashlib
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import ale_py
import numpy as np
from ale_py import roms
from ale_py.vector_env import AtariVectorEnv
from numpy.typing import NDArray

from zoo.errors import QzooError
from zoo.games import get_game
from zoo.seeded_start import SeededStart

if TYPE_CHECKING:
    from zoo.variant_env import VariantVectorEnv

ale_py.ALEInterface.setLoggerMode(ale_py.LoggerMode.Error)

NUM_ACTIONS = 18
FRAME_SIZE = 84
STACK = 4
RAM_BYTES = 128
ROW_BYTES = RAM_BYTES + 1
"""RAM of a state, and the lives left."""
MAX_SEED = 1_000_000
"""Of a training or an evaluation: the seeds of its episodes are made of it, and stay below 2**31."""


@dataclass(frozen=True)
class Protocol:
    """How the games are played (Machado et al. 2018's sticky actions, Dopamine's frames).

    Every model carries these fields in its config.json, and loading compares them.
    """

    sticky_actions: float = 0.25
    frame_skip: int = 4
    max_pool_frames: int = 2
    height: int = FRAME_SIZE
    width: int = FRAME_SIZE
    grayscale: bool = True
    resize: str = "area"
    stack: int = STACK
    stack_order: str = "oldest first"
    noop_max: int = 0
    fire_reset: bool = False
    episodic_life: bool = False
    max_steps: int = 27_000
    rewards: str = "raw; clipped to [-1, 1] in a loss only"
    action_set: str = "full 18, masked to the game's minimal set when acting"

    def to_dict(self) -> dict[str, Any]:
        """The fields as plain JSON types."""
        return asdict(self)


PROTOCOL = Protocol()


@dataclass(frozen=True)
class Variant:
    """A flavour of a game: ALE's mode and difficulty. `None` is the game's own default."""

    mode: int | None = None
    difficulty: int | None = None


DEFAULT_VARIANT = Variant()


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
def _action_sets(game: str) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """The game's minimal and its legal set, as ALE numbers actions; both at once, as it takes a ROM to be loaded."""
    ale = make_ale(game, seed=0)
    minimal, legal = ale.getMinimalActionSet(), ale.getLegalActionSet()
    return tuple(int(action.value) for action in minimal), tuple(int(action.value) for action in legal)


def minimal_actions(game: str) -> tuple[int, ...]:
    """The game's own legal actions, as indices in the full 18-action set."""
    return _action_sets(game)[0]


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


def play_step(ale: ale_py.ALEInterface, action: ale_py.Action) -> int:
    """Advance an emulator by one step of the protocol (4 frames, a sticky coin each); returns the raw reward."""
    return sum(ale.act(action) for _ in range(PROTOCOL.frame_skip))


@cache
def vector_actions(game: str) -> tuple[int, ...]:
    """For each of the full 18 actions its index in the "full" action set of ale-py's vector environment.

    That set is the same 18 in every game but Skiing, where it leaves out the actions that press the button. A plain
    emulator takes those for doing nothing.
    """
    legal = _action_sets(game)[1]
    return tuple(legal.index(action if action in legal else 0) for action in range(NUM_ACTIONS))


class FullActionVectorEnv(AtariVectorEnv):
    """ale-py's vector environment, taking indices in the full set of 18 actions in every game."""

    def __init__(self, game: str, num_envs: int, **settings: Any) -> None:
        super().__init__(get_game(game).rom, num_envs, full_action_space=True, **settings)
        self._lookup = np.array(vector_actions(game))

    def step(self, actions: NDArray[np.int64]) -> Any:
        """As ale-py's; `actions` int64 (num_envs,), below 18."""
        return super().step(self._lookup[actions])


def make_vector_env(game: str, num_envs: int, num_threads: int = 0) -> AtariVectorEnv:
    """ale-py's vector environment under the protocol.

    Observations are uint8 (num_envs, 4, 84, 84), oldest frame first. Always reset with an array of seeds:
    without one, every sub-environment gets the same stream of sticky coins. It plays the default mode and
    difficulty only.
    """
    return FullActionVectorEnv(
        game,
        num_envs,
        num_threads=num_threads,
        max_num_frames_per_episode=PROTOCOL.max_steps * PROTOCOL.frame_skip,
        repeat_action_probability=PROTOCOL.sticky_actions,
        autoreset_mode="NextStep",
        img_height=PROTOCOL.height,
        img_width=PROTOCOL.width,
        grayscale=PROTOCOL.grayscale,
        stack_num=PROTOCOL.stack,
        frameskip=PROTOCOL.frame_skip,
        maxpool=PROTOCOL.max_pool_frames == 2,
        noop_max=PROTOCOL.noop_max,
        episodic_life=PROTOCOL.episodic_life,
        reward_clipping=False,
        use_fire_reset=PROTOCOL.fire_reset,
    )


def make_variant_env(game: str, num_envs: int, variant: Variant = DEFAULT_VARIANT) -> VariantVectorEnv:
    """A vector environment of a game's modes and difficulties; slower than `make_vector_env`, otherwise alike.

    Raises:
        QzooError: no such mode or difficulty.
    """
    from zoo.variant_env import VariantVectorEnv  # it builds on this module

    return VariantVectorEnv(game, num_envs, variant)


def action_values() -> list[ale_py.Action]:
    """The full 18 actions in index order, for `play_step`."""
    return [ale_py.Action(index) for index in range(NUM_ACTIONS)]


def take_row(ale: ale_py.ALEInterface, row: NDArray[np.uint8]) -> None:
    """Put an emulator's RAM and the lives left into a row, uint8 (129,), contiguous."""
    ale.getRAM(row[:RAM_BYTES])
    row[RAM_BYTES] = ale.lives()
