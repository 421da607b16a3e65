"""A linear probe: how much of "a reward comes within 10 steps" is in frozen features of a game never trained on?

python examples/linear_probe.py
"""

import argparse

import torch

import zoo
from zoo.frames.store import FrameStore, build_store
from zoo.models.encoder import Encoder
from zoo.recordings.library import load_recordings

HORIZON = 10


def features_of(encoder: Encoder, store: FrameStore, index: torch.Tensor) -> torch.Tensor:
    """Features of the states of some transitions, float32 (B, D)."""
    with torch.inference_mode():
        blocks = [encoder(store.stack(store.frame_index[i], store.episode_start[i])) for i in index.split(256)]
    return torch.cat(blocks).clone()


def probe(features: torch.Tensor, labels: torch.Tensor, split: int) -> float:
    """Ridge regression on the first `split` rows; balanced accuracy on the rest, the threshold that of the mean."""
    inputs = torch.cat([features, torch.ones(len(features), 1)], dim=1).double()
    targets = labels.double() * 2 - 1
    known = inputs[:split]
    weights = torch.linalg.solve(known.T @ known + 10 * torch.eye(known.shape[1]).double(), known.T @ targets[:split])
    guess = (inputs[split:] @ weights) > (known @ weights).mean()
    truth = labels[split:]
    return 0.5 * float(guess[truth].double().mean() + (~guess[~truth]).double().mean())


parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("--game", default="SpaceInvaders")
parser.add_argument("--transitions", type=int, default=8_000)
arguments = parser.parse_args()

store = build_store(load_recordings([arguments.game], ("learner",), (), arguments.transitions))
index = torch.arange(0, store.transitions, 2)
rewards = store.gather(index, n_step=HORIZON, gamma=1.0).returns
labels = rewards != 0
split = len(index) // 2  # whole episodes apart, but for the one in the middle
pretrained = zoo.load("nature.scaledql_learner12")
torch.manual_seed(0)
untrained = Encoder(pretrained.arch, pretrained.feature_dim)
print(f"{arguments.game}: reward within {HORIZON} steps in {labels.double().mean():.0%} of {len(index)} states")
for name, encoder in (("pretrained", pretrained), ("untrained", untrained)):
    accuracy = probe(features_of(encoder, store, index), labels, split)
    print(f"{name:>10}: balanced accuracy {accuracy:.3f}")
