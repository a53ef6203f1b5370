"""Outputs that disappoint are stored, paid for once, and said to be so wherever somebody may look."""

from __future__ import annotations

import io
import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from prefect_wavespeed.api.client import WaveSpeedClient
from prefect_wavespeed.batch.report.rows import ReportRow, Summary
from prefect_wavespeed.errors import OutputError, PredictionFailedError
from prefect_wavespeed.job import NsfwPolicy, UncheckedPolicy
from prefect_wavespeed.ledger.records import DeadLetter, Metadata
from prefect_wavespeed.retry import instant_retries
from prefect_wavespeed.steps.attempts import Submitted
from prefect_wavespeed.steps.run_job import make_job
from prefect_wavespeed.steps.step_set import StepSet
from prefect_wavespeed.storage.open_store import directory_store
from tests.support import settler
from tests.support.batches import write_manifest
from tests.support.emulator_process import Emulator
from tests.support.engine import PHOTO, QUICK, SMALL, restyle
from tests.support.in_process import restyle as run_command
from tests.support.prefect_server import PrefectServer
from tests.support.processes import wait_until
from tests.support.raw_server import Answer, RawServer, answer, drop, http
from tests.support.records import report_rows
from tests.support.s3_servers import S3Server
from tests.support.schemas import check


@dataclass(frozen=True)
class Case:
    """What comes, and what is said of it: by code the number of the output, None for the whole job."""

    fault: str
    warnings: dict[str, int | None]
    asked: int = 1
    files: Sequence[str] = ("1.jpeg",)


CASES = [
    Case("none", {}),
    Case("missing", {"missing_outputs": None}, asked=2),
    Case("black", {"blank": 2}, asked=2, files=("1.jpeg", "2.jpeg")),
    Case("blank", {"blank": 1}),
    Case("other_size", {"size_differs": 1}),
    Case("other_format", {"format_differs": 1}, files=("1.png",)),
    Case("nsfw", {}),
]
TALLY = Counter(code for case in CASES for code in case.warnings)
PICTURES = sum(len(case.files) for case in CASES)


@dataclass
class World:
    """The command, an output on S3, and a batch in it with every case as a row."""

    prefect: PrefectServer
    emulator: Emulator
    s3: S3Server
    folder: Path
    flags: Sequence[str] = ()

    @property
    def out(self) -> str:
        """The output."""
        return f"s3://{self.s3.bucket}/{self.folder.name}"

    def restyle(self, *arguments: str) -> str:
        """Run a command to its end, and return what it prints."""
        account = {"WAVESPEED_API_KEY": "test-key", "WAVESPEED_BASE_URL": self.emulator.url}
        ended = run_command(
            *arguments, "--out", self.out, prefect=self.prefect, env={**self.s3.env, **account}
        )
        assert ended.status == 0, ended
        return ended.stdout

    def batch(self, *flags: str) -> str:
        """Restyle all rows, each with its fault."""
        self.emulator.faults(
            [
                {"on": "prediction", "fault": case.fault, "match": {"seed": number}}
                for number, case in enumerate(CASES, 1)
                if case.fault != "none"
            ]
        )
        rows = [
            {"image": str(PHOTO), "seed": number, "num_images": case.asked, "id": case.fault}
            for number, case in enumerate(CASES, 1)
        ]
        manifest = write_manifest(self.folder / "all.jsonl", rows)
        return self.restyle("batch", manifest, "--size", "256*256", *flags)

    def get(self, uri: str) -> tuple[bytes, str]:
        """An object and its content type."""
        bucket, _, key = uri.removeprefix("s3://").partition("/")
        answer = self.s3.client().get_object(Bucket=bucket, Key=key)
        return answer["Body"].read(), answer["ContentType"]

    def side_car(self, row: ReportRow) -> Metadata:
        """The side-car of a row, which is as its schema says."""
        data, _ = self.get(str(row.metadata_uri))
        check("metadata", data)
        return Metadata.model_validate_json(data)


@pytest.fixture(scope="module")
def world(
    prefect: PrefectServer,
    emulator_process: Emulator,
    moto: S3Server,
    tmp_path_factory: pytest.TempPathFactory,
) -> World:
    return World(prefect, emulator_process, moto, tmp_path_factory.mktemp("disappointing"))


@pytest.fixture(scope="module")
def summary(world: World) -> Summary:
    """The run in figures, as ``--json`` prints it."""
    world.emulator.reset()
    return Summary.model_validate_json(world.batch("--json"))


@pytest.fixture(scope="module")
def rows(world: World, summary: Summary) -> list[ReportRow]:
    """The account of the run."""
    return report_rows(world.get(f"{summary.report}report.jsonl")[0])


def test_all_of_it_is_stored_and_counted(summary: Summary) -> None:
    assert summary.counts == {"stored": len(CASES)}
    assert summary.images == PICTURES
    assert summary.warnings == TALLY
    assert summary.flagged == 1


@pytest.mark.parametrize("number", range(len(CASES)), ids=[case.fault for case in CASES])
def test_what_came_is_in_the_store_with_what_is_wrong_with_it(
    number: int, world: World, rows: list[ReportRow]
) -> None:
    row, case = rows[number], CASES[number]
    assert dict(zip(row.warnings, row.warning_outputs, strict=True)) == case.warnings
    assert row.flagged == ([1] if case.fault == "nsfw" else [])
    side_car = world.side_car(row)
    assert {one.code: one.output for one in side_car.warnings} == case.warnings
    assert [str(output.key).rpartition("/")[2] for output in side_car.outputs] == list(case.files)
    for uri, output in zip(row.outputs, side_car.outputs, strict=True):
        data, content_type = world.get(uri)
        image = Image.open(io.BytesIO(data))
        assert (content_type, len(data)) == (output.content_type, output.bytes)
        assert content_type == f"image/{str(image.format).lower()}" == f"image/{uri.rpartition('.')[2]}"
        assert image.size == (output.width, output.height)
        assert output.nsfw is (True if case.fault == "nsfw" else None)
    assert side_car.prediction.model == "wavespeed-ai/flux-redux-dev"
    assert (side_car.answer["id"], side_car.answer["status"]) == (row.prediction_id, "completed")
    assert len(side_car.answer["outputs"]) == len(case.files)


def test_the_gallery_has_it_at_the_picture(world: World, summary: Summary, rows: list[ReportRow]) -> None:
    page = world.get(f"{summary.report}gallery.html")[0].decode()
    shown = json.loads(page.partition('data-is="rows">')[2].partition("</script>")[0])
    black = next(row for row in shown if row["id"] == "black")
    assert (len(black["outputs"]), black["warnings"], black["warning_outputs"]) == (2, ["blank"], [2])
    assert [row.get("warnings", []) for row in shown] == [row.warnings for row in rows]


def test_prefect_has_it_in_the_runs_summary_and_in_the_events(
    prefect: PrefectServer, summary: Summary, rows: list[ReportRow]
) -> None:
    mine = {"flow_runs": {"id": {"any_": [summary.flow_run_id]}}}
    artifacts = {one["key"]: one["data"] for one in prefect.all("artifacts", **mine)}
    for code, count in TALLY.items():
        assert f"| Warnings, {code.replace('_', chr(92) + '_')} | {count} |" in artifacts["restyle-summary"]
    assert "| Pictures flagged as unsafe for work | 1 |" in artifacts["restyle-summary"]
    assert artifacts["restyle-gallery"].splitlines()[-1].endswith(" | flagged, not shown |")
    told: dict[str, list[str]] = {}

    def complete() -> bool:
        for event in prefect.events("wavespeed.job.stored"):
            told[event["payload"]["job_key"]] = event["payload"]["warnings"]
        return all(row.job_key in told for row in rows)

    wait_until(complete)
    assert [told[str(row.job_key)] for row in rows] == [row.warnings for row in rows]


def test_costs_are_told_with_what_was_paid_for_and_not_delivered(world: World, rows: list[ReportRow]) -> None:
    report = json.loads(world.restyle("costs", "--json"))
    missing = rows[1]
    assert report["undelivered"] == {
        "predictions": 1,
        "usd": 0.025,
        "pictures": 1,
        "items": [
            {
                "prediction_id": missing.prediction_id,
                "recorded_usd": 0.025,
                "billed_usd": None,
                "belongs_to": None,
            }
        ],
    }
    assert report["agreed"] == len(CASES), "billed as recorded all the same"


def test_a_job_is_shown_with_it(world: World, rows: list[ReportRow]) -> None:
    shown = world.restyle("show", str(rows[2].job_key))
    assert "warnings    output 2: it is of one colour all over (blank)\n" in shown


def test_the_same_again_costs_nothing_and_says_it_again(world: World, rows: list[ReportRow]) -> None:
    lines = world.batch().splitlines()
    assert lines[0] == f"{len(CASES)} rows: {len(CASES)} stored earlier"
    assert lines[2].startswith("warnings: 2 blank, ")
    assert lines[2].count("1 ") == 3
    assert lines[3] == "1 picture flagged as unsafe for work: column flagged of the report"
    image = world.restyle(
        "image", str(PHOTO), "--size", "256*256", "--seed", "3", "--num-images", "2", "--json"
    )
    assert [warning["code"] for warning in json.loads(image)["warnings"]] == ["blank"]
    assert world.emulator.ledger()["billed"] == len(CASES)


def test_who_wants_no_unsafe_pictures_published_is_told_once_that_none_was_checked(
    world: World, rows: list[ReportRow], tmp_path: Path
) -> None:
    apart = World(world.prefect, world.emulator, world.s3, tmp_path)
    lines = apart.batch("--nsfw", "quarantine", "--guidance", "4").splitlines()
    assert lines[3].startswith("1 picture flagged as unsafe for work")
    assert lines[4] == (
        f"{PICTURES - 1} pictures in quarantine/: WaveSpeedAI did not say whether they are safe for work; "
        "with nsfw_unchecked=keep, later ones are stored like others"
    )
    report = report_rows(apart.get(f"{lines[-1].removeprefix('report: ')}report.jsonl")[0])
    assert all("/quarantine/" in uri for row in report for uri in row.outputs)
    assert (report[-1].warnings, report[-1].flagged) == ([], [1]), "the flagged one was checked"
    run_id = apart.side_car(report[0]).run.flow_run_id
    query = {"flow_run_id": {"any_": [run_id]}}

    def notices() -> list[str]:
        messages = [one["message"] for one in apart.prefect.all("logs", logs=query)]
        return [message for message in messages if "does not say whether" in message]

    wait_until(lambda: notices() != [])
    assert len(notices()) == 1, "it may be every picture"


# One image at a time


UNSURE: list[tuple[str | None, NsfwPolicy, UncheckedPolicy, str | None, list[str]]] = [
    (None, "keep", "quarantine", "images", []),
    (None, "quarantine", "quarantine", "quarantine", ["not_checked"]),
    (None, "quarantine", "keep", "images", []),
    (None, "drop", "quarantine", "quarantine", ["not_checked"]),
    (None, "drop", "keep", "images", []),
    ("nsfw-list", "quarantine", "quarantine", "images", []),
    ("nsfw-boolean", "drop", "quarantine", "images", []),
]


@pytest.mark.parametrize(("dialect", "nsfw", "unchecked", "folder", "codes"), UNSURE)
async def test_an_output_that_nobody_has_checked_goes_where_the_options_say(
    dialect: str | None,
    nsfw: NsfwPolicy,
    unchecked: UncheckedPolicy,
    folder: str,
    codes: list[str],
    emulator: Emulator,
    tmp_path: Path,
) -> None:
    emulator.dialects(*([dialect] if dialect else []))
    restyled = await restyle(emulator.url, str(tmp_path), nsfw=nsfw, nsfw_unchecked=unchecked)
    (output,) = restyled.outputs
    assert Path(str(output.uri)).relative_to(tmp_path).parts[0] == folder
    assert output.nsfw is (False if dialect else None)
    assert [warning.code for warning in restyled.warnings] == codes
    again = await restyle(emulator.url, str(tmp_path))
    assert (again.cached, again.warnings) == (True, restyled.warnings)


@pytest.mark.parametrize(
    ("answers", "files", "codes"),
    [
        ([["/a", "/b"]], ["1.jpeg", "2.jpeg"], []),
        ([["/a"], ["/a", None], ["/a", "/b"]], ["1.jpeg", "2.jpeg"], []),
        ([[None, "/b"]] * 4, ["1.jpeg"], ["missing_outputs"]),
        ([["", "/b"]] * 4, ["1.jpeg"], ["missing_outputs"]),
        ([[7, "/b"]] * 4, ["1.jpeg"], ["missing_outputs"]),
        ([["/b", {"withheld": True}]] * 4, ["1.jpeg"], ["missing_outputs"]),
        ([[["/a"], "/b"], ["/a", "/b"]], ["1.jpeg", "2.jpeg"], []),
        ([[None, "/a", "/b", "/c"] + ["/d"] * 500], ["1.jpeg", "2.jpeg"], ["extra_outputs"]),
    ],
    ids=[
        "all at once",
        "one of them later",
        "one of them never",
        "one of them empty",
        "one of them a number",
        "one of them withheld",
        "one of them in another form at first",
        "more than asked for",
    ],
)
async def test_as_many_outputs_as_were_asked_for_are_stored_and_missing_ones_asked_for_again(
    answers: list[list[Any]], files: list[str], codes: list[str], tmp_path: Path
) -> None:
    store = directory_store(tmp_path)
    job = await make_job(str(PHOTO), SMALL.model_copy(update={"num_images": 2}), 0, store)
    async with RawServer() as server:
        replies = [
            answer({"id": "p", "status": "completed", "outputs": [_url(server, one) for one in named]})
            for named in answers
        ]
        server.answers = (*replies, *[http(200, PHOTO.read_bytes())] * len(files))
        async with WaveSpeedClient("test-key", server.url, submit_timeout=1) as client:
            submitted = Submitted(job_key=job.key, prediction_id="p", attempt=1)
            restyled = await StepSet(client, store, QUICK).download(job, submitted, run=settler.RUN)
    assert [str(output.uri).rpartition("/")[2] for output in restyled.outputs] == files
    assert [warning.code for warning in restyled.warnings if warning.code != "size_differs"] == codes
    assert len(server.requests) == len(answers) + len(files)


def _url(server: RawServer, output: Any) -> Any:
    return server.url + output if isinstance(output, str) and output else output


GOOD = http(200, PHOTO.read_bytes())


@pytest.mark.parametrize(
    ("said", "stored"),
    [
        (http(404), 2),
        (http(410), 2),
        (http(451), 2),
        (http(200, "<html>gone</html>"), 2),
        (http(302, Location="http://10.0.0.1/"), 2),
        (http(500), 0),
        (http(429), 0),
        (drop, 0),
    ],
    ids=["404", "410", "451", "no image", "not public", "500", "429", "dropped"],
)
async def test_an_output_that_is_gone_for_good_costs_only_itself_and_one_that_may_come_is_waited_for(
    said: Answer, stored: int, tmp_path: Path
) -> None:
    store = directory_store(tmp_path)
    job = await make_job(str(PHOTO), SMALL.model_copy(update={"num_images": 3}), 0, store)
    async with RawServer(said) as other, RawServer() as server:
        outputs = [f"{server.url}/a", f"{other.url}/b", f"{server.url}/c"]
        completed = answer({"id": "p", "status": "completed", "outputs": outputs})
        server.answers = (completed, GOOD, *[completed] * 4, GOOD, completed)
        async with WaveSpeedClient("test-key", server.url, submit_timeout=1) as client:
            submitted = Submitted(job_key=job.key, prediction_id="p", attempt=1)
            download = StepSet(client, store, QUICK).download
            with instant_retries():
                if not stored:
                    with pytest.raises(OutputError):
                        await download(job, submitted, run=settler.RUN)
                    return
                restyled = await download(job, submitted, run=settler.RUN)
    assert [str(output.uri).rpartition("/")[2] for output in restyled.outputs] == ["1.jpeg", "2.jpeg"]
    (missing,) = [warning for warning in restyled.warnings if warning.code == "missing_outputs"]
    assert missing.message.startswith("2 of 3 pictures came: ")


async def test_a_dead_letter_holds_what_the_api_said(emulator: Emulator, tmp_path: Path) -> None:
    emulator.faults([{"on": "prediction", "fault": "failed", "code": 1200, "message": "not this one"}])
    with pytest.raises(PredictionFailedError) as caught:
        await restyle(emulator.url, str(tmp_path), params=SMALL)
    (path,) = tmp_path.glob("failed/*.json")
    check("dead-letter", path.read_bytes())
    answer: dict[str, Any] = DeadLetter.model_validate_json(path.read_bytes()).answer or {}
    assert (answer["id"], answer["status"], answer["code"]) == (caught.value.prediction_id, "failed", 1200)
    assert answer["error"] == "not this one"
