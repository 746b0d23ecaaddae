"""The warnings that are printed before a plan is played."""

from loadgen import api
from loadgen.analysis.stop_rule_monitor import reason_unreachable
from loadgen.cli.streams import tell
from loadgen.engine.workers.sizing import Workers
from loadgen.plan.plan import Plan
from loadgen.store.calibration import stored, warnings_for


def warn_before_run(plan: Plan, workers: Workers) -> None:
    """Warn if a plan goes beyond what this machine was calibrated for, or cannot show what it is for."""
    calibration = stored()
    remarks = [line for line in (calibration.remark, reason_unreachable(plan)) if line]
    for line in (
        *plan.remarks,
        *remarks,
        *warnings_for(plan, calibration.calibration, api.processes_of(plan, workers)),
    ):
        tell(f"loadgen: {line}")
