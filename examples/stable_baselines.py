"""A DQN of Stable-Baselines3 on features of a pretrained encoder (pip install 'qzoo[sb3]').

python examples/stable_baselines.py
"""

import argparse

from stable_baselines3 import DQN

from zoo.integrations.gymnasium import make_env
from zoo.integrations.stable_baselines import EncoderExtractor

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("--encoder", default="nature.scaledql_learner12")
parser.add_argument("--game", default="Freeway")
parser.add_argument("--steps", type=int, default=3_000)
parser.add_argument("--train", action="store_true", help="train the encoder too; by default it is frozen")
arguments = parser.parse_args()

policy = {
    "features_extractor_class": EncoderExtractor,
    "features_extractor_kwargs": {"encoder": arguments.encoder, "train": arguments.train},
    "net_arch": [256],
}
model = DQN(
    "CnnPolicy", make_env(arguments.game), policy_kwargs=policy, buffer_size=5_000, learning_starts=500, verbose=1
)
model.learn(arguments.steps, log_interval=1)
