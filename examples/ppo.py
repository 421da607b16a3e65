"""PPO in one file, in the manner of CleanRL, with a pretrained encoder in the place of its network.

python examples/ppo.py --game Freeway --train
"""

import argparse
import time

import numpy as np
import torch
from torch import nn
from torch.distributions import Categorical

import zoo

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("--encoder", default="nature.scaledql_learner12")
parser.add_argument("--game", default="Freeway")
parser.add_argument("--steps", type=int, default=100_000)
parser.add_argument("--num-envs", type=int, default=8)
parser.add_argument("--rollout", type=int, default=128, help="steps of each environment between updates")
parser.add_argument("--train", action="store_true", help="train the encoder too; by default it is frozen")
parser.add_argument("--learning-rate", type=float, default=2.5e-4)
parser.add_argument("--seed", type=int, default=0)
args = parser.parse_args()
GAMMA, LAMBDA, CLIP, ENTROPY, EPOCHS, MINIBATCHES = 0.99, 0.95, 0.1, 0.01, 4, 4

torch.manual_seed(args.seed)
env = zoo.make_env(args.game, args.num_envs)  # uint8 (num_envs, 4, 84, 84), rewards raw
encoder = zoo.load(args.encoder).requires_grad_(args.train)
actor = nn.Linear(encoder.feature_dim, int(env.single_action_space.n))
critic = nn.Linear(encoder.feature_dim, 1)
nn.init.orthogonal_(actor.weight, 0.01)
nn.init.orthogonal_(critic.weight, 1.0)
parameters = [p for part in (encoder, actor, critic) for p in part.parameters() if p.requires_grad]
optimizer = torch.optim.Adam(parameters, lr=args.learning_rate, eps=1e-5)


def features_of(observations: torch.Tensor) -> torch.Tensor:
    """uint8 (B, 4, 84, 84) to float32 (B, D)."""
    with torch.set_grad_enabled(args.train and torch.is_grad_enabled()):
        return encoder(observations)


shape = (args.rollout, args.num_envs)
# A frozen encoder's features are kept instead of frames: no update passes through it.
kept = (encoder.feature_dim,) if not args.train else (4, 84, 84)
states = torch.zeros(*shape, *kept, dtype=torch.float32 if not args.train else torch.uint8)
actions, log_probs = torch.zeros(shape, dtype=torch.long), torch.zeros(shape)
rewards, values, ends = torch.zeros(shape), torch.zeros(shape), torch.zeros(shape)
returns: list[float] = []
totals = np.zeros(args.num_envs)
observation, _ = env.reset(seed=args.seed)
began, steps = time.time(), 0
while steps < args.steps:
    with torch.no_grad():
        for t in range(args.rollout):
            frames = torch.from_numpy(observation)
            features = features_of(frames)
            policy = Categorical(logits=actor(features))
            action = policy.sample()
            states[t] = frames if args.train else features
            actions[t], log_probs[t], values[t] = action, policy.log_prob(action), critic(features).squeeze(1)
            observation, reward, terminated, truncated, _ = env.step(action.numpy())
            rewards[t] = torch.from_numpy(np.clip(reward, -1, 1))
            ends[t] = torch.from_numpy(terminated | truncated)
            totals += reward
            returns += totals[terminated | truncated].tolist()
            totals[terminated | truncated] = 0.0
        following = critic(features_of(torch.from_numpy(observation))).squeeze(1)
        advantages, running = torch.zeros(shape), torch.zeros(args.num_envs)
        for t in reversed(range(args.rollout)):
            delta = rewards[t] + GAMMA * following * (1 - ends[t]) - values[t]
            running = delta + GAMMA * LAMBDA * (1 - ends[t]) * running
            advantages[t], following = running, values[t]
        targets = advantages + values
    steps += args.rollout * args.num_envs
    for _ in range(EPOCHS):
        for rows in torch.randperm(args.rollout * args.num_envs).chunk(MINIBATCHES):
            features = states.flatten(0, 1)[rows]
            features = features_of(features) if args.train else features
            policy = Categorical(logits=actor(features))
            ratio = (policy.log_prob(actions.flatten()[rows]) - log_probs.flatten()[rows]).exp()
            advantage = advantages.flatten()[rows]
            advantage = (advantage - advantage.mean()) / (advantage.std() + 1e-8)
            gain = torch.min(ratio * advantage, ratio.clamp(1 - CLIP, 1 + CLIP) * advantage).mean()
            error = (critic(features).squeeze(1) - targets.flatten()[rows]).square().mean()
            loss = -gain + 0.5 * error - ENTROPY * policy.entropy().mean()
            optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(parameters, 0.5)
            optimizer.step()
    recent = f"{np.mean(returns[-20:]):.1f}" if returns else "none ended"
    print(f"step {steps:,}, {steps / (time.time() - began):.0f} steps/s, last 20 episodes: {recent}", flush=True)
