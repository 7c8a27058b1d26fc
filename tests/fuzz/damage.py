"""Damaged inputs: samples with bytes or JSON values changed, as Hypothesis draws and shrinks them."""

import json
from collections.abc import Sequence
from typing import Any

from hypothesis import strategies as st

WORDS = [
    *(b"", b"\0", b"\xff", b"\xed\xa0\x80", b"\xef\xbb\xbf", b"\r\n", b"\\", b'"', b"'", b'"""', b"#", b"="),
    *(b"{", b"}", b"[", b"]", b"[[", b":", b",", b"null", b"true", b"NaN", b"-Infinity", b"1e999", b"-0"),
    *(b'"\\ud800"', b"9" * 400, b"[" * 200, b'{"a":' * 70, b"x" * 5000, b"0x1", b"1979-05-27", b"*"),
    *(
        b"\x81",
        b"\x91",
        b"\xdc\xff\xff",
        b"\xdd\xff\xff\xff\xff",
        b"\xdf\xff\xff\xff\xff",
        b"\xc1",
        b"\xc7\xff",
    ),
]
_ODD: list[Any] = [
    *(
        None,
        True,
        0,
        -1,
        1 << 63,
        1 << 70,
        -(1 << 64),
        1e308,
        0.5,
        "",
        "5",
        "x" * 5000,
        "\ud800",
        "\0\x1b[2J",
    ),
    *(
        [],
        {},
        [None],
        [[]] * 30,
        {"": {}},
        {"$ref": "#"},
        {"type": "object"},
        {"role": "user"},
        "../../etc/passwd",
    ),
    *(
        json.loads("[" * 80 + "]" * 80),
        list(range(300)),
        {str(i): i for i in range(300)},
        "data:image/png;base64,",
    ),
]
ODD = [json.dumps(value) for value in _ODD]


def damaged_bytes(samples: st.SearchStrategy[bytes]) -> st.SearchStrategy[bytes]:
    """Some bytes are replaced by others, by words or by a part of another sample."""
    pieces = st.binary(max_size=4) | st.sampled_from(WORDS) | samples.map(lambda sample: sample[:60])
    edits = st.lists(st.tuples(st.floats(0, 1), st.integers(0, 40), pieces), min_size=1, max_size=5)
    return st.builds(_edited, samples, edits)


def _edited(data: bytes, edits: Sequence[tuple[float, int, bytes]]) -> bytes:
    for where, length, piece in edits:
        at = int(where * len(data))
        data = data[:at] + piece + data[at + length :]
    return data


def damaged_json(samples: Sequence[Any]) -> st.SearchStrategy[bytes]:
    """Values of the tree are replaced, copied to another place, or renamed; some trees are cut as bytes besides."""
    roads = st.lists(st.integers(0, 40), max_size=6)
    edits = st.lists(st.tuples(roads, st.sampled_from(ODD), st.booleans()), min_size=1, max_size=3)
    trees = st.builds(_grafted, st.sampled_from([json.dumps(sample) for sample in samples]), edits)
    texts = trees.map(lambda tree: json.dumps(tree).encode())
    return texts | damaged_bytes(texts)


def _grafted(text: str, edits: Sequence[tuple[Sequence[int], str, bool]]) -> Any:
    tree = json.loads(text)
    for road, text_of_odd, adds in edits:
        odd, holder, place = json.loads(text_of_odd), tree, None
        for turn in road:
            steps = (
                list(holder)
                if isinstance(holder, dict)
                else range(len(holder) if isinstance(holder, list) else 0)
            )
            if not steps:
                break
            place = (holder, steps[turn % len(steps)])
            holder = holder[steps[turn % len(steps)]]
        if isinstance(holder, dict) and adds:
            holder["extra"] = odd
        elif place is None:
            tree = odd
        else:
            place[0][place[1]] = odd
    return tree
