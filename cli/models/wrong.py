"""Checks the model list before anything is started: refuses names from which no model can be loaded."""

from collections.abc import Iterator
from difflib import get_close_matches
from pathlib import Path

from shared.models import EMBEDDED, ModelSource
from shared.settings import PREFIX, Settings


def wrong_models(settings: Settings) -> Iterator[str]:
    """A sentence per wrong model; none if the operator set another worker command, which may load other models."""
    if settings.worker_command != Settings.model_fields["worker_command"].default:
        return
    for source in settings.sources.values():
        if why := _why_not(source):
            where = (
                settings.config
                if source.id in settings.models and settings.config
                else f"{PREFIX}AVAILABLE_MODELS"
            )
            yield f"--models ({where}): {source.id}: {why}"


def _why_not(source: ModelSource) -> str | None:
    if source.kind == "folder":
        return _why_not_folder(Path(source.location))
    return _why_not_hub(source.location) if source.kind == "hub" else None


def _why_not_folder(folder: Path) -> str | None:
    if folder.suffix == ".gguf" or (
        folder.is_dir() and list(folder.glob("*.gguf")) and not _has_config(folder)
    ):
        return "GGUF files are llama.cpp's; MLX needs a folder with config.json and *.safetensors"
    if not folder.exists():
        return f"there is no folder {folder}"
    if not folder.is_dir():
        return f"{folder} is a file; name the folder it is in"
    return None if _has_config(folder) else f"{folder} has no config.json, so it is no model's folder"


def _has_config(folder: Path) -> bool:
    return (folder / "config.json").exists()


def _why_not_hub(name: str) -> str | None:
    if name.lower().endswith(".gguf"):
        return "GGUF files are llama.cpp's; name an MLX model, as mlx-community/Llama-3.2-3B-Instruct-4bit"
    if "://" in name or name.startswith("huggingface.co/"):
        return f"name the model, not its address: {'/'.join(name.rstrip('/').split('/')[-2:])}"
    if name.count("/") == 1 and ":" not in name:
        return None
    if near := get_close_matches(name, EMBEDDED, 1):
        return f"the embedded model is called {near[0]}"
    return (
        "a model of the hub is called ORGANIZATION/NAME, as mlx-community/Llama-3.2-3B-Instruct-4bit; "
        f"a folder is NAME=/path/to/it; the embedded ones are {' and '.join(EMBEDDED)}"
    )
