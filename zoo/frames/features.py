"""Features instead of frames: what a frozen network makes of every state, computed once and kept in a cache."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from zoo.frames.build import frames_version
from zoo.frames.frames import RawFrames
from zoo.frames.store import FrameStore
from zoo.support.errors import QzooError
from zoo.support.files import check_room, lock_beside, make_folder, remove_leftovers, set_aside
from zoo.support.state import load_state, save_state

FEATURE_BLOCK = 512
"""States that go through the network at a time."""
SAMPLED_FRAMES = 1_000
"""Frames that name a store."""
Network = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class FeatureStore(FrameStore):
    """A store whose states are features, computed once by a frozen network: `frames` are rows of float (F, K).

    Row f is what the network makes of the stack that ends in frame f; batches carry (B, K) rows as
    observations.
    """

    def stack(self, frame_index: Tensor, episode_start: Tensor) -> Tensor:
        """The features of states: (B, K)."""
        return self.frames.fetch(frame_index)


def feature_store(store: FrameStore, network: Network, device: torch.device) -> FeatureStore:
    """Run a frozen network, uint8 (B, 4, 84, 84) -> float (B, K), over every state of a store.

    Features are kept in bfloat16, on the store's device.
    """
    return with_features(store, compute_features(store, network, device))


def with_features(store: FrameStore, features: Tensor) -> FeatureStore:
    """The store with features, (F, K) on its device, in the place of its frames."""
    return FeatureStore(**{**vars(store), "frames": RawFrames(features)})


def compute_features(store: FrameStore, network: Network, device: torch.device) -> Tensor:
    """Those of every frame of a store, bfloat16 (F, K) on the store's device; see `feature_store`."""
    held = store.actions.device
    start = torch.zeros(len(store.frames), dtype=torch.int64, device=held)
    start[store.episode_start] = store.episode_start
    # Each frame belongs to the last episode that starts at or before it; transitions name those starts.
    start = torch.cummax(start, dim=0).values
    features: Tensor | None = None
    every = torch.arange(len(store.frames), device=held)
    with torch.no_grad():
        for block in every.split(FEATURE_BLOCK):
            part = network(store.stack(block, start[block]).to(device)).to(held, torch.bfloat16)
            if features is None:
                features = torch.empty(len(every), part.shape[1], dtype=part.dtype, device=part.device)
            features[block] = part
    assert features is not None
    return features


def cached_feature_store(
    store: FrameStore,
    network: Network,
    device: torch.device,
    cache: Path,
    *,
    made_by: str,
    width: int,
) -> FeatureStore:
    """As `feature_store`, by way of a file in a cache folder, `GAME.KEY.features.safetensors`.

    Where the file holds other features than its name says, or is damaged, they are computed again, and it is kept under
    another name.

    Args:
        made_by: names the network: its weights, and the precision that it computes in.
        width: K.

    Raises:
        QzooError: no room on the disk, or the file can't be written.
    """
    key = hashlib.sha256(f"{store_digest(store)} {made_by} {frames_version()}".encode()).hexdigest()[:16]
    path = cache / f"{'.'.join(store.games)}.{key}.features.safetensors"
    make_folder(cache)
    with lock_beside(path):
        remove_leftovers(path)
        features = _read(path, key, (len(store.frames), width)) if path.exists() else None
        if features is None:
            if path.exists():
                set_aside(path)
            check_room(cache, 2 * len(store.frames) * width)
            features = compute_features(store, network, device)
            save_state(path, {"features": features}, {"key": key})
    return with_features(store, features.to(store.actions.device))


def store_digest(store: FrameStore) -> str:
    """Names the states of a store, by where its episodes begin and by frames of it, evenly spread."""
    total = hashlib.sha256(str(len(store.frames)).encode())
    some = torch.linspace(0, len(store.frames) - 1, min(len(store.frames), SAMPLED_FRAMES)).long()
    frames = store.frames.fetch(some.to(store.actions.device))
    for values in (frames, store.episode_start):
        total.update(values.cpu().contiguous().numpy().data)
    return total.hexdigest()


def _read(path: Path, key: str, shape: tuple[int, int]) -> Tensor | None:
    """The features of a file; None where it is damaged, or holds others."""
    try:
        tensors, info = load_state(path)
    except QzooError:
        return None
    features = tensors.get("features")
    fits = features is not None and features.dtype == torch.bfloat16 and tuple(features.shape) == shape
    return features if fits and info.get("key") == key else None
