"""Opens the SSD tier for a model, or says in the log why prompts are not kept on disk."""

import logging
import platform
from importlib.metadata import version
from pathlib import Path
from typing import Any

import mlx.core as mx

from shared.files import NotPrivate
from workers.engine.disk.block import Layout
from workers.engine.disk.checkpoint import can_be_written, full_parts
from workers.engine.disk.eviction import FLOOR, Eviction
from workers.engine.disk.folder import BlockFolder
from workers.engine.disk.tier import DiskTier
from workers.engine.disk.writer import Writer
from workers.engine.forward import feed
from workers.engine.kv.mlx_caches import is_full_attention, new_cache
from workers.engine.prefixes.checkpoints import flat

log = logging.getLogger(__name__)


def open_tier(root: Path, limit: int | None, model: Any, origin: str, floor: int = FLOOR) -> DiskTier | None:
    """``limit``, ``floor``: see ``Eviction``; a limit of 0 is for none.

    ``origin``: what makes a key's bits, besides MLX and machine.
    """
    if limit == 0:
        return None
    cache = new_cache(model)
    if not can_be_written(cache):
        log.info("prompts are not kept on disk: this model has layers of an unknown kind")
        return None
    feed(model, cache, [[0]])
    arrays = [array for layer in full_parts(cache) for array in (layer.keys, layer.values)]
    shapes = tuple((array.shape[1], array.shape[3] * array.dtype.size) for array in arrays)
    where = f"mlx {version('mlx')} on {mx.default_device()}, {platform.machine()}"
    layout = Layout(
        shapes,
        f"{origin}; {where}; {[str(array.dtype) for array in arrays]}",
        checkpoints=not is_full_attention(cache),
    )
    if not layout.fits:
        log.info("prompts are not kept on disk: this model's keys have an odd size")
        return None
    try:
        folder = BlockFolder(root, layout)
    except (OSError, NotPrivate) as error:
        log.warning("prompts are not kept on disk: %s", error)
        return None
    eviction = Eviction(root, limit, floor)
    dtypes = [array.dtype for array in arrays]
    return DiskTier(folder, lambda lost: Writer(folder, eviction, lost), dtypes, flat(cache)[1])
