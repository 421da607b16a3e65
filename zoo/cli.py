"""The `zoo` command line: find the command, parse its settings, run, print.

Bad input is one clear line and exit code 2. Commands are imported when they are called, so that `zoo --help` is quick.
"""

from __future__ import annotations

import dataclasses
import difflib
import importlib
import importlib.util
import json
import os
import re
import sys
from collections.abc import Sequence
from importlib import metadata
from typing import Any

import tyro

from zoo.support.errors import QzooError
from zoo.support.interrupt import sigterm_interrupts

# name: (module.class, what it does); modules without a package are of `zoo.commands`
COMMANDS = {
    "list": ("models.List", "the models on this machine"),
    "info": ("models.Info", "what is known of one model"),
    "demo": ("demo.Demo", "the whole path on a held-out game: load, fine-tune, play, compare"),
    "finetune offline": ("finetune.FinetuneOffline", "adapt an encoder to a game by recorded play"),
    "finetune online": ("finetune.FinetuneOnline", "adapt an agent to a game or a variant by playing it"),
    "finetune sweep": ("finetune.FinetuneSweep", "what encoders are worth on unseen games: tables and curves"),
    "evaluate": ("evaluate.Evaluate", "score a model, or random play, in seeded episodes"),
    "play": ("play.PlayGame", "watch a model play a game, in the terminal or as a video"),
    "pretrain": ("pretrain.Pretrain", "train an encoder by offline Q-learning"),
    "recipes": ("retrain.Recipes", "list recipes, and what each costs"),
    "retrain": ("retrain.Retrain", "make models of the zoo again, from the recordings to their cards"),
    "critic train": ("critic.CriticTrain", "train critics on RAM, teachers of encoders"),
    "critic evaluate": ("critic.CriticEvaluate", "let critics play, and compare them with their data"),
    "report": ("report.Report", "evaluate a model folder and write its card"),
    "probe": ("probe.ProbeModel", "linear probe of RAM in an encoder's features"),
    "embed": ("probe.EmbedModel", "a map of an encoder's features, by game and by value"),
    "results": ("report.Results", "write a page that compares models, with plots"),
    "export": ("export.ExportModel", "a model as an ONNX file, a torch.export program or a timm folder"),
    "record critic": ("record.RecordCritic", "record critics on RAM, disturbed, for what learns from them"),
    "record learner": ("record.RecordLearner", "record an agent as it learns, from random play to good"),
    "record planner": ("record.RecordPlanner", "record lookahead on the emulator, without learning"),
    "record policy": ("record.RecordPolicy", "record play of a model of the zoo"),
    "record random": ("record.RecordRandom", "record random play"),
    "data list": ("data.List", "the recordings and where they are"),
    "data page": ("data.Page", "the page of the recordings, with its picture"),
    "data stats": ("data.Stats", "the named datasets, and scores and sizes of recordings"),
    "data verify": ("data.Verify", "replay recordings and compare"),
    "data import": ("exchange.Import", "read play of DQN Replay or Minari as frames"),
    "data export": ("exchange.Export", "write recordings as Minari or Parquet datasets"),
}
_beside = importlib.util.find_spec("benchmarks")
if _beside and _beside.submodule_search_locations and importlib.util.find_spec("benchmarks.speed"):
    # Measuring code is in a checkout, not in the wheel; a file benchmarks.py is somebody else's.
    COMMANDS |= {
        "bench": ("benchmarks.speed.command.Bench", "speed of training and replay against the machine's limit"),
        "data worth": ("benchmarks.data_worth.command.Worth", "compare play by what is learned from it"),
    }
RENAMED_FLAGS = {
    "--alpha": "--cql-alpha",
    "--target-rate": "--tau",
    "--head-rate": "--head-lr-scale",
    "--final-rate": "--min-lr-ratio",
}
SETTINGS = (tyro.conf.OmitArgPrefixes, tyro.conf.FlagCreatePairsOff)


def usage(group: str = "") -> str:
    """Help for `zoo`, or for a group of commands such as `zoo record`."""
    names = [name for name in COMMANDS if not group or name.split()[0] == group]
    lines = [
        f"usage: zoo {group or 'COMMAND'} ...",
        "",
        "Atari encoders pretrained offline by Q-learning.",
        "",
    ]
    lines += [f"  zoo {name:<18} {COMMANDS[name][1]}" for name in names]
    return "\n".join([*lines, "", "zoo COMMAND --help says a command's settings; --json prints results as JSON."])


def find_command(arguments: Sequence[str]) -> tuple[str, list[str]]:
    """(name of the command, what is left of the arguments).

    Raises:
        QzooError: no such command; the nearest names are offered.
    """
    for words in (2, 1):
        name = " ".join(arguments[:words])
        if len(arguments) >= words and name in COMMANDS:
            return name, list(arguments[words:])
    group = [name for name in COMMANDS if name.split()[0] == arguments[0] and " " in name]
    wanted = " ".join(word for word in arguments[: 2 if group else 1] if not word.startswith("-"))
    near = group if wanted == arguments[0] and group else difflib.get_close_matches(wanted, COMMANDS, cutoff=0.4)
    raise QzooError(f"unknown command {wanted!r}; try {', '.join(f'zoo {name}' for name in near or ['--help'])}")


def main(arguments: Sequence[str] | None = None) -> None:
    """Entry point of the console script.

    Exit codes: 0 done, 1 a check found differences, 2 bad input (one line says which), 130 interrupted by Ctrl-C or
    SIGTERM, 141 nobody reads what is printed any more, as after `| head -1`.
    """
    try:
        try:
            run(arguments)
        finally:
            sys.stdout.flush()  # here: at Python's own end nothing can be caught
    except BrokenPipeError:
        try:
            print(flush=True)  # does standard output still take a line?
        except BrokenPipeError:
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # for the flush at Python's end
            sys.exit(141)
        raise  # another pipe than standard output


def run(arguments: Sequence[str] | None = None) -> None:
    """What `main` does, without regard to who reads it."""
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    if not arguments or arguments[0] in ("-h", "--help"):
        print(usage())
        return
    if arguments == ["--version"]:
        print(f"qzoo {metadata.version('qzoo')}")
        return
    groups = {name.split()[0] for name in COMMANDS if " " in name}
    if arguments[0] in groups and arguments[1:] in ([], ["-h"], ["--help"]):
        print(usage(arguments[0]))
        return
    command = None
    try:
        command = parse_command(*find_command(arguments))
        with sigterm_interrupts():
            result = command.run()
    except QzooError as error:
        print(f"error: {with_flags(str(error), command)}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt as error:
        told = ("interrupted", str(error), getattr(command, "IF_INTERRUPTED", ""))
        print("; ".join(filter(None, told)), file=sys.stderr)
        sys.exit(130)
    if command.json and result is not None:
        print(json.dumps(result, indent=2))
    sys.exit(getattr(command, "exit_code", 0))


def with_flags(message: str, command: Any) -> str:
    """An error as the command line says it: settings of the command, at the start or in backticks, as flags."""

    def names(settings: Any) -> set[str]:
        # Positional ones have no flag; annotations are text here.
        fields = {field.name for field in dataclasses.fields(settings) if "Positional" not in str(field.type)}
        parts = [getattr(settings, name, None) for name in fields]
        return fields.union(*(names(part) for part in parts if dataclasses.is_dataclass(part)))

    if command is None:
        return message
    known = names(command)

    def flag(match: re.Match[str]) -> str:
        return f"--{match[1].replace('_', '-')}" if match[1] in known else match[0]

    return re.sub(r"^(\w+)(?=[ :])", flag, re.sub(r"`(\w+)`", flag, message))


def parse_command(name: str, arguments: Sequence[str]) -> Any:
    """The command of that name with its settings, ready to run."""
    module, _, class_name = COMMANDS[name][0].rpartition(".")
    try:
        module = module if "." in module else f"zoo.commands.{module}"
        command_class: Any = getattr(importlib.import_module(module), class_name)
    except ImportError:
        hiding = sys.modules.get("finetune")
        if hiding is None or hasattr(hiding, "__path__"):
            raise
        where = getattr(hiding, "__file__", None)
        raise QzooError(f"{where}: hides qzoo's package of that name; rename it, or run elsewhere") from None
    more = {}
    if hasattr(command_class, "default"):  # its settings depend on the objective
        arguments = [_renamed(word) for word in arguments]
        more["default"] = command_class.default(_objective(arguments))
    return tyro.cli(command_class, prog=f"zoo {name}", args=arguments, config=SETTINGS, **more)


def _renamed(word: str) -> str:
    """A flag under the name that it has now: commands on older cards work as they stand."""
    flag, equals, value = word.partition("=")
    return f"{RENAMED_FLAGS.get(flag, flag)}{equals}{value}"


def _objective(arguments: Sequence[str]) -> str:
    """The objective that the arguments name."""
    for number, word in enumerate(arguments):
        if word == "--objective" and number + 1 < len(arguments):
            return arguments[number + 1]
        if word.startswith("--objective="):
            return word.partition("=")[2]
    return "scaled_ql"
