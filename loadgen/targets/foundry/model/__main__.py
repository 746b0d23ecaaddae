"""`python -m loadgen.targets.foundry.model`: build the embedded Foundry Local model, once, and print where it is."""

import argparse
import sys

from loadgen.errors import ExitCode, LoadgenError
from loadgen.targets.foundry.model.cache import ensure_model, ignore_progress

_WIDTH = 60


def main() -> int:
    """The exit code. The folder goes to standard output; progress to standard error, where that is a terminal."""
    parser = argparse.ArgumentParser(
        prog="python -m loadgen.targets.foundry.model",
        description="Build the embedded model for Foundry Local from the installed SmolLM2 weights, unless it is there "
        "and whole, and print its folder. It is kept in LOADGEN_CACHE_DIR, or in the user's cache folder.",
    )
    parser.parse_args()
    has_terminal = sys.stderr.isatty()
    try:
        cache = ensure_model(_draw if has_terminal else ignore_progress)
    except LoadgenError as error:
        sys.stderr.write(f"loadgen: {error}\n")
        return error.exit_code
    except KeyboardInterrupt:
        return ExitCode.INTERRUPTED
    finally:
        if has_terminal:
            sys.stderr.write(f"\r{'':{_WIDTH}}\r")
    sys.stdout.write(f"{cache.folder}\n")
    return ExitCode.DONE


def _draw(step: str, share: float) -> None:
    line = f"model for Foundry Local: {step}, {share:.0%}"
    sys.stderr.write(f"\r{line:<{_WIDTH}.{_WIDTH}}")
    sys.stderr.flush()


if __name__ == "__main__":
    sys.exit(main())
