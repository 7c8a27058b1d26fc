"""The copy of a hub repository on this disk, in Hugging Face's own cache (HF_HOME), and which files belong to it.

Rule 1: nothing here uses the network.
Rule 2: only weights as safetensors, JSON, tokenizers and chat templates are ever fetched: no pickles, and code only
    where the operator allows it.
Rule 3: a file gets its place in the snapshot when all files of the snapshot are here whole.
"""

from fnmatch import fnmatch
from pathlib import Path

from workers.model.load_error import LoadError

FETCHED = [
    *("model*.safetensors", "[0-9]_*/model.safetensors", "*.json", "*.jinja", "*.txt", "*.tiktoken"),
    *("tokenizer.model", "tiktoken.model", "spiece.model"),
]
# fnmatch's * also matches "/", so these exclude folders with other formats (original/, onnx/). Names that begin with
# "ad" are kept for additional_chat_templates/, those that begin with a digit for sentence-transformers' 1_Pooling/.
NOT_FETCHED = ["[!a0-9]*/*", "a[!d]*/*"]


def patterns(allow_code: bool) -> list[str]:
    """Of the files to fetch."""
    return [*FETCHED, "*.py"] if allow_code else FETCHED


def is_fetched(name: str, allow_code: bool = False) -> bool:
    """As the hub library reads the patterns."""
    return any(fnmatch(name, pattern) for pattern in patterns(allow_code)) and not any(
        fnmatch(name, pattern) for pattern in NOT_FETCHED
    )


def local_copy(repository: str, revision: str | None = None, allow_code: bool = False) -> Path | None:
    """The snapshot on this disk; None if there is none, or files that the hub listed are missing. Raises LoadError."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HFValidationError, LocalEntryNotFoundError

    try:
        found = snapshot_download(
            repository,
            revision=revision,
            local_files_only=True,
            allow_patterns=patterns(allow_code),
            ignore_patterns=NOT_FETCHED,
        )
    except LocalEntryNotFoundError:
        return None
    except HFValidationError as error:
        raise LoadError(
            f"{repository!r} is not the name of a hub repository: {error}", permanent=True
        ) from error
    return Path(found)
