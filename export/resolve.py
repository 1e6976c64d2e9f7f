"""Find the checkpoint that a model argument names."""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path

from edgellama.export.error import ExportError

EMBEDDED = "tiny"
_PATTERNS = ["*.json", "*.safetensors", "*.jinja"]


def resolve_model(model: str, *, config_only: bool = False) -> Path:
    """Return the folder of `model`: `tiny`, a local folder, or a hub id `owner/name[@revision]`.

    `config_only` downloads `config.json` of a hub model and nothing else: enough for a plan.
    Hub models are downloaded by huggingface_hub, which resumes, shows its progress and honours
    `HF_TOKEN`, `HF_HOME` and `HF_HUB_OFFLINE`. Raises ExportError.
    """
    if model == EMBEDDED:
        return Path(str(files("edgellama.examples.tiny_llama"))) / "model"
    folder = Path(model).expanduser()
    if folder.is_dir():
        return folder
    owner, _, name = model.partition("/")
    if not owner or not name or name.count("/") or model.startswith((".", "/", "~")):
        raise ExportError(
            f"model {model!r} is neither a folder nor a hub id; give the path of a Hugging Face "
            f"checkpoint, a hub id such as meta-llama/Llama-3.2-1B-Instruct, or {EMBEDDED!r}"
        )
    return _download(model, ["config.json"] if config_only else _PATTERNS)


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


def _download(model: str, patterns: list[str]) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    repository, _, revision = model.partition("@")
    try:
        return Path(
            snapshot_download(repository, revision=revision or None, allow_patterns=patterns)
        )
    except HFValidationError as error:
        raise ExportError(f"model {model!r}: not a hub id: {error}") from error
    except LocalEntryNotFoundError as error:
        raise ExportError(
            f"model {model!r} is not a local folder, not in the cache, and the hub cannot be "
            "reached; give the path of a checkpoint folder or connect to the network"
        ) from error
    except HfHubHTTPError as error:
        raise ExportError(
            f"model {model!r}: the hub refused ({error}); for gated models accept the licence on "
            "its page and set HF_TOKEN"
        ) from error
    except OSError as error:
        raise ExportError(f"model {model!r}: download failed: {error}") from error
