"""An object that was created in a bucket, and what to do about it: a job, a dead letter, or nothing.

The object as it is now counts, not what the event says of it: an event that comes twice, late or out of order
leads to the same job as ``restyle image s3://bucket/key``, and nothing is billed twice.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from prefect_wavespeed.api.models import DEFAULT_SIZE, SOURCE_SIZE, ReduxParams
from prefect_wavespeed.batch.manifest.rows import BadRow, RowReader
from prefect_wavespeed.errors import ConfigurationError, PredictionFailedError, SourceDeniedError, SourceError
from prefect_wavespeed.job import Job, Restyled, RunInfo, Source
from prefect_wavespeed.ledger.ledger import Ledger, now
from prefect_wavespeed.ledger.records import DeadLetter, Failure
from prefect_wavespeed.ledger.sidecar import source_info
from prefect_wavespeed.quality.verify import examine_source
from prefect_wavespeed.sources.objects import find_object, object_source
from prefect_wavespeed.sources.sizes import with_size
from prefect_wavespeed.storage.store import Store
from prefect_wavespeed.words import printable

MetadataParam = Literal[
    "size", "num_inference_steps", "guidance_scale", "num_images", "seed", "output_format"
]
"""A parameter that an object's own metadata may set, if that is allowed."""

_SCHEME = "s3://"


class ObjectCreated(BaseModel):
    """An object was created or overwritten, as a store's notification says."""

    model_config = ConfigDict(frozen=True)

    bucket: str = Field(min_length=1, description="The bucket's name.", examples=["my-bucket"])
    key: str = Field(
        min_length=1, description="The object's key, not URL-encoded.", examples=["in/photo.jpg"]
    )
    version: str | None = Field(default=None, description="Its version, if the bucket keeps versions.")
    etag: str | None = Field(default=None, description="Its ETag.")
    sequencer: str | None = Field(
        default=None, description="Orders the events of one key (AWS, Ceph and MinIO send one)."
    )
    size: int | None = Field(default=None, description="Its size in bytes.")

    @property
    def uri(self) -> str:
        """``s3://bucket/key``."""
        return f"{_SCHEME}{self.bucket}/{self.key}"

    @property
    def label(self) -> str:
        """The key as it may be shown."""
        return printable(self.key)

    @property
    def name(self) -> str:
        """Identifies the work: the same for every delivery of one event, another once it is overwritten."""
        return f"{self.uri}#{self._version_mark}"

    @property
    def is_named(self) -> bool:
        """Whether the event says which version it is about."""
        return bool(self._version_mark)

    @property
    def _version_mark(self) -> str:
        version = None if self.version == "null" else self.version
        marks = (("version", version), ("sequencer", self.sequencer), ("etag", self.etag))
        return next((f"{kind}={value.strip(chr(34))}" for kind, value in marks if value), "")


class Handled(BaseModel):
    """The outcome of an event.

    Attributes:
        restyled: what is stored.
        ignored: why there was nothing to do.
    """

    restyled: Restyled | None = None
    ignored: str | None = None


class Found(BaseModel):
    """What to do about an event.

    Attributes:
        job: the job; None if there is nothing to do.
        ignored: why there is nothing to do.
        refused: why the job can never be done.
    """

    job: Job | None = None
    ignored: str | None = None
    refused: str | None = None


async def find(
    created: ObjectCreated,
    watched: str,
    params: ReduxParams,
    from_metadata: Iterable[MetadataParam],
    store: Store,
) -> Found:
    """Find out what to do about an object, with one GET and before anything is spent.

    The picture's bytes are read only if the ledger has nothing of its job yet.

    Args:
        created: the event.
        watched: ``s3://bucket/prefix`` whose objects are to be restyled.
        params: how to restyle them.
        from_metadata: parameters that the object's own metadata may give, as ``restyle-num-images``.
        store: where the outputs and the ledger are.

    Raises:
        ConfigurationError: the output and ``watched`` overlap, or ``watched`` is not ``s3://bucket/prefix``.
        SourceDeniedError: these credentials may not read the object.
        StoreError: the object or the ledger cannot be read now.
    """
    refuse_overlap(watched, store.uri)
    if not _is_below(created, watched):
        return Found(ignored=f"{created.uri} is not below {watched}")
    if created.key.endswith("/"):
        return Found(ignored=f"{created.uri} is a folder")
    try:
        current = await find_object(created.uri, store)
    except SourceDeniedError:  # the set-up's fault, not the object's: its next event would be refused as well
        raise
    except SourceError as error:
        return await _vanished(created, params, error.message, store)
    if current.is_output:
        return Found(ignored=f"{created.uri} is an output of this project (prediction-id in its metadata)")

    job = await _job(current.source, params, set(from_metadata), current.metadata, store)
    if isinstance(job, Found):
        return job
    metadata, dead_letter, open_job = await Ledger(store).look(job)
    if metadata or dead_letter or open_job.latest:
        return Found(job=job)
    try:
        data = await current.read()
        await asyncio.to_thread(examine_source, data, f"image {created.uri}", with_thumbnail=False)
    except SourceError as error:
        return Found(job=job, refused=error.message)
    return Found(job=job)


async def _vanished(created: ObjectCreated, params: ReduxParams, reason: str, store: Store) -> Found:
    """What to do about an object of which the event is all that is left."""
    found = _refused(object_source(created.uri, created.etag, created.size), params, reason)
    if found.job:
        metadata, _, open_job = await Ledger(store).look(found.job)
        if metadata or open_job.latest:  # restyled before it vanished, or under way
            return found
    # It may never have existed, and the event may name any ETag: one dead letter for each key.
    return _refused(object_source(created.uri, None, None), params, reason)


async def give_up(job: Job, reason: str, store: Store, run: RunInfo) -> PredictionFailedError | None:
    """Write the dead letter of a job that can never be done, unless it has one, and return its error.

    Returns:
        None if the job is done or in progress: it then continues like any other.

    Raises:
        StoreError, UnsafeStoreError: the store cannot be relied on.
    """
    await store.ensure_conditional_put()
    ledger = Ledger(store)
    metadata, dead_letter, open_job = await ledger.look(job)
    if metadata or open_job.latest:
        return None
    dead_letter = dead_letter or await ledger.bury(
        DeadLetter(
            job_key=job.key,
            last_attempt=0,
            error=Failure(type="SourceError", message=reason),
            flow_run_id=run.flow_run_id,
            source=source_info(job),
            request=job.request(job.source.uri),
            variant=job.variant,
            attempts=[],
            failed_at=now(),
        )
    )
    return dead_letter.as_error()


def refuse_overlap(watched: str, output: str) -> None:
    """Refuse an output whose objects would be taken for new sources, again and again.

    Args:
        watched: ``s3://bucket/prefix``. The prefix is S3's: ``in`` watches ``in-restyled/…`` as well.
        output: the uri of the output's store: ``s3://bucket/prefix``, or a directory.

    Raises:
        ConfigurationError: one of the two is inside the other, or ``watched`` is not ``s3://bucket/prefix``.
    """
    bucket, prefix = _split(watched)
    if not _overlap(bucket, prefix, output):
        return
    beside = f"{_SCHEME}{bucket}/restyled"
    other = "another bucket" if _overlap(bucket, prefix, beside) else f"an output beside it, such as {beside}"
    raise ConfigurationError(
        f"output {output} and watched {watched} overlap, so what is stored could be restyled again: "
        f"choose {other}"
    )


def _overlap(bucket: str, prefix: str, output: str) -> bool:
    if not output.startswith(_SCHEME):
        return False
    output_bucket, _, folder = output[len(_SCHEME) :].partition("/")
    output_prefix = f"{folder.strip('/')}/" if folder.strip("/") else ""
    same_bucket = output_bucket == bucket
    return same_bucket and (output_prefix.startswith(prefix) or prefix.startswith(output_prefix))


def _split(watched: str) -> tuple[str, str]:
    bucket, _, prefix = watched.removeprefix(_SCHEME).partition("/")
    if not (watched.startswith(_SCHEME) and bucket):
        raise ConfigurationError(f"watched {watched or '(empty)'}: give s3://bucket/prefix")
    return bucket, prefix


def _is_below(created: ObjectCreated, watched: str) -> bool:
    bucket, prefix = _split(watched)
    return created.bucket == bucket and created.key.startswith(prefix)


async def _job(
    source: Source,
    params: ReduxParams,
    allowed: set[MetadataParam],
    metadata: Mapping[str, str],
    store: Store,
) -> Job | Found:
    """The job, with the parameters that the object's own metadata may set; refused if these are invalid."""
    given: dict[str, str] = {
        name: value for name in allowed if (value := metadata.get(_header(name))) is not None
    }
    row = RowReader(params, from_text=True).read(0, {"image": source.uri, **given})
    if not isinstance(row, BadRow):
        try:
            return Job(source=source, params=await with_size(row.params, source, store))
        except SourceDeniedError:
            raise
        except SourceError as error:
            return _refused(source, row.params, error.message)
    # another identity: the dead letter must not block the object once its metadata are fixed
    invalid = "&".join(f"{_header(name)}={given[name]}" for name in sorted(given))
    refused_source = source.model_copy(update={"identity": f"{source.identity}#{invalid}"})
    reason = f"invalid metadata restyle-…: {row.reason}: image {source.uri}"
    return _refused(refused_source, params, reason)


def _refused(source: Source, params: ReduxParams, reason: str) -> Found:
    if params.size == SOURCE_SIZE:  # which cannot be read
        params = params.model_copy(update={"size": DEFAULT_SIZE})
    return Found(job=Job(source=source, params=params), refused=reason)


def _header(name: str) -> str:
    """The name of a parameter in an object's metadata: ``restyle-num-images`` for ``num_images``."""
    return f"restyle-{name.replace('_', '-')}"
