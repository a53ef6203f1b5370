"""A completed prediction's pictures: fetched, verified, stored."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial

from prefect_wavespeed.api.client import WaveSpeedClient
from prefect_wavespeed.api.predictions import Prediction
from prefect_wavespeed.errors import NotFoundError, OutputError, RestyleError
from prefect_wavespeed.job import Job, NsfwRules, OutputWarning, RunInfo
from prefect_wavespeed.ledger.records import OutputInfo
from prefect_wavespeed.quality.formats import sniff
from prefect_wavespeed.quality.outputs import count_differs, differences, not_checked
from prefect_wavespeed.quality.verify import Examined, examine_output, undecoded
from prefect_wavespeed.retry import backoff, retry
from prefect_wavespeed.steps.context import OnThumbnail
from prefect_wavespeed.storage import layout
from prefect_wavespeed.storage.store import Store

TRIES = 5
_LOOKS = 3  # for outputs that are missing, over some three seconds
_QUICK = 200_000  # bytes of a JPEG that are read in two milliseconds: not worth a change of threads


@dataclass
class Collected:
    """What is stored of a prediction, and what is wrong with it."""

    outputs: list[OutputInfo] = field(default_factory=list)
    warnings: list[OutputWarning] = field(default_factory=list)

    @property
    def remarkable(self) -> bool:
        """Whether there is more to say of them than that they are stored."""
        return bool(self.warnings) or any(output.nsfw for output in self.outputs)


@dataclass
class OutputCollector:
    """Brings the outputs of one prediction into the store.

    Attributes:
        prediction: the API's last answer; asking again gives its outputs fresh URLs.
        on_thumbnail: given a small JPEG of each output that is not in quarantine, from the same decoding that
            verifies it.
    """

    client: WaveSpeedClient
    store: Store
    job: Job
    prediction: Prediction
    run: RunInfo
    nsfw: NsfwRules
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

    async def collect(self) -> Collected:
        """Store as many outputs as were asked for. What is wrong with one is told; it is stored.

        One that is not there costs only itself, once others came and all tries have said that it is not.

        Raises:
            OutputError: one cannot be downloaded whole, after several tries; or none is named, or there.
            NotFoundError: WaveSpeedAI no longer knows the prediction.
            RestyleError: the API or the store cannot be used now.
        """
        await self._look_for_missing()
        named = [index for index, output in enumerate(self.prediction.outputs) if output]
        if not named:
            raise OutputError(
                "the prediction is completed and names no output: run the job again later",
                job_key=self.job.key,
                prediction_id=self.prediction.id,
            )
        collected = Collected()
        missing = await self._collect_those(named, collected)
        if collected.outputs and all(error.gone for error in missing.values()):  # it may have been late
            missing = await self._collect_those(missing, collected)
        why = self.prediction.unreadable_outputs or ""
        if missing and len(collected.outputs) < self.job.params.num_images:
            passing = [error for error in missing.values() if not error.gone]
            if passing or not collected.outputs:
                raise [*passing, *missing.values()][0]
            why = next(iter(missing.values())).message
        collected.warnings += count_differs(self.job.params, len(named) - len(missing), why)
        return collected

    async def _collect_those(self, indexes: Iterable[int], collected: Collected) -> dict[int, OutputError]:
        """Store outputs, as long as more are wanted. Returns why some did not come, by their index."""
        missing: dict[int, OutputError] = {}
        for index in indexes:
            if len(collected.outputs) < self.job.params.num_images:
                try:
                    await self._collect(len(collected.outputs) + 1, index, collected)
                except OutputError as error:
                    missing[index] = error
        return missing

    async def _look_for_missing(self) -> None:
        """Ask again for outputs that are missing: what comes after the side-car is written is lost."""
        waits = backoff()
        for _ in range(_LOOKS):
            if _named(self.prediction) >= self.job.params.num_images:
                return
            await asyncio.sleep(next(waits))
            with suppress(RestyleError):  # what there is can be stored without it
                fresh = await self.client.result(self.prediction.id)
                if _named(fresh) > _named(self.prediction):
                    self.prediction = fresh

    async def _collect(self, number: int, index: int, collected: Collected) -> None:
        """Store the output at an index of the prediction, under its number."""
        flag = self.prediction.flag(index)
        fate = self.nsfw.applied_to(flag)
        if fate == "drop":
            collected.outputs.append(OutputInfo(key=None, nsfw=True))
            return
        data, examined = await self._fetch(index)
        found = examined.info
        quarantined = fate == "quarantine"
        path = layout.picture(self.job.name, number, found.format, quarantined=quarantined)
        await self._keep(path, data, found.content_type)
        collected.outputs.append(
            OutputInfo(
                key=path,
                sha256=hashlib.sha256(data).hexdigest(),
                bytes=len(data),
                content_type=found.content_type,
                width=found.width,
                height=found.height,
                nsfw=flag,
            )
        )
        collected.warnings += differences(
            number, self.job.params, found, blank=examined.blank, odd=examined.odd
        )
        if quarantined and flag is None:
            collected.warnings.append(not_checked(number))
        if self.on_thumbnail and examined.thumbnail and not quarantined:
            with suppress(Exception):  # it is only shown: the picture that was paid for is stored
                self.on_thumbnail(self.job.key, number, examined.thumbnail)

    async def _fetch(self, index: int) -> tuple[bytes, Examined]:
        """One output, whole and verified; the API is asked for a fresh URL when the old one has expired."""
        return await retry(partial(self._try_fetch, index, [], []), tries=TRIES, when=_may_be_whole_next_time)

    async def _try_fetch(self, index: int, clear: list[bool], seen: list[bytes]) -> tuple[bytes, Examined]:
        """One try; ``clear`` holds of each earlier one whether it said that there is no picture."""
        if clear:
            fresh = await self.client.result(self.prediction.id)
            if _names_all_of(self.prediction, fresh):  # or an output that comes later would be gone
                self.prediction = fresh
        try:
            output = self.prediction.outputs[index]
            data = self.prediction.inline(output) or await self.client.download(output)
            return data, await self._examined(data, seen)
        except NotFoundError as error:
            problem = OutputError(error.message, gone=True)
        except OutputError as error:
            problem = error
        clear.append(problem.gone)
        problem.gone = all(clear)
        problem.job_key, problem.prediction_id = self.job.key, self.prediction.id
        raise problem

    async def _examined(self, data: bytes, seen: list[bytes]) -> Examined:
        """What decoding it shows; of one that does not decode and came before, what its structure shows."""
        with_thumbnail = self.on_thumbnail is not None
        try:
            if len(data) <= _QUICK and sniff(data) == "jpeg":
                return examine_output(data, with_thumbnail=with_thumbnail)
            return await asyncio.to_thread(examine_output, data, with_thumbnail=with_thumbnail)
        except OutputError as error:
            digest = hashlib.sha256(data).digest()
            if digest in seen and (found := undecoded(data)):
                return Examined(found, odd=error.message)
            error.gone = not seen or digest in seen
            seen.append(digest)
            raise

    async def _keep(self, path: str, data: bytes, content_type: str) -> None:
        if await self.store.create(path, data, content_type, self.object_metadata):
            return
        # From an earlier run of the same job: the same picture, unless that was another prediction's.
        if await self.store.get(path) != data:
            await self.store.put(path, data, content_type, self.object_metadata)


def _may_be_whole_next_time(error: BaseException) -> bool:
    return isinstance(error, OutputError) and error.retryable


def _names_all_of(earlier: Prediction, later: Prediction) -> bool:
    """Whether a later answer has an output wherever the earlier one has."""
    outputs = later.outputs
    return all(index < len(outputs) and outputs[index] for index, each in enumerate(earlier.outputs) if each)


def _named(prediction: Prediction) -> int:
    """How many outputs it names."""
    return sum(map(bool, prediction.outputs))
