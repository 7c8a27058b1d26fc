"""The names of blocks on disk: a hash chain over token ids that begins with a secret and a namespace. Pure.

A block's digest covers every token before it, so the same prompt has the same names in every worker and every life, and
a lookup needs no index. Without the node's secret nobody can tell from a name what a prompt was, and callers of unlike
namespaces have no name in common.
"""

import hashlib
import hmac
from collections.abc import Iterator
from dataclasses import dataclass

from workers.token_ids import Ids

BLOCK = 256  # tokens of a full block
NAME = 16  # bytes of a digest that a file's name shows
SUFFIX, CHECKPOINT = ".kv", ".ck"


@dataclass(frozen=True)
class Link:
    """Tokens ``start`` to ``end`` of a prompt, whose digest follows on ``parent``."""

    parent: bytes
    digest: bytes
    start: int
    end: int

    @property
    def full(self) -> bool:
        return self.end - self.start == BLOCK

    @property
    def waits(self) -> bool:
        """Whether its continuation makes it needless."""
        return not self.full

    @property
    def key(self) -> bytes:
        """Tells it from all other files."""
        return self.digest

    @property
    def name(self) -> str:
        """The parent's digest comes first, so that the children of a block are found without reading them."""
        return f"{shown(self.parent)}-{shown(self.digest)}-{self.start}{self.suffix}"

    @property
    def suffix(self) -> str:
        return SUFFIX


class Mark(Link):
    """The place of a checkpoint, which is behind the last of these tokens."""

    @property
    def waits(self) -> bool:
        return False

    @property
    def key(self) -> bytes:
        return b"checkpoint" + self.digest

    @property
    def suffix(self) -> str:
        return CHECKPOINT


def mark(last: Link) -> Mark:
    """The place of a checkpoint at the end of a prompt whose last link is given."""
    return Mark(last.parent, last.digest, last.start, last.end)


def shown(digest: bytes) -> str:
    return digest[:NAME].hex()


def beginning(secret: bytes, namespace: str) -> bytes:
    """The digest that the first block of a namespace follows on."""
    return hmac.digest(secret, b"chain\0" + namespace.encode(), "sha256")


def follow(parent: bytes, ids: Ids) -> bytes:
    return hashlib.sha256(parent + ids.astype("<i4").tobytes()).digest()


def links(first: bytes, ids: Ids) -> Iterator[Link]:
    """The blocks of ``ids``; the last one may have fewer tokens than ``BLOCK``."""
    parent = first
    for start in range(0, len(ids), BLOCK):
        end = min(start + BLOCK, len(ids))
        digest = follow(parent, ids[start:end])
        yield Link(parent, digest, start, end)
        parent = digest
