"""`zoo results`: the page of results."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tyro


@dataclass
class Results:
    """Write the page of results from the results.json of models: tables, the plot of widths, profiles, learning."""

    models: tyro.conf.Positional[tuple[str, ...]] = ()
    """Names or folders of models that `zoo report` has filled; by default every scored one of `zoo list`."""
    critics: Path | None = None
    """results.json of `zoo critic evaluate`, to stand beside them."""
    out: Path = Path("docs/results.md")
    """The page; its plots go into a folder beside it."""
    json: bool = False
    """Print the result as JSON on standard output."""

    def run(self) -> dict[str, Any]:
        """Read, write; returns the files written."""
        from zoo.models.hub import find_model, list_models, model_info
        from zoo.reports.results_page import write_results_page

        here = [model["name"] for model in list_models()]
        names = self.models or [name for name in here if "random" in model_info(name)["results"]]
        written = write_results_page([find_model(name) for name in names], self.out, self.critics)
        for path in written:
            print(path, file=sys.stderr)
        return {"written": [str(path) for path in written]}
