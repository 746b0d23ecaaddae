"""Which life of its server each model is in, over all processes that played a soak."""

from collections.abc import Mapping, Sequence

from loadgen.engine.servers import ServerLives
from loadgen.plan.plan import Plan
from loadgen.record import StageKey
from loadgen.store.windows import WindowLine
from loadgen.targets.registry import target_name
from loadgen.targets.served import Served

ServerKey = tuple[str, str]
"""A target and a model there."""


class ServerNumbers:
    """The number of the life in which each server is, over all processes that played the soak."""

    def __init__(self, plan: Plan, earlier: Mapping[ServerKey, int]) -> None:
        """earlier: the life of each server when an earlier process last looked."""
        self._models = {(target_name(model), model.name): index for index, model in enumerate(plan.models)}
        self._earlier = dict(earlier)
        self._lives: ServerLives | None = None
        self._own = set[int]()
        """The models whose servers we have started."""

    def serve(self, lives: ServerLives, ready: Mapping[int, Served]) -> None:
        """These models are served now."""
        self._lives = lives
        self._own |= {index for index, served in ready.items() if served.child is not None}

    def of(self, key: StageKey) -> tuple[int, int | None]:
        """As `ServerOf`."""
        server = key.target, key.model
        before, index = self._earlier.get(server), self._models[server]
        if self._lives is None:
            return before or 0, None
        life = self._lives.of(index)
        # A server that an earlier process had started ended with it.
        first = 0 if before is None else before + (index in self._own)
        return first + life.number, life.pid


def lives_of(windows: Sequence[WindowLine]) -> dict[ServerKey, int]:
    """The last known life of each server."""
    return {(window.target, window.model): window.server_life for window in windows}
