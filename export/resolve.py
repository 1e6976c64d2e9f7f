"""Find the checkpoint that a model argument names."""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path

from edgellama.export.error import ExportError

EMBEDDED = "tiny"
_CONFIG_PATTERNS = ["*config.json"]
_MODEL_PATTERNS = ["*.json", "*.safetensors", "*.jinja"]
_ADAPTER_PATTERNS = ["*.json", "adapter_model.safetensors", "*.jinja"]
# Nothing of a subfolder (`original/`, `onnx/`), nor Meta's layout in safetensors.
_IGNORED = ["*/*", "consolidated*"]


def resolve_model(model: str, *, config_only: bool = False) -> Path:
    """Return the folder of `model`: `tiny`, a local folder, or a hub id `owner/name[@revision]`.

    `config_only` downloads the configuration of a hub model and no weights: enough for a plan.
    Hub models are downloaded by huggingface_hub, which shows its progress and honours `HF_TOKEN`,
    `HF_HOME`, `HF_ENDPOINT` and `HF_HUB_OFFLINE`. A cut connection is taken up again within the
    file, another run keeps the files that are complete. Raises ExportError.
    """
    if model == EMBEDDED:
        return Path(str(files("edgellama.examples.tiny_llama"))) / "model"
    return _resolve("model", model, _CONFIG_PATTERNS if config_only else _MODEL_PATTERNS)


def resolve_adapter(adapter: str) -> Path:
    """Return the folder of a PEFT adapter: a local folder, or a hub id `owner/name[@revision]`.

    Downloads as `resolve_model` does. Raises ExportError.
    """
    return _resolve("adapter", adapter, _ADAPTER_PATTERNS)


def _resolve(kind: str, given: str, patterns: list[str]) -> Path:
    folder = Path(given).expanduser()
    if given and folder.is_dir():  # the path of "" is the current folder
        return folder
    if folder.is_file():
        raise ExportError(f"{kind} {given!r} is a file; give the folder that holds it")
    repository, _, revision = given.partition("@")
    owner, _, name = repository.partition("/")
    if not owner or not name or "/" in name or given.startswith((".", "/", "~")):
        also = f", or {EMBEDDED!r}" if kind == "model" else ""
        raise ExportError(
            f"{kind} {given!r} is neither a folder nor a hub id; give the path of a Hugging Face "
            f"{kind} folder, a hub id such as meta-llama/Llama-3.2-1B-Instruct or "
            f"owner/name@revision{also}"
        )
    return _download(f"{kind} {given!r}", repository, revision or None, patterns)


def source_name(folder: Path) -> str:
    """Return what a checkpoint is called in an engine, and nothing else of this machine's paths.

    The embedded model is "tiny". A snapshot in the hub's cache is its repository, for its folder
    `models--owner--name/snapshots/<revision>` is named by a hash. Others have their folder's name.
    """
    folder = folder.absolute()
    if folder == resolve_model(EMBEDDED).absolute():
        return EMBEDDED
    kind, _, repository = folder.parent.parent.name.partition("--")
    if folder.parent.name == "snapshots" and kind == "models" and repository:
        return repository.replace("--", "/", 1)
    return folder.resolve().name


def _download(what: str, repository: str, revision: str | None, patterns: list[str]) -> Path:
    from huggingface_hub import constants, snapshot_download
    from huggingface_hub.errors import (
        GatedRepoError,
        HFValidationError,
        LocalEntryNotFoundError,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    try:
        return Path(
            snapshot_download(
                repository,
                revision=revision,
                allow_patterns=patterns,
                ignore_patterns=_IGNORED,
                # Else it asks the hub for the files of a commit that it has not listed before.
                local_files_only=constants.HF_HUB_OFFLINE,
            )
        )
    except HFValidationError as error:
        raise ExportError(f"{what}: not a hub id: {error}") from error
    except LocalEntryNotFoundError as error:
        part = type(error).__name__ == "IncompleteSnapshotError"  # not in every version
        state = "is only partly in the cache" if part else "is not in the cache"
        if constants.HF_HUB_OFFLINE:
            raise ExportError(
                f"{what} is not a local folder and {state} ({constants.HF_HUB_CACHE}), and "
                "HF_HUB_OFFLINE is set; unset it to download, or give the path of a folder"
            ) from error
        raise ExportError(
            f"{what} is not a local folder, {state}, and the hub cannot be reached "
            f"({error.__cause__ or error}); give the path of a folder or connect to the network"
        ) from error
    except GatedRepoError as error:
        raise ExportError(
            f"{what} is gated: accept its licence at {constants.ENDPOINT}/{repository}, and set "
            "HF_TOKEN to a token of that account (or run `hf auth login`)"
        ) from error
    except RevisionNotFoundError as error:
        raise ExportError(f"{what}: {repository} has no revision {revision!r}") from error
    except RepositoryNotFoundError as error:
        raise ExportError(
            f"{what} is not on the hub ({constants.ENDPOINT}), or it is private: check the "
            "spelling, or set HF_TOKEN to a token that may read it"
        ) from error
    except Exception as error:  # of httpx or of requests, by the version of huggingface_hub
        raise ExportError(
            f"{what}: the download failed: {error}; run it again, complete files are kept"
        ) from error
