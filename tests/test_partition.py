"""Manifests of a day: what is filled in, what is refused, and which day it is."""

from __future__ import annotations

from datetime import date, datetime
from uuid import uuid4

import pytest
from prefect.client.schemas.objects import DeploymentSchedule
from prefect.client.schemas.responses import DeploymentResponse
from prefect.client.schemas.schedules import CronSchedule, IntervalSchedule, RRuleSchedule

from prefect_wavespeed.batch.manifest.partition import day_at, filled, is_template
from prefect_wavespeed.batch.manifest.read import Manifest
from prefect_wavespeed.blocks.schedules import zone_of
from prefect_wavespeed.errors import ConfigurationError, ManifestError

DAY = date(2026, 11, 1)


@pytest.mark.parametrize(
    ("template", "manifest"),
    [
        ("s3://bucket/in/dt={date}/", "s3://bucket/in/dt=2026-11-01/"),
        ("s3://bucket/manifests/{date}.csv", "s3://bucket/manifests/2026-11-01.csv"),
        ("https://x.example/{date}.jsonl", "https://x.example/2026-11-01.jsonl"),
        ("in/{date}/*.jpg", "in/2026-11-01/*.jpg"),
        ("s3://bucket/{date:%Y/%m/%d}/", "s3://bucket/2026/11/01/"),
        (
            "s3://b/year={date:%Y}/month={date:%m}/day={date:%d}/{a,b}",
            "s3://b/year=2026/month=11/day=01/{a,b}",
        ),
    ],
)
def test_a_date_is_filled_in_wherever_the_manifest_is(template: str, manifest: str) -> None:
    assert is_template(template)
    assert filled(template, DAY) == manifest


@pytest.mark.parametrize(
    "manifest",
    [
        "in/{a,b}/",
        "in/{day,night}/",
        "in/{draft}/a.csv",
        "in/{a b}/x.csv",
        "in/{data}/{dating}.csv",
        "{}.csv",
        "{7b0de9a1-33}/a.csv",
        "s3://b/{deadbeef-1111}/",
        "photos/*.jpg",
        ["{date}.jpg"],
        "a{b",
        "date}",
    ],
)
def test_other_braces_are_part_of_the_name(manifest: Manifest) -> None:
    assert not is_template(manifest)
    assert filled(manifest, None) == manifest


@pytest.mark.parametrize(
    "braces",
    [
        "{dat}",
        "{day}",
        "{Date}",
        "{ date }",
        "{{date}}",
        "{{ ds }}",
        "{{ds_nodash}}",
        "{execution_date}",
        "{dt}",
        "{datum}",
        "{date-1}",
        "{YYYY-MM-DD}",
        "{date:%H}",
        "{date:}",
        "{date:x}",
        "{Date:%Y,%m,%d}",
    ],
)
def test_a_mistaken_placeholder_is_named_with_what_is_allowed(braces: str) -> None:
    with pytest.raises(ManifestError) as refused:
        is_template(f"s3://bucket/{{date}}/{braces}/")
    assert f"{braces} cannot be filled in: give {{date}}" in refused.value.message
    assert "{date:%Y/%m/%d}" in refused.value.message


def test_a_date_that_does_not_tell_days_apart_is_refused() -> None:
    with pytest.raises(ManifestError, match=r"its date has no %d, so different days"):
        is_template("s3://bucket/{date:%Y-%m}/")


def test_a_day_and_a_place_for_it_go_together() -> None:
    with pytest.raises(ManifestError, match=r"manifest s3://b/\{date\}/: it has a date"):
        filled("s3://b/{date}/", None)
    with pytest.raises(ManifestError, match=r"date 2026-11-01: manifest s3://b/in/ has no \{date\}"):
        filled("s3://b/in/", DAY)


@pytest.mark.parametrize(
    ("moment", "zone", "day"),
    [
        ("2026-11-02T04:30:00Z", "America/New_York", "2026-11-01"),  # 23:30, after clocks went back
        ("2026-11-01T03:30:00Z", "America/New_York", "2026-10-31"),  # 23:30, the night before they do
        ("2026-11-01T05:30:00Z", "America/New_York", "2026-11-01"),  # 1:30 for the first time
        ("2026-11-01T06:30:00Z", "America/New_York", "2026-11-01"),  # and again
        ("2026-03-08T07:00:00Z", "America/New_York", "2026-03-08"),  # 3:00, an hour is missing
        ("2026-11-01T11:00:00Z", "Pacific/Tongatapu", "2026-11-02"),  # UTC+13
        ("2026-11-01T10:59:59Z", "Pacific/Tongatapu", "2026-11-01"),
        ("2026-11-01T00:30:00+13:00", "UTC", "2026-10-31"),
        ("2018-11-04T02:00:00Z", "America/Sao_Paulo", "2018-11-03"),  # a day that begins at 1:00
        ("2018-11-04T03:00:00Z", "America/Sao_Paulo", "2018-11-04"),
    ],
)
def test_the_day_is_that_of_the_time_zone(moment: str, zone: str, day: str) -> None:
    assert day_at(datetime.fromisoformat(moment), zone).isoformat() == day


@pytest.mark.parametrize("zone", ["Europe/Nowhere", "../etc/passwd", "Europe"])
def test_an_unknown_time_zone_is_an_error_that_says_what_to_do(zone: str) -> None:
    with pytest.raises(ConfigurationError, match=r"not known on this machine: .*pip install tzdata"):
        day_at(datetime.fromisoformat("2026-11-01T12:00:00Z"), zone)


def _deployment(*schedules: CronSchedule | IntervalSchedule | RRuleSchedule) -> DeploymentResponse:
    saved = [DeploymentSchedule(id=uuid4(), schedule=schedule, active=True) for schedule in schedules]
    return DeploymentResponse(name="nightly", flow_id=uuid4(), labels={}, schedules=saved)


def test_the_schedule_that_made_a_run_says_the_time_zone() -> None:
    tokyo = CronSchedule(cron="30 23 * * *", timezone="Asia/Tokyo")
    york = RRuleSchedule(rrule="FREQ=DAILY", timezone="America/New_York")
    deployment = _deployment(tokyo, york)
    assert [zone_of(deployment, saved.id) for saved in deployment.schedules] == [
        "Asia/Tokyo",
        "America/New_York",
    ]
    with pytest.raises(ConfigurationError, match="date: not given, and the schedules of deployment nightly"):
        zone_of(deployment)


def test_a_run_by_hand_has_the_time_zone_of_its_deployments_schedules() -> None:
    tokyo = CronSchedule(cron="30 23 * * *", timezone="Asia/Tokyo")
    assert zone_of(_deployment(tokyo, tokyo), uuid4()) == "Asia/Tokyo"
    assert zone_of(_deployment()) == "UTC"
    assert zone_of(_deployment(CronSchedule(cron="0 2 * * *"))) == "UTC"
