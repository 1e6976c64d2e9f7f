"""The package list of pyproject.toml, and what really ends up in the wheel."""

from __future__ import annotations

import shutil
import subprocess
import sys
import venv
import zipfile
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import pytest

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).resolve().parent.parent
NOT_PACKAGED = {"tests", "docs", "build", "dist", "engines"}


def setuptools_table() -> dict[str, Any]:
    text = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    table: dict[str, Any] = tomllib.loads(text)["tool"]["setuptools"]
    return table


def folders_with_init() -> set[str]:
    """Dotted names under `edgellama` of all folders of the working tree that are packages."""
    found = set()
    for path in ROOT.rglob("__init__.py"):
        parts = path.parent.relative_to(ROOT).parts
        if parts and parts[0] not in NOT_PACKAGED and not parts[0].startswith("."):
            found.add(".".join(("edgellama", *parts)))
    return found


def folder(package: str) -> Path:
    return ROOT.joinpath(*package.split(".")[1:])


def test_every_package_folder_is_listed() -> None:
    listed = setuptools_table()["packages"]
    assert set(listed) == folders_with_init(), "an unlisted package is absent from the wheel"
    assert listed == sorted(listed)


def test_no_python_file_lies_outside_a_package() -> None:
    for package in folders_with_init():
        for child in folder(package).iterdir():
            if child.is_dir() and any(child.glob("*.py")):
                assert (child / "__init__.py").is_file(), f"{child} has no __init__.py"


def test_package_data_matches_files() -> None:
    """Every pattern hits a file, and every other file in a package is hit by a pattern."""
    data: dict[str, list[str]] = setuptools_table()["package-data"]
    for package, patterns in data.items():
        for pattern in patterns:
            assert list(folder(package).glob(pattern)), f"{package}: nothing matches {pattern}"
    tracked = subprocess.run(
        ["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=False
    ).stdout.splitlines()
    if not tracked:
        pytest.skip("not a git checkout: cannot tell sources from build output")
    packages = setuptools_table()["packages"]
    for name in tracked:
        path = Path(name)
        owner = max(
            (p for p in packages if name.startswith("/".join(p.split(".")[1:]) + "/")),
            key=len,
            default=None,
        )
        if owner is None or path.suffix == ".py" or path.name == "README.md":
            continue
        inside = str((ROOT / path).relative_to(folder(owner)))
        matched = any(fnmatch(inside, pattern) for pattern in data.get(owner, []))
        assert matched, f"{name} is in no package-data pattern of {owner}"


@pytest.mark.slow
def test_the_wheel_has_everything(tmp_path: Path) -> None:
    """Build the wheel, install it into a fresh environment and import it from there."""
    sources, wheels = tmp_path / "sources", tmp_path / "wheels"
    # A copy: a `build` folder left in the tree would bring files that no longer exist.
    shutil.copytree(ROOT, sources, ignore=shutil.ignore_patterns(*NOT_PACKAGED, ".*", "*.egg-info"))
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check"]
    subprocess.run(
        [*pip, "wheel", "-q", "--no-deps", "-w", str(wheels), str(sources)],
        check=True,
        cwd=tmp_path,
    )
    (wheel,) = wheels.glob("edgellama-*.whl")
    names = set(zipfile.ZipFile(wheel).namelist())
    assert {name.split("/")[0] for name in names if ".dist-info" not in name} == {"edgellama"}
    wanted = {f"edgellama/profiles/{path.name}" for path in (ROOT / "profiles").glob("*.toml")}
    model = ROOT / "examples" / "tiny_llama" / "model"
    wanted |= {f"edgellama/examples/tiny_llama/model/{path.name}" for path in model.iterdir()}
    assert wanted <= names, f"absent from the wheel: {sorted(wanted - names)}"
    assert not any("/tests/" in name or name.endswith(".onnx") for name in names)

    venv.create(tmp_path / "venv", with_pip=True)
    python = tmp_path / "venv" / "bin" / "python"
    subprocess.run(
        [python, "-m", "pip", "install", "-q", "--no-deps", str(wheel)], check=True, cwd=tmp_path
    )
    code = (
        "from edgellama.profiles.profile import load_profile, profile_names\n"
        "print([load_profile(name).name for name in profile_names()])"
    )
    done = subprocess.run(
        [python, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    names_there = sorted(path.stem for path in (ROOT / "profiles").glob("*.toml"))
    assert done.stdout.strip() == str(names_there)
