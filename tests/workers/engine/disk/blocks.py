"""Folders of blocks with contents that can be told apart."""

from pathlib import Path

import numpy as np

from workers.engine.disk.block import Layout, Words
from workers.engine.disk.chain import Link, links
from workers.engine.disk.folder import BlockFolder
from workers.token_ids import Ids, as_ids

LAYOUT = Layout(((2, 16), (2, 16)), "a model")
PROMPT = as_ids([(7 * i) % 250 for i in range(600)])  # two full blocks and an end


def folder_in(root: Path, layout: Layout = LAYOUT) -> BlockFolder:
    return BlockFolder(root / "prompts", layout)


def content(ids: Ids, start: int = 0) -> list[Words]:
    """Keys and values that tell of id and position."""
    words = (ids.astype(np.uint64) << np.uint64(20)) + np.arange(start, start + len(ids), dtype=np.uint64)
    return [np.ascontiguousarray(np.tile(words[None, :, None] + np.uint64(i), (2, 1, 2))) for i in range(2)]


def chain(folder: BlockFolder, ids: Ids = PROMPT, namespace: str = "") -> list[Link]:
    return list(links(folder.beginning(namespace), ids))


def write(folder: BlockFolder, ids: Ids = PROMPT, namespace: str = "") -> list[Link]:
    found = chain(folder, ids, namespace)
    for link in found:
        own = ids[link.start : link.end]
        folder.write(namespace, link, own, content(own, link.start))
    return found


def tokens(folder: BlockFolder, ids: Ids = PROMPT, namespace: str = "") -> int:
    """How many tokens are found and can be read, and are right."""
    done = 0
    for each in folder.find(namespace, ids):
        room = [np.zeros((2, each.tokens, 2), np.uint64) for _ in range(2)]
        if not folder.read(each, room):
            break
        right = content(ids[done : done + each.tokens], done)
        assert all(np.array_equal(one, other) for one, other in zip(room, right, strict=True))
        done += each.tokens
    return done


def files(folder: BlockFolder) -> list[Path]:
    return sorted(path for path in folder.root.rglob("*") if path.is_file() and path.name != "secret")
