"""`python -m tuner` is the console script `tuner`."""

import sys

from tuner import ctrl_c


def run() -> int:
    """The exit code of the command line."""
    ctrl_c.leaves()
    from tuner.cli import main  # noqa: PLC0415 - during which Ctrl-C would be a traceback

    return main()


if __name__ == "__main__":
    sys.exit(run())
