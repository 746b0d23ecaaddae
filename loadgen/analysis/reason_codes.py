"""The codes of the reasons for which a stage is not valid. Data only."""

from typing import Literal

RuleCode = Literal[
    "dispatch_slip",
    "loop_lag",
    "stamp_lag",
    "own_cpu",
    "shed",
    "gc_pause",
    "achieved_rate",
    "achieved_users",
    "littles_law",
    "shared_reads",
    "held_back",
    "over_range",
    "clock_step",
    "no_window",
    "never_steady",
    "nothing_answered",
    "incomplete",
    "server_died",
    "worker_lost",
    "beyond_calibration",
    "busy_machine",
]
"""The codes of the rules by which a stage is judged (`loadgen.analysis.validity`)."""
Code = Literal[RuleCode, "invalid_windows"]
"""The codes of all reasons for which a stage, or a soak, can be degraded or invalid."""
