"""For all tests: the examples of property tests are the same in every run, unless new ones are asked for.

HYPOTHESIS_PROFILE=explore pytest tests/unit     looks for new examples
"""

import os

from hypothesis import settings

settings.register_profile("steady", derandomize=True, deadline=None)
settings.register_profile("explore", derandomize=False, deadline=None)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "steady"))
