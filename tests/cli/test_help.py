"""Every verb explains itself, quickly and without a heavy import."""

from __future__ import annotations

import json
import subprocess
import sys

import click
import pytest
from click.testing import CliRunner

from edgellama.cli.__main__ import main

HEAVY = ("numpy", "torch", "onnx", "onnxruntime", "grpc", "transformers", "tokenizers", "rich")


def paths(group: click.Group, prefix: tuple[str, ...] = ()) -> list[tuple[str, ...]]:
    """All command lines of the tree: groups and verbs."""
    context = click.Context(group)
    found: list[tuple[str, ...]] = [prefix]
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        assert command is not None
        if isinstance(command, click.Group):
            found += paths(command, (*prefix, name))
        else:
            found.append((*prefix, name))
    return found


@pytest.mark.parametrize("path", paths(main), ids=" ".join)
def test_every_verb_has_help(path: tuple[str, ...]) -> None:
    done = CliRunner().invoke(main, [*path, "--help"])
    assert done.exit_code == 0, done.output
    assert "Usage:" in done.output


def test_every_verb_takes_json() -> None:
    for path in paths(main):
        command: click.Command | None = main
        for name in path:
            assert isinstance(command, click.Group)
            command = command.get_command(click.Context(command), name)
        if not isinstance(command, click.Group):
            assert command is not None
            flags = [flag for option in command.params for flag in option.opts]
            assert "--json" in flags, path


def test_help_imports_nothing_heavy() -> None:
    """One process asks for the help of every verb and then lists what it has imported."""
    code = (
        "import json, sys\n"
        "from click.testing import CliRunner\n"
        "from edgellama.cli.__main__ import main\n"
        f"for path in {[list(path) for path in paths(main)]!r}:\n"
        "    assert CliRunner().invoke(main, [*path, '--help']).exit_code == 0\n"
        f"print(json.dumps([name for name in {HEAVY!r} if name in sys.modules]))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert json.loads(done.stdout) == []


def test_an_unknown_verb_is_wrong_usage() -> None:
    done = CliRunner().invoke(main, ["compile"])
    assert done.exit_code == 2
    assert "compile" in done.stderr
