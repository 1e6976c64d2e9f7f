"""The documents name files, functions, links, verbs and options that exist."""

from __future__ import annotations

import ast
import re
import shlex
from pathlib import Path

import click
import pytest

from edgellama.cli.__main__ import main

ROOT = Path(__file__).resolve().parent.parent
DOCUMENTS = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")])
IDS = [path.relative_to(ROOT).as_posix() for path in DOCUMENTS]
PLACE = re.compile(r"`([\w/]+\.py):([\w.]+)`")
LINK = re.compile(r"\]\(([^)#]+)[^)]*\)")
BLOCK = re.compile(r"```sh\n(.*?)```", re.DOTALL)

documents = pytest.mark.parametrize("document", DOCUMENTS, ids=IDS)


def defined(path: Path) -> set[str]:
    """Names of the functions and classes of a file, and `Class.method` of their members."""
    names = set()
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
            names.add(node.name)
        if isinstance(node, ast.ClassDef):
            names |= {
                f"{node.name}.{member.name}"
                for member in node.body
                if isinstance(member, (ast.FunctionDef, ast.AsyncFunctionDef))
            }
    return names


def commands(document: Path, program: str) -> list[list[str]]:
    """Arguments of every call of `program` in the shell blocks of a document."""
    blocks = "\n".join(BLOCK.findall(document.read_text(encoding="utf-8")))
    lines = blocks.replace("\\\n", " ").splitlines()
    calls = [line for line in lines if line.startswith(program + " ")]
    return [shlex.split(line, comments=True)[1:] for line in calls]


@documents
def test_places_in_the_code_exist(document: Path) -> None:
    for file, name in PLACE.findall(document.read_text(encoding="utf-8")):
        path = ROOT / file
        assert path.is_file(), f"{file} does not exist"
        assert name in defined(path), f"{file} does not define {name}"


def test_the_architecture_names_many_places() -> None:
    """Else the pattern above has stopped to match."""
    text = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    assert len(PLACE.findall(text)) >= 25


@documents
def test_links_lead_somewhere(document: Path) -> None:
    for target in LINK.findall(document.read_text(encoding="utf-8")):
        if not target.startswith(("http://", "https://")):
            assert (document.parent / target).exists(), f"{target} does not exist"


@documents
def test_commands_are_accepted(document: Path) -> None:
    for arguments in commands(document, "edgellama"):
        command: click.Command | None = main
        context = click.Context(main)
        while isinstance(command, click.Group):
            name, *arguments = arguments
            command = command.get_command(context, name)
            assert command is not None, f"there is no verb {name}"
            context = click.Context(command, parent=context)
        assert command is not None
        if ">" in arguments:
            arguments = arguments[: arguments.index(">")]
        command.parse_args(context, arguments)  # raises UsageError


@documents
def test_make_targets_exist(document: Path) -> None:
    targets = re.findall(r"^([\w.-]+):", (ROOT / "Makefile").read_text("utf-8"), re.MULTILINE)
    for arguments in commands(document, "make"):
        assert arguments[0] in targets, f"make {arguments[0]}"


@documents
def test_only_verbs_that_exist_are_named(document: Path) -> None:
    text = document.read_text(encoding="utf-8")
    for verb in re.findall(r"`edgellama ([a-z]+(?:-[a-z]+)*)", text):
        assert verb in main.list_commands(click.Context(main)), verb
