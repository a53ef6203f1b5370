"""A public suite of test images, and pictures made to use up memory, each in one batch."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from benchmarks.corpus import pillow_images, restyle_all
from tests.support.emulator_process import Emulator
from tests.support.engine import PHOTO
from tests.support.hostile_pictures import HOSTILE
from tests.support.prefect_server import PrefectServer

GOOD = 200
# What is wrong with them is wrong on purpose: their tests say that they cannot be read.
BROKEN = {
    "broken.png",
    "broken_data_stream.png",
    "syntax_num_frames_zero.png",
    "truncated_end_chunk.png",
    "truncated_image.png",
    "truncated_jpeg.jpg",
    "ultrahdr.jpg",
    "zero_width.gif",
}


@pytest.fixture(scope="module")
def emulator() -> Iterator[Emulator]:
    with Emulator("--prerendered", "--balance", "1000", "--latency", "0.02", "0.05") as running:
        yield running


def test_pillows_own_test_images_are_accepted_or_refused_for_a_reason_in_little_memory(
    prefect: PrefectServer, emulator: Emulator, tmp_path: Path
) -> None:
    emulator.reset()
    images = pillow_images(tmp_path)
    assert len(images) > 1_000
    carried = restyle_all([{"image": str(path)} for path in images], tmp_path, emulator, prefect)
    assert carried.peak_mb < 500
    assert Counter(row.status for row in carried.rows).keys() == {"stored", "failed"}
    assert emulator.ledger()["billed"] == carried.summary.images > 600
    for row in carried.rows:
        message = row.error_message or ""
        assert (row.error_type, bool(message)) == (("SourceError", True) if message else (None, False)), row
        assert " at 0x" not in message
        assert message.isprintable()
        assert not message.startswith("unexpected")
        if Path(row.image).suffix.lower() in (".png", ".jpg", ".jpeg", ".gif", ".webp") and message:
            assert Path(row.image).name in BROKEN or message.startswith("too big: "), row


def test_hostile_pictures_cost_no_good_one_in_a_process_of_one_gigabyte(
    prefect: PrefectServer, emulator: Emulator, tmp_path: Path
) -> None:
    emulator.reset()
    for name, (make, _) in HOSTILE.items():
        (tmp_path / name).write_bytes(make())
    photos = sorted(PHOTO.parent.glob("*.jpg"))
    rows = [{"image": str(photos[number % len(photos)]), "seed": number} for number in range(GOOD)]
    for place, name in enumerate(HOSTILE):  # among them
        rows.insert(place * GOOD // len(HOSTILE), {"image": str(tmp_path / name), "id": name})
    carried = restyle_all(rows, tmp_path, emulator, prefect, memory_mb=1024)
    assert all(row.status == "stored" for row in carried.rows if row.id not in HOSTILE)
    refused = {row.id: row.error_message or "" for row in carried.rows if row.status != "stored"}
    expected = {name: why for name, (_, why) in HOSTILE.items() if why}
    assert refused.keys() == expected.keys()
    for name, why in expected.items():
        assert refused[name].startswith(why)
    stored = len(carried.rows) - len(refused)
    assert (len(carried.rows), emulator.ledger()["billed"]) == (GOOD + len(HOSTILE), stored)
    assert carried.summary.spent_usd == pytest.approx(stored * 0.025)
