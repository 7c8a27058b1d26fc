"""The BLAS the tests compute with, as MLX_SERVER_BLAS says: without one products are slow, and round in other ways."""

from shared.settings import PREFIX, Settings
from workers.engine.cpu.blas import open_blas

VARIABLE = f"{PREFIX}BLAS"


def open_chosen_blas() -> None:
    """Before MLX is imported."""
    open_blas(Settings().blas)
