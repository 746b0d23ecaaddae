"""An adapter: Foundry Local's SDK in this process, without HTTP (`foundry_in_process.toml` plays it).

The same model on `target = "foundry"` is asked through the SDK's web service; the difference is what HTTP costs. It is
an example of an adapter: nothing of loadgen is needed to write one, and `docs/adapters.md` has the rules. Here loadgen
lends only the model that it brings along.
"""

import importlib
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

from loadgen.store.paths import user_cache_folder
from loadgen.targets.foundry.model.cache import ensure_model
from loadgen.targets.foundry.model.layout import NO_CATALOG_URL

_KNOWN: Final = {
    "max_tokens": "max_output_tokens",
    "temperature": "temperature",
    "top_p": "top_p",
    "top_k": "top_k",
    "seed": "seed",
    "frequency_penalty": "frequency_penalty",
    "presence_penalty": "presence_penalty",
}
"""Sampling as an OpenAI request names it -> as the SDK's `SearchOptions` does."""
_ENDS: Final = {"STOP": "stop", "LENGTH": "length", "TOOL_CALLS": "tool_calls"}
_LOADING: Final = threading.Lock()


class FoundryInProcess:
    """One model, loaded by the SDK in this process."""

    def load(self, model: str, *, embedded: bool = False, cache: str | None = None) -> None:
        """Load a model by its alias. embedded: SmolLM2-135M, which needs no network; built once, kept in the user's
        cache folder. cache: a folder of models, absolute or relative to where we are (default: the runtime's own)."""
        sdk = _sdk()
        if embedded:
            cache = str(ensure_model().folder)
        with _LOADING:  # the SDK is one in a process: all models must come from the same cache
            if sdk.FoundryLocalManager.instance is None:
                sdk.FoundryLocalManager.initialize(self._configuration(sdk, cache, offline=embedded))
        manager = sdk.FoundryLocalManager.instance
        self._model: Any = manager.catalog.get_model(model)
        if self._model is None:
            known = ", ".join(found.alias for found in manager.catalog.list_models())
            raise LookupError(f"the catalog has no {model}, only {known or 'nothing'}")
        if not self._model.is_cached:
            self._model.download()
        self._model.load()

    @staticmethod
    def _configuration(sdk: Any, cache: str | None, *, offline: bool) -> Any:
        home = user_cache_folder() / "foundry-in-process"
        return sdk.Configuration(
            app_name="loadgen",
            app_data_dir=str(home / "app"),
            logs_dir=str(home / "logs"),
            model_cache_dir=None if cache is None else str(Path(cache).absolute()),
            log_level=sdk.LogLevel.FATAL,
            disable_nonessential_telemetry=True,
            catalog_urls=[(NO_CATALOG_URL, None)] if offline else None,
        )

    def generate(self, messages: list[dict[str, Any]], **sampling: Any) -> Iterator[str | dict[str, Any]]:
        """Yield the answer's text piece by piece, as the runtime's own thread hands it over; then how it ended.

        A session remembers its turns, so each request has its own.
        """
        with _sdk(".session").ChatSession(self._model) as session:
            session.set_streaming(True)
            with session.process_streaming_request(_request(messages, sampling)) as stream:
                for item in stream:
                    text = getattr(item, "text", "")
                    yield text if item.type.name == "DEFAULT" else {"reasoning": text}
                with stream.final_response as end:
                    usage, reason = end.get_usage(), end.finish_reason.name
        counts = {"prompt_tokens": usage.prompt_tokens, "completion_tokens": usage.completion_tokens}
        yield {"usage": counts, "finish_reason": _ENDS.get(reason, reason.lower())}

    def unload(self) -> None:
        """Let the model go; the SDK itself stays until the program ends."""
        self._model.unload()

    def card(self) -> dict[str, Any]:
        """What the catalog says of the model."""
        info = self._model.info
        return {
            "id": self._model.id,
            "size_bytes": info.file_size_mb * 2**20 if info.file_size_mb else None,
            "license": info.license,
            "publisher": info.publisher,
            "task": info.task,
        }


def _request(messages: list[dict[str, Any]], sampling: dict[str, Any]) -> Any:
    """The SDK's request for a chat. Raises ValueError for a sampling parameter that it cannot take."""
    items, options = _sdk(".items"), _sdk(".session_types")
    unknown = sorted(set(sampling) - set(_KNOWN))
    if unknown:
        raise ValueError(f"the SDK takes no {', '.join(unknown)}")
    request = _sdk(".request").Request()
    for message in messages:
        request.add_item(items.MessageItem(items.MessageRole[message["role"].upper()], message["content"]))
    search = options.SearchOptions(**{_KNOWN[name]: value for name, value in sampling.items()})
    return request.set_options(options.RequestOptions(search=search))


def _sdk(module: str = "") -> Any:
    """A module of the SDK, imported when it is needed: without the SDK, it is `load` that fails, and says so."""
    return importlib.import_module(f"foundry_local_sdk{module}")
