"""``python -m workers.self_check MODEL``: what the engine is and does on this machine, as one line of JSON.

``folder`` in it is for whoever asked, who starts another server on the same files, and for no report.
"""

import argparse
import json
import resource
import sys
from collections.abc import Sequence
from dataclasses import asdict, is_dataclass
from typing import Any

from shared import exits
from shared.models import parse_source
from shared.settings import Settings, load_settings
from workers.engine.cpu.install import keep_freed_memory, open_blas
from workers.model.load_error import LoadError

ROWS, STEPS, TOKENS = (1, 8, 32), 96, 48
QUICK_ROWS, QUICK_STEPS, QUICK_TOKENS = (1, 4), 12, 8


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m workers.self_check", description=__doc__)
    parser.add_argument("model")
    parser.add_argument("--quick", action="store_true")
    given = parser.parse_args(arguments)
    keep_freed_memory()
    settings = load_settings(prompt_disk_gb=0)
    open_blas(settings.blas)
    try:
        found = measured(settings, given.model, quick=given.quick)
    except LoadError as error:
        print(error.reason, file=sys.stderr)
        return exits.LOAD_MAY_WORK
    print(json.dumps(found, default=_plain))
    return exits.STOPPED


def measured(settings: Settings, model: str, *, quick: bool) -> dict[str, Any]:
    """MLX is imported from here on. Raises LoadError."""
    from workers.device import has_accelerator
    from workers.model.load import inspect, load, locate
    from workers.model.serve_model import serve_model, weight_bytes
    from workers.self_check.parity import parity
    from workers.self_check.pass_memory import pass_memory
    from workers.self_check.speed import speed

    source = settings.sources.get(model) or parse_source(model)
    folder = locate(source, settings.cache_dir, lambda *_: None)
    facts = inspect(folder, source.allow_code)
    loaded = load(folder, facts, lambda *_: None, trusted=source.kind == "embedded")
    served = serve_model(loaded, settings, settings.table(source.id))
    most = getattr(served.engine, "most_sequences", 1)
    rows = [each for each in (QUICK_ROWS if quick else ROWS) if each <= most]
    same = parity(served, QUICK_TOKENS if quick else TOKENS)
    speeds = [speed(served, loaded.model, each, QUICK_STEPS if quick else STEPS) for each in rows]
    report = served.engine.report
    return {
        "folder": str(folder),
        "model_type": facts.model_type,
        "weight_bytes": weight_bytes(loaded),
        "accelerator": has_accelerator(),
        "batch_invariance": report["invariance"],
        "parity": same,
        "decode": speeds,
        "mlx_peak_bytes": report["peak_bytes"],
        "pass_memory": pass_memory(served, rows[-1]),
        "resident_peak_bytes": resident_peak(),
    }


def resident_peak() -> int:
    """Bytes; Linux counts in KiB."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def _plain(value: object) -> Any:
    assert is_dataclass(value) and not isinstance(value, type)
    return asdict(value)


if __name__ == "__main__":
    raise SystemExit(main())
