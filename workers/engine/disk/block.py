"""The bytes of a block's file: a header with its ids, then keys and values of every full layer. Pure.

Header: magic, length and crc32 of what follows; layout, parent and own digest, position, ids, and a checksum of the
payload. Payload: for each layer keys, then values, each (heads, tokens, size) in the machine's own byte order. The file
of a checkpoint has the same header with a magic of its own; for its payload see ``checkpoint``.
"""

import hashlib
import struct
import zlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt

from workers.engine.disk.chain import BLOCK, Link, Mark, follow
from workers.token_ids import Ids

VERSION = 1
MAGIC = b"mlxkv\0\0" + bytes([VERSION])
MARK_MAGIC = b"mlxck\0\0" + bytes([VERSION])
_OPENING = struct.Struct("<8sII")  # magic, length and crc32 of the rest of the header
_FIXED = struct.Struct("<32s32s32sIII")  # layout, parent, own digest, start, ids, checksum of the payload
HEADER_MOST = _OPENING.size + _FIXED.size + 4 * BLOCK
WORD = 8  # bytes; keys and values of one token and head must be a multiple, for the checksum

Words = npt.NDArray[np.uint64]  # (heads, tokens, words of a token)


@dataclass(frozen=True)
class Layout:
    """``arrays``: (heads, bytes of a token and head) of keys and values of each full layer, in order.

    ``origin``: all that the bits of a key depend on besides the ids: weights, MLX, machine. ``checkpoints``: other
    layers have windows or states, which are in files of their own.
    """

    arrays: tuple[tuple[int, int], ...]
    origin: str
    checkpoints: bool = False

    @cached_property
    def digest(self) -> bytes:
        return hashlib.sha256(f"{VERSION} {self.arrays} {self.origin}".encode()).digest()

    @property
    def token_bytes(self) -> int:
        return sum(heads * size for heads, size in self.arrays)

    @property
    def fits(self) -> bool:
        return (bool(self.arrays) or self.checkpoints) and all(
            size % WORD == 0 and size for _, size in self.arrays
        )


class Invalid(Exception):
    """A file that cannot be used: corrupt, truncated, or of something else."""


@dataclass(frozen=True)
class Header:
    link: Link
    ids: Ids
    checksum: int
    size: int  # bytes of the header
    payload: int  # bytes that follow


def checksum(arrays: Sequence[Words]) -> int:
    """A crc32 over the sum of the words of each token: ten times as fast as a crc32 of all bytes.

    One flipped bit, or tokens that have changed places, change it.
    """
    crc = 0
    for array in arrays:
        crc = zlib.crc32(array.sum(axis=2).tobytes(), crc)
    return crc


def checksum_of_bytes(buffers: Iterable[memoryview]) -> int:
    crc = 0
    for buffer in buffers:
        crc = zlib.crc32(buffer, crc)
    return crc


def encode(link: Link, ids: Ids, layout: Layout, payload: int) -> bytes:
    """The header of a block or checkpoint; ``ids`` are its own, ``payload`` is the checksum of what follows."""
    fixed = (layout.digest, link.parent, link.digest, link.start, len(ids), payload)
    rest = _FIXED.pack(*fixed) + ids.astype("<i4").tobytes()
    return _OPENING.pack(MARK_MAGIC if isinstance(link, Mark) else MAGIC, len(rest), zlib.crc32(rest)) + rest


def decode(data: bytes, file_size: int, layout: Layout) -> Header:
    """``data``: at least the file's first ``HEADER_MOST`` bytes, if it has as many. Raises Invalid."""
    if len(data) < _OPENING.size + _FIXED.size:
        raise Invalid("it is too short")
    magic, length, crc = _OPENING.unpack_from(data)
    rest = data[_OPENING.size : _OPENING.size + length]
    kind = {MAGIC: Link, MARK_MAGIC: Mark}.get(magic)
    if kind is None or len(rest) != length or length < _FIXED.size or zlib.crc32(rest) != crc:
        raise Invalid("its header is corrupt")
    its_layout, parent, digest, start, count, payload = _FIXED.unpack_from(rest)
    ids = np.frombuffer(rest, "<i4", offset=_FIXED.size).astype(np.int32)
    if its_layout != layout.digest:
        raise Invalid("it is of another model")
    if len(ids) != count or not 0 < count <= BLOCK or follow(parent, ids) != digest:
        raise Invalid("its ids are corrupt")
    size = _OPENING.size + length
    if kind is Link and file_size != size + count * layout.token_bytes:
        raise Invalid("it is truncated")
    return Header(kind(parent, digest, start, start + count), ids, payload, size, file_size - size)
