"""Seeded damage to every kind of file that is read back: an error of one line, or the same result as before."""

import random
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests.converters.dqn_replay_helpers import rows_of, write_dqn_replay
from tests.model_helpers import frames, make_config, make_network
from tests.training.test_pretrain import SMALL
from zoo.converters.dqn_replay import import_dqn_replay
from zoo.converters.frame_set import open_frame_set
from zoo.critics.network import Critic, RamNetwork
from zoo.frames.build import block_frames
from zoo.frames.ram import ram_rows
from zoo.frames.store import FrameStore
from zoo.models.distributions import Support
from zoo.models.hub import load_qnetwork, model_info
from zoo.models.model_folder import write_model
from zoo.recipes.recipe import SHIPPED, load_recipe
from zoo.recorders import journal
from zoo.recordings.format import Recording, read_recording
from zoo.support.errors import QzooError
from zoo.support.state import load_state
from zoo.training.checkpoint import CHECKPOINT
from zoo.training.loop import train
from zoo.training.run import new_objective

CORRUPTIONS = 300


@dataclass(frozen=True)
class Kind:
    """files: those to damage. read: what is read back, comparable."""

    name: str
    files: list[Path]
    read: Callable[[], Any]


def numbers(episodes: Any) -> list[Any]:
    return [(e.seed, e.actions.tolist(), e.rewards.tolist(), e.terminated, e.truncated) for e in episodes]


@pytest.fixture(scope="module")
def kinds(
    recordings_dir: Path, recordings: list[Recording], store: FrameStore, tmp_path_factory: pytest.TempPathFactory
) -> list[Kind]:
    """One small file or folder of every kind, whole."""
    root = tmp_path_factory.mktemp("fuzz")
    found = []
    recording = shutil.copy(recordings_dir / "Breakout.random.parquet", root)
    found.append(Kind("recording", [Path(recording)], lambda: numbers(read_recording(Path(recording)).episodes)))

    network = make_network()
    write_model(network, make_config(network), root / "model", card="# card\n", results={"evaluation": None})
    parts = [root / "model" / name for name in ("config.json", "encoder.safetensors", "heads.safetensors")]
    found.append(Kind("model", parts, lambda: load_qnetwork(root / "model")(frames(2)).tolist()))
    info = root / "info"
    shutil.copytree(root / "model", info)
    found.append(Kind("results", [info / "results.json"], lambda: bool(model_info(info)) or True))

    train(new_objective(SMALL, store.games), store, SMALL, root / "run", device=torch.device("cpu"))
    checkpoint = root / "run" / CHECKPOINT

    def state() -> Any:
        tensors, facts = load_state(checkpoint)
        return {name: value.tolist() for name, value in tensors.items() if value.numel() < 5_000}, facts

    found.append(Kind("checkpoint", [checkpoint], state))

    facts = {"config": {"life_ends": True}, "values": {"spread": 1.0}}
    Critic("Pong", RamNetwork(6, 8, 5), Support(-1.0, 1.0, 5), 2.0, facts).save(root / "Pong.safetensors")
    state_of = torch.zeros(1, 2, 128, dtype=torch.uint8)

    def critic() -> Any:
        loaded = Critic.load(root / "Pong.safetensors")
        return loaded.game, loaded.scale, loaded.support, loaded.network(state_of).tolist()

    found.append(Kind("critic", [root / "Pong.safetensors"], critic))

    cache = root / "cache"
    wanted = [recordings[0]]
    ram_rows(wanted, cache)
    found.append(Kind("RAM", list(cache.glob("*.ram")), lambda: ram_rows(wanted, cache).sum(0).tolist()))

    blocks = root / "blocks"

    def held() -> Any:
        kept = block_frames(wanted, blocks, 1, lambda steps: None, None)
        return kept.fetch(torch.arange(len(kept))).sum((1, 2)).tolist()

    held()
    found.append(Kind("blocks", list(blocks.glob("*.blocks")), held))

    kept = root / "Breakout.journal"
    journal.append(kept, recordings[0].metadata, recordings[0].episodes[:2])
    journal.append(kept, recordings[0].metadata, recordings[0].episodes[2:4])

    def ended() -> Any:
        read = numbers(journal.read(kept)[1])
        return read == whole[: len(read)]  # what a kill cut off at the end is no damage

    whole = numbers(recordings[0].episodes[:4])
    found.append(Kind("journal", [kept], ended))

    imported = import_dqn_replay(write_dqn_replay(root / "Breakout", rows_of("Breakout", 3), 500).folder, root)[0]

    def opened() -> Any:
        data = open_frame_set(imported).store
        return data.actions.tolist(), data.rewards.tolist(), data.steps_left.tolist()

    pieces = [imported / "origin.json", *sorted((imported / "pieces").glob("*.parquet")), imported / "frames.u8"]
    found.append(Kind("imported set", pieces, opened))

    recipe = Path(shutil.copy(SHIPPED / "nature.critic_mixed40.toml", root / "nature.x.toml"))
    found.append(Kind("recipe", [recipe], lambda: load_recipe(recipe)))
    return found


def damaged(content: bytes, chance: random.Random) -> bytes:
    """Some damage: bits flipped, a part cut off, zeroed, repeated or put elsewhere, bytes put in."""
    data = bytearray(content)
    at, length = chance.randrange(len(data)), chance.randint(1, max(1, len(data) // 8))
    how = chance.randrange(6)
    if how == 0:
        for _ in range(chance.randint(1, 4)):
            data[chance.randrange(len(data))] ^= 1 << chance.randrange(8)
    elif how == 1:
        del data[at:]
    elif how == 2:
        data[at : at + length] = bytes(len(data[at : at + length]))
    elif how == 3:
        data[at:at] = data[at : at + length]
    elif how == 4:
        part = data[at : at + length]
        del data[at : at + length]
        data += part
    else:
        data[at:at] = bytes(chance.randrange(256) for _ in range(chance.randint(1, 8)))
    return bytes(data)


def test_damage_is_an_error_of_one_line_or_changes_nothing(kinds: list[Kind]) -> None:
    before = {kind.name: kind.read() for kind in kinds}
    faults = []
    for number in range(CORRUPTIONS):
        chance = random.Random(number)
        kind = kinds[number % len(kinds)]
        path = chance.choice(kind.files)
        content = path.read_bytes()
        others = {other: other.read_bytes() for other in kind.files}
        try:
            path.write_bytes(damaged(content, chance))
            try:
                found = kind.read()
            except QzooError as error:
                if "\n" in str(error):
                    faults.append((number, kind.name, path.name, f"several lines: {error}"))
            except Exception as error:
                faults.append((number, kind.name, path.name, f"{type(error).__name__}: {error}"[:150]))
            else:
                if found is not True and not same(found, before[kind.name]):
                    faults.append((number, kind.name, path.name, "taken without a word"))
        finally:
            for other, kept in others.items():
                other.write_bytes(kept)
    assert not faults, "\n".join(map(str, faults))


def same(one: Any, other: Any) -> bool:
    if isinstance(one, float) and isinstance(other, float) and np.isnan(one) and np.isnan(other):
        return True
    return bool(one == other)
