"""`zoo export`: a model as a file, or a folder of timm's, that other code runs."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import tyro

from zoo.commands.common import Command
from zoo.support.errors import QzooError


@dataclass
class ExportModel(Command):
    """Export a model's encoder, or its agent for a game, as an ONNX file or a torch.export program, a ResNet to timm.

    Input `observations` is uint8 (batch, 4, 84, 84), raw stacks of grey frames, oldest first; output is float32:
    features (batch, D), or with --game the values of the 18 actions (batch, 18), -inf for those the game doesn't know.
    The folder for timm holds a ResNet's convolutions; timm.create_model("local-dir:FOLDER", pretrained=True), with
    features_only=True if wanted, then takes frames divided by 255.
    """

    name: tyro.conf.Positional[str]
    """A model's name (`zoo list`) or folder."""
    to: Literal["onnx", "torch", "timm"] = "onnx"
    """onnx (needs qzoo[onnx]), torch, which `torch.export.load` reads, or timm, a folder that it opens."""
    game: str = ""
    """Export the agent for this game; by default the encoder."""
    out: Path | None = None
    """The file; by default NAME.onnx or NAME.pt2, with the game in it, or the folder NAME.timm, here."""

    def run(self) -> dict[str, Any]:
        """Load, export; returns where the file is."""
        from zoo.integrations.export import export_model, export_timm
        from zoo.models.hub import load, load_agent

        if self.to == "timm":
            if self.game:
                raise QzooError(f"game {self.game}: timm has no agents; export the agent as onnx or torch")
            path = export_timm(load(self.name), self.out or Path(f"{Path(self.name).name}.timm"))
            size = (path / "model.safetensors").stat().st_size
        else:
            model = load_agent(self.name, self.game) if self.game else load(self.name)
            ending = {"onnx": ".onnx", "torch": ".pt2"}[self.to]
            parts = [Path(self.name).name, self.game] if self.game else [Path(self.name).name]
            path = export_model(model, self.out or Path(".".join(parts) + ending), self.to)
            size = path.stat().st_size
        print(f"{path}: {size / 1e6:.1f} MB", file=sys.stderr)
        return {"path": str(path), "bytes": size}
