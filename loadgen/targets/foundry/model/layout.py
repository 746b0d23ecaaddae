"""Where Foundry Local's runtime looks for a model of one's own, and what its files must say. Knows no weights.

    <cache>/foundry.modelinfo.json              the catalog as last fetched
    <cache>/Local/<name>-<version>/v<version>/  the model folder, and inference_model.json with the model's id

The file is read only when the catalog cannot be fetched; one that is fetched replaces it, and a model of one's own is
then in neither. So the runtime has to be given `NO_CATALOG_URL` as its catalog, on a machine with a network above all.
"""

import json
import os
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

from msgspec import Struct

CATALOG: Final = "foundry.modelinfo.json"
NO_CATALOG_URL: Final = "http://127.0.0.1:9"
"""An address that refuses. The runtime gives up after 4 tries and 4 s; where something answers 404 there, at once."""
MIB: Final = 2**20


class Listing(Struct, frozen=True, kw_only=True):
    """What a catalog says of a model besides what can be seen from its folder."""

    name: str
    alias: str
    """The name by which the runtime loads it."""
    version: int = 1
    publisher: str
    license: str
    license_text: str
    max_output_tokens: int

    @property
    def model_id(self) -> str:
        """What a chat request must say."""
        return f"{self.name}:{self.version}"


def model_folder(cache: Path, listing: Listing) -> Path:
    """The model's folder in a cache."""
    return cache / "Local" / f"{listing.name}-{listing.version}" / f"v{listing.version}"


def lay_out(model_dir: Path, cache: Path, listing: Listing) -> Path:
    """Move a model folder to its place in a cache, which it returns, and list it in the catalog.

    The same files and listing give the same bytes. The place must be free, and on the same disk.
    """
    folder = model_folder(cache, listing)
    folder.parent.mkdir(parents=True, exist_ok=True)
    model_dir.rename(folder)
    inference_model = {"Name": listing.model_id, "PromptTemplate": None}
    (folder / "inference_model.json").write_bytes(json.dumps(inference_model).encode())
    list_in_catalog(cache, listing)
    return folder


def is_listed(cache: Path, listing: Listing) -> bool:
    """Whether the cache's catalog has the model's entry, as it would be written now."""
    return _entry(cache, listing) in _catalog(cache)["models"]


def list_in_catalog(cache: Path, listing: Listing) -> None:
    """Put the model into the cache's catalog, in place of one with the same id; the others stay. All or nothing."""
    catalog = _catalog(cache)
    others = [
        model for model in catalog["models"] if not (isinstance(model, dict) and model.get("id") == listing.model_id)
    ]
    catalog["models"] = [*others, _entry(cache, listing)]
    temporary = cache / f"{CATALOG}.{os.getpid()}"
    try:
        temporary.write_bytes(json.dumps(catalog, indent=1).encode())
        temporary.replace(cache / CATALOG)
    except OSError:
        with suppress(OSError):
            temporary.unlink()
        raise


def _entry(cache: Path, listing: Listing) -> dict[str, Any]:
    folder = model_folder(cache, listing)
    context_tokens = json.loads((folder / "genai_config.json").read_bytes())["model"]["context_length"]
    size_mib = sum(path.stat().st_size for path in folder.iterdir()) // MIB
    return {
        "id": listing.model_id,
        "name": listing.name,
        "version": listing.version,
        "alias": listing.alias,
        "uri": f"local://{listing.name}",
        "displayName": listing.alias,
        "providerType": "FoundryLocal",
        "modelType": "ONNX",
        "publisher": listing.publisher,
        "license": listing.license,
        "licenseDescription": listing.license_text,
        "task": "chat-completion",
        "fileSizeMb": size_mib,
        "maxOutputTokens": listing.max_output_tokens,
        "createdAt": 0,  # a date would make every cache another one
        "runtime": {"deviceType": "CPU", "executionProvider": "CPUExecutionProvider"},
        "supportsToolCalling": False,
        "stringProperties": {
            "task": "chat-completion",
            "input_modalities": "text",
            "output_modalities": "text",
            "license": listing.license,
            "quantization": "int4",
        },
        "intProperties": {
            "context_length": context_tokens,
            "filesize_mb": size_mib,
            "max_output_tokens": listing.max_output_tokens,
        },
    }


def _catalog(cache: Path) -> dict[str, Any]:
    """A cache's catalog; an empty one where there is none, or where it cannot be understood."""
    with suppress(OSError, ValueError):
        catalog = json.loads((cache / CATALOG).read_bytes())
        if isinstance(catalog, dict) and isinstance(catalog.get("models"), list):
            return catalog
    return {"version": 1, "savedAtUnix": 0, "models": []}
