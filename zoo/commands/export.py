"""`zoo export`: a model as a file that other code runs."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import tyro


@dataclass
class ExportModel:
    """Export a model's encoder, or its agent for a game, as an ONNX file or a torch.export program.

    Input `observations` is uint8 (batch, 4, 84, 84), raw stacks of grey frames, oldest first; output is float32:
    features (batch, D), or with --game the values of the 18 actions (batch, 18), -inf for those the game doesn't know.
    """

    name: tyro.conf.Positional[str]
    """A model's name (`zoo list`) or folder."""
    to: Literal["onnx", "torch"] = "onnx"
    """onnx (needs qzoo[onnx]), or torch, which `torch.export.load` reads."""
    game: str = ""
    """Export the agent for this game; by default the encoder."""
    out: Path | None = None
    """The file; by default NAME.onnx or NAME.pt2, with the game in it, here."""
    json: bool = False
    """Print the result as JSON on standard output."""

    def run(self) -> dict[str, Any]:
        """Load, export; returns where the file is."""
        from zoo.integrations.export import export_model
        from zoo.models.hub import load, load_agent

        model = load_agent(self.name, self.game) if self.game else load(self.name)
        ending = {"onnx": ".onnx", "torch": ".pt2"}[self.to]
        parts = [Path(self.name).name, self.game] if self.game else [Path(self.name).name]
        path = export_model(model, self.out or Path(".".join(parts) + ending), self.to)
        print(f"{path}: {path.stat().st_size / 1e6:.1f} MB", file=sys.stderr)
        return {"path": str(path), "bytes": path.stat().st_size}
