"""Play as people watch it: the screen in colour, and beside it the score, the values of actions and the one chosen."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import imageio_ffmpeg
import numpy as np
from numpy.typing import NDArray

from zoo.atari.emulator import ACTION_NAMES, FrameEmulator, minimal_actions
from zoo.atari.protocol import DEFAULT_VARIANT, FRAME_SIZE, PROTOCOL, STACK, Variant
from zoo.evaluation.scores import EVALUATION_SEED, Policy
from zoo.models.agent import Agent
from zoo.support.errors import QzooError
from zoo.support.files import replacing

FRAMES_PER_SECOND = 60 // PROTOCOL.frame_skip
SCALE = 2
PANEL_WIDTH = 320
WHITE, GREY, BLUE, ORANGE = (235, 235, 235), (120, 120, 120), (86, 180, 233), (230, 159, 0)
"""The last two of Okabe and Ito's palette."""
CURVE_STEPS = 300
"""How much of the value's past is drawn, 20 seconds of play."""
LINES_A_COLUMN = 0.5
"""Lines of text for each column of a screen in the terminal, so that it looks about square."""
Image = NDArray[np.uint8]


@dataclass(frozen=True)
class Moment:
    """A step of play as it is decided.

    screen: uint8 (210, 160, 3), RGB (some games are higher). score: so far. action: chosen, of the full set of 18.
    values: of the 18 actions, float (18,); None where the policy has none.
    """

    step: int
    screen: Image
    score: float
    action: int
    values: NDArray[np.float32] | None = None


def watch(
    policy: Policy,
    game: str,
    seed: int = EVALUATION_SEED,
    variant: Variant = DEFAULT_VARIANT,
    max_steps: int = PROTOCOL.max_steps,
) -> Iterator[Moment]:
    """Play the episode of `seed` up to its end or `max_steps`; the last moment is what came of the last step.

    Raises:
        QzooError: no such game, mode or difficulty.
    """
    emulator = FrameEmulator(game, seed, variant)
    stack = np.zeros((1, STACK, FRAME_SIZE, FRAME_SIZE), dtype=np.uint8)
    score, action, values = 0.0, 0, None
    while not (emulator.terminated or emulator.truncated) and emulator.length < max_steps:
        stack[:, :-1] = stack[:, 1:]
        emulator.frame(stack[0, -1])
        values = policy.q_values(stack)[0].cpu().numpy() if isinstance(policy, Agent) else None
        action = int(policy(stack)[0])
        yield Moment(emulator.length, emulator.screen(), score, action, values)
        score += emulator.step(action)
    yield Moment(emulator.length, emulator.screen(), score, action, values)


def write_video(path: Path, game: str, moments: Iterable[Moment]) -> None:
    """Write play as an H.264 file, 15 frames a second, the screen at double size and a panel beside it.

    Raises:
        QzooError: the file can't be written.
    """
    writer, curve = None, []
    try:
        with replacing(path) as temporary:
            for moment in moments:
                curve.append(
                    np.nan if moment.values is None else float(moment.values[list(minimal_actions(game))].max())
                )
                picture = draw(game, moment, curve)
                if writer is None:
                    size = picture.shape[1], picture.shape[0]
                    writer = imageio_ffmpeg.write_frames(
                        str(temporary), size, fps=FRAMES_PER_SECOND, codec="libx264", macro_block_size=2
                    )
                    writer.send(None)
                writer.send(picture)
            if writer is not None:
                writer.close()
    except OSError as error:
        raise QzooError(f"{path}: the video could not be written ({error})") from error


def draw(game: str, moment: Moment, curve: Sequence[float]) -> Image:
    """A picture of a moment: the screen at double size, and the panel.

    Args:
        curve: the state's value at each step so far.
    """
    screen = moment.screen.repeat(SCALE, axis=0).repeat(SCALE, axis=1)
    panel = np.zeros((screen.shape[0], PANEL_WIDTH, 3), dtype=np.uint8)
    _write(panel, game, 12, 26, 0.6)
    _write(panel, f"score {moment.score:,.0f}", 12, 50)
    _write(panel, f"step {moment.step:,}", 180, 50, colour=GREY)
    actions = minimal_actions(game)
    values = None if moment.values is None else moment.values[list(actions)]
    for row, action in enumerate(actions):
        bottom = 78 + 14 * row
        chosen = action == moment.action
        _write(panel, ACTION_NAMES[action].lower(), 12, bottom, 0.35, ORANGE if chosen else GREY)
        if values is not None:
            share = (values[row] - values.min()) / max(float(np.ptp(values)), 1e-6)
            end = 120 + int(130 * share)
            cv2.rectangle(panel, (120, bottom - 8), (end, bottom), ORANGE if chosen else BLUE, -1)
            _write(panel, f"{values[row]:.2f}", 262, bottom, 0.35, WHITE if chosen else GREY)
    if values is not None:
        _draw_curve(panel, curve[-CURVE_STEPS:], top=panel.shape[0] - 66, height=52)
    return np.concatenate([screen, panel], axis=1)


def _write(image: Image, text: str, x: int, y: int, size: float = 0.5, colour: tuple[int, int, int] = WHITE) -> None:
    cv2.putText(image, text, (x, y), cv2.FONT_HERSHEY_SIMPLEX, size, colour, 1, cv2.LINE_AA)


def _draw_curve(panel: Image, curve: Sequence[float], top: int, height: int) -> None:
    """The state's value over the last steps, its lowest and highest at the edges."""
    values = np.asarray(curve)
    low, span = float(values.min()), max(float(np.ptp(values)), 1e-6)
    x = 12 + np.linspace(0, PANEL_WIDTH - 24, CURVE_STEPS)[: len(values)]
    y = top + height * (1 - (values - low) / span)
    points = np.stack([x, y], axis=1).round().astype(np.int32)
    cv2.polylines(panel, [points[:, None]], False, BLUE, 1, cv2.LINE_AA)
    _write(panel, f"value {values[-1]:.2f}", 12, top - 6, 0.35, GREY)


def terminal_lines(screen: Image, width: int) -> list[str]:
    """A screen as lines of half blocks in 24-bit colour, two pixels above one another in a character.

    Args:
        screen: uint8 (H, W, 3). width: characters.
    """
    height = 2 * round(LINES_A_COLUMN * width)
    small = cv2.resize(screen, (width, height), interpolation=cv2.INTER_AREA)
    lines = []
    for upper, lower in zip(small[::2], small[1::2], strict=True):
        cells = [f"\x1b[38;2;{a};{b};{c};48;2;{d};{e};{f}m▀" for (a, b, c), (d, e, f) in zip(upper, lower, strict=True)]
        lines.append("".join(cells) + "\x1b[0m")
    return lines
