"""The exit codes of every process, by what they mean here; the numbers above 64 are those of BSD's sysexits.h."""

import os
from typing import Final

STOPPED: Final = 0  # told to end, in good order
FELL_OVER: Final = 1  # of `mlx-server`: the stack did not come up, or ended by itself
UNUSABLE: Final = 2  # of `mlx-server`: what was typed or set cannot be used, as argparse has it
BUG: Final = os.EX_SOFTWARE  # 70: an exception that no code expected
TAKEN: Final = os.EX_TEMPFAIL  # 75: something else has the address or the directory; later it may work
LOAD_MAY_WORK: Final = os.EX_TEMPFAIL  # 75, of a worker: another try may load the model
MISCONFIGURED: Final = os.EX_CONFIG  # 78: it cannot run here until settings or files change
