"""The commands of the `zoo` command line: each a dataclass of settings with `run`, whose result `--json` prints."""
