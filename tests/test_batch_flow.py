"""The flow `restyle_batch` on a real Prefect server, against the emulator."""

from __future__ import annotations

import json
import secrets
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import UUID

import boto3
import pyarrow.parquet as pq
import pytest
from prefect.client.orchestration import PrefectClient
from prefect.client.schemas.objects import FlowRun
from prefect.filesystems import LocalFileSystem

from prefect_wavespeed.api.models import ReduxParams
from prefect_wavespeed.batch.manifest.read import Manifest
from prefect_wavespeed.batch.options import BatchOptions
from prefect_wavespeed.batch.report.gallery import gallery_command
from prefect_wavespeed.batch.report.rows import ReportRow, Summary
from prefect_wavespeed.errors import BatchFailedError, ConfigurationError, UnavailableError
from prefect_wavespeed.flows import restyle_batch
from prefect_wavespeed.flows.read_account import read_account
from prefect_wavespeed.ledger.records import Metadata
from prefect_wavespeed.storage.open_store import directory_store, s3_store
from tests.support.batches import SITE, pictures, write_manifest
from tests.support.doc_pages import documented_events
from tests.support.emulator_process import Emulator
from tests.support.prefect_server import PrefectServer
from tests.support.processes import wait_until
from tests.support.records import report_rows
from tests.support.schemas import check

KEY = f"key-{secrets.token_hex(16)}"
SIGNATURE = secrets.token_hex(32)
SMALL = ReduxParams(size="256*256")
FAILING: dict[str, Any] = {"on": "prediction", "fault": "failed", "code": 1402, "times": None}
STEPS = ("submit", "poll", "download")


@dataclass
class World:
    """A Prefect server, an emulator, an empty folder, and the flow runs among them."""

    prefect: PrefectServer
    emulator: Emulator
    folder: Path

    @property
    def output(self) -> Path:
        """Where the pictures go."""
        return self.folder / "out"

    def restyle(self, manifest: Manifest, flow: Any = restyle_batch, **options: Any) -> Summary:
        """Run the flow with these options."""
        asked = BatchOptions(params=SMALL, **options)
        with self.prefect.used_here():
            summary: Summary = flow(manifest, asked, output=str(self.output))
        return summary

    @property
    def runs(self) -> list[dict[str, Any]]:
        """The flow runs into this output, the newest first."""
        runs = self.prefect.all("flow_runs", sort="EXPECTED_START_TIME_DESC")
        return [run for run in runs if run["parameters"].get("output") == str(self.output)]

    @property
    def mine(self) -> dict[str, Any]:
        """A query for what belongs to the newest flow run."""
        return {"flow_runs": {"id": {"any_": [self.runs[0]["id"]]}}}

    def task_runs(self, count: int) -> list[dict[str, Any]]:
        """The task runs of the newest flow run, once so many of them have ended."""
        found: list[dict[str, Any]] = []

        def ended() -> bool:
            found[:] = self.prefect.all("task_runs", **self.mine)
            return sum(task["state_type"] in ("COMPLETED", "FAILED") for task in found) >= count

        wait_until(ended)
        return found

    def artifact(self, key: str) -> dict[str, Any]:
        """The newest flow run's artifact of that key."""
        (found,) = [one for one in self.prefect.all("artifacts", **self.mine) if one["key"] == key]
        return found

    def events_of(self, summary: Summary, prefix: str) -> list[dict[str, Any]]:
        """The events of a run, as far as the server has them, whose names have this prefix."""
        run = f"prefect.flow-run.{summary.flow_run_id}"
        found = self.prefect.events(prefix)
        return [one for one in found if run in {related["prefect.resource.id"] for related in one["related"]}]

    def report(self, summary: Summary) -> list[ReportRow]:
        """The rows of a run's report, the same in both of its files."""
        folder = Path(summary.report)
        check("summary", (folder / "summary.json").read_bytes())
        rows = report_rows((folder / "report.jsonl").read_bytes())
        table = pq.read_table(folder / "report.parquet").to_pylist()
        assert [ReportRow.model_validate(row) for row in table] == rows
        assert list(folder.glob("parts/*")) == []
        return rows


@pytest.fixture(scope="module")
def emulator() -> Iterator[Emulator]:
    with Emulator("--prerendered", "--latency", "0.2", "0.3") as running:
        yield running


@pytest.fixture(scope="module", autouse=True)
def _account(emulator: Emulator) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("WAVESPEED_API_KEY", KEY)
        patch.setenv("WAVESPEED_BASE_URL", emulator.url)
        yield


@pytest.fixture
def world(prefect: PrefectServer, emulator: Emulator, tmp_path: Path) -> World:
    emulator.reset()
    return World(prefect, emulator, tmp_path)


@dataclass
class Eight:
    """A run of eight images, the third of which fails, and of a row that is invalid; and what it returned."""

    world: World
    summary: Summary
    rows: list[ReportRow]
    source_urls: list[str]  # that WaveSpeedAI was given


def signed(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The same rows, with signed source URLs: secrets."""
    return [{**row, "image": f"{row['image']}?X-Amz-Signature={SIGNATURE}"} for row in rows]


@pytest.fixture(scope="module")
def eight(prefect: PrefectServer, emulator: Emulator, tmp_path_factory: pytest.TempPathFactory) -> Eight:
    emulator.reset()
    emulator.faults([{**FAILING, "match": {"image": "/3.jpg"}}])
    world = World(prefect, emulator, tmp_path_factory.mktemp("eight"))
    # jobs that no other test of this server has, whose events would count as well
    rows = signed(pictures(8, num_inference_steps=27))
    rows.append({"image": f"ftp://example.com/9.jpg?X-Amz-Signature={SIGNATURE}", "id": "n9"})
    manifest = write_manifest(world.folder / "eight.jsonl", rows)
    summary = world.restyle(manifest, max_failed=0.2, on_bad_row="skip")
    source_urls = [one["input"]["image"] for one in emulator.ledger()["predictions"]]
    return Eight(world, summary, world.report(summary), source_urls)


class TestFewImages:
    """A run that a person can watch."""

    def test_the_result_is_the_run_in_figures(self, eight: Eight) -> None:
        summary = eight.summary
        assert isinstance(summary, Summary)
        assert (summary.row_count, summary.jobs, summary.images) == (9, 8, 7)
        assert summary.counts == {"stored": 7, "failed": 1, "invalid": 1}
        assert summary.errors == {"PredictionFailedError": 1}
        assert (summary.quoted_usd, summary.spent_usd) == (0.2, 0.175)
        (run,) = eight.world.runs
        assert (summary.flow_run_id, summary.flow_run_name) == (run["id"], run["name"])
        assert run["name"] == "restyle eight.jsonl"
        assert (run["state_type"], run["state"]["message"]) == (
            "COMPLETED",
            "7 stored, 1 failed, 1 row ignored",
        )
        assert f"/runs/dt={run['expected_start_time'][:10]}/{run['id']}/" in summary.report

    def test_every_row_is_reported(self, eight: Eight) -> None:
        assert [row.id for row in eight.rows] == [f"n{n}" for n in range(1, 10)]
        assert [row.row for row in eight.rows if row.status != "stored"] == [3, 9]
        assert all(Path(uri).is_file() for row in eight.rows for uri in row.outputs)
        gallery = (Path(eight.summary.report) / "gallery.html").read_text()
        assert "n8" in gallery

    def test_every_step_of_every_image_is_a_task_run_named_after_it(self, eight: Eight) -> None:
        tasks = eight.world.task_runs(23)
        labels = {row.row: f"{row.row}-{row.job_key[:4]}" for row in eight.rows if row.job_key}
        expected = {f"{step} {label}" for step in STEPS for label in labels.values()}
        assert sorted(task["name"] for task in tasks) == sorted(expected - {f"download {labels[3]}"})
        failed = [task["name"] for task in tasks if task["state_type"] == "FAILED"]
        assert failed == [f"poll {labels[3]}"]

    def test_a_task_run_has_those_of_its_own_image_for_inputs_and_no_other(self, eight: Eight) -> None:
        tasks = eight.world.task_runs(23)
        name_of = {task["id"]: task["name"] for task in tasks}
        for task in tasks:
            step, label = task["name"].split()
            inputs = {name_of[one["id"]] for each in task["task_inputs"].values() for one in each}
            assert inputs == (set() if step == "submit" else {f"submit {label}"})

    def test_a_side_car_names_the_task_runs_of_its_own_image_alone(self, eight: Eight) -> None:
        tasks = eight.world.task_runs(23)
        for row in eight.rows:
            if row.status == "stored":
                side_car = Metadata.model_validate_json(Path(row.metadata_uri or "").read_bytes())
                own = {task["id"] for task in tasks if task["name"].endswith(f"-{side_car.job_key[:4]}")}
                assert len(own) == 3
                assert set(side_car.run.task_run_ids) == own
                assert side_car.run.flow_run_id == eight.summary.flow_run_id

    def test_the_progress_ends_at_100_percent(self, eight: Eight) -> None:
        progress = eight.world.artifact("restyle-progress")
        assert (progress["type"], float(progress["data"])) == ("progress", 100)
        assert progress["description"] == "9 of 9 rows done"

    def test_the_summary_is_an_artifact(self, eight: Eight) -> None:
        page = eight.world.artifact("restyle-summary")["data"]
        for fact in (
            "# 7 stored, 1 failed, 1 row ignored",
            "- 1 failed: internal error (code 1402): n3",
            "| Failed with PredictionFailedError | 1 |",
            "| Spent | 0.175 USD |",
            "| Quoted | 0.2 USD |",
        ):
            assert fact in page
        assert eight.summary.report.rstrip("/").rpartition("/")[2] in page

    def test_an_artifact_says_what_to_type_anywhere_on_this_machine_for_the_gallery(
        self, eight: Eight, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        page = eight.world.artifact("restyle-gallery-link")["data"]
        command = f"restyle gallery --out {eight.summary.output} --run {eight.summary.flow_run_id}"
        assert page.startswith(f"Type this on the machine that has the pictures:\n\n```bash\n{command}\n")
        assert "file://" not in page, "a browser does not open it from Prefect's page"
        monkeypatch.chdir(tmp_path)
        relative = gallery_command(eight.summary, directory_store(Path("o 6")), "o 6")
        assert relative.startswith(f"restyle gallery --out '{tmp_path}/o 6' --run ")
        bucket = s3_store("b", "", boto3.Session("test", "test", region_name="us-east-1"))
        on_s3 = gallery_command(eight.summary, bucket, "s3-bucket/restyle-output")
        assert on_s3.startswith("restyle gallery --out s3-bucket/restyle-output --run ")

    def test_the_failures_are_a_table(self, eight: Eight) -> None:
        (failure,) = json.loads(eight.world.artifact("restyle-failures")["data"])
        assert (failure["row"], failure["id"], failure["status"]) == (3, "n3", "failed")
        assert failure["error"] == "PredictionFailedError"
        assert failure["reason"] == "internal error (code 1402)"
        assert (failure["job"], failure["prediction"]) == (
            eight.rows[2].job_key,
            eight.rows[2].prediction_id,
        )
        (ignored,) = json.loads(eight.world.artifact("restyle-ignored")["data"])
        assert (ignored["row"], ignored["id"]) == (9, "n9")
        assert ignored["reason"].startswith("unsupported scheme ftp\\://"), "no link in Prefect's page"

    def test_the_log_ends_with_what_failed_and_why(self, eight: Eight) -> None:
        failed, ignored, every_row = eight.summary.failure_lines
        assert failed == "1 failed: internal error (code 1402): n3"
        assert ignored.startswith("1 ignored: unsupported scheme ftp://")
        assert every_row.endswith(f" --run {eight.summary.flow_run_id}")

        def last() -> list[str]:
            run = {"flow_run_id": {"any_": [eight.summary.flow_run_id]}, "task_run_id": {"is_null_": True}}
            logs = eight.world.prefect.all("logs", logs=run, sort="TIMESTAMP_ASC")
            return [log["message"] for log in logs if log["name"] == "prefect.flow_runs"][-5:]

        wait_until(lambda: "Finished in state" in "".join(last()[-1:]))
        assert last()[:-1] == [
            f"7 stored, 1 failed, 1 row ignored; 0.175 USD spent; report: {eight.summary.report}",
            *eight.summary.failure_lines,
        ]

    def test_somebody_is_notified_of_rows_without_pictures_once_a_run(self, eight: Eight) -> None:
        resource = f"wavespeed.run.{eight.summary.flow_run_id}"

        def events() -> list[dict[str, Any]]:
            found = eight.world.prefect.events("wavespeed.rows.")
            return [one for one in found if one["resource"]["prefect.resource.id"] == resource]

        wait_until(events)
        (event,) = events()
        assert set(event["payload"]) == documented_events()[event["event"]]
        assert event["payload"]["message"] == "7 stored, 1 failed, 1 row ignored, of 9 rows"
        assert [reason["first"] for reason in event["payload"]["reasons"]] == [["n3"], ["n9"]]
        assert event["payload"]["details"] == "\n".join(eight.summary.failure_lines)

    def test_the_first_pictures_are_a_gallery(self, eight: Eight) -> None:
        page = eight.world.artifact("restyle-gallery")["data"]
        assert page.count("data:image/jpeg;base64,") == 7
        assert [f"| n{n} |" in page for n in range(1, 9)] == [n != 3 for n in range(1, 9)]

    def test_every_image_has_its_events(self, eight: Eight) -> None:
        keys = {f"wavespeed.job.{row.job_key}" for row in eight.rows if row.job_key}

        def kinds() -> list[str]:
            events = eight.world.prefect.events("wavespeed.job.")
            mine = [one for one in events if one["resource"]["prefect.resource.id"] in keys]
            return sorted(one["event"].rpartition(".")[2] for one in mine)

        wait_until(lambda: len(kinds()) >= 16)
        assert kinds() == ["failed", *["stored"] * 7, *["submitted"] * 8]

    def test_no_key_and_no_signed_url_reaches_the_server(self, eight: Eight) -> None:
        eight.world.task_runs(23)
        server = eight.world.prefect
        records = {
            kind: server.all(kind, **eight.world.mine) for kind in ("flow_runs", "task_runs", "artifacts")
        }
        records["logs"] = server.all("logs")
        records["events"] = server.events()
        records["states"] = server.call("GET", f"/flow_run_states/?flow_run_id={eight.summary.flow_run_id}")
        texts = {kind: json.dumps(found) for kind, found in records.items()}
        assert "eight.jsonl" in texts["flow_runs"]  # or the search itself is broken
        assert "example.com" in texts["artifacts"]
        assert eight.rows[0].job_key is not None
        assert eight.rows[0].job_key in texts["events"]
        secrets_ = (KEY, SIGNATURE, "X-Amz-Signature=")
        assert [(kind, one[:4]) for kind, text in texts.items() for one in secrets_ if one in text] == []

    def test_no_key_and_no_signed_url_is_in_the_output(self, eight: Eight) -> None:
        files = [path for path in eight.world.output.rglob("*") if path.is_file()]
        assert len(files) > 7 * 2 + 4
        secret = (KEY.encode(), SIGNATURE.encode())
        assert [path for path in files if any(text in path.read_bytes() for text in secret)] == []

    def test_wavespeed_is_given_the_signed_url(self, eight: Eight) -> None:
        """Without it, no private picture could be restyled."""
        assert len(eight.source_urls) == 8
        assert [image for image in eight.source_urls if SIGNATURE not in image] == []


def test_many_images_are_a_few_task_runs_and_the_same_report(world: World) -> None:
    world.emulator.faults([{**FAILING, "match": {"image": "/33.jpg"}}])
    manifest = write_manifest(world.folder / "many.jsonl", pictures(70))
    summary = world.restyle(manifest, max_failed=0.2)
    assert summary.counts == {"stored": 69, "failed": 1}
    rows = world.report(summary)
    assert [row.id for row in rows] == [f"n{n}" for n in range(1, 71)]
    assert [row.row for row in rows if row.status != "stored"] == [33]
    assert world.emulator.ledger()["billed"] == 69

    tasks = {task["id"]: task for task in world.task_runs(3)}
    assert sorted(task["name"] for task in tasks.values()) == [
        "restyle 1-25",
        "restyle 26-50",
        "restyle 51-70",
    ]
    assert {task["state_type"] for task in tasks.values()} == {"COMPLETED"}
    for number, row in enumerate(rows, 1):
        if row.metadata_uri:
            side_car = Metadata.model_validate_json(Path(row.metadata_uri).read_bytes())
            (task,) = side_car.run.task_run_ids
            first, last = tasks[task]["name"].split()[1].split("-")
            assert int(first) <= number <= int(last)

    wait_until(lambda: world.events_of(summary, "prefect.asset."))
    told = Counter[str]()
    for event in world.events_of(summary, "wavespeed.jobs."):
        assert set(event["payload"]) == documented_events()[event["event"]]
        assert event["resource"]["prefect.resource.id"] == f"wavespeed.run.{summary.flow_run_id}"
        told[event["event"]] += len({job["job_key"] for job in event["payload"]["jobs"]})
    assert told == {"wavespeed.jobs.submitted": 70, "wavespeed.jobs.stored": 69}
    assert [one["event"] for one in world.events_of(summary, "wavespeed.job.")] == ["wavespeed.job.failed"]
    (asset,) = world.events_of(summary, "prefect.asset.")
    assert asset["resource"]["prefect.resource.id"] == f"file://{summary.output}"
    assert f"file://{manifest}" in {one["prefect.resource.id"] for one in asset["related"]}
    assert asset["payload"]["images"] == 69

    assert float(world.artifact("restyle-progress")["data"]) == 100
    assert "# 69 stored, 1 failed" in world.artifact("restyle-summary")["data"]
    (failure,) = json.loads(world.artifact("restyle-failures")["data"])
    assert failure["id"] == "n33"
    assert world.artifact("restyle-gallery")["data"].count("data:image/jpeg;base64,") == 12

    again = world.restyle(manifest, max_failed=0.2)
    assert again.counts == {"done": 69, "given_up": 1}
    assert (again.spent_usd, again.images) == (0, 0)
    assert world.emulator.ledger()["billed"] == 69
    assert world.events_of(again, "wavespeed.job") == [], "nothing has happened"


def test_a_flow_gives_rows_learns_what_they_would_cost_and_gets_rows(world: World) -> None:
    images = [f"{SITE}/{n}.jpg" for n in (1, 2, 1)]
    asked: list[str | dict[str, Any]] = [
        {"id": "<b>", "image": images[0]},
        images[1],
        {"image": images[2], "seed": None},
    ]
    with world.prefect.used_here():
        options = BatchOptions(params=SMALL, max_cost_usd=0.01)
        dry = restyle_batch(asked, options, output=str(world.output), dry_run=True)
    assert (dry.row_count, dry.quoted_usd, dry.spent_usd, dry.report) == (3, 0.05, 0, "")
    assert world.runs[0]["state"]["message"] == "dry run: 2 would be billed, 0.05 USD; nothing was spent"
    quote = world.artifact("restyle-quote")["data"]
    assert "- 2 would be billed: 0.05 USD\n" in quote
    assert "max\\_cost\\_usd: 0.01 USD: not enough" in quote
    assert not list(world.output.glob("runs/*"))

    summary = world.restyle(asked)
    assert (summary.row_count, summary.jobs, summary.counts) == (3, 2, {"stored": 3})
    rows = summary.rows()
    assert [(row.id, row.image) for row in rows] == [("<b>", images[0]), (None, images[1]), (None, images[2])]
    kept = Summary.model_validate_json(summary.model_dump_json())
    for account in (
        kept.rows(),
        read_account(summary),
        read_account(summary.report),
        read_account(kept, output=LocalFileSystem(basepath=str(world.output))),
    ):
        assert list(account) == rows == world.report(summary)
    with pytest.raises(ConfigurationError, match="there is none"):
        list(read_account(f"{world.output}/runs/dt=2026-01-01/none"))
    assert f"<td>{summary.report}</td>" in summary._repr_html_()
    assert world.runs[0]["name"] == "restyle 3 images"
    assert world.emulator.ledger()["billed"] == 2


def test_more_failures_than_allowed_fail_the_run_after_all_else_is_stored(world: World) -> None:
    refused = {"on": "submit", "fault": "refused", "status": 400, "times": None}
    world.emulator.faults(
        [{**FAILING, "match": {"image": f"/{n}.jpg"}} for n in (2, 5)]
        + [{**refused, "match": {"image": "/7."}}]
    )
    with pytest.raises(BatchFailedError):
        world.restyle(write_manifest(world.folder / "m.jsonl", pictures(8)), max_failed=0.3)
    (run,) = world.runs
    message = run["state"]["message"]
    assert "3 of 8 rows failed (2 PredictionFailedError, 1 InvalidRequestError)" in message
    assert "more than max_failed 0.3 allows; 5 stored, 3 failed;" in message
    assert (run["state_type"], run["run_count"]) == ("FAILED", 1)  # again would be the same
    assert world.emulator.ledger()["billed"] == 5
    report = Path(message.rpartition("the report is in ")[2])
    summary = Summary.model_validate_json((report / "summary.json").read_bytes())
    assert [row.status for row in world.report(summary)].count("stored") == 5


def test_an_error_that_may_pass_lets_the_run_be_retried(world: World) -> None:
    gone = {"on": "price", "fault": "status", "status": 503, "times": None}
    world.emulator.faults([gone, {**gone, "on": "pricing"}])
    flow = restyle_batch.with_options(retries=1, retry_delay_seconds=0)
    with pytest.raises(UnavailableError):
        world.restyle(write_manifest(world.folder / "m.jsonl", pictures(2)), flow)
    (run,) = world.runs
    assert (run["state_type"], run["run_count"]) == ("FAILED", 2)
    assert world.emulator.ledger()["calls"]["submit"] == 0


def test_a_flow_that_stops_waiting_submits_all_and_another_run_stores_it(world: World) -> None:
    manifest = write_manifest(world.folder / "m.jsonl", pictures(6))
    submitted = world.restyle(manifest, wait=False)
    assert submitted.counts == {"submitted": 6}
    assert world.report(submitted)[0].prediction_id
    stored = world.restyle(manifest)
    assert stored.counts == {"stored": 6}
    assert world.emulator.ledger()["billed"] == 6


def test_a_run_does_not_ask_prefects_server_about_itself_for_every_image(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Prefect's runtime asks on the event loop itself: with a busy server everything would wait."""
    asked: list[UUID] = []
    really = PrefectClient.read_flow_run

    async def counted(client: PrefectClient, flow_run_id: UUID) -> FlowRun:
        asked.append(flow_run_id)
        return await really(client, flow_run_id)

    monkeypatch.setattr(PrefectClient, "read_flow_run", counted)
    manifest = write_manifest(world.folder / "m.jsonl", pictures(60))
    assert world.restyle(manifest).counts == {"stored": 60}
    assert len(asked) < 10


def test_shards_without_a_deployment_are_refused_before_anything_is_spent(world: World) -> None:
    with (
        world.prefect.used_here(),
        pytest.raises(ConfigurationError, match="start it with `prefect deployment run"),
    ):
        restyle_batch([f"{SITE}/1.jpg"], output=str(world.output), shards=2)
    assert world.emulator.ledger()["calls"]["submit"] == 0
    assert list(world.output.rglob("*")) == []


@pytest.mark.parametrize("limited", ["work pool", "work queue", "deployment"])
def test_shards_that_could_never_start_are_refused_before_anything_is_spent(
    limited: str, world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    call, name = world.prefect.call, limited.replace(" ", "-")
    only_one = {"concurrency_limit": 1}
    flow = call("POST", "/flows/", {"name": "restyle-batch"})
    pool = call(
        "POST", "/work_pools/", {"name": name, "type": "process", **(only_one if "pool" in limited else {})}
    )
    if "queue" in limited:
        call("PATCH", f"/work_pools/{name}/queues/default", only_one)
    deployment = call(
        "POST",
        "/deployments/",
        {
            "name": name,
            "flow_id": flow["id"],
            "work_pool_name": pool["name"],
            **(only_one if limited == "deployment" else {}),
        },
    )
    monkeypatch.setenv("PREFECT__RUNTIME__DEPLOYMENT__ID", deployment["id"])
    with (
        world.prefect.used_here(),
        pytest.raises(ConfigurationError, match=rf"{limited} \S+ lets 1 run at once, and 2 are needed"),
    ):
        restyle_batch([f"{SITE}/1.jpg"], output=str(world.output), shards=2)
    assert world.emulator.ledger()["calls"]["submit"] == 0
