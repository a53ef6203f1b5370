from __future__ import annotations

from collections.abc import Iterator

import pytest

from prefect_wavespeed.errors import ConfigurationError
from prefect_wavespeed.settings import get_settings

LIMIT = "must be less than half of RESTYLE_LEASE_SECONDS (150): otherwise"


@pytest.fixture(autouse=True)
def _read_anew() -> Iterator[None]:
    get_settings.cache_clear()
    yield
    get_settings.cache_clear()


def test_a_setting_is_read_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RESTYLE_POLL_TIMEOUT_SECONDS", "12.5")
    assert get_settings().poll_timeout_seconds == 12.5


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("LEASE_SECONDS=soon", "LEASE_SECONDS soon: must be a number"),
        ("LEASE_SECONDS=0", "LEASE_SECONDS 0: must be greater than 0"),
        (
            "SUBMIT_TIMEOUT_SECONDS=75",
            f"SUBMIT_TIMEOUT_SECONDS (75) {LIMIT} two runners could submit one job",
        ),
        ("RECONCILE_SECONDS=75", f"RECONCILE_SECONDS (75) {LIMIT} the claim expires during a search"),
    ],
)
def test_an_invalid_setting_is_refused_by_its_variable_and_value(
    monkeypatch: pytest.MonkeyPatch, setting: str, message: str
) -> None:
    name, _, value = setting.partition("=")
    monkeypatch.setenv(f"RESTYLE_{name}", value)
    with pytest.raises(ConfigurationError) as caught:
        get_settings()
    assert str(caught.value) == f"RESTYLE_{message}"
