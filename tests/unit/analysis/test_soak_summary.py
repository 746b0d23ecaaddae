"""What the summary of a soak says where little was played."""

from loadgen.analysis.soak_summary import own_memory_slope, soak_stage
from loadgen.plan.plan import StageLoad
from loadgen.store.manifest import PlannedStage
from tests.records import manifest


def test_a_model_that_could_not_be_served_is_skipped_with_the_reason() -> None:
    planned = PlannedStage("m", "t", "c1", StageLoad("closed", 1), None, 0, skipped="no such model", problem="unknown")
    stage = soak_stage(planned, manifest([planned]), (), {}, floor="contract")
    assert (stage.status, stage.reason, stage.problem) == ("skipped", "no such model", "unknown")


def test_no_windows_have_no_slope_of_memory() -> None:
    assert own_memory_slope(()) is None
