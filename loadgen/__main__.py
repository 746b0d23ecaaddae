"""The command line, as `loadgen` and as `python -m loadgen`."""

import sys
from typing import NoReturn

from loadgen.errors import ExitCode


def main() -> NoReturn:
    """The entry point. Ctrl-C ends it without a traceback from the first import on."""
    try:
        from loadgen.cli.app import main as run_command

        run_command()
    except KeyboardInterrupt:
        sys.exit(ExitCode.INTERRUPTED)


if __name__ == "__main__":
    main()
