"""Real downloads from a real server that speaks as much of the hub's API as they need."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest

pytest.importorskip("huggingface_hub")

COMMIT = "c0ffee" * 6 + "c0de"
TOKEN = "hf_right"


class Hub(ThreadingHTTPServer):
    """Serves one set of files as several repositories.

    `owner/open` is for all, `owner/gated` for TOKEN only. Files in `broken` stop after their first
    half, and answer 500 after that. `requests` are (method, path, Range) in their order.
    """

    def __init__(self, files: dict[str, bytes]) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.files = files
        self.cut: set[str] = set()
        self.broken: set[str] = set()
        self.requests: list[tuple[str, str, str | None]] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    def fetched(self) -> set[str]:
        """Return the names of the files whose data was asked for."""
        return {path.rsplit("/", 1)[1] for method, path, _ in self.requests if method == "GET"}


class _Handler(BaseHTTPRequestHandler):
    server: Hub
    protocol_version = "HTTP/1.1"

    def do_HEAD(self) -> None:
        self._answer(body=False)

    def do_GET(self) -> None:
        self._answer(body=True)

    def _answer(self, body: bool) -> None:
        path = unquote(urlsplit(self.path).path)
        parts = path.strip("/").split("/")
        if parts[:2] == ["api", "models"]:
            self._api("/".join(parts[2:4]), parts[4:])
            return
        self.server.requests.append((self.command, path, self.headers.get("Range")))
        repository, name = "/".join(parts[:2]), "/".join(parts[4:])
        if not self._may_read(repository):
            return
        data = self.server.files.get(name)
        if data is None:
            self._error(404, "EntryNotFound")
        else:
            self._file(name, data, body)

    def _may_read(self, repository: str) -> bool:
        if repository == "owner/gated" and self.headers.get("Authorization") != f"Bearer {TOKEN}":
            self._error(401 if "Authorization" not in self.headers else 403, "GatedRepo")
            return False
        if repository not in ("owner/open", "owner/gated"):
            self._error(404 if "Authorization" in self.headers else 401, "RepoNotFound")
            return False
        return True

    def _api(self, repository: str, rest: list[str]) -> None:
        if repository not in ("owner/open", "owner/gated"):
            self._may_read(repository)
        elif rest[:1] == ["tree"]:
            entries = [
                {
                    "type": "file",
                    "path": name,
                    "size": len(data),
                    "oid": hashlib.sha1(data).hexdigest(),
                }
                for name, data in self.server.files.items()
            ]
            self._json(entries)
        elif rest[1:] in ([], ["main"], ["v1"], ["refs", "pr", "3"], [COMMIT]):
            self._json({"_id": "1", "id": repository, "sha": COMMIT, "siblings": []})
        else:
            self._error(404, "RevisionNotFound")

    def _file(self, name: str, data: bytes, body: bool) -> None:
        requested = self.headers.get("Range")
        start = int(requested.removeprefix("bytes=").rstrip("-")) if requested else 0
        if body and name in self.server.broken and start:
            self._error(500, "Broken")
            return
        part = data[start:]
        self.send_response(206 if requested else 200)
        self.send_header("ETag", f'"{hashlib.sha1(data).hexdigest()}"')
        self.send_header("X-Repo-Commit", COMMIT)
        self.send_header("Accept-Ranges", "bytes")
        if requested:
            self.send_header("Content-Range", f"bytes {start}-{len(data) - 1}/{len(data)}")
        self.send_header("Content-Length", str(len(part)))
        self.end_headers()
        if not body:
            return
        if name in self.server.cut | self.server.broken:
            self.server.cut.discard(name)
            self.wfile.write(part[: len(part) // 2])
            self.close_connection = True
            return
        self.wfile.write(part)

    def _json(self, value: object) -> None:
        text = json.dumps(value).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)

    def _error(self, status: int, code: str) -> None:
        self.send_response(status)
        self.send_header("X-Error-Code", code)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *_: object) -> None:
        pass


@contextmanager
def serve(files: dict[str, bytes]) -> Iterator[Hub]:
    """Run a hub with these files until the block ends."""
    with Hub(files) as hub:
        thread = threading.Thread(target=hub.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        try:
            yield hub
        finally:
            hub.shutdown()
            thread.join()


SHARD = os.urandom(24_000_000)  # huggingface_hub writes, and takes up again, by 10 MiB
MODEL = {
    "config.json": b'{"model_type": "llama"}',
    "chat_template.jinja": b"{{ messages }}",
    "model-00001-of-00001.safetensors": SHARD,
    "model.safetensors.index.json": b"{}",
    "tokenizer.json": b'{"version": "1.0"}',
}
ADAPTER = {"adapter_config.json": b'{"r": 1}', "adapter_model.safetensors": b"A"}
UNWANTED = {
    "README.md": b"#",
    "consolidated.safetensors": b"C",
    "onnx/model.safetensors": b"O",
    "original/consolidated.00.pth": b"P",
    "original/params.json": b"{}",
    "original/tokenizer.model": b"T",
    "pytorch_model.bin": b"B",
    "training_args.bin": b"B",
}
CODE = """
import json, os, sys
from edgellama.export.error import ExportError
from edgellama.export.resolve import resolve_adapter, resolve_model
resolve = {"model": resolve_model, "adapter": resolve_adapter}
resolve["config"] = lambda model: resolve_model(model, config_only=True)
for given in sys.argv[2:]:
    if given.startswith("HF_TOKEN="):
        os.environ["HF_TOKEN"] = given.partition("=")[2]
        continue
    try:
        print(json.dumps(str(resolve[sys.argv[1]](given))))
    except ExportError as error:
        print(json.dumps(f"ExportError: {error}"))
"""
Resolve = Callable[..., list[str]]


@pytest.fixture
def hub() -> Iterator[Hub]:
    with serve({**MODEL, **UNWANTED}) as running:
        yield running


@pytest.fixture
def resolve(hub: Hub, tmp_path: Path) -> Resolve:
    """Resolve ids in a process of its own: huggingface_hub reads the environment when imported."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("HF_", "HUGGING"))}

    def run(*given: str, kind: str = "model", **environment: str) -> list[str]:
        done = subprocess.run(
            [sys.executable, "-c", CODE, kind, *given],
            env={**kept, "HF_HOME": str(tmp_path), "HF_ENDPOINT": hub.url, **environment},
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        return [json.loads(line) for line in done.stdout.splitlines()]

    return run


def stored(folder: str) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in Path(folder).rglob("*")
        if path.is_file()
    }


def test_a_cut_connection_is_taken_up_and_only_wanted_files_come(
    hub: Hub, resolve: Resolve
) -> None:
    name = "model-00001-of-00001.safetensors"
    hub.cut.add(name)
    folder, *others = resolve("owner/open", "owner/open@refs/pr/3", f"owner/open@{COMMIT}")
    assert stored(folder) == MODEL and others == [folder] * 2
    ranges = [part for method, path, part in hub.requests if method == "GET" and name in path]
    assert ranges == [None, f"bytes={10 << 20}-"]  # each once, and the rest of the cut one
    assert not hub.fetched() & {path.rsplit("/", 1)[-1] for path in UNWANTED}

    hub.shutdown()  # the network is gone: the cache answers
    hub.server_close()
    found, message = resolve("owner/open", "owner/other")
    assert found == folder
    assert "not in the cache, and the hub cannot be reached" in message


def test_offline_the_cache_answers(resolve: Resolve) -> None:
    (folder,) = resolve("owner/open")
    given = ["owner/open", f"owner/open@{COMMIT}", "owner/open@v1", "owner/other"]
    first, second, *others = resolve(*given, HF_HUB_OFFLINE="1")
    assert first == second == folder
    assert all("is not in the cache" in o and "HF_HUB_OFFLINE is set" in o for o in others)
    Path(folder, "tokenizer.json").unlink()
    (message,) = resolve("owner/open", HF_HUB_OFFLINE="1")
    assert "only partly in the cache" in message


def test_another_run_keeps_complete_files(hub: Hub, resolve: Resolve) -> None:
    name = "model-00001-of-00001.safetensors"
    hub.broken.add(name)
    (message,) = resolve("owner/open")
    assert "the download failed" in message and "complete files are kept" in message
    hub.broken.clear()
    hub.requests.clear()
    (folder,) = resolve("owner/open")
    assert stored(folder) == MODEL
    assert name in hub.fetched()
    assert "tokenizer.json" not in hub.fetched()


def test_gated_private_and_misspelt(resolve: Resolve) -> None:
    ids = ["owner/gated", "owner/unknown"]
    right = ["owner/open@v9", *ids, "HF_TOKEN=hf_wrong", *ids, f"HF_TOKEN={TOKEN}", "owner/gated"]
    revision, gated, unknown, still_gated, still_unknown, folder = resolve(*right)
    assert "owner/open has no revision 'v9'" in revision
    for message in (gated, still_gated):
        assert "model 'owner/gated' is gated: accept its licence at http://127" in message
        assert message.endswith("(or run `hf auth login`)")
    for message in (unknown, still_unknown):
        assert "model 'owner/unknown' is not on the hub" in message
    assert stored(folder) == MODEL


def test_configurations_alone_and_adapters(hub: Hub, resolve: Resolve) -> None:
    (folder,) = resolve("owner/open", kind="config")
    assert stored(folder) == {"config.json": MODEL["config.json"]}
    hub.files = {**ADAPTER, "tokenizer.json": b"{}", **UNWANTED}
    (folder,) = resolve("owner/gated@v1", kind="adapter", HF_TOKEN=TOKEN)
    assert stored(folder) == {**ADAPTER, "tokenizer.json": b"{}"}


def test_a_cache_of_another_machine(
    resolve: Resolve, tmp_path: Path, make_checkpoint: Callable[..., Path]
) -> None:
    """Copied by hand, without the notes that huggingface_hub keeps of what is complete."""
    pytest.importorskip("torch")
    from edgellama.export.checkpoint import open_checkpoint
    from edgellama.export.error import ExportError
    from edgellama.export.resolve import source_name

    cache = tmp_path / "hub" / "models--owner--name"
    for branch, commit in (("main", COMMIT), ("v2", "2" * 40)):
        (cache / "refs").mkdir(parents=True, exist_ok=True)
        (cache / "refs" / branch).write_text(commit)
        shutil.copytree(make_checkpoint(shard_size="100KB"), cache / "snapshots" / commit)
    shard = sorted((cache / "snapshots" / ("2" * 40)).glob("*.safetensors"))[0]
    shard.unlink()

    given = ["owner/name", f"owner/name@{COMMIT}", "owner/name@v2"]
    main, commit, second = map(Path, resolve(*given, HF_HUB_OFFLINE="1"))
    assert main == commit == cache / "snapshots" / COMMIT
    assert open_checkpoint(main).name == source_name(main) == "owner/name"
    with pytest.raises(ExportError, match=f"shard {shard.name} is missing"):
        open_checkpoint(second)
