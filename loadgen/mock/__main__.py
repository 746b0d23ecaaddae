"""`python -m loadgen.mock`: the child that `MockProcess` starts and talks to. For people there is `loadgen mock`."""

import sys

from loadgen.mock.process import serve_parent

if __name__ == "__main__":
    sys.exit(serve_parent())
