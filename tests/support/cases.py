"""How many cases a generator makes: a few hundred in `make test`, many times that in `make e2e`."""

from __future__ import annotations

import os

from hypothesis import HealthCheck, Phase, settings

TIMES = "CASES"


def many(count: int) -> settings:
    """Settings for so many cases, times ``CASES`` of the environment."""
    return settings(
        max_examples=count * int(os.environ.get(TIMES, "1")),
        deadline=None,
        phases=[
            Phase.explicit,
            Phase.generate,
        ],  # a failing case is small already, and shrinking takes minutes
        suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
    )
