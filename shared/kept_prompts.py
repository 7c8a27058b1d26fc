"""Where prompts lie on disk, and how they are deleted there: for workers, and for the operator's command.

A folder for each version of the files, in it one for each model, in it one for each namespace, whose name only the
node's secret tells.
"""

import hmac
import shutil
from pathlib import Path

SECRET = "secret"  # noqa: S105 (a name of a file)
VERSIONS = "blocks-v*"
_NAME = 16  # bytes


def prompts_in(folder: Path) -> Path:
    return folder / "prompts"


def folder_of(secret: bytes, namespace: str) -> str:
    """The name of a namespace's folder."""
    return hmac.digest(secret, b"folder\0" + namespace.encode(), "sha256")[:_NAME].hex()


def delete_prompts(root: Path, namespace: str | None) -> int:
    """Deletes what is there of a namespace, or of all, of every model and version; gives the bytes. Raises OSError.

    The secret stays, because running workers know it. Without it no namespace can be told from another.
    """
    if not any(root.glob(f"{VERSIONS}/*/*")):
        return 0
    name = "*" if namespace is None else folder_of((root / SECRET).read_bytes(), namespace)
    folders = [path for path in root.glob(f"{VERSIONS}/*/{name}") if path.is_dir()]
    return sum(map(_delete, folders))


def _delete(folder: Path) -> int:
    """A worker may write into it meanwhile."""
    size = 0
    for path in folder.rglob("*"):
        try:
            if path.is_file():
                size += path.lstat().st_size
                path.unlink()
        except FileNotFoundError:  # evicted meanwhile
            continue
    shutil.rmtree(folder, ignore_errors=True)
    return size
