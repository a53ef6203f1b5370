"""Objects put into a watched prefix, with the events that a store would send for them."""

from __future__ import annotations

import json
import uuid
from dataclasses import dataclass
from functools import partial
from typing import Any

from prefect_wavespeed.api.client import WaveSpeedClient
from prefect_wavespeed.api.models import ReduxParams
from prefect_wavespeed.batch.created_object import MetadataParam, ObjectCreated, find, give_up
from prefect_wavespeed.job import Restyled, RunInfo
from prefect_wavespeed.steps.run_job import run_job
from prefect_wavespeed.steps.step_set import StepSet
from prefect_wavespeed.storage.open_store import s3_store
from prefect_wavespeed.storage.store import Store
from tests.support.emulator_process import Emulator
from tests.support.engine import QUICK, SMALL
from tests.support.s3_servers import S3Server
from tests.support.schemas import check


@dataclass
class World:
    """A bucket with a watched prefix and an output beside it, and the emulator.

    Attributes:
        sources: the bucket of the watched prefix, if it is another one.
    """

    s3: S3Server
    emulator: Emulator
    folder: str
    sources: str | None = None

    @property
    def bucket(self) -> str:
        return self.sources or self.s3.bucket

    @property
    def watched(self) -> str:
        return f"s3://{self.bucket}/{self.folder}/in/"

    @property
    def store(self) -> Store:
        return s3_store(
            self.s3.bucket, f"{self.folder}/out", self.s3.session(), endpoint_url=self.s3.endpoint
        )

    def put(self, name: str, data: bytes, **more: Any) -> ObjectCreated:
        """Put an object into the watched prefix, and return its event as a store would send it."""
        key = f"{self.folder}/in/{name}"
        answer = self.s3.client().put_object(Bucket=self.bucket, Key=key, Body=data, **more)
        return ObjectCreated(
            bucket=self.bucket,
            key=key,
            etag=answer["ETag"].strip('"'),
            version=answer.get("VersionId"),
            sequencer=uuid.uuid4().hex,
            size=len(data),
        )

    def delete(self, created: ObjectCreated) -> None:
        self.s3.client().delete_object(Bucket=created.bucket, Key=created.key)

    async def deliver(
        self,
        created: ObjectCreated,
        params: ReduxParams = SMALL,
        allowed: tuple[MetadataParam, ...] = (),
        retry_failed: bool = False,
    ) -> Restyled | str:
        """Handle an event as a run does; returns the reason if it is ignored."""
        store, run = self.store, RunInfo(package_version="test", flow_run_id=str(uuid.uuid4()))
        found = await find(created, self.watched, params, allowed, store)
        if found.job is None:
            return found.ignored or ""
        if found.refused and (error := await give_up(found.job, found.refused, store, run)):
            raise error
        async with WaveSpeedClient("test-key", self.emulator.url, submit_timeout=1, timeout=2) as client:
            steps = StepSet(client, store, QUICK)
            submit = partial(steps.submit, run=run, retry_failed=retry_failed)
            return await run_job(found.job, submit, steps.poll, partial(steps.download, run=run))

    def below(self, folder: str) -> dict[str, str]:
        """The objects in a folder of the output, with their ETags."""
        listing = self.s3.client().list_objects_v2(
            Bucket=self.s3.bucket, Prefix=f"{self.folder}/out/{folder}"
        )
        return {entry["Key"].split("/", 2)[2]: entry["ETag"] for entry in listing.get("Contents", [])}

    def letter(self) -> dict[str, Any]:
        """The only dead letter; it must be valid."""
        (path,) = self.below("failed/")
        body = self.s3.client().get_object(Bucket=self.s3.bucket, Key=f"{self.folder}/out/{path}")["Body"]
        data = body.read()
        check("dead-letter", data)
        letter: dict[str, Any] = json.loads(data)
        assert path == f"failed/{letter['job_key']}.json"
        return letter

    @property
    def submitted(self) -> int:
        return len(self.emulator.ledger()["predictions"])
