"""The commands of the `zoo` command line: a dataclass of settings each, with `run`, which returns what `--json` prints."""
