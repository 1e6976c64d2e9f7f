"""`edgellama bench report`: from a document to its files."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from click.testing import CliRunner

from edgellama.cli.__main__ import main

sys.path.insert(0, str(Path(__file__).parent.parent / "benchmark" / "report"))

from example_run import least_run


def write(path: Path, document: object) -> str:
    path.write_text(json.dumps(document), encoding="utf-8")
    return str(path)


def test_the_files_lie_beside_the_document(tmp_path: Path) -> None:
    done = CliRunner().invoke(main, ["bench", "report", write(tmp_path / "a.json", least_run())])
    assert done.exit_code == 0, done.output
    assert done.stdout == f"{tmp_path / 'report.html'}\n"
    assert (tmp_path / "report.html").is_file()


def test_another_folder_and_json(tmp_path: Path) -> None:
    file, out = write(tmp_path / "a.json", least_run()), tmp_path / "b" / "c"
    done = CliRunner().invoke(main, ["bench", "report", file, "--out", str(out), "--json"])
    assert done.exit_code == 0, done.output
    assert json.loads(done.stdout) == {"files": [str(out / "report.html")]}
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.json", "b"]


def test_a_bad_document_is_one_line(tmp_path: Path) -> None:
    file = write(tmp_path / "a.json", least_run() | {"kind": "serve"})
    done = CliRunner().invoke(main, ["bench", "report", file])
    assert done.exit_code == 1
    assert done.stderr == (
        f"error: {file}: kind is \"serve\", a report needs 'run'; "
        "make one with: edgellama bench all ENGINE\n"
    )
    done = CliRunner().invoke(main, ["bench", "report", file, "--json"])
    assert json.loads(done.stderr)["error"]["field"] == "kind"
    missing = CliRunner().invoke(main, ["bench", "report", str(tmp_path / "no.json")])
    assert missing.exit_code == 1 and "no.json: No such file" in missing.stderr


def test_without_matplotlib_the_extra_is_named(tmp_path: Path) -> None:
    file = write(tmp_path / "a.json", least_run())
    code = (
        "import sys\n"
        "class Absent:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        if name.split('.')[0] == 'matplotlib':\n"
        "            raise ModuleNotFoundError(f'No module named {name!r}', name=name)\n"
        "sys.meta_path.insert(0, Absent())\n"
        "from edgellama.cli.__main__ import main\n"
        "main(sys.argv[1:])\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, "bench", "report", file],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 1
    assert "pip install 'edgellama[bench]'" in done.stderr
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.json"]
