"""Flower's SuperNode as a program of its own: `python -I FILE ARGUMENTS`.

When the network breaks off in the midst of a TLS handshake Flower's main thread ends, with an error
or as if all were well, and a server in another thread keeps the process alive: it looks well and
never answers again. Here the process ends with its main thread, and its supervisor starts it anew.
"""

import os
import sys
import traceback

from flwr.supernode.cli import flower_supernode


def main() -> None:
    """Runs it until it ends, and then ends for good.

    An exit that Flower means (SystemExit) is left to Flower, which forces it after a few seconds.
    """
    try:
        flower_supernode()
    except Exception:  # noqa: BLE001  (whatever it was: only then does the process end)
        traceback.print_exc()
    sys.stderr.flush()
    os._exit(1)


if __name__ == "__main__":
    main()
