"""The gallery of a batch in a real Chromium: what a person sees of three rows, and of a hundred thousand."""

from __future__ import annotations

import asyncio
import io
import os
import random
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import AsyncIterator, Iterable, Iterator
from datetime import UTC, datetime, timedelta
from functools import cache
from pathlib import Path
from uuid import uuid4

import pytest
from PIL import Image, ImageOps

from prefect_wavespeed.batch.outcome import Status
from prefect_wavespeed.batch.report import gallery as report_gallery
from prefect_wavespeed.batch.report.rows import ReportRow, Rows, Summary, Thumbnails
from prefect_wavespeed.batch.report.write import write_report
from prefect_wavespeed.quality.thumbnails import thumbnail
from prefect_wavespeed.reasons import in_words
from prefect_wavespeed.storage.open_store import directory_store, s3_store
from tests.support.browser import Page, chromium
from tests.support.engine import PHOTO
from tests.support.s3_servers import S3Server

FOLDER = "runs/dt=2026-01-01/5f3c"
PHOTOS = sorted(PHOTO.parent.glob("*.jpg"))
ROWS = "document.querySelectorAll('.row').length"
NAMES = "[...document.querySelectorAll('.row .name')].map(name => name.textContent)"
VISIBLE = (
    "[...document.querySelectorAll('.row img')]"
    ".filter(image => image.getBoundingClientRect().top < innerHeight)"
)
DECODED = f"{VISIBLE}.length && {VISIBLE}.every(image => image.complete && image.naturalWidth > 0)"


@pytest.fixture
async def page(tmp_path: Path) -> AsyncIterator[Page]:
    async with chromium(tmp_path / "profile") as tab:
        yield tab


@cache
def restyled(number: int, variant: int = 0) -> bytes:
    """A small picture of its own for each row and variant."""
    with Image.open(PHOTOS[number % len(PHOTOS)]) as photo:
        square = ImageOps.fit(photo.convert("L"), (256, 256))
    light = (255, 90 + number % 150, 120 + 40 * variant)
    coloured = io.BytesIO()
    ImageOps.colorize(square, (10, 20, 60), light).save(coloured, "JPEG")
    return coloured.getvalue()


@cache
def small(number: int, variant: int | None = None) -> bytes:
    photo = PHOTOS[number % len(PHOTOS)].read_bytes()
    return thumbnail(photo if variant is None else restyled(number, variant))


def report_row(number: int, status: Status, outputs: list[str]) -> ReportRow:
    photo, key = PHOTOS[number % len(PHOTOS)].name, f"{number:064x}"
    error = {
        "failed": ("PredictionFailedError", "the prediction failed for good: give another picture"),
        "unsubmitted": ("BudgetExceededError", "max_cost_usd 12 is reached: run it again with a higher one"),
        "invalid": (None, "num_images 9: must be 1 to 4"),
    }.get(status, (None, None))
    return ReportRow(
        row=number,
        id=f"sku-{number:06}",
        image=f"s3://studio-originals/catalogue/2026/autumn/{number:05}-{photo}",
        status=status,
        job_key=key,
        seed=int(key[-6:], 16) * 7919 % 2_147_483_647 if outputs else None,
        outputs=outputs,
        cost_usd=0.025 if status == "stored" else None,
        attempts=1 if outputs else None,
        error_type=error[0],
        error_message=error[1],
        seconds=2 + number % 25 / 10 if status == "stored" else None,
    )


def summary_of(rows: Iterable[ReportRow], output: str) -> Summary:
    counts = Counter(row.status for row in rows)
    ended = datetime(2026, 1, 1, 12, tzinfo=UTC)
    return Summary(
        flow_run_name="amber-falcon",
        manifest="s3://studio-originals/autumn.jsonl",
        output=output,
        started=ended - timedelta(seconds=160),
        ended=ended,
        row_count=counts.total(),
        counts=counts,
        jobs=counts.total(),
        spent_usd=0.025 * counts["stored"],
        images=counts["stored"],
        images_per_minute=3_812,
        latency_p50=3.1,
        latency_p95=4.2,
        seconds=160,
    )


async def gallery(output: Path, rows: Rows) -> str:
    """Write a report into a directory and return the URL of its gallery."""
    summary = summary_of((row for row, _ in rows()), str(output))
    await write_report(directory_store(output), FOLDER, rows, summary)
    return (output / FOLDER / "gallery.html").as_uri()


def three(output: Path) -> Rows:
    """One with small pictures, one whose outputs are only in the store, and one that failed."""
    kept = directory_store(output)

    def uris(number: int, count: int) -> list[str]:
        for variant in range(count):
            path = output / "images" / f"a #{number}" / f"{variant + 1}.jpeg"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(restyled(number, variant))
        return [kept.uri_of(f"images/a #{number}/{variant + 1}.jpeg") for variant in range(count)]

    rows = [
        (report_row(1, "stored", uris(1, 2)), Thumbnails(small(1), {1: small(1, 0), 2: small(1, 1)})),
        (report_row(2, "stored", uris(2, 1)), None),
        (report_row(3, "failed", []), Thumbnails(small(3))),
    ]
    return lambda: rows


def many(output: Path, number: int) -> Rows:
    """Rows of every kind. Where a page cannot hold more small pictures, it shows the output itself."""
    picture = output / "images" / "all" / "1.jpeg"
    picture.parent.mkdir(parents=True)
    picture.write_bytes(restyled(1))
    kinds: list[Status] = ["stored", "done", "failed", "open", "unsubmitted", "invalid"]
    statuses = random.Random(7).choices(kinds, [920, 40, 20, 5, 10, 5], k=number)

    def rows() -> Iterator[tuple[ReportRow, Thumbnails]]:
        for n, status in enumerate(statuses, 1):
            ok = status in ("stored", "done")
            outputs = [str(picture)] if ok else []
            # pictures differ from row to row, as a batch's do
            marked = {1: small(n % 400, 0) + n.to_bytes(3, "big")} if ok else {}
            row = report_row(n, status, outputs).model_copy(
                update={"carried": {"season": "autumn" if n % 500 else "spring", "weight": n}}
            )
            yield row, Thumbnails(small(n % 400), marked)

    return rows


async def test_pictures_say_what_is_wrong_with_them_and_those_that_may_not_be_fit_to_see_are_not_shown(
    page: Page, tmp_path: Path
) -> None:
    output, folder = tmp_path / "out", "photo-0123456789abcdef"
    for path in ("images", "quarantine"):
        (output / path / folder).mkdir(parents=True)
    uris = [str(output / "images" / folder / "1.jpeg"), str(output / "quarantine" / folder / "2.jpeg")]
    earlier = str(output / "images" / folder / "9.jpeg")
    for uri in (*uris, earlier):
        Path(uri).write_bytes(restyled(1))
    told = {"warnings": ["missing_outputs", "blank", "not_checked"], "warning_outputs": [None, 1, 2]}
    rows = [
        (
            report_row(1, "stored", uris).model_copy(update=told),
            Thumbnails(small(1), {1: small(1, 0), 2: small(1, 1)}),
        ),
        (
            report_row(2, "stored", uris[:1]).model_copy(update={"flagged": [1, 2]}),
            Thumbnails(small(2), {1: small(2, 0)}),
        ),
        (report_row(3, "done", [earlier]).model_copy(update={"attempts": None}), Thumbnails(small(3))),
    ]
    await page.show(await gallery(output, lambda: rows))
    await page.until(DECODED)
    await page.screenshot(tmp_path / "warnings.png")
    marks = "[...document.querySelectorAll('{} .mark')].map(mark => mark.textContent)"
    assert await page.ask(marks.format(".row .framed")) == [
        "blank",
        "not checked",
        "flagged",
        "flagged",  # the second was dropped
    ]
    assert await page.ask(marks.format(".row .text")) == ["pictures missing"]
    assert await page.ask("document.querySelectorAll('.row img').length") == 5, "not the one in quarantine"
    assert not any(request.endswith("9.jpeg") for request in page.requests), "it may be flagged"
    await page.click("#show")
    await page.until("document.querySelectorAll('.row img').length === 6")
    assert await page.ask("document.querySelectorAll('.row .veil').length") == 1, "that which is flagged"
    await page.until(DECODED)
    assert any(request.endswith("9.jpeg") for request in page.requests), "a person has asked for it"
    await page.click(".chip.warned")
    await page.until(f"String({NAMES}) === 'sku-000001'")
    await page.click(".row .name")
    await page.until("document.querySelector('dialog').open")
    await page.screenshot(tmp_path / "warnings-large.png")
    assert await page.ask("document.querySelectorAll('dialog img').length") == 2
    assert await page.ask("document.querySelectorAll('dialog figcaption a[target]').length") == 2, (
        "a person may open it"
    )
    fields = await page.ask("document.getElementById('fields').innerText")
    assert "fewer pictures than asked for; variation 1: one colour all over; variation 2: " in fields
    await page.press("Escape")
    await page.click(".chip.flagged")
    await page.until(f"String({NAMES}) === 'sku-000002'")
    assert await page.ask("getComputedStyle(document.querySelector('.blurred img')).filter.includes('blur')")
    await page.click(".row .name")
    await page.until("document.querySelector('dialog').open")
    assert "variation 2: flagged as unsafe for work, and dropped" in await page.ask(
        "document.getElementById('fields').innerText"
    )
    large = "[...document.querySelectorAll('dialog figure img')].map(image => image.naturalWidth)"
    assert await page.ask(large) == [160, 160], "the whole picture is not loaded"
    await page.click("dialog .veil")
    await page.until(f"String({large}) === '160,256'")
    assert await page.ask("document.querySelectorAll('.blurred').length") == 0
    assert not any("quarantine" in request for request in page.requests)
    assert page.errors == []


@pytest.mark.parametrize("theme", ["light", "dark"])
async def test_three_rows_are_seen_whole(theme: str, page: Page, tmp_path: Path) -> None:
    output = tmp_path / "out"
    url = await gallery(output, three(output))
    await page.show(url, theme="dark" if theme == "dark" else "light")
    await page.until(DECODED)
    assert await page.ask(ROWS) == 3
    assert await page.ask(NAMES) == ["sku-000001", "sku-000002", "sku-000003"]
    text = await page.ask("document.body.innerText")
    for shown in ("amber-falcon", "$0.05", "3,812", "the prediction failed for good", "2.1 s"):
        assert shown in text
    pictures = await page.ask("[...document.querySelectorAll('.row img')].map(image => image.naturalWidth)")
    assert pictures == [160, 160, 160, 256, 160], "the second row's is the output itself"
    assert await page.ask("document.querySelectorAll('.row .none').length") == 2
    ground = await page.ask("getComputedStyle(document.body).backgroundColor")
    assert (sum(map(int, ground.removeprefix("rgb(").rstrip(")").split(","))) < 200) == (theme == "dark")
    assert page.errors == []
    assert all(request.startswith(output.as_uri()) for request in page.requests), page.requests
    assert (await page.screenshot(tmp_path / f"three-{theme}.png")).stat().st_size > 10_000


async def test_a_row_is_opened_by_the_keyboard_alone(page: Page, tmp_path: Path) -> None:
    output = tmp_path / "out"
    await page.show(await gallery(output, three(output)))
    await page.until("document.activeElement === document.body")
    for _ in range(20):
        await page.press("Tab")
        if await page.ask("document.activeElement.className") == "name":
            break
    await page.press("Enter")
    await page.until("document.querySelector('dialog').open")
    assert await page.ask("document.getElementById('heading').textContent") == "sku-000001"
    large = "[...document.querySelectorAll('dialog img')].map(image => image.naturalWidth)"
    await page.until(f"String({large}) === '160,256,256'")  # the outputs themselves, by their relative links
    await page.screenshot(tmp_path / "detail.png")
    await page.press("ArrowRight")
    await page.press("ArrowRight")
    assert await page.ask("document.getElementById('heading').textContent") == "sku-000003"
    assert "give another picture" in await page.ask("document.getElementById('fields').innerText")
    await page.press("x")
    await page.press("ArrowLeft")
    await page.press("ArrowLeft")
    await page.press("c")
    await page.until("document.querySelectorAll('#both img').length === 2")
    await page.ask("document.getElementById('cut').focus()")
    await page.press("End")
    assert (
        await page.ask("getComputedStyle(document.querySelector('.before')).clipPath")
        == "inset(0px 0% 0px 0px)"
    )
    await page.screenshot(tmp_path / "compare.png")
    await page.ask("document.getElementById('heading').focus(), document.getElementById('cut').blur()")
    await page.press("c")
    await page.until(f"String({large}) === '160,256,256'")
    await page.press("z")
    await page.press("+")
    await page.press("+")
    assert await page.ask("document.querySelector('#pan img').clientWidth") == 512
    await page.press("Escape")
    await page.press("?")
    await page.until("document.getElementById('help').open")
    assert "before/after slider" in await page.ask("document.getElementById('help').innerText")
    await page.press("Escape")
    await page.press("ArrowRight")
    await page.press("ArrowRight")
    assert await page.ask("document.getElementById('tick').checked")
    await page.press("Escape")
    await page.until("!document.querySelector('dialog').open")
    await page.until("document.activeElement.textContent === 'sku-000003'")
    await page.press("ArrowUp")
    await page.until("document.activeElement.textContent === 'sku-000002'")
    await page.press("x")
    assert await page.ask("document.getElementById('ticks').textContent") == "2 ticked"
    rows = "s3://studio-originals/catalogue/2026/autumn/"
    assert await page.ask("csv()") == (
        f'id,row,image,status\r\n"sku-000002","2","{rows}00002-{PHOTOS[2].name}","stored"\r\n'
        f'"sku-000003","3","{rows}00003-{PHOTOS[3].name}","failed"\r\n'
    )
    await page.press("s")
    await page.until("document.querySelectorAll('.tile').length === 4")
    await page.screenshot(tmp_path / "sheet.png")
    assert page.errors == []


async def test_text_of_a_manifest_runs_nothing_and_a_source_that_cannot_be_had_leaves_a_quiet_box(
    page: Page, tmp_path: Path
) -> None:
    output = tmp_path / "out"
    attack = (
        "</script><img src=x onerror=\"document.title='attacked'\"><script>document.title='attacked'</script>"
    )
    hostile = report_row(1, "failed", []).model_copy(
        update={"id": attack, "error_type": attack, "error_message": attack, "carried": {attack: attack}}
    )
    missing = report_row(2, "failed", []).model_copy(update={"image": "https://127.0.0.1:9/a.jpg"})
    scheme = report_row(3, "failed", []).model_copy(update={"id": None, "image": "javascript:alert(1)//x"})
    private = "https://127.0.0.2/b.jpg?w=9&query-sha256=0123456789abcdef"  # which nobody can open
    hidden = report_row(4, "failed", []).model_copy(
        update={"image": private, "attempt_errors": ["503: busy", "timed out"]}
    )
    found = [(hostile, None), (missing, None), (scheme, None), (hidden, Thumbnails(small(4), {}))]
    await page.show(await gallery(output, lambda: found))
    await page.until("document.querySelectorAll('.row .none').length === 7")
    assert await page.ask(NAMES) == [attack, "sku-000002", "x", "sku-000004"]
    assert not any("127.0.0.1:9" in request for request in page.requests), "nobody has asked for it"
    assert await page.ask("document.getElementById('load').textContent") == "Load sources from 127.0.0.1:9"
    await page.click("#load")
    await page.until("document.querySelectorAll('.row .none').length === 7")
    assert any("127.0.0.1:9" in request for request in page.requests)
    assert await page.ask("[...document.querySelectorAll('#column option')].pop().text") == attack
    assert await page.ask("cell('=1+1') + cell('a\"b') + cell('-5')") == '"\'=1+1""a""b""-5"'
    assert await page.ask("document.title") == "amber-falcon: 4 rows"
    await page.click(".row .name")
    await page.until("document.querySelector('dialog').open")
    assert await page.ask("document.querySelectorAll('dialog a, dialog img').length") == 0
    await page.ask("step(3)")
    assert await page.ask("document.querySelectorAll('dialog a').length") == 0, "it would open nothing"
    fields = await page.ask("document.getElementById('fields').innerText")
    assert "Attempt 1\n503: busy" in fields
    assert "Attempt 2\ntimed out" in fields
    assert not any("127.0.0.2" in request for request in page.requests)
    assert [error for error in page.errors if "127.0.0.1:9" not in error] == []


async def test_a_hundred_thousand_rows_are_quick_to_see_to_filter_and_to_search(
    page: Page, tmp_path: Path
) -> None:
    output = tmp_path / "out"
    rows = many(output, 100_000)
    counts = Counter(row.status for row, _ in rows())
    await page.show(await gallery(output, rows))
    await page.until(DECODED)
    assert 5 < await page.ask(ROWS) < 40
    await page.screenshot(tmp_path / "many.png")

    chips = await page.ask("[...document.querySelectorAll('.chip')].map(chip => chip.innerText)")
    numbers = {words.strip().lower(): number for words, number in (chip.rsplit(None, 1) for chip in chips)}
    assert numbers.pop("all") == "100,000"
    assert numbers == {in_words(status): f"{count:,}" for status, count in counts.items()}
    await page.ask("scrollTo(0, document.body.scrollHeight / 2)")
    await page.until(f"{NAMES}.some(name => name > 'sku-049900' && name < 'sku-050100') && {DECODED}")
    assert 5 < await page.ask(ROWS) < 40
    await page.press("End")
    await page.until(f"{NAMES}.includes('sku-100000')")

    await page.ask("scrollTo(0, 0)")
    await page.click(".chip.failed")
    found = "document.getElementById('found').textContent"
    await page.until(f"{NAMES}.length && {found}")
    assert await page.ask(found) == f"{counts['failed']:,} of 100,000"
    states = "[...new Set([...document.querySelectorAll('.row .status')].map(status => status.textContent))]"
    assert await page.ask(states) == ["failed"]
    await page.until(DECODED)
    await page.screenshot(tmp_path / "failed.png")

    await page.click(".chip.all")
    await page.press("/")
    await page.write("SKU-077777")
    await page.until(f"String({NAMES}) === 'sku-077777'")
    await page.ask("document.getElementById('search').select()")
    await page.write("budgetexceeded higher")
    await page.until(f"{found} === '{counts['unsubmitted']:,} of 100,000'")
    await page.ask("document.getElementById('search').select()")
    await page.write("nothing like it")
    await page.until("!document.getElementById('nothing').hidden")
    assert await page.ask(ROWS) == 0
    await page.click("#reset")
    await page.until(f"{ROWS} > 5")

    change = "(id, value, kind) => { $(id).value = value; $(id).dispatchEvent(new Event(kind)); }"
    await page.ask(f"({change})('sort', 'seconds', 'change')")
    assert await page.ask("document.querySelector('.row .took').textContent") == "4.4 s"
    await page.ask(f"({change})('column', 'season', 'change')")
    await page.ask(f"({change})('value', 'spring', 'input')")
    assert await page.ask(found) == "200 of 100,000"
    await page.click("#tick-shown")
    assert await page.ask("csv().trim().split('\\r\\n').length") == 201
    await page.ask(f"({change})('size', 140, 'input'), reset()")
    assert await page.ask("[$('sort').value, shownAt(0).row]") == ["", 1]
    await page.click("#sheet")
    await page.until(f"document.querySelectorAll('.tile').length > 10 && {DECODED.replace('.row', '.tile')}")
    few = await page.ask("document.querySelectorAll('.tile').length")
    await page.screenshot(tmp_path / "sheet.png")
    await page.ask(f"({change})('size', 90, 'input')")
    await page.until(f"document.querySelectorAll('.tile').length > {few} * 1.4")
    assert await page.ask("document.querySelectorAll('.tile').length") < 400
    await page.ask("scrollTo(0, document.body.scrollHeight)")
    await page.until(
        "[...document.querySelectorAll('.tile .name')].some(name => name.textContent === 'sku-100000')"
    )
    assert page.errors == []


async def test_a_page_that_leaves_rows_out_says_so(
    page: Page, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    output = tmp_path / "out"
    monkeypatch.setattr(report_gallery, "_MAX_ROWS", 1_000)
    await page.show(await gallery(output, many(output, 1_050)))
    assert await page.ask("document.getElementById('note').textContent") == (
        "This page shows 1,000 of 1,050 rows, failures first. All of them are in report.jsonl."
    )
    assert await page.ask("document.querySelector('#note a').href.endsWith('/report.jsonl')")
    assert await page.ask("document.querySelector('.row .status').textContent") in ("failed", "invalid")
    assert page.errors == []


async def test_the_gallery_of_an_output_on_s3_is_served_with_its_pictures_until_it_is_stopped(
    page: Page, moto: S3Server
) -> None:
    store = s3_store(moto.bucket, uuid4().hex, moto.session(), endpoint_url=moto.endpoint)
    moto.client().upload_file(str(PHOTOS[1]), moto.bucket, "in/1.jpg")
    await store.put("images/photo-0000000000000001/1.jpeg", restyled(1), "image/jpeg")
    row = report_row(1, "stored", [store.uri_of("images/photo-0000000000000001/1.jpeg")])
    row = row.model_copy(update={"image": f"s3://{moto.bucket}/in/1.jpg"})
    await write_report(store, FOLDER, lambda: [(row, None)], summary_of([row], store.uri))
    command = ("-m", "prefect_wavespeed", "gallery", "--out", store.uri, "--run", "5f3c")
    served = await asyncio.create_subprocess_exec(
        sys.executable, *command, env={**os.environ, **moto.env}, stdout=subprocess.PIPE
    )
    assert served.stdout
    url = (await asyncio.wait_for(served.stdout.readline(), 60)).decode().strip()
    await page.show(url)
    await page.until(DECODED)
    widths = "[...document.querySelectorAll('.row img')].map(image => image.naturalWidth)"
    assert await page.ask(widths) == [Image.open(PHOTOS[1]).width, 256], "source and variation themselves"
    await page.click(".row .name")
    await page.until("document.querySelector('dialog').open")
    assert await page.ask("document.querySelector('a[download]').href.endsWith('/1.jpeg?download')")
    assert page.errors == []
    served.send_signal(signal.SIGINT)
    assert await asyncio.wait_for(served.wait(), 30) == 0


async def test_on_a_phone_nothing_is_wider_than_the_screen(page: Page, tmp_path: Path) -> None:
    output = tmp_path / "out"
    await page.show(await gallery(output, three(output)), width=390, height=800)
    await page.until(DECODED)
    await page.screenshot(tmp_path / "phone.png")
    assert await page.ask("document.documentElement.scrollWidth") <= 390
    inside = (
        "[...document.querySelectorAll('.row > *')].every(part => part.getBoundingClientRect().right <= 390)"
    )
    assert await page.ask(inside)
    await page.ask("document.getElementById('sheet').click()")
    await page.until(DECODED.replace(".row", ".tile"))
    await page.screenshot(tmp_path / "phone-sheet.png")
    assert await page.ask("document.documentElement.scrollWidth") <= 390
