"""A worker: ``python -m workers --model ID`` loads one model, registers with the broker and serves until told to leave.

A worker owns the model, its caches and the requests it has accepted. If it dies, only those requests are affected, and
the broker answers for them.
"""

import argparse
import gc
import logging
import os
import sys
from collections.abc import Sequence
from typing import Any

from shared import exits, failpoints, logs
from shared.models import draft_source
from shared.protocol import Inspection
from shared.settings import Settings, load_settings
from workers.engine.cpu.install import describe_blas, keep_freed_memory, open_blas
from workers.job import Served
from workers.model.load_error import LoadError, Progress
from workers.serve import serve
from workers.spare import await_assignment

log = logging.getLogger(__name__)


def main(arguments: Sequence[str] | None = None) -> int:
    keep_freed_memory()
    options = _options(arguments)
    failpoints.arm(os.environ.get(failpoints.VARIABLE))
    settings = load_settings()
    if options.inspect:
        return _inspect(settings, options.model)
    logs.configure(f"worker {options.model}" if options.model else "spare", settings.log_level)
    if options.model and _is_hosted(settings, options.model):
        from workers.host.serve import serve_hosted

        return serve_hosted(settings, options.model, options.id)
    log.info("%s", describe_blas(open_blas(settings.blas)))
    if options.model:
        return _serve(settings, options.model, options.id)
    told = await_assignment()
    return _serve(load_settings(), told.model, told.worker) if told else exits.STOPPED


def _serve(settings: Settings, model: str, worker: str | None) -> int:
    logs.configure(f"worker {model}", settings.log_level)
    return serve(settings, model, worker, lambda progress: _load(settings, model, progress))


def _is_hosted(settings: Settings, model: str) -> bool:
    source = settings.sources.get(model)
    return source is not None and source.kind == "hosted"


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m workers", description="Serve one model.")
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--model", help="one of MLX_SERVER_AVAILABLE_MODELS")
    what.add_argument("--spare", metavar="NAME", help="wait for a model, which the broker tells on a socket")
    parser.add_argument("--id", help="name of this worker, given by the broker that starts it")
    parser.add_argument(
        "--inspect", action="store_true", help="load nothing; print what the model would take, as JSON"
    )
    return parser.parse_args(arguments)


def _inspect(settings: Settings, model: str) -> int:
    """Standard output has one Inspection and nothing else."""
    source = settings.sources.get(model)
    if source and source.kind == "hosted":
        from workers.host.serve import inspected_hosted

        sys.stdout.write(inspected_hosted(settings.table(model)).model_dump_json() + "\n")
        return exits.STOPPED
    from workers.model.inspection import inspected

    draft = draft_source(model, settings.table(model))
    found = inspected(source, settings.cache_dir, draft) if source else Inspection()
    sys.stdout.write(found.model_dump_json() + "\n")
    return exits.STOPPED


def _load(settings: Settings, model: str, progress: Progress) -> Served[Any]:
    """Runs on the engine thread. MLX is first imported here, after OpenBLAS was opened."""
    source = settings.sources.get(model)
    if source is None:
        raise LoadError(f"{model!r} is not one of MLX_SERVER_AVAILABLE_MODELS", permanent=True)
    from workers.model.serve_model import load_engine

    served = load_engine(source, settings, progress)
    gc.freeze()  # a full collection over all imported modules would stop decoding for tens of milliseconds
    return served


if __name__ == "__main__":
    raise SystemExit(main())
