"""Where Hugging Face's cache has a repository, and the lock of whoever fetches it or removes it."""

from pathlib import Path


def folder_of(repository: str) -> Path:
    """Where Hugging Face's cache keeps all that it has of the repository."""
    from huggingface_hub import constants

    return Path(constants.HF_HUB_CACHE) / f"models--{repository.replace('/', '--')}"


def lock_file(repository: str) -> Path:
    """Held by the one process that fetches it; beside the locks of the hub library."""
    folder = folder_of(repository)
    return folder.parent / ".locks" / folder.name / "mlx-server.lock"
