"""Recordings as Minari datasets: 84x84 grey frames, the full action set, raw rewards."""

from __future__ import annotations

import dataclasses
import json
import re
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import ale_py
import gymnasium
import numpy as np
from gymnasium import spaces
from gymnasium.envs.registration import EnvSpec, WrapperSpec

from zoo.atari.games import get_game
from zoo.atari.protocol import FRAME_SIZE, NUM_ACTIONS, PROTOCOL
from zoo.frames.build import fingerprint
from zoo.frames.frames import FRAME_BYTES
from zoo.frames.replay import replayed
from zoo.recordings.format import Recording
from zoo.support.errors import QzooError
from zoo.support.files import alone_at, check_room, reserve, writing

if TYPE_CHECKING:
    from minari.dataset.minari_storage import MinariStorage

KEY = "qzoo"
"""Where the dataset's metadata says which recordings it holds."""
OVERHEAD = 1 << 20
"""Bytes that HDF5 takes at most for an episode beside its frames, which it pads by less than a quarter."""


def export_minari(
    recordings: Sequence[Recording],
    out: Path,
    *,
    command: str = "",
    workers: int | None = None,
    on_steps: Callable[[int], None] = lambda steps: None,
) -> tuple[str, Path]:
    """Write the recordings of one game and source as the dataset GAME/SOURCE-v0 below `out`.

    With `out` as MINARI_DATASETS_PATH, `minari.load_dataset` finds it. Where the same play was exported before,
    nothing is done.

    Returns:
        The dataset's id and its folder.

    Raises:
        QzooError: Minari is not installed; another dataset is in the way, or another export writes it; a recording
            that does not replay; a full disk.
    """
    try:
        from minari.dataset.minari_storage import MinariStorage
    except ImportError as error:
        raise QzooError("format minari: Minari is not installed; pip install 'qzoo[minari]'") from error
    metadata = recordings[0].metadata
    name = f"{metadata.game}/{re.sub('[^-_A-Za-z0-9]', '-', metadata.source)}-v0"
    target = out / name
    building = target.with_name(f".{target.name}.partial")
    with writing(target), alone_at(target, "another export writes it; let it end, or give another `out`", once=True):
        if _is_there(target, recordings):
            on_steps(sum(recording.steps for recording in recordings))
            return name, target
        shutil.rmtree(building, ignore_errors=True)  # what a killed one left
        try:
            building.mkdir(parents=True)
            check_room(out, FRAME_BYTES * sum(recording.steps + len(recording.episodes) for recording in recordings))
            storage = MinariStorage.new(
                (building / "data").resolve(),  # Minari loses its way in a relative one
                observation_space=spaces.Box(0, 255, (FRAME_SIZE, FRAME_SIZE), np.uint8),
                action_space=spaces.Discrete(NUM_ACTIONS),
                env_spec=environment(metadata.game),
                jpeg_encoding=False,
            )
            storage.update_metadata(_metadata(name, recordings, command))
            _write_episodes(storage, recordings, workers, on_steps)
            building.replace(target)
        finally:
            shutil.rmtree(building, ignore_errors=True)
    return name, target


def environment(game: str) -> EnvSpec:
    """The specification of the gymnasium environment whose observations and actions are those of the protocol."""
    wrapper = WrapperSpec(
        name="AtariPreprocessing",
        entry_point="gymnasium.wrappers.atari_preprocessing:AtariPreprocessing",
        kwargs={
            "noop_max": PROTOCOL.noop_max,
            "frame_skip": PROTOCOL.frame_skip,
            "screen_size": FRAME_SIZE,
            "terminal_on_life_loss": PROTOCOL.episodic_life,
            "grayscale_obs": PROTOCOL.grayscale,
        },
    )
    spec = gymnasium.spec(f"ALE/{get_game(game).name}-v5")
    settings = {
        **spec.kwargs,
        "frameskip": 1,  # the wrapper skips
        "repeat_action_probability": PROTOCOL.sticky_actions,
        "full_action_space": True,
        "max_num_frames_per_episode": PROTOCOL.max_steps * PROTOCOL.frame_skip,
    }
    return dataclasses.replace(spec, kwargs=settings, additional_wrappers=(wrapper,))


def _write_episodes(
    storage: MinariStorage,
    recordings: Sequence[Recording],
    workers: int | None,
    on_steps: Callable[[int], None],
) -> None:
    from minari.data_collector import EpisodeBuffer

    storage.update_episodes([])  # makes the file
    for number, (episode, frames) in enumerate(replayed(recordings, workers, on_steps=on_steps)):
        last = np.arange(episode.length) == episode.length - 1
        buffer: Any = EpisodeBuffer(
            observations=frames,
            actions=episode.actions.astype(np.int64),
            rewards=episode.rewards.astype(np.float64),
            terminations=last & episode.terminated,
            truncations=last & episode.truncated,
        )
        _reserve(storage.data_path, frames.nbytes * 5 // 4 + OVERHEAD)
        storage.update_episodes([buffer])
        # Not Minari's own `seed`: that one is what gymnasium's reset takes, and names another episode.
        origin = {"ale_seed": episode.seed, "policy": episode.policy, "policy_step": episode.policy_step}
        _reserve(storage.data_path, OVERHEAD)
        storage.update_episode_metadata([origin], [number])


def _reserve(folder: Path, size: int) -> None:
    """Reserve `size` bytes more for HDF5, which writes over them and cuts off what it did not need."""
    path = folder / "main_data.hdf5"
    reserve(path, path.stat().st_size + size)


def _metadata(name: str, recordings: Sequence[Recording], command: str) -> dict[str, Any]:
    import minari

    metadata = recordings[0].metadata
    return {
        "dataset_id": name,
        "minari_version": minari.__version__,
        "algorithm_name": metadata.source,
        "description": (
            f"{metadata.game}, {metadata.source} play recorded by qzoo, replayed into 84x84 grey frames. Sticky "
            f"actions {PROTOCOL.sticky_actions}, frame skip {PROTOCOL.frame_skip}, the full action set, raw rewards."
        ),
        "requirements": [f"ale-py=={ale_py.__version__}", "gymnasium>=1.1"],
        KEY: {
            "fingerprint": fingerprint(recordings),
            "command": command,
            "recorded_by": [recording.metadata.command for recording in recordings],
            "rom_md5": metadata.rom_md5,
            "license": metadata.license,
            "protocol": metadata.protocol,
        },
    }


def _is_there(target: Path, recordings: Sequence[Recording]) -> bool:
    """Whether the dataset of these recordings is there.

    Raises:
        QzooError: another one is.
    """
    if not target.exists():
        return False
    if _exported(target) != fingerprint(recordings):
        raise QzooError(f"{target}: holds another selection; move it away, or give another `out`")
    return True


def _exported(target: Path) -> str | None:
    """The fingerprint of the recordings that a dataset was made of; None where it does not say."""
    try:
        content = json.loads((target / "data" / "metadata.json").read_text())
        return str(content[KEY]["fingerprint"])
    except (OSError, ValueError, KeyError, TypeError):
        return None
