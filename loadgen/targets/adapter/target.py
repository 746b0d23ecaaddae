"""A model in this process, through an adapter that a user wrote: imported, loaded, and unloaded again.

`docs/adapters.md` is the contract with its author. The adapter is the user's code, so each of its faults becomes one
line that says what to correct, and never an error of ours.
"""

import asyncio
import contextlib
import importlib
import os
import sys
from collections.abc import AsyncIterator, Iterator
from typing import Any, Final

import msgspec

from loadgen.clock import now_ns
from loadgen.errors import InputError, TargetError
from loadgen.scenario import PYTHON_PREFIX, Model
from loadgen.store.manifest import ModelCard
from loadgen.targets.adapter.in_process import InProcess, call_adapter, error_line, short_switches
from loadgen.targets.adapter.threads import WorkerThreads
from loadgen.targets.served import OnProgress, Served, UnloadInfo

UNLOAD_S: Final = 30.0
SKETCH: Final = "def generate(self, messages, **sampling): yield text"


def class_name(target: str) -> str:
    """The name of an adapter in records: `Adapter` of `python:package.module:Adapter`."""
    return target.rpartition(":")[2]


@contextlib.asynccontextmanager
async def serve_adapter(model: Model, on_progress: OnProgress) -> AsyncIterator[Served]:
    """A loaded adapter for as long as the context lasts. Raises InputError or TargetError on entering."""
    target = model.target or ""
    workers = WorkerThreads(f"adapter-{class_name(target)}")
    unload_info = UnloadInfo()
    with importable(model.python_path), short_switches():
        try:
            began_ns = now_ns()
            on_progress(f"importing {target.removeprefix(PYTHON_PREFIX)}", None)
            adapter = await workers.call(lambda: resolve(target, model.python_path))
            in_process = InProcess(adapter, workers)
            load_s = await _load(adapter, model, workers)
            card = await _card(adapter, model, workers)
            yield Served(
                base_url="",
                adapter=in_process,
                card=card,
                pid=os.getpid(),
                startup_s=(now_ns() - began_ns) / 1e9,
                load_s=load_s,
                settings={"adapter": target, "generate": "in the event loop" if in_process.in_loop else "in a thread"},
                unload_info=unload_info,
            )
            await _unload(adapter, in_process, workers, unload_info)
        finally:
            workers.close()


@contextlib.contextmanager
def importable(folder: str | None) -> Iterator[None]:
    """While the context lasts, Python looks for modules in this folder first."""
    if folder is None:
        yield
        return
    sys.path.insert(0, folder)
    importlib.invalidate_caches()
    try:
        yield
    finally:
        with contextlib.suppress(ValueError):  # the adapter may have taken it out itself
            sys.path.remove(folder)


def resolve(target: str, folder: str | None = None) -> Any:
    """Import, make and check the adapter that `python:package.module:Adapter` names.

    folder: named in error messages. A class, or any other callable without `generate`, is called without arguments.
    Raises InputError.
    """
    name, _, path = target.removeprefix(PYTHON_PREFIX).partition(":")
    adapter: Any = _import(target, name, folder)
    for part in path.split("."):
        try:
            adapter = getattr(adapter, part)
        except AttributeError:
            known = ", ".join(_classes(adapter)) or "no class"
            raise InputError(f"{target}: {name} has no {part}, it has {known}; name the adapter's class") from None
    if isinstance(adapter, type) or (callable(adapter) and not hasattr(adapter, "generate")):
        try:
            adapter = adapter()
        except Exception as error:
            hint = "it is called without arguments; take options in `load`"
            raise InputError(f"{target}: {path}() failed: {error_line(error)}; {hint}") from error
    _check(adapter, target)
    return adapter


def _import(target: str, name: str, folder: str | None) -> Any:
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name and f"{name}.".startswith(f"{error.name}."):
            where = "beside the scenario" if folder is None else f"in {folder}"
            hint = "install it, or set python_path to its folder"
            raise InputError(f'{target}: no module "{error.name}" {where}, and none installed; {hint}') from None
        raise InputError(f"{target}: {name} needs {error.name}, which is not installed; install it") from error
    except (Exception, SystemExit) as error:
        raise InputError(f"{target}: importing {name} failed: {error_line(error)}; fix {name}") from error


def _classes(namespace: Any) -> list[str]:
    """The public classes that a module or a class defines itself."""
    own = getattr(namespace, "__name__", "")
    return sorted(
        name
        for name, value in vars(namespace).items()
        if isinstance(value, type) and not name.startswith("_") and value.__module__ == own
    )


def _check(adapter: Any, target: str) -> None:
    """Check, before anything is loaded, that an object has what an adapter needs. Raises InputError."""
    name = class_name(target)
    if not hasattr(adapter, "generate"):
        raise InputError(f"{target}: {name} has no generate; write `{SKETCH}`")
    for method in ("load", "generate", "unload", "card", "count_tokens"):
        if hasattr(adapter, method) and not callable(getattr(adapter, method)):
            raise InputError(f"{target}: {name}.{method} is not a method; make it one, or rename it")


async def _load(adapter: Any, model: Model, workers: WorkerThreads) -> float | None:
    """Load the model; returns how many seconds it took, or None if there is nothing to load."""
    target, name = model.target or "", class_name(model.target or "")
    if not hasattr(adapter, "load"):
        if model.options:
            raise InputError(f"{target}: {name} has no load that could take the options; leave the options out")
        return None
    began_ns = now_ns()
    try:
        await call_adapter(workers, adapter.load, model.name, **model.options)
    except MemoryError as error:
        remedy = "unload other models, or use a smaller variant"
        raise TargetError(f"{name}.load: {error_line(error)}", problem="out_of_memory", remedy=remedy) from error
    except Exception as error:
        problem = "out_of_memory" if "memory" in str(error).lower() else "load_failed"
        remedy = f"check what {name}.load({model.name!r}) needs"
        raise TargetError(f"{name}.load: {error_line(error)}", problem=problem, remedy=remedy) from error
    return (now_ns() - began_ns) / 1e9


async def _card(adapter: Any, model: Model, workers: WorkerThreads) -> ModelCard:
    """The model's card, as the adapter describes it; else only its name."""
    target, name = model.target or "", class_name(model.target or "")
    described: Any = {}
    if hasattr(adapter, "card"):
        try:
            described = await call_adapter(workers, adapter.card)
        except Exception as error:
            raise InputError(f"{target}: {name}.card: {error_line(error)}; fix it, or leave it out") from error
    if isinstance(described, dict) and "licence" in described:  # as older adapters spell it
        license_name = described["licence"]
        described = {"license": license_name, **{key: value for key, value in described.items() if key != "licence"}}
    keys = set(ModelCard.__struct_fields__) - {"alias", "target", "source"}
    if not isinstance(described, dict) or not set(described) <= keys:
        raise InputError(f"{target}: {name}.card must return a dict with keys among {', '.join(sorted(keys))}")
    fixed = {"alias": model.name, "target": name, "source": target if described else None}
    try:
        return msgspec.convert({"id": model.name, **described, **fixed}, ModelCard)
    except msgspec.ValidationError as error:
        raise InputError(f"{target}: {name}.card: {error}; fix it, or leave it out") from error


async def _unload(adapter: Any, in_process: InProcess, workers: WorkerThreads, info: UnloadInfo) -> None:
    """Unload the model, if no call is running. The result is in `info`."""
    in_process.abandon()
    running = await in_process.leave()
    if running:  # to unload beneath a native call may end this process, and the run with it
        info.abandoned_calls = running
        return
    if not hasattr(adapter, "unload"):
        return
    began_ns = now_ns()
    try:
        async with asyncio.timeout(UNLOAD_S):
            await call_adapter(workers, adapter.unload)
    except TimeoutError:
        info.unload_error = f"not within {UNLOAD_S:g} s"
    except Exception as error:  # noqa: BLE001  the measurement is done; it is noted, and spoils nothing
        info.unload_error = error_line(error)
    else:
        info.unload_s = (now_ns() - began_ns) / 1e9
