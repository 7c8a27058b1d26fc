"""The command ``mlx-server`` of an installation: lets this process and its children import the folders of the wheel.

A wheel has them in ``mlx_server/_app``, which is on no other program's path. A checkout has none: its own are found.
docs/decisions/installed-namespace.md says why.
"""

import os
import sys
from pathlib import Path

APP = Path(__file__).absolute().parent / "_app"


def main() -> None:
    if (APP / "cli").is_dir():
        sys.path.insert(0, str(APP))
        os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, (str(APP), os.environ.get("PYTHONPATH"))))
    from cli.__main__ import main

    main()


if __name__ == "__main__":
    main()
