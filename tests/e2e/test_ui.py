"""What a person sees of it in Prefect's own UI: the form, a run's pictures, the event feed.

With RESTYLE_SCREENSHOTS=docs/images, the pictures of the documentation are made anew.
"""

from __future__ import annotations

import asyncio
import io
import json
import os
import re
from collections.abc import AsyncIterator, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from tests.support.batch_shell import KEY
from tests.support.batches import write_manifest
from tests.support.browser import Page, chromium
from tests.support.doc_pages import PREFECT_MENU
from tests.support.emulator_process import Emulator
from tests.support.engine import PHOTO
from tests.support.prefect_server import PrefectServer
from tests.support.processes import wait_until
from tests.support.s3_servers import S3Server

PHOTOS = sorted(PHOTO.parent.glob("*.jpg"))
REFUSED = 1200
"""The seed of the picture that WaveSpeedAI refuses."""
DEPLOYMENTS = ["restyle-image", "restyle-batch", "restyle-object", "settle"]
_ROOT = PHOTO.parent.parent
_MOST_BYTES = 200_000
_WAVESPEED = {"slug": {"any_": ["wavespeed"]}}


@dataclass(frozen=True)
class World:
    """A server with our deployments, and what two runs have left on it."""

    prefect: PrefectServer

    def page(self, path: str) -> str:
        """The URL of a page of its UI."""
        return f"{self.prefect.url.removesuffix('/api')}/v2{path}"

    def deployment(self, name: str) -> dict[str, Any]:
        (found,) = (found for found in self.prefect.all("deployments") if found["name"] == name)
        return found

    def artifact(self, pattern: str) -> dict[str, Any]:
        """The one whose whole key fits a pattern."""
        (found,) = (a for a in self.prefect.all("artifacts") if re.fullmatch(pattern, a["key"]))
        return found


@pytest.fixture(scope="module")
def prefect(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PrefectServer]:
    """A server with its UI, and nothing else to be seen there."""
    with PrefectServer(tmp_path_factory.mktemp("prefect")) as server:
        yield server


@pytest.fixture(scope="module")
def world(
    prefect: PrefectServer, moto: S3Server, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[World]:
    """A batch in which one image is refused, one is missing and one row is not valid; and a single image."""
    manifest = tmp_path_factory.mktemp("ui") / "autumn.jsonl"
    s3, out = moto.client(), "s3://ui-shown/restyled"
    s3.create_bucket(Bucket="ui-shown")
    sources = [f"s3://ui-shown/in/{photo.name}" for photo in PHOTOS]
    for photo in PHOTOS:
        s3.upload_file(str(photo), "ui-shown", f"in/{photo.name}")
    rows: list[dict[str, Any]] = [{"image": source} for source in sources]
    rows += [
        {"image": sources[1], "seed": REFUSED},
        {"image": "s3://ui-shown/in/gone.jpg"},
        {"image": sources[2], "size": "9"},
    ]
    write_manifest(manifest, [{"id": f"sku-{n}", **row} for n, row in enumerate(rows, 1)])
    s3.upload_file(str(manifest), "ui-shown", manifest.name)
    with Emulator("--latency", "0.2", "0.4") as emulator:
        env = {"WAVESPEED_API_KEY": KEY, "WAVESPEED_BASE_URL": emulator.url, **moto.env}

        def restyle(*arguments: str) -> None:
            ended = prefect.restyle(*arguments, "--out", out, env=env)
            assert ended.status == 0, (arguments, ended)

        refused = {"code": 1200, "message": "content moderation", "match": {"seed": REFUSED}}
        emulator.faults([{"on": "prediction", "fault": "failed", **refused}])
        restyle("setup")
        prefect.deploy("--all", env=env)
        restyle("image", sources[0], "--num-images", "2", "--seed", "7")
        restyle("batch", "s3://ui-shown/autumn.jsonl", "--on-bad-row", "skip", "--max-failed", "1")
        wait_until(lambda: len(prefect.events("wavespeed.job.stored")) >= 1 + len(PHOTOS))
        yield World(prefect)


@pytest.fixture
async def page(tmp_path: Path) -> AsyncIterator[Page]:
    async with chromium(tmp_path / "profile") as tab:
        yield tab


async def keep(page: Page, name: str, tmp_path: Path) -> None:
    """Take a picture for the documentation, where one is wanted; as small as that needs."""
    path = await page.screenshot(tmp_path / f"{name}.png")
    small = io.BytesIO()
    with Image.open(path) as picture:
        whole = picture.convert("RGB")
        few = whole.quantize(palette=whole.quantize(256), dither=Image.Dither.FLOYDSTEINBERG)
        few.save(small, "PNG", optimize=True)
    assert small.tell() < _MOST_BYTES
    if folder := os.environ.get("RESTYLE_SCREENSHOTS"):
        (_ROOT / folder / f"{name}.png").write_bytes(small.getvalue())


def mark(name: str) -> str:
    """Give what a parameter is entered with an id of its own: ``field``."""
    return (
        "(() => { document.getElementById('field')?.removeAttribute('id');"
        " const labels = [...document.querySelectorAll('label')];"
        f" const label = labels.find(label => label.innerText.split(' ')[0] === '{name}');"
        " const whole = label.parentElement.parentElement.parentElement;"
        " whole.querySelector(':scope > fieldset :is(textarea, input, button)').id = 'field'; })()"
    )


OPTIONS = "[...document.querySelectorAll('[role=option]')]"
LOADED = "[...document.images].filter(image => image.src.startsWith('data:') && image.naturalWidth > 0)"


async def choose(page: Page, option: str, seconds: float = 120) -> None:
    """Choose from a list that is open."""
    await page.until(f"{OPTIONS}.some(option => option.innerText.trim() === {option!r})", seconds)
    found = f"{OPTIONS}.find(option => option.innerText.trim() === {option!r})"
    await page.ask(
        f"(option => {{ option.id = 'chosen'; option.scrollIntoView({{block: 'center'}}); }})({found})"
    )
    await page.click("#chosen")


async def pick(page: Page, button: str, option: str) -> None:
    """Open a list and choose from it; one that was opened before it was loaded is opened again."""
    async with asyncio.timeout(120):
        while True:
            await page.click(button)
            with suppress(TimeoutError):
                return await choose(page, option, 5)
            await page.press("Escape")


async def reads(page: Page, *texts: str) -> None:
    """Wait until all of this is to be read on the page, from top to bottom."""
    text = "document.body.innerText.replace(/\\s+/g, ' ')"
    search = (
        f"(text => {json.dumps(texts)}.reduce((at, part) => at < 0 ? at : text.indexOf(part, at), 0))({text})"
    )
    try:
        await page.until(f"{search} >= 0")
    except TimeoutError:
        pytest.fail(f"{texts} is not what is read on the page: {await page.ask(text)}")


def described(schema: dict[str, Any], model: dict[str, Any]) -> list[str]:
    """Names and descriptions in a form, from top to bottom."""
    fields = sorted(model["properties"].items(), key=lambda field: field[1].get("position", 0))
    texts: list[str] = []
    for name, field in fields:
        texts += [field.get("title", name), " ".join(field["description"].split())]
        if reference := field.get("$ref"):
            texts += described(schema, schema["definitions"][reference.rpartition("/")[2]])
    return texts


@pytest.mark.parametrize("name", DEPLOYMENTS)
async def test_a_form_tells_every_parameter_in_order_with_its_meaning_and_no_json(
    name: str, world: World, page: Page, tmp_path: Path
) -> None:
    deployment = world.deployment(name)
    schema = deployment["parameter_openapi_schema"]
    await page.show(world.page(f"/deployments/deployment/{deployment['id']}/run"), width=1000, height=1180)
    await reads(page, "Parameters", *described(schema, schema), "Enforce Parameter Schema")
    assert await page.ask("document.querySelectorAll('.cm-editor').length") == 0
    if name == "restyle-image":
        await page.ask(f"{mark('image')}")
        await page.click("#field")
        await page.write("s3://my-bucket/in/coffee.jpg")
        await keep(page, "ui-form", tmp_path)


async def test_what_is_entered_in_the_form_is_what_the_run_is_given(world: World, page: Page) -> None:
    deployment = world.deployment("restyle-image")
    await page.show(world.page(f"/deployments/deployment/{deployment['id']}/run"), height=2400)
    await reads(page, "image", "nsfw", "Submit")
    await page.ask(mark("image"))
    await page.click("#field")
    await page.write("s3://my-bucket/in/coffee.jpg")
    await page.ask(mark("nsfw"))
    await page.click("#field")
    await page.until(f"{OPTIONS}.length")
    options = await page.ask(f"{OPTIONS}.map(option => option.innerText.trim())")
    assert options == ["keep", "quarantine", "drop"]
    await choose(page, "quarantine")
    await page.ask(
        "(() => { const labels = [...document.querySelectorAll('label')];"
        " const label = labels.find(label => label.innerText.startsWith('wavespeed'));"
        " const whole = label.parentElement.parentElement.parentElement; whole.id = 'wavespeed';"
        " [...whole.querySelectorAll('[role=tab]')].find(tab => tab.innerText === 'Block').id = 'block'; })()"
    )
    await page.click("#block")
    await page.until("document.querySelector('#wavespeed [role=tabpanel] button')")
    await pick(page, "#wavespeed [role=tabpanel] button", "default")
    await page.ask(
        "[...document.querySelectorAll('button')].find(b => b.innerText === 'Submit').id = 'submit'"
    )
    await page.click("#submit")
    wanted = {"deployments": {"id": {"any_": [deployment["id"]]}}}
    async with asyncio.timeout(120):
        while not (runs := await asyncio.to_thread(world.prefect.all, "flow_runs", **wanted)):
            await asyncio.sleep(0.2)
    (run,) = runs
    assert run["parameters"]["image"] == "s3://my-bucket/in/coffee.jpg"
    assert run["parameters"]["nsfw"] == "quarantine"
    (block,) = await asyncio.to_thread(world.prefect.all, "block_documents", block_types=_WAVESPEED)
    assert run["parameters"]["wavespeed"] == {"$ref": {"block_document_id": block["id"]}}
    assert run["parameters"]["params"]["num_inference_steps"] == 28
    assert "restyle" in run["tags"]


async def test_an_image_and_a_batch_show_their_pictures_beside_their_sources(
    world: World, page: Page, tmp_path: Path
) -> None:
    one = world.artifact("restyle-astronaut-.*")
    await page.show(world.page(f"/artifacts/artifact/{one['id']}"), width=1200, height=840)
    await page.until(f"{LOADED}.length === 3")
    await reads(page, "astronaut.jpg", "2 pictures for 0.05 USD.", "source output 1 output 2", "Seed 7")
    await reads(page, "Flow Run", "restyle astronaut.jpg", "Duration")
    await page.until(f"{LOADED}.length === 3")
    assert await page.ask(f"{LOADED}.every(image => image.getBoundingClientRect().width >= 150)")
    await keep(page, "ui-artifact", tmp_path)
    gallery = world.artifact("restyle-gallery")
    await page.show(world.page(f"/artifacts/artifact/{gallery['id']}"), width=1200, height=1000)
    await page.until(f"{LOADED}.length === {2 * len(PHOTOS) + 1}")  # of what was refused, the source
    await reads(page, *(f"sku-{n}" for n in range(1, len(PHOTOS) + 2)), "content moderation")


async def test_a_run_is_found_by_its_name_and_says_what_failed(
    world: World, page: Page, tmp_path: Path
) -> None:
    await page.show(world.page("/runs"))
    await reads(page, *PREFECT_MENU)
    await reads(page, "restyle autumn.jsonl", "restyle astronaut.jpg")
    links = "[...document.querySelectorAll('a')]"
    await page.ask(f"{links}.find(link => link.innerText === 'restyle autumn.jsonl').click()")
    await page.until("location.pathname.includes('/runs/flow-run/')")
    (run,) = (found for found in world.prefect.all("flow_runs") if found["name"] == "restyle autumn.jsonl")
    outcome = f"{len(PHOTOS)} stored, 2 failed, 1 row ignored"
    await page.show(world.page(f"/runs/flow-run/{run['id']}"), width=1200, height=1000)
    await reads(page, "restyle autumn.jsonl", "Oldest to newest", outcome)
    await page.ask(
        "[...document.querySelectorAll('button')].find(b => b.innerText === 'Oldest to newest').id = 'order'"
    )
    await page.click("#order")
    await choose(page, "Newest to oldest")
    await reads(page, "Newest to oldest", "restyle failures --out", "content moderation", outcome)
    await asyncio.sleep(2)  # the graph is drawn on a canvas, which does not say when it is done
    await keep(page, "ui-run", tmp_path)
    await page.show(world.page(f"/runs/flow-run/{run['id']}?tab=Artifacts"))
    await reads(page, "restyle autumn.jsonl", f"{len(PHOTOS) + 3} rows: {outcome}; 0.1 USD spent")
    summary = world.artifact("restyle-summary")
    await page.show(world.page(f"/artifacts/artifact/{summary['id']}"), width=1200, height=900)
    await reads(page, outcome, "content moderation", "sku-5", "no such object", "sku-6", "restyle failures")
    await keep(page, "ui-summary", tmp_path)


async def show_feed(world: World, page: Page) -> None:
    """Open the event feed with all events: it asks once, for those up to the minute before."""
    async with asyncio.timeout(180):
        while True:
            await page.show(world.page("/events"), width=1000, height=1000)
            with suppress(TimeoutError):
                return await page.until("document.body.innerText.includes('Wavespeed Job Stored')", 10)


async def test_the_event_feed_tells_of_our_jobs_by_name_and_which_run_did_them(
    world: World, page: Page, tmp_path: Path
) -> None:
    await show_feed(world, page)
    await page.click('[aria-label="Filter by event type"]')
    await choose(page, "wavespeed.job.*")
    await page.press("Escape")
    await page.until("!document.body.innerText.includes('prefect.flow-run.')")
    await page.until(f"{OPTIONS}.length === 0")
    await reads(
        page, "Wavespeed Job Stored", "restyle autumn.jsonl", "restyle-batch", "restyle astronaut.jpg"
    )
    for photo in PHOTOS:
        await reads(page, f"Resource {photo.stem}-")
    await keep(page, "ui-events", tmp_path)
