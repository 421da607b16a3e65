"""What several tests share: a little real play, recorded once a test process."""

from pathlib import Path

import pytest
import torch

from zoo.frames.store import FrameStore, build_store
from zoo.recorders.job import RecordJob
from zoo.recorders.record import record
from zoo.recordings.format import Recording, read_recording

GAMES = ("Breakout", "SpaceInvaders")
torch.set_num_threads(1)


@pytest.fixture(scope="session")
def recordings_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with about 600 random transitions of each of `GAMES`."""
    folder = tmp_path_factory.mktemp("recordings")
    for game in GAMES:
        record(RecordJob(game, "random", 600, seed=0, out=folder, command="a test"))
    return folder


@pytest.fixture(scope="session")
def recordings(recordings_dir: Path) -> list[Recording]:
    """The recordings of `recordings_dir`, in the order of `GAMES`."""
    return [read_recording(recordings_dir / f"{game}.random.parquet") for game in GAMES]


@pytest.fixture(scope="session")
def store(recordings: list[Recording]) -> FrameStore:
    """Their frames, in RAM."""
    return build_store(recordings, workers=1)
