"""How many requests a night makes to S3, counted at a real server, and what it may leave away."""

from __future__ import annotations

import asyncio
import io
import uuid
from bisect import bisect_right
from collections import Counter
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta
from typing import cast
from urllib.parse import urlsplit

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from prefect_wavespeed.batch.options import BatchOptions
from prefect_wavespeed.batch.survey import FEW
from prefect_wavespeed.settings import Settings
from prefect_wavespeed.sources.known_uploads import KnownUploads
from prefect_wavespeed.storage import layout, seek
from prefect_wavespeed.storage.backend import Entry
from prefect_wavespeed.storage.open_store import s3_store
from prefect_wavespeed.storage.store import Store
from tests.support.batches import restyle_all
from tests.support.emulator_process import Emulator
from tests.support.engine import SMALL
from tests.support.s3_proxy import Fault, Proxy, proxy
from tests.support.s3_servers import S3Server

IMAGES = FEW + 1


def png(number: int) -> bytes:
    data = io.BytesIO()
    Image.new("RGB", (8, 8), (number, 0, 0)).save(data, "PNG")
    return data.getvalue()


class Night:
    """Pictures below a prefix of a bucket, restyled into another, with the requests that reach the server."""

    def __init__(self, server: S3Server, way: Proxy, api: Emulator, images: int) -> None:
        self.folder, self.api, self._way = uuid.uuid4().hex, api, way
        self.store = s3_store(
            server.bucket, f"{self.folder}/out", server.session(), endpoint_url=server.endpoint
        )
        self._manifest = f"s3://{server.bucket}/{self.folder}/in/"
        client = server.client()
        for number in range(images):
            client.put_object(Bucket=server.bucket, Key=f"{self.folder}/in/{number:02}.png", Body=png(number))

    async def restyle(self) -> tuple[list[str], Counter[str]]:
        """One night: what became of the rows, and how many requests of each kind there were."""
        self._way.requests.clear()
        options = BatchOptions(params=SMALL)
        # a claim must not age while this machine is busy: that makes another attempt
        finished = await restyle_all(self.api.url, self.store, self._manifest, options, settings=Settings())
        return finished.statuses, Counter(_kind(*each) for each in self._way.requests)

    async def left(self) -> list[str]:
        return [entry.path for entry in await self.store.list(layout.OPEN)]


def _kind(method: str, path: str, _: bytes) -> str:
    return "LIST" if "list-type" in urlsplit(path).query else method


@pytest.fixture(scope="module")
def prerendered() -> Iterator[Emulator]:
    with Emulator("--prerendered", "--latency", "0.05", "0.1") as emulator:
        yield emulator


async def test_a_first_night_makes_nine_requests_an_image_and_the_next_none(
    moto: S3Server, prerendered: Emulator
) -> None:
    prerendered.reset()
    with proxy(moto) as (way, server):
        night = Night(server, way, prerendered, IMAGES)
        statuses, first = await night.restyle()
        assert statuses == ["stored"] * IMAGES
        # the picture itself, and the look after the claim: side-car and dead letter
        assert first["GET"] <= 3 * IMAGES + 5
        assert first["LIST"] <= IMAGES + 8  # of what is open, after the claim
        # claim, upload, prediction, picture, side-car
        assert first["PUT"] <= 5 * IMAGES + 12
        # claims and predictions are removed together, every five seconds
        assert first["HEAD"] + first["POST"] + first["DELETE"] < IMAGES / 2
        assert await night.left() == []

        statuses, second = await night.restyle()
        assert statuses == ["done"] * IMAGES
        assert second.total() <= 25


async def test_what_cannot_be_removed_at_the_end_spoils_nothing_and_is_harmless(
    moto: S3Server, prerendered: Emulator
) -> None:
    prerendered.reset()
    with proxy(moto) as (way, server):
        night = Night(server, way, prerendered, images=3)
        await night.store.ensure_conditional_put()  # which removes its own object
        way.faults.append(Fault("forbid", "POST", f"/{moto.bucket}", times=9))
        assert (await night.restyle())[0] == ["stored"] * 3
        assert len(await night.left()) == 2 * 3
        assert (await night.restyle())[0] == ["done"] * 3
    assert prerendered.ledger()["billed"] == 3


# --- which pictures have an upload ---

_NOW = datetime(2026, 1, 1, tzinfo=UTC)


class Listing:
    """What ``Store.page`` answers of some uploads."""

    sorts_listings = True

    def __init__(self, ages: dict[int, int]) -> None:
        self.requests = 0
        self._entries = [
            Entry(layout.upload(sha256(n), "api", _NOW), _NOW - timedelta(days=ages[n]), 1)
            for n in sorted(ages)
        ]
        self._paths = [entry.path for entry in self._entries]

    async def page(self, folder: str, after: str) -> Sequence[Entry]:
        assert folder == layout.UPLOADS
        self.requests += 1
        await asyncio.sleep(0)
        first = bisect_right(self._paths, after)
        return self._entries[first : first + seek.PAGE]


def sha256(number: int) -> str:
    return f"{number:02x}{'0' * 60}{number:02x}"


@given(
    st.dictionaries(st.integers(0, 255), st.integers(0, 10)),
    st.lists(st.integers(0, 255), max_size=60),
    st.integers(1, 20),
)
def test_no_upload_is_missed_and_none_is_asked_about_where_a_page_has_told(
    ages: dict[int, int], asked: list[int], page: int
) -> None:
    listing = Listing(ages)
    known = KnownUploads(cast("Store", listing))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(seek, "PAGE", page)

        async def ask() -> list[bool]:
            since = _NOW - timedelta(days=7)
            return await asyncio.gather(*(known.may_have(sha256(number), since) for number in asked))

        assert asyncio.run(ask()) == [ages.get(number, 99) <= 7 for number in asked]
        made = [number for number in asked if ages.get(number, 99) > 7]
        for number in made:
            known.add(sha256(number))
        assert all(asyncio.run(ask()))
    assert listing.requests <= 1 + len(asked)
    if len(ages) < page:
        assert listing.requests <= 1
