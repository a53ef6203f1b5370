"""A completed prediction's pictures: fetched, verified, stored."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from itertools import count

from prefect_wavespeed.api.client import WaveSpeedClient
from prefect_wavespeed.api.predictions import Prediction
from prefect_wavespeed.errors import NotFoundError, OutputError
from prefect_wavespeed.job import Job, NsfwPolicy, RunInfo
from prefect_wavespeed.ledger.records import OutputInfo
from prefect_wavespeed.quality.verify import examine_output
from prefect_wavespeed.retry import retry
from prefect_wavespeed.storage import layout
from prefect_wavespeed.storage.store import Store

TRIES = 5
_QUICK = 200_000  # bytes of a JPEG that are read in two milliseconds: not worth a change of threads

OnThumbnail = Callable[[str, int, bytes], None]
"""Called with each output's thumbnail: the job's key, the output's index (0, 1, …), a small JPEG."""


@dataclass
class OutputCollector:
    """Brings the outputs of one prediction into the store.

    Attributes:
        prediction: the API's last answer; asking again gives its outputs fresh URLs.
        on_thumbnail: given a small JPEG of each output, from the same decoding that verifies it.
    """

    client: WaveSpeedClient
    store: Store
    job: Job
    prediction: Prediction
    run: RunInfo
    nsfw: NsfwPolicy
    on_thumbnail: OnThumbnail | None = None

    @property
    def object_metadata(self) -> dict[str, str]:
        """The S3 metadata of every object of the job."""
        return {
            "job-key": self.job.key,
            "prediction-id": self.prediction.id,
            "flow-run-id": self.run.flow_run_id or "",
            "seed": str(self.job.seed),
        }

    async def collect(self) -> list[OutputInfo]:
        """Store all outputs.

        Raises:
            OutputError: one cannot be downloaded whole, after several tries.
            NotFoundError: WaveSpeedAI no longer knows the prediction.
            RestyleError: the API or the store cannot be used now.
        """
        return [await self._output(index) for index in range(len(self.prediction.outputs))]

    async def _output(self, index: int) -> OutputInfo:
        flagged = self.prediction.flag(index) is True
        if flagged and self.nsfw == "drop":
            return OutputInfo(key=None, nsfw=True)
        data, output, thumbnail = await self._fetch(index)
        output.key = layout.picture(
            self.job.name,
            index + 1,
            self.job.params.output_format,
            quarantined=flagged and self.nsfw == "quarantine",
        )
        output.nsfw = flagged
        await self._keep(output.key, data, output.content_type or "")
        if self.on_thumbnail and thumbnail:
            with suppress(Exception):  # it is only shown: the picture that was paid for is stored
                self.on_thumbnail(self.job.key, index, thumbnail)
        return output

    async def _fetch(self, index: int) -> tuple[bytes, OutputInfo, bytes | None]:
        """One output, whole and verified; the API is asked for a fresh URL when the old one has expired."""
        return await retry(
            partial(self._try_fetch, index, count()), tries=TRIES, when=_may_be_whole_next_time
        )

    async def _try_fetch(self, index: int, tries: Iterator[int]) -> tuple[bytes, OutputInfo, bytes | None]:
        if next(tries):
            fresh = await self.client.result(self.prediction.id)
            if len(fresh.outputs) > index:
                self.prediction = fresh
        try:
            output = self.prediction.outputs[index]
            data = self.prediction.inline(output) or await self.client.download(output)
            return data, *(await self._examined(data))
        except NotFoundError as error:
            problem = OutputError(error.message)
        except OutputError as error:
            problem = error
        problem.job_key, problem.prediction_id = self.job.key, self.prediction.id
        raise problem

    async def _examined(self, data: bytes) -> tuple[OutputInfo, bytes | None]:
        expected, small = self.job.params.output_format, self.on_thumbnail is not None
        if expected == "jpeg" and len(data) <= _QUICK:
            return _examine(data, expected, with_thumbnail=small)
        return await asyncio.to_thread(_examine, data, expected, with_thumbnail=small)

    async def _keep(self, path: str, data: bytes, content_type: str) -> None:
        if await self.store.create(path, data, content_type, self.object_metadata):
            return
        # From an earlier run of the same job: the same picture, unless that was another prediction's.
        if await self.store.get(path) != data:
            await self.store.put(path, data, content_type, self.object_metadata)


def _may_be_whole_next_time(error: BaseException) -> bool:
    return isinstance(error, OutputError) and error.retryable


def _examine(data: bytes, expected_format: str, *, with_thumbnail: bool) -> tuple[OutputInfo, bytes | None]:
    info, small = examine_output(data, expected_format, with_thumbnail=with_thumbnail)
    output = OutputInfo(
        key=None,
        sha256=hashlib.sha256(data).hexdigest(),
        bytes=len(data),
        content_type=info.content_type,
        width=info.width,
        height=info.height,
    )
    return output, small
