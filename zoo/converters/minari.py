"""Minari Atari datasets, read through Minari itself, one episode at a time.

Observations may be grey frames of 84x84, stacks of four that continue each other, or the emulator's screens.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from zoo.atari.emulator import minimal_actions
from zoo.atari.games import get_game
from zoo.atari.protocol import FRAME_SIZE, NUM_ACTIONS, PROTOCOL, STACK
from zoo.converters.frame_set import FrameSetWriter, Origin, Piece, set_name
from zoo.converters.minari_episode import Layout, Played, convert, reading, reason
from zoo.frames.frames import FRAME_BYTES
from zoo.support.device import free_memory
from zoo.support.errors import QzooError
from zoo.support.files import check_room

if TYPE_CHECKING:
    from gymnasium.envs.registration import EnvSpec
    from minari import MinariDataset

KIND = "minari"
COMMIT_FRAMES = 20_000
SCREEN_WIDTH, SCREEN_HEIGHTS = 160, range(200, 261)

FAITHFUL_WRAPPERS = (
    *("AtariPreprocessing", "FrameStackObservation", "MaxAndSkipObservation", "GrayscaleObservation"),
    *("ResizeObservation", "ReshapeObservation", "RecordEpisodeStatistics", "OrderEnforcing", "PassiveEnvChecker"),
)
"""Wrappers of gymnasium that leave rewards alone, and ends too, unless they are set to end a life."""


@dataclass(frozen=True)
class Recorder:
    """What the environment's specification says of how a dataset was recorded; None where it does not."""

    env: str | None
    frame_skip: int | Literal["random"] | None
    sticky_actions: float | None
    full_action_set: bool | None
    settings: dict[str, Any]
    wrappers: list[str]


def import_minari(
    path: Path,
    out: Path,
    *,
    game: str | None = None,
    source: str = KIND,
    command: str = "",
    on_start: Callable[[int], None] = lambda steps: None,
    on_steps: Callable[[int], None] = lambda steps: None,
) -> tuple[Path, Origin]:
    """Import a dataset as a frame set in `out`; a killed import resumes where it last saved.

    Memory holds one episode as Minari gives it.

    Args:
        path: the dataset's folder (the one that holds `data`), or its `data`.
        game: by default the one that the dataset's environment names.
        on_start, on_steps: called with the number of steps there are, and of those read since the last call.

    Raises:
        QzooError: Minari is not installed; no dataset, or one of observations, actions, a frame skip or episodes
            that can't be made the protocol's; damage; not enough memory or disk.
    """
    dataset = open_dataset(path)
    with reading(f"{path}: its metadata"):
        total, recorder = dataset.total_steps, read_recorder(dataset)
    game = find_game(path, recorder, game)
    check_frame_skip(path, recorder)
    layout = find_layout(path, dataset)
    lookup = action_lookup(path, dataset, recorder, game)
    target = out / set_name(game, source)
    on_start(total)
    identity = {"kind": KIND, "path": str(path.resolve()), "id": dataset.id, "game": game, "steps": total}
    with FrameSetWriter(target, identity) as writer:
        check_room(out, FRAME_BYTES * (total - writer.transitions))
        on_steps(writer.transitions)
        saved = writer.frames
        for position in range(writer.position, len(dataset.episode_indices)):
            steps = add_episode(writer, read_episode(path, dataset, position, layout, lookup))
            if writer.frames - saved >= COMMIT_FRAMES or position == len(dataset.episode_indices) - 1:
                writer.commit(position + 1)
                saved = writer.frames
            on_steps(steps)
        about = Origin(
            game=game,
            source=source,
            kind=KIND,
            read_from=str(path),
            command=command,
            recorded=describe(dataset, layout, recorder),
            differs=differences(dataset, layout, recorder),
            scores_unknown=scores_unknown(recorder),
        )
        origin = writer.finish(about)
    return target, origin


def open_dataset(path: Path) -> MinariDataset:
    """The dataset in a folder.

    Raises:
        QzooError: Minari is not installed, or there is no dataset that it reads.
    """
    try:
        from minari import MinariDataset
    except ImportError as error:
        raise QzooError("format minari: Minari is not installed; pip install 'qzoo[minari]'") from error
    folder = path / "data" if (path / "data").is_dir() else path
    if not (folder / "metadata.json").is_file():
        raise QzooError(f"{path}: no Minari dataset, as it has no data/metadata.json")
    try:
        return MinariDataset(folder)
    except Exception as error:  # damaged metadata can fail anywhere within
        raise QzooError(f"{path}: Minari can't open it ({reason(error)})") from error


def read_recorder(dataset: MinariDataset) -> Recorder:
    """What its environment's specification says."""
    spec = dataset.env_spec
    if spec is None:
        return Recorder(None, None, None, None, {}, [])
    settings = {**_registered_settings(spec.id), **spec.kwargs}
    told = settings.get("frameskip")
    skip: int | Literal["random"] | None = told if isinstance(told, int) or told is None else "random"
    for wrapper in spec.additional_wrappers:
        own = {"AtariPreprocessing": "frame_skip", "MaxAndSkipObservation": "skip"}.get(wrapper.name)
        if own is not None and isinstance(skip, int):
            skip *= int((wrapper.kwargs or {}).get(own, PROTOCOL.frame_skip))
    wrappers = [
        wrapper.name + (json.dumps(wrapper.kwargs, default=str) if wrapper.kwargs else "")
        for wrapper in spec.additional_wrappers
    ]
    return Recorder(
        env=spec.id,
        frame_skip=skip,
        sticky_actions=settings.get("repeat_action_probability"),
        full_action_set=settings.get("full_action_space"),
        settings=settings,
        wrappers=wrappers,
    )


def find_game(path: Path, recorder: Recorder, wanted: str | None) -> str:
    """The game of the dataset's environment, which must be the one that is wanted, if one is.

    Raises:
        QzooError: it is not, or neither is known.
    """
    rom = recorder.settings.get("game")
    if rom is None:
        if wanted is None:
            raise QzooError(f"{path}: its environment {recorder.env!r} names no game; give `game`")
        return get_game(wanted).name
    game = get_game(str(rom)).name
    if wanted is not None and get_game(wanted).name != game:
        raise QzooError(f"game {wanted}: {path} was recorded on {game}")
    return game


def check_frame_skip(path: Path, recorder: Recorder) -> None:
    """Refuse steps of another length than the protocol's, where the dataset says.

    Raises:
        QzooError: they are.
    """
    skip = recorder.frame_skip
    if skip not in (None, PROTOCOL.frame_skip):
        raise QzooError(f"{path}: its frame skip is {skip}, the protocol's is {PROTOCOL.frame_skip}")


def find_layout(path: Path, dataset: MinariDataset) -> Layout:
    """How observations give frames.

    Raises:
        QzooError: they don't.
    """
    space = dataset.observation_space
    shape = tuple(size for size in (space.shape or ()) if size != 1)
    frame = (FRAME_SIZE, FRAME_SIZE)
    layouts = {frame: "frames", (STACK, *frame): "stacks", (*frame, STACK): "stacks_last"}
    if str(space.dtype) == "uint8":
        if shape in layouts:
            return layouts[shape]
        if shape[1:] in ((SCREEN_WIDTH,), (SCREEN_WIDTH, 3)) and shape[0] in SCREEN_HEIGHTS:
            return "rgb_screens" if shape[2:] else "grey_screens"
    raise QzooError(
        f"{path}: observations are {space}, neither uint8 frames of 84x84, stacks of {STACK} of them, nor screens"
    )


def action_lookup(path: Path, dataset: MinariDataset, recorder: Recorder, game: str) -> NDArray[np.uint8]:
    """The dataset's actions as indices in the full set: uint8 (actions,).

    Raises:
        QzooError: its actions are neither the full set nor the game's minimal one.
    """
    count = getattr(dataset.action_space, "n", None)
    if getattr(dataset.action_space, "start", 0) == 0:
        if count == NUM_ACTIONS and recorder.full_action_set is not False:
            return np.arange(NUM_ACTIONS, dtype=np.uint8)
        minimal = minimal_actions(game)
        if count == len(minimal) and not recorder.full_action_set:
            return np.array(minimal, dtype=np.uint8)
    raise QzooError(
        f"{path}: actions are {dataset.action_space}, neither the full set of {NUM_ACTIONS} "
        f"nor the {len(minimal_actions(game))} of {game}"
    )


def check_memory(path: Path, dataset: MinariDataset, position: int) -> None:
    """Refuse an episode that would not fit in memory, as Minari reads it whole.

    Raises:
        QzooError: says how much it takes.
    """
    (metadata,) = dataset.storage.get_episode_metadata([dataset.episode_indices[position]])
    need = int(metadata["total_steps"] + 1) * int(np.prod(dataset.observation_space.shape or (1,)))
    free = free_memory()
    if 0 < free < need:
        raise QzooError(f"{path}: episode {position} takes {need / 1e9:.1f} GB of memory, {free / 1e9:.1f} GB are free")


def read_episode(
    path: Path, dataset: MinariDataset, position: int, layout: Layout, lookup: NDArray[np.uint8]
) -> Played:
    """An episode in the protocol's terms.

    Raises:
        QzooError: as `check_memory` and `convert`; or damage.
    """
    where = f"{path}: episode {position}"
    with reading(where):
        check_memory(path, dataset, position)
        return convert(where, dataset[position], dataset.observation_space.shape, layout, lookup)


def add_episode(writer: FrameSetWriter, played: Played) -> int:
    """Write an episode's frames and its piece; returns the number of steps that the dataset has of it."""
    frames, actions, rewards = played.frames, played.actions, played.rewards
    steps = len(actions)
    if steps == 0:
        writer.left_out["empty_episode"] += 1
        return 0
    if played.terminated:
        frames = frames[:steps]
    elif len(frames) == steps:  # the state after the last step is missing: the one before it must do
        writer.left_out["cut"] += 1
        actions, rewards = actions[:-1], rewards[:-1]
    start = writer.frames
    writer.add_frames(played.before)
    writer.add_frames(frames)
    if len(actions):
        # One that did not end was stopped by the recorder, by a rule of its own, unless it came to the limit.
        whole = played.terminated or len(actions) >= PROTOCOL.max_steps
        first = start + len(played.before)
        writer.add_piece(Piece(start, first, actions, rewards, played.terminated, whole))
    return steps


def describe(dataset: MinariDataset, layout: Layout, recorder: Recorder) -> dict[str, Any]:
    """What the dataset says of itself, for `origin.json`."""
    metadata = dataset.storage.metadata
    names = ("algorithm_name", "description", "code_permalink", "minari_version")
    content = {
        "id": dataset.id,
        "env": recorder.env,
        "settings": recorder.settings,
        "wrappers": recorder.wrappers,
        "observations": layout,
        **{name: metadata[name] for name in names if name in metadata},
    }
    described: dict[str, Any] = json.loads(json.dumps(content, default=str))
    return described


def differences(dataset: MinariDataset, layout: Layout, recorder: Recorder) -> list[str]:
    """In what the dataset is, or may be, unlike our own recordings."""
    found = ["ROM and emulator: not said by the dataset"]
    if recorder.sticky_actions != PROTOCOL.sticky_actions:
        told = "not told" if recorder.sticky_actions is None else recorder.sticky_actions
        found.append(f"sticky actions: {told}, ours {PROTOCOL.sticky_actions}")
    if recorder.frame_skip is None:
        found.append(f"frame skip: not told, ours {PROTOCOL.frame_skip}")
    if layout.endswith("screens"):
        found.append("frames: made of the last screen alone, ours of the maximum of the last two")
    if not layout.startswith("stacks") and dataset.storage.jpeg_encoding:
        found.append("frames: were compressed as JPEG, which changes them")
    for name in ("mode", "difficulty"):
        if recorder.settings.get(name) is not None:
            found.append(f"{name}: {recorder.settings[name]}, ours the game's default")
    if recorder.wrappers:
        found.append(f"wrappers, which may change rewards and ends: {', '.join(recorder.wrappers)}")
    return found


def scores_unknown(recorder: Recorder) -> str:
    """Why rewards may not sum to the game's own scores; empty where they do."""
    if recorder.env is None:
        return "its environment is not said, so its rewards may be anything"
    ends_lives = '"terminal_on_life_loss": true'
    doubtful = [
        wrapper
        for wrapper in recorder.wrappers
        if wrapper.partition("{")[0] not in FAITHFUL_WRAPPERS or ends_lives in wrapper
    ]
    return f"its environment was wrapped in {', '.join(doubtful)}, which may change rewards or ends" * bool(doubtful)


def _registered_settings(env: str) -> dict[str, Any]:
    """The settings that an environment has by default, where this ale-py still knows it."""
    import gymnasium

    try:
        spec: EnvSpec = gymnasium.spec(env)
    except gymnasium.error.Error:
        return {}
    return dict(spec.kwargs)
