"""The command line, as `loadgen` and as `python -m loadgen`."""

import codecs
import contextlib
import os
import sys
from typing import NoReturn

from loadgen.errors import ExitCode


def main() -> NoReturn:
    """The entry point. Ctrl-C ends it without a traceback from the first import on."""
    try:
        _restart_in_utf8()
        from loadgen.cli.app import main as run_command

        run_command()
    except KeyboardInterrupt:
        sys.exit(ExitCode.INTERRUPTED)


def _restart_in_utf8() -> None:
    """Replace this process by the same command in Python's UTF-8 mode, if file names and arguments are ASCII here.

    They are in the locale C or POSIX with `PYTHONUTF8=0`. A model name in another script would then have no text, and
    no file name in a scenario could be opened. What is printed stays in the encoding of the streams.
    """
    is_ascii = codecs.lookup(sys.getfilesystemencoding()).name == "ascii"
    if not is_ascii or "utf8" in sys._xoptions or not sys.executable:  # -X utf8=0 would have the last word
        return
    variables = {**os.environ, "PYTHONUTF8": "1"}
    if not variables.get("PYTHONIOENCODING") and sys.stdout is not None:
        variables["PYTHONIOENCODING"] = sys.stdout.encoding
    with contextlib.suppress(OSError):
        os.execve(sys.executable, [sys.executable, "-X", "utf8", *sys.orig_argv[1:]], variables)


if __name__ == "__main__":
    main()
