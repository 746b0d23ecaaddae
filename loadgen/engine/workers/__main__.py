"""`python -m loadgen.engine.workers`: the worker process that `WorkerHandle` starts and talks to."""

import atexit
import gc

from loadgen.wire.fast_imports import fast_imports

if __name__ == "__main__":
    atexit.register(gc.freeze)  # as in `loadgen.cli.app.main`
    with fast_imports():
        from loadgen.engine.workers.worker import main
    main()
