"""Rebinds functions that a loaded library calls; for 64-bit Linux with glibc.

A call into another library reads its address from a slot that the dynamic linker fills. This module finds the slot by
the function's name and writes another address. Rule: a slot is written before the first call, or not at all.
"""

import ctypes
import mmap
import platform
from collections.abc import Iterator, Mapping
from ctypes import POINTER, Structure, c_char_p, c_int64, c_ubyte, c_uint16, c_uint32, c_uint64, c_void_p

# elf(5): tags of the dynamic section, and the relocation types GLOB_DAT and JUMP_SLOT of each machine.
END, SIZE_OF_JUMPS, STRINGS, SYMBOLS, RELOCATIONS, SIZE, JUMPS = 0, 2, 5, 6, 7, 8, 23
SLOTS = {"x86_64": {6, 7}, "aarch64": {1025, 1026}}
READ_ONLY_ONCE_LINKED = 0x6474E552  # PT_GNU_RELRO
LINK_MAP = 2  # a request of dlinfo(3)


class LinkMap(Structure):
    _fields_ = [("base", c_uint64), ("name", c_char_p), ("dynamic", c_uint64)]


class DynamicEntry(Structure):
    _fields_ = [("tag", c_int64), ("value", c_uint64)]


class Relocation(Structure):
    _fields_ = [("offset", c_uint64), ("kind", c_uint32), ("symbol", c_uint32), ("addend", c_int64)]


class Symbol(Structure):
    _fields_ = [
        *[("name", c_uint32), ("info", c_ubyte), ("other", c_ubyte), ("section", c_uint16)],
        *[("value", c_uint64), ("size", c_uint64)],
    ]


class Segment(Structure):
    _fields_ = [
        *[("type", c_uint32), ("flags", c_uint32), ("offset", c_uint64), ("address", c_uint64)],
        *[("physical", c_uint64), ("file_size", c_uint64), ("size", c_uint64), ("align", c_uint64)],
    ]


def bind(library: ctypes.CDLL, functions: Mapping[str, int]) -> None:
    """Makes ``library`` call the addresses in ``functions``, which are keyed by function name.

    Raises OSError if a function has no slot (then no slot was written) or a slot cannot be written.
    """
    base, slots = _slots(library)
    if missing := functions.keys() - {name for name, _ in slots}:
        raise OSError(f"it does not call {', '.join(sorted(missing))} through a slot")
    locked = _read_only(base)
    for name, slot in slots:
        if name in functions:
            if slot in locked:
                _protect(slot, mmap.PROT_READ | mmap.PROT_WRITE)
            c_uint64.from_address(slot).value = functions[name]
            if slot in locked:
                _protect(slot, mmap.PROT_READ)


def _slots(library: ctypes.CDLL) -> tuple[int, list[tuple[str, int]]]:
    """The library's base address, and pairs of function name and slot address."""
    kinds = SLOTS.get(platform.machine())
    if kinds is None:
        raise OSError(f"nothing is known of slots on {platform.machine()}")
    here = _link_map(library)
    dynamic = dict(_dynamic(here.dynamic))

    def address(tag: int) -> int:
        """The value of a tag as an absolute address; glibc has added the base in writable sections."""
        value = dynamic[tag]
        return value if value >= here.base else value + here.base

    found = []
    for table, size in ((JUMPS, SIZE_OF_JUMPS), (RELOCATIONS, SIZE)):
        for i in range(dynamic.get(size, 0) // ctypes.sizeof(Relocation)):
            entry = Relocation.from_address(address(table) + i * ctypes.sizeof(Relocation))
            if entry.kind in kinds:
                symbol = Symbol.from_address(address(SYMBOLS) + entry.symbol * ctypes.sizeof(Symbol))
                name = ctypes.string_at(address(STRINGS) + symbol.name).decode()
                found.append((name, here.base + entry.offset))
    return here.base, found


def _link_map(library: ctypes.CDLL) -> LinkMap:
    dlinfo = getattr(ctypes.CDLL(None), "dlinfo", None)
    if dlinfo is None:
        raise OSError("this C library has no dlinfo")
    dlinfo.argtypes = [c_void_p, ctypes.c_int, c_void_p]
    found = POINTER(LinkMap)()
    if dlinfo(library._handle, LINK_MAP, ctypes.byref(found)):
        raise OSError("dlinfo knows nothing of it")
    return found.contents


def _dynamic(address: int) -> Iterator[tuple[int, int]]:
    while (entry := DynamicEntry.from_address(address)).tag != END:
        yield entry.tag, entry.value
        address += ctypes.sizeof(DynamicEntry)


def _read_only(base: int) -> range:
    """The pages that the linker made read-only after relocation, from the program headers at ``base``."""
    table, count = c_uint64.from_address(base + 32).value, c_uint16.from_address(base + 56).value
    for i in range(count):
        segment = Segment.from_address(base + table + i * ctypes.sizeof(Segment))
        if segment.type == READ_ONLY_ONCE_LINKED:
            start, end = segment.address, segment.address + segment.size
            return range(base + start - start % mmap.PAGESIZE, base + end - end % mmap.PAGESIZE)
    return range(0)


def _protect(address: int, access: int) -> None:
    page = address - address % mmap.PAGESIZE
    mprotect = ctypes.CDLL(None, use_errno=True).mprotect
    mprotect.argtypes = [c_void_p, ctypes.c_size_t, ctypes.c_int]
    if mprotect(page, mmap.PAGESIZE, access):
        raise OSError(ctypes.get_errno(), "mprotect does not let its slots be written")
