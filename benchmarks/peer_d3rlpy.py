"""d3rlpy's DiscreteCQL as a peer of our training step: run by the Python of an environment with d3rlpy.

    .venv-peers/bin/python benchmarks/peer_d3rlpy.py FOLDER --arch nature --batch-size 64

`zoo bench` starts it (`make peers` makes the environment) and talks to it in lines of JSON. The first line on standard
output says what it is, or {"error": ...}. To each {"steps": N} on standard input it takes N whole steps, sampling
included, and answers {"seconds": ...}. All else goes to standard error.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

DIFFERS = (
    "double Q-learning with QR-DQN's quantiles, ours C51's atoms, as many of them",
    "three online passes and a target pass a step, ours one and one: the next action is chosen by the online network, "
    "and the TD error and the conservative term each make a pass, and a backward pass, of their own",
    "one head for all games, over all 18 actions",
    "one-step returns: its picker that stacks frames knows no others",
    "a hard copy into the target network, no moving average; no feature normalization",
    "float32 throughout, the frames in the batch included; contiguous memory format; no CUDA graphs, its default",
    "memory that it frees goes back to the kernel, as is Python's and PyTorch's default; ours keeps it",
)
OWN_NATURE = "the encoder is d3rlpy's PixelEncoderFactory, as large as ours"
OUR_TRUNK = "the encoder is our trunk and linear layer in an encoder factory of its own"


def take_stdout() -> Callable[[dict[str, Any]], None]:
    """A function that writes a line of JSON to standard output; whatever else is printed goes to standard error."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)

    def answer(content: dict[str, Any]) -> None:
        print(json.dumps(content), file=answers, flush=True)

    return answer


def parse() -> argparse.Namespace:
    """The settings; their defaults are those of `zoo pretrain`."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("play", type=Path, help="folder with frames.npy and columns.npz")
    parser.add_argument("--arch", default="nature")
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--device", default="cpu", help="cpu or cuda:0")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--alpha", type=float, default=1.0)
    parser.add_argument("--gamma", type=float, default=0.99)
    parser.add_argument("--quantiles", type=int, default=51)
    parser.add_argument("--learning-rate", type=float, default=2e-4)
    parser.add_argument("--max-gradient-norm", type=float, default=10.0)
    parser.add_argument("--target-every", type=int, default=2000)
    return parser.parse_args()


def load_episodes(folder: Path) -> list[Any]:
    """Whole episodes with frames uint8 (T, 1, 84, 84)."""
    from d3rlpy.dataset import Episode

    frames, columns = np.load(folder / "frames.npy"), np.load(folder / "columns.npz")
    start, left, actions = (columns[name] for name in ("episode_start", "steps_left", "actions"))
    firsts = np.flatnonzero(np.diff(start, prepend=-1))
    episodes = []
    for first in firsts:
        rows = slice(first, first + left[first])
        episodes.append(
            Episode(
                observations=frames[start[first] : start[first] + left[first], None],
                actions=actions[rows, None],
                rewards=columns["rewards"][rows, None].astype(np.float32),
                terminated=bool(columns["terminated"][first]),
            )
        )
    return episodes


def encoder_factory(arch: str) -> Any:
    """d3rlpy's own for nature; our trunk and linear layer, plainly, for the others."""
    import torch.nn as nn
    from d3rlpy.models.encoders import EncoderFactory, PixelEncoderFactory

    if arch == "nature":
        return PixelEncoderFactory()
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
    from zoo.models.encoder import ARCHS, SpatialEmbedding

    @dataclass()
    class TrunkFactory(EncoderFactory):
        def create(self, observation_shape: Any) -> nn.Module:
            settings = ARCHS[arch]
            flat = SpatialEmbedding(settings.map_shape) if settings.embedding else nn.Flatten()
            return nn.Sequential(settings.trunk(), flat, nn.Linear(settings.map_size, settings.feature_dim), nn.ReLU())

        @staticmethod
        def get_type() -> str:
            return "trunk"

    return TrunkFactory()


class Peer:
    """The algorithm and its replay buffer, as d3rlpy's own `fit` uses them."""

    def __init__(self, settings: argparse.Namespace) -> None:
        import d3rlpy
        import torch

        torch.set_num_threads(settings.threads)
        self.device, self.torch = settings.device, torch
        self.algorithm = d3rlpy.algos.DiscreteCQLConfig(
            batch_size=settings.batch_size,
            learning_rate=settings.learning_rate,
            gamma=settings.gamma,
            alpha=settings.alpha,
            target_update_interval=settings.target_every,
            encoder_factory=encoder_factory(settings.arch),
            q_func_factory=d3rlpy.models.QRQFunctionFactory(n_quantiles=settings.quantiles),
            optim_factory=d3rlpy.optimizers.AdamWFactory(clip_grad_norm=settings.max_gradient_norm),
            observation_scaler=d3rlpy.preprocessing.PixelObservationScaler(),
            reward_scaler=d3rlpy.preprocessing.ClipRewardScaler(-1.0, 1.0),
        ).create(device=settings.device)
        self.algorithm.create_impl((4, 84, 84), 18)
        self.buffer = d3rlpy.dataset.ReplayBuffer(
            d3rlpy.dataset.InfiniteBuffer(),
            transition_picker=d3rlpy.dataset.FrameStackTransitionPicker(n_frames=4),
            episodes=load_episodes(settings.play),
            action_space=d3rlpy.ActionSpace.DISCRETE,
            action_size=18,
        )
        self.batch_size = settings.batch_size
        parameters = self.algorithm.impl.q_function.parameters()
        self.about = {
            "peer": "d3rlpy",
            "version": d3rlpy.__version__,
            "torch": torch.__version__,
            "precision": "float32",
            "parameters": sum(parameter.numel() for parameter in parameters),
            "differs": [*DIFFERS, OWN_NATURE if settings.arch == "nature" else OUR_TRUNK],
        }

    def take(self, steps: int) -> dict[str, float]:
        """Whole steps, and how long they took."""
        began = self.now()
        for _ in range(steps):
            self.algorithm.update(self.buffer.sample_transition_batch(self.batch_size))
        return {"seconds": self.now() - began}

    def now(self) -> float:
        """The time, when the device has done its work."""
        if self.device != "cpu":
            self.torch.cuda.synchronize()
        return time.perf_counter()


def main() -> int:
    """Answer until standard input ends."""
    settings = parse()
    answer = take_stdout()
    try:
        import d3rlpy  # noqa: F401
    except ImportError as error:
        answer({"error": f"{sys.executable} can't import d3rlpy ({error}); `make peers` makes an environment that can"})
        return 1
    peer = Peer(settings)
    answer(peer.about)
    for line in sys.stdin:
        answer(peer.take(int(json.loads(line)["steps"])))
    return 0


if __name__ == "__main__":
    sys.exit(main())
