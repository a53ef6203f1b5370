"""What a batch finds out by listings before it begins: in few requests, and never for a second bill."""

from __future__ import annotations

import asyncio
import uuid
from bisect import bisect_right
from collections import Counter
from collections.abc import AsyncIterator, Iterator, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from prefect_wavespeed.api.models import ReduxParams
from prefect_wavespeed.batch import survey
from prefect_wavespeed.batch.options import BatchOptions
from prefect_wavespeed.batch.survey import FEW
from prefect_wavespeed.errors import StoreError
from prefect_wavespeed.settings import Settings
from prefect_wavespeed.storage import layout, seek
from prefect_wavespeed.storage.backend import Entry
from prefect_wavespeed.storage.open_store import directory_store, s3_store
from prefect_wavespeed.storage.store import Store
from tests.support.batches import Finished, pictures, restyle_all, write_manifest
from tests.support.emulator_process import Emulator
from tests.support.s3_proxy import Proxy, proxy
from tests.support.s3_servers import S3Server

IMAGES = FEW + 4
OPTIONS = BatchOptions(params=ReduxParams(size="256*256"))
# on a busy machine no claim grows old, which another run would take over and also count as its own
PATIENT = Settings(lease_seconds=30, submit_timeout_seconds=10, reconcile_seconds=1, poll_timeout_seconds=60)
_AT = datetime(2026, 1, 1, tzinfo=UTC)
NAMES = st.from_regex(r"n[0-9](-[a-e])?", fullmatch=True)


@pytest.fixture(scope="module")
def prerendered() -> Iterator[Emulator]:
    with Emulator("--prerendered", "--latency", "0.05", "0.1") as emulator:
        yield emulator


@pytest.fixture
def api(prerendered: Emulator) -> Emulator:
    prerendered.reset()
    return prerendered


# --- finding many paths in one listing ---


@given(
    st.sets(st.tuples(NAMES, st.integers(1, 3))),
    st.sets(NAMES),
    st.integers(1, 9),
)
@example({("n1-a", 1), ("n1-b", 1), ("n1", 1)}, {"n1"}, 2)
def test_a_listing_finds_what_a_look_at_each_finds_in_no_more_requests_than_paths_or_pages(
    objects: set[tuple[str, int]], wanted: set[str], page: int
) -> None:
    listing = sorted(f"images/{name}/{number}" for name, number in objects)
    folders = sorted(f"images/{name}/" for name in wanted)
    requests = []

    async def read(after: str) -> Sequence[Entry]:
        requests.append(after)
        first = bisect_right(listing, after.removesuffix("/"))  # as obstore asks
        return [Entry(path, _AT, 1) for path in listing[first : first + page]]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(seek, "PAGE", page)
        found = asyncio.run(seek.seek(read, folders))
    by_look = {folder: [path for path in listing if path.startswith(folder)] for folder in folders}
    assert {path: [entry.path for entry in entries] for path, entries in found.items()} == {
        folder: paths for folder, paths in by_look.items() if paths
    }
    # "n1-a/" comes before "n1/", but after "n1"
    on_the_way = sum(
        sum(path.startswith(folder[:-1]) and path < f"{folder}~" for path in listing) // page
        for folder in folders
    )
    assert len(requests) <= min(len(folders) + on_the_way, len(listing) // page + 1)


async def test_a_server_that_ignores_where_a_listing_shall_begin_is_an_error_and_no_endless_loop() -> None:
    page = [Entry(f"images/a{number:04}/1", _AT, 1) for number in range(seek.PAGE)]

    async def read(after: str) -> Sequence[Entry]:
        return page

    with pytest.raises(StoreError, match="ignores start-after"):
        await seek.seek(read, ["images/b/"])


@pytest.fixture(params=["directory", "moto", "moto, ten a page"])
def store(request: pytest.FixtureRequest, tmp_path: Path, moto: S3Server) -> Iterator[Store]:
    if request.param == "directory":
        yield directory_store(tmp_path / "out")
        return
    with proxy(moto) as (way, seen):
        way.page = 10 if "ten" in request.param else 0
        yield on(seen)


def on(server: S3Server) -> Store:
    return s3_store(server.bucket, uuid.uuid4().hex, server.session(), endpoint_url=server.endpoint)


async def test_objects_and_folders_are_found_among_others(store: Store) -> None:
    paths = [f"a/n{number:02}-x/{part}" for number in range(0, 40, 2) for part in ("1.jpeg", "metadata.json")]
    paths += ["a/n02/stray.txt", "a/zz.json", "a/n02-x.json"]
    for path in paths:
        await store.put(path, b"1", "text/plain")
    wanted = sorted(["a/n01-x/", "a/n02-x/", "a/n02/", "a/n38-x/", "a/n39-x/", "a/zz.json", "a/none.json"])
    found = await store.find("a/", wanted)
    assert {path: sorted(entry.path for entry in entries) for path, entries in found.items()} == {
        "a/n02-x/": ["a/n02-x/1.jpeg", "a/n02-x/metadata.json"],
        "a/n02/": ["a/n02/stray.txt"],
        "a/n38-x/": ["a/n38-x/1.jpeg", "a/n38-x/metadata.json"],
        "a/zz.json": ["a/zz.json"],
    }
    assert await store.find("nothing/", ["nothing/a/", "nothing/b.json"]) == {}


# --- a batch ---


class Nights:
    """A batch that is run night after night on S3, with the requests that reach the server."""

    def __init__(self, api: Emulator, folder: Path, way: Proxy, server: S3Server) -> None:
        self.api = api
        self.way = way
        self.store = on(server)
        self.manifest = write_manifest(folder / "m.jsonl", pictures(IMAGES))

    async def run(self, run_id: str | None = None, since: datetime | None = None) -> Finished:
        """One night; the requests of the nights before are forgotten."""
        self.way.requests.clear()
        return await restyle_all(
            self.api.url, self.store, self.manifest, OPTIONS, settings=PATIENT, run_id=run_id, since=since
        )

    @property
    def requests(self) -> Counter[str]:
        """How many requests of each kind there were."""
        return Counter(
            "LIST" if "list-type" in urlsplit(path).query else method for method, path, _ in self.way.requests
        )

    @property
    def billed(self) -> int:
        return int(self.api.ledger()["billed"])

    async def left(self) -> list[str]:
        """What is open or has failed."""
        return [
            entry.path for place in (layout.OPEN, layout.FAILED) for entry in await self.store.list(place)
        ]


@pytest.fixture
async def nights(api: Emulator, tmp_path: Path, moto: S3Server) -> AsyncIterator[Nights]:
    with proxy(moto) as (way, seen):
        yield Nights(api, tmp_path, way, seen)


async def test_a_second_night_lists_what_is_done_and_reads_none_of_it(nights: Nights) -> None:
    first = await nights.run()
    second = await nights.run()
    assert first.statuses == ["stored"] * IMAGES
    assert second.statuses == ["done"] * IMAGES
    assert [row.outputs for row in second.rows] == [row.outputs for row in first.rows]
    assert [row.metadata_uri for row in second.rows] == [row.metadata_uri for row in first.rows]
    assert {(row.prediction_id, row.cost_usd) for row in second.rows} == {(None, 0.0)}
    assert (second.summary.quoted_usd, second.summary.spent_usd, nights.billed) == (0, 0, IMAGES)
    assert nights.requests["LIST"] <= 6
    assert nights.requests.total() < 25


async def test_what_was_stored_after_the_listing_or_is_missing_in_it_is_not_billed_again(
    nights: Nights,
) -> None:
    nights.way.listings_are_kept = True  # from here on, a listing is answered as it was the first time
    first = await nights.run()
    second = await nights.run()
    assert first.statuses == ["stored"] * IMAGES
    assert second.statuses == ["done"] * IMAGES
    assert all(row.prediction_id for row in second.rows)  # each was looked at, under a claim
    nights.way.listings_are_kept = False
    assert (nights.billed, await nights.left()) == (IMAGES, [])


async def test_two_that_list_at_once_bill_each_image_once(nights: Nights) -> None:
    results = await asyncio.gather(nights.run(), nights.run())
    for result in results:
        assert set(result.statuses) <= {"stored", "done"}
    assert (nights.billed, await nights.left()) == (IMAGES, [])
    assert sum(result.summary.spent_usd for result in results) == pytest.approx(0.025 * IMAGES)


async def test_what_a_listing_does_not_say_is_read(nights: Nights, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(survey, "_AT_ONCE", 20)
    nights.api.faults([{"on": "prediction", "fault": "nsfw", "match": {"image": "/3.jpg"}}])
    first = await nights.run()
    gone = first.rows[0].outputs[0].removeprefix(f"{nights.store.uri}/")
    await nights.store.delete([gone])
    second = await nights.run()
    assert second.rows[0].prediction_id == first.rows[0].prediction_id
    assert [row.outputs for row in second.rows] == [row.outputs for row in first.rows]
    assert [row.flagged for row in second.rows] == [[], [], [1], *[[]] * (IMAGES - 3)]
    assert second.summary.flagged == 1
    assert sum(row.prediction_id is not None for row in second.rows) == 2  # no more were read
    gets = [urlsplit(path).path for method, path, _ in nights.way.requests if method == "GET"]
    read = [path for path in gets if "/images/" in path or "/failed/" in path]
    assert len(read) == 2
    assert all(path.endswith("/metadata.json") for path in read)


async def test_what_an_earlier_try_of_the_run_has_stored_is_its_own(nights: Nights) -> None:
    began = datetime.now(UTC) - timedelta(minutes=1)
    await nights.run("the-run")
    again = await nights.run("the-run", since=began)
    assert again.statuses == ["stored"] * IMAGES
    assert again.summary.spent_usd == pytest.approx(0.025 * IMAGES)
    later = await nights.run("the-run", since=datetime.now(UTC) + timedelta(hours=1))  # stored before that
    assert later.statuses == ["done"] * IMAGES


async def test_what_a_runner_that_was_killed_at_the_end_left_open_is_removed(nights: Nights) -> None:
    first = await nights.run()
    key = first.rows[0].job_key or ""
    for path in (layout.claim(key, 1), layout.prediction(key, 1)):
        await nights.store.put(path, b"{}", "application/json")
    second = await nights.run()
    assert second.statuses == ["done"] * IMAGES
    assert (nights.billed, await nights.left()) == (IMAGES, [])
