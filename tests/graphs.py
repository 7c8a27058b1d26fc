"""What MLX would run to compute arrays that are not evaluated yet."""

import re
import tempfile
from collections import Counter
from pathlib import Path

import mlx.core as mx

_LABEL = re.compile(r'\[label ="([^"]+)", shape=rectangle\]')


def operations(*arrays: mx.array) -> Counter[str]:
    """The operations by name; those that were compiled into one count as one."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "graph.dot"
        mx.export_to_dot(str(file), *arrays)
        return Counter(_LABEL.findall(file.read_text()))
