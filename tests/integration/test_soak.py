"""The soak of `make fuzz`, small: thousands of token events, faults among them, each request as the server tells it."""

from loadgen.record import OUTCOMES
from tests.fuzz.soak import MOST_GROWTH, soak


def test_every_request_of_a_soak_with_faults_is_accounted_for_and_memory_stays() -> None:
    soaked = soak(20_000)
    assert soaked.events >= 20_000
    assert soaked.replies == soaked.truths
    assert set(soaked.outcomes) == set(OUTCOMES) - {"connect_error", "timeout", "cancelled", "shed"}
    assert len(soaked.rss) > 20
    assert soaked.growth <= MOST_GROWTH, soaked.rss
