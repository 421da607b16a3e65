"""Encoders on Gymnasium's environments, and the protocol's environment as Gymnasium makes it.

env = make_env("Breakout")                       # frames as encoders want them, the game's own actions
env = FeatureObservation(env, zoo.load("..."))   # features in the place of frames
"""

from __future__ import annotations

import logging
from functools import partial
from typing import Any, overload

import ale_py
import gymnasium
import numpy as np
import torch
from gymnasium.spaces import Box, Space
from gymnasium.vector import AutoresetMode, SyncVectorEnv
from gymnasium.wrappers import AtariPreprocessing, FrameStackObservation, TimeLimit
from numpy.typing import NDArray

from zoo.atari.games import get_game
from zoo.atari.protocol import DEFAULT_VARIANT, FRAME_SIZE, PROTOCOL, STACK, Variant
from zoo.models.encoder import INPUT_SHAPE, Encoder
from zoo.support.errors import QzooError

logger = logging.getLogger(__name__)
gymnasium.register_envs(ale_py)


@overload
def make_env(
    game: str, num_envs: None = None, variant: Variant = DEFAULT_VARIANT, **settings: Any
) -> gymnasium.Env[NDArray[np.uint8], Any]: ...


@overload
def make_env(
    game: str, num_envs: int, variant: Variant = DEFAULT_VARIANT, **settings: Any
) -> SyncVectorEnv[Any, Any]: ...


def make_env(game: str, num_envs: int | None = None, variant: Variant = DEFAULT_VARIANT, **settings: Any) -> Any:
    """One environment under the protocol, as Gymnasium's own wrappers make it, or a vector environment of several.

    Observations are uint8 (4, 84, 84), oldest frame first. Actions are the game's own, 0 to their number: an agent's
    are of the full set of 18, `Agent.own_action` turns them. Rewards are raw.

    Args:
        num_envs: by default one environment; else a `SyncVectorEnv` of so many, in which a step that ends an episode
            gives the first state of the next one (`AutoresetMode.SAME_STEP`).
        variant: mode and difficulty.
        settings: more for `gymnasium.make`, such as `render_mode`.

    Raises:
        QzooError: no such game, or less than one environment.
    """
    if num_envs is not None:
        if num_envs < 1:
            raise QzooError(f"num_envs {num_envs}: must be at least 1")
        one: Any = partial(make_env, game, None, variant, **settings)
        return SyncVectorEnv([one] * num_envs, autoreset_mode=AutoresetMode.SAME_STEP)
    table = get_game(game)
    flavour = {"mode": variant.mode, "difficulty": variant.difficulty}
    more: dict[str, Any] = {name: value for name, value in flavour.items() if value is not None} | settings
    env: gymnasium.Env[Any, Any] = gymnasium.make(
        f"ALE/{table.name}-v5",
        frameskip=1,
        repeat_action_probability=PROTOCOL.sticky_actions,
        full_action_space=False,
        max_num_frames_per_episode=PROTOCOL.max_steps * PROTOCOL.frame_skip,
        **more,
    )
    env = AtariPreprocessing(env, noop_max=0, frame_skip=PROTOCOL.frame_skip, screen_size=FRAME_SIZE)
    env = TimeLimit(env, PROTOCOL.max_steps)
    return FrameStackObservation(env, STACK, padding_type="zero")


def check_frames(space: Space[Any], batched: bool = False) -> None:
    """Refuse observations that an encoder would misread, with what to change.

    Args:
        space: of the environment. batched: whether its first dimension counts environments.

    Raises:
        QzooError: scaled, in colours, channels last, not stacked, or of another size.
    """
    fix = "zoo.integrations.gymnasium.make_env makes them as trained"
    if not isinstance(space, Box):
        raise QzooError(f"observations: expected frames, got {type(space).__name__}; {fix}")
    shape = space.shape[1:] if batched else space.shape
    if space.dtype != np.uint8:
        raise QzooError(f"observations: {space.dtype}, expected uint8; leave scaling out (scale_obs=False); {fix}")
    if shape == INPUT_SHAPE:
        return
    faults = {
        (FRAME_SIZE, FRAME_SIZE): f"one frame; stack {STACK} (FrameStackObservation(env, {STACK}))",
        (FRAME_SIZE, FRAME_SIZE, STACK): "channels last; transpose them to (4, 84, 84)",
        (210, 160, 3): "raw screens; wrap AtariPreprocessing and FrameStackObservation around the environment",
        (STACK, FRAME_SIZE, FRAME_SIZE, 1): "an axis too many; make AtariPreprocessing with grayscale_newaxis=False",
        (STACK, FRAME_SIZE, FRAME_SIZE, 3): "in colours; make AtariPreprocessing with grayscale_obs=True",
    }
    what = faults.get(shape, f"expected {INPUT_SHAPE}; grey frames of 84x84, {STACK} of them, oldest first")
    raise QzooError(f"observations of shape {shape}: {what}; {fix}")


def check_env(env: gymnasium.Env[Any, Any]) -> None:
    """`check_frames`, and what can be seen of an environment's wrappers: the frame skip, and how a stack begins.

    Raises:
        QzooError: as `check_frames`; frames are skipped twice, or not as in training.
    """
    check_frames(env.observation_space)
    skips = []
    if isinstance(env.unwrapped, ale_py.AtariEnv):
        own = getattr(env.unwrapped, "_frameskip", 1) or 1
        if isinstance(own, tuple):
            raise QzooError(
                f"the environment skips {own[0]} to {own[1]} frames at random; make one of an ALE/...-v5 id"
            )
        skips.append(int(own))
    inner = env
    while isinstance(inner, gymnasium.Wrapper):
        if isinstance(inner, AtariPreprocessing):
            skips.append(inner.frame_skip)
        if isinstance(inner, FrameStackObservation) and inner.padding_type != "zero":
            logger.warning(
                "FrameStackObservation begins an episode with copies of its first frame; in training zeros stood there "
                "(padding_type='zero'): the features of the first three steps differ"
            )
        inner = inner.env
    skip = int(np.prod(skips)) if skips else PROTOCOL.frame_skip
    if skip != PROTOCOL.frame_skip:
        raise QzooError(
            f"frame skip {skip} ({' x '.join(map(str, skips))}): training skipped {PROTOCOL.frame_skip}; give "
            "gymnasium.make frameskip=1 and AtariPreprocessing frame_skip=4"
        )


@torch.inference_mode()
def features_of(encoder: Encoder, frames: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Features of frames: uint8 (B, 4, 84, 84) to float32 (B, D)."""
    device = next(encoder.parameters()).device
    features = encoder(torch.from_numpy(np.ascontiguousarray(frames)).to(device))
    made: NDArray[np.float32] = features.cpu().numpy()
    return made


class FeatureObservation(gymnasium.ObservationWrapper[Any, Any, Any]):
    """Features, float32 (D,), in the place of an environment's frames, uint8 (4, 84, 84).

    Raises:
        QzooError: as `check_env`.
    """

    def __init__(self, env: gymnasium.Env[Any, Any], encoder: Encoder) -> None:
        check_env(env)
        super().__init__(env)
        self.encoder = encoder.eval()
        self.observation_space = Box(-np.inf, np.inf, (encoder.feature_dim,), np.float32)

    def observation(self, observation: Any) -> NDArray[np.float32]:
        """Features of a stack of frames."""
        (features,) = features_of(self.encoder, np.asarray(observation)[None])
        return np.asarray(features)


class FeatureVectorObservation(gymnasium.vector.VectorObservationWrapper):
    """Features, float32 (N, D), in the place of the frames of a vector environment, uint8 (N, 4, 84, 84).

    Raises:
        QzooError: as `check_frames`.
    """

    def __init__(self, env: gymnasium.vector.VectorEnv[Any, Any, Any], encoder: Encoder) -> None:
        check_frames(env.single_observation_space)
        super().__init__(env)
        self.encoder = encoder.eval()
        self.single_observation_space = Box(-np.inf, np.inf, (encoder.feature_dim,), np.float32)
        self.observation_space = gymnasium.vector.utils.batch_space(self.single_observation_space, env.num_envs)

    def observations(self, observations: Any) -> NDArray[np.float32]:
        """Features of stacks of frames."""
        return features_of(self.encoder, np.asarray(observations))
