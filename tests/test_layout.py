"""The storage layout: what each path is, and what is read back from one."""

from __future__ import annotations

from datetime import UTC, date, datetime

import pytest

from prefect_wavespeed.storage import layout

KEY = "0123456789abcdef" * 4
NAME = f"cat-{KEY[:16]}"
RUN = "runs/dt=2026-01-02/5f3c"


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        (layout.images(NAME), f"images/{NAME}/"),
        (layout.quarantine(NAME), f"quarantine/{NAME}/"),
        (layout.picture(NAME, 1, "jpeg"), f"images/{NAME}/1.jpeg"),
        (layout.picture(NAME, 2, "png", quarantined=True), f"quarantine/{NAME}/2.png"),
        (layout.metadata(NAME), f"images/{NAME}/metadata.json"),
        (layout.open_job(KEY), f"open/{KEY}/"),
        (layout.claim(KEY, 1), f"open/{KEY}/1.claim.json"),
        (layout.prediction(KEY, 12), f"open/{KEY}/12.prediction.json"),
        (layout.dead_letter(KEY), f"failed/{KEY}.json"),
        (layout.run(date(2026, 1, 2), "5f3c"), RUN),
        (layout.report_parts(RUN), f"{RUN}/parts/"),
        (layout.report_part(RUN, 7), f"{RUN}/parts/00007.jsonl"),
        (layout.caps(RUN), f"{RUN}/caps.json"),
        (layout.shards(RUN), f"{RUN}/shards/"),
        (layout.shard(RUN, 3, 1), f"{RUN}/shards/3.1"),
        (layout.shard_jobs(layout.shard(RUN, 3, 1)), f"{RUN}/shards/3.1/jobs.txt"),
        (layout.source_name(KEY), f"images/.names/{KEY}.json"),
        (layout.uploads(KEY, "127.0.0.1:8080"), f"uploads/{KEY}/127.0.0.1-8080/"),
        (
            layout.upload(KEY, "api.example.com", datetime(2026, 1, 2, 3, 4, 5, 6, UTC)),
            f"uploads/{KEY}/api.example.com/20260102T030405000006Z.json",
        ),
        (layout.probe("doctor"), ".probe/doctor"),
    ],
)
def test_a_path(path: str, expected: str) -> None:
    assert path == expected


def test_probes_have_names_of_their_own() -> None:
    assert layout.probe() != layout.probe()
    assert layout.probe().startswith(layout.PROBE)


def test_what_is_read_back_from_a_path_is_what_it_was_made_of() -> None:
    assert layout.parse_open(layout.claim(KEY, 3)) == (KEY, 3, "claim")
    assert layout.parse_open(layout.prediction(KEY, 10)) == (KEY, 10, "prediction")
    assert layout.key_of_open(layout.claim(KEY, 3)) == KEY
    assert layout.key_of_dead_letter(layout.dead_letter(KEY)) == KEY
    assert layout.short_key_of_metadata(layout.metadata(NAME)) == KEY[:16]
    assert layout.shard_of_part(layout.report_part(layout.shard(RUN, 3, 1), 7)) == layout.shard(RUN, 3, 1)
    assert layout.is_picture(layout.picture(NAME, 1, "jpeg"))
    assert layout.is_picture(f"s3://bucket/out/{layout.picture(NAME, 1, 'png', quarantined=True)}")


@pytest.mark.parametrize(
    "path",
    ["", "open/x/1.claim.json", f"open/{KEY}/claim.json", f"failed/{KEY[:16]}.json", "images/cat/1.jpeg"],
)
def test_a_stray_object_is_not_taken_for_ours(path: str) -> None:
    assert layout.parse_open(path) is None
    assert layout.key_of_dead_letter(path) is None
    assert layout.short_key_of_metadata(path) is None
    assert layout.shard_of_part(path) is None
    assert not layout.is_picture(path)


def test_a_side_car_is_no_picture_and_an_unknown_file_of_an_open_job_still_has_its_key() -> None:
    assert not layout.is_picture(layout.metadata(NAME))
    assert layout.key_of_open(f"open/{KEY}/notes.txt") == KEY
    assert layout.key_of_open("open/.settle") is None
