"""The option `--since`: a day, or a number of days ago."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from prefect_wavespeed.deployments.cli.shared.since import parse_since
from prefect_wavespeed.errors import ConfigurationError

NOW = datetime(2026, 3, 2, 15, 30, tzinfo=UTC)


@pytest.mark.parametrize(
    ("since", "start"),
    [
        ("2026-02-28", datetime(2026, 2, 28, tzinfo=UTC)),
        ("2026-03-02", datetime(2026, 3, 2, tzinfo=UTC)),
        ("0d", datetime(2026, 3, 2, tzinfo=UTC)),
        ("7d", datetime(2026, 2, 23, tzinfo=UTC)),
    ],
)
def test_since_is_the_start_of_a_day(since: str, start: datetime) -> None:
    assert parse_since(since, NOW) == start


@pytest.mark.parametrize(
    "since", ["", "1w", "7", "-7d", "99999d9", "2026-2-1", "2026-02-30", "2026-03-03", "yesterday", "٧d"]
)
def test_an_invalid_or_future_day_is_refused(since: str) -> None:
    with pytest.raises(ConfigurationError, match="--since"):
        parse_since(since, NOW)


def test_more_days_than_the_calendar_has_are_refused() -> None:
    assert parse_since("99999d", NOW).year > 1700
    with pytest.raises(ConfigurationError, match="--since 99999d"):
        parse_since("99999d", datetime(200, 1, 1, tzinfo=UTC))
