"""`python -m loadgen.mock`: the child process that `MockProcess` starts. The command for users is `loadgen mock`."""

import sys

from loadgen.mock.process import serve_parent

if __name__ == "__main__":
    sys.exit(serve_parent())
