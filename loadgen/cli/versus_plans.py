"""The two variants that `--versus` asks for, as plans."""

from loadgen import api
from loadgen.cli.options import Output, RepeatOptions, ScenarioOptions
from loadgen.decisions.versus.variants import check_name, check_variants
from loadgen.plan.plan import Plan
from loadgen.scenario.variant_models import VariantFlags


def plans_of_variants(
    options: ScenarioOptions, variant: VariantFlags, repetition: RepeatOptions, output: Output
) -> tuple[Plan, Plan]:
    """The plans of A, the scenario as it is, and of B. Raises InputError for variants that cannot be compared."""
    base = api.plan_of(options.load(output))
    new = api.plan_of(options.load("nothing", variant), like=base)
    check_name(base.scenario, new.scenario)
    if not repetition.anyway:
        check_variants(base, new)
    return base, new
