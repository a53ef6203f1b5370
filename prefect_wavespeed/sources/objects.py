"""Sources on S3: an object, identified by its uri with its ETag and size."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncGenerator
from http import HTTPStatus

import obstore
from obstore.exceptions import BaseError, PermissionDeniedError, UnauthenticatedError
from obstore.store import S3Store

from prefect_wavespeed.errors import ConfigurationError, SourceDeniedError, SourceError, StoreError
from prefect_wavespeed.job import Source
from prefect_wavespeed.quality.verify import check_format, check_source_size, verify_source
from prefect_wavespeed.settings import get_settings
from prefect_wavespeed.storage.backend import Entry, is_plain
from prefect_wavespeed.storage.errors import answered_with, bucket_is_missing, translate, translated
from prefect_wavespeed.storage.s3_names import is_bucket_name, split_s3_uri
from prefect_wavespeed.storage.store import Store

_BEGINNING = 16 * 1024  # bytes: they tell a picture, and a camera's raw file, from anything else
_LOOK_SECONDS = 30.0
# Every picture that this project stores has these metadata (steps.output_collector).
_OUTPUT_METADATA = frozenset({"job-key", "prediction-id"})

_STORAGE_CLASS = re.compile(r"<(?:StorageClass|AccessTier)>(\w+)</")


def check_s3_uri(image: str) -> None:
    """Refuse an ``s3://`` uri that names no bucket, or no key that obstore would read as it is.

    Raises:
        SourceError: it does.
    """
    bucket, key = split_s3_uri(image)
    if bucket.startswith("arn:"):
        raise SourceError(
            f"ARN: image {image}: use s3://bucket/key, with an access point's alias as the bucket"
        )
    if not (bucket and key):
        raise SourceError(f"{'no key' if bucket else 'no bucket'}: image {image}: use s3://bucket/key")
    if not is_bucket_name(bucket):
        raise SourceError(f"not a valid bucket name: image {image}: use s3://bucket/key")
    if not is_plain(key):
        raise SourceError(f"empty part, '.' or '..' in the key: image {image}: rename the object")


def object_source(uri: str, etag: str | None, size: int | None) -> Source:
    """The picture that an S3 object is; nothing is fetched.

    A listing, a HEAD, a GET and an event all tell ETag and size. A version's id does not count: a listing
    tells none, and a version that is restored, or the same bytes again, are the same picture.
    """
    identity = f"{uri}#etag={_bare(etag)}" + ("" if size is None else f"&size={size}")
    return Source(uri=uri, identity=identity, name=uri.rpartition("/")[2], location=uri)


def _bare(etag: str | None) -> str:
    """An ETag without its quotes, and without the mark that a proxy in between puts before it."""
    return (etag or "").removeprefix("W/").strip('"')


async def identify_object(uri: str, store: Store) -> Source:
    """The picture that an S3 object is now.

    Args:
        uri: ``s3://bucket/key``.
        store: whose credentials are used, if it is on S3.

    Raises:
        SourceError: it does not exist, is empty or too big; SourceDeniedError where the credentials may not
            read it.
        StoreError: the server cannot be reached now.
    """
    meta, _ = await _look(uri, store, with_beginning=False)
    if not _bare(meta["e_tag"]):  # another picture under this key would be the same job
        raise SourceDeniedError(f"the server gives no ETag: image {uri}: copy it to another S3 server")
    return _of_usable_size(object_source(uri, meta["e_tag"], meta["size"]), meta["size"])


def listed_object(uri: str, entry: Entry) -> Source | None:
    """The picture that an S3 object is, by a listing; None if that tells no ETag: then it is to be looked at.

    Raises:
        SourceError: it is empty or too big.
    """
    if not _bare(entry.e_tag):
        return None
    return _of_usable_size(object_source(uri, entry.e_tag, entry.size), entry.size)


def _of_usable_size(source: Source, size: int) -> Source:
    check_source_size(size, f"image {source.uri}")
    if not size:
        check_format(b"", f"image {source.uri}")
    return source


async def check_object(source: Source, store: Store) -> None:
    """Make sure that an S3 object which nobody here reads is what was identified, and can be an image.

    One request: of its first bytes, unless ``look_at_sources`` is off.

    Raises:
        SourceError: it has changed, is gone, archived or no image.
        StoreError: the server cannot be reached now.
    """
    looks, name = get_settings().look_at_sources, f"image {source.uri}"
    meta, beginning = await _look(source.location, store, with_beginning=looks)
    if object_source(source.uri, meta["e_tag"], meta["size"]).identity != source.identity:
        raise changed(source)
    if looks and meta["size"] <= len(beginning):
        verify_source(beginning, name)
    elif looks:
        check_format(beginning, name)


async def _look(uri: str, store: Store, *, with_beginning: bool) -> tuple[obstore.ObjectMeta, bytes]:
    """What an object's headers say, and its first bytes if these are wanted."""
    bucket, key = handle_and_key(uri, store)
    try:
        async with asyncio.timeout(_LOOK_SECONDS):
            if not with_beginning:
                return await obstore.head_async(bucket, key), b""
            result = await obstore.get_async(bucket, key, options={"range": (0, _BEGINNING)})
            return result.meta, bytes(await result.bytes_async())
    except TimeoutError:
        raise StoreError(f"no answer within {_LOOK_SECONDS:g} s: image {uri}") from None
    except (BaseError, OSError) as error:
        raise await _source_error(uri, error, store) from None


class SourceObject:
    """An S3 object as one GET describes it; its bytes are on their way only once they are asked for.

    Attributes:
        source: the picture that it would be.
        metadata: its user metadata, names in lower case.
        size: in bytes.
    """

    def __init__(self, uri: str, result: obstore.GetResult, store: Store) -> None:
        meta = result.meta
        self.source = object_source(uri, meta["e_tag"], meta["size"])
        self.metadata = {str(name).lower(): value for name, value in result.attributes.items()}
        self.size = meta["size"]
        self._result = result
        self._store = store

    @property
    def is_output(self) -> bool:
        """Whether it is a picture that this project stored, or a copy of one."""
        return self.metadata.keys() >= _OUTPUT_METADATA

    async def read(self) -> bytes:
        """Its bytes.

        Raises:
            SourceError: it is too big; nothing of it is read.
            StoreError: it cannot be read now.
        """
        check_source_size(self.size, f"image {self.source.uri}")
        try:
            return bytes(await self._result.bytes_async())
        except (BaseError, OSError) as error:
            raise await _source_error(self.source.uri, error, self._store) from None


async def find_object(uri: str, store: Store, *, with_bytes: bool = True) -> SourceObject:
    """The object at ``s3://bucket/key`` as it is now.

    Args:
        uri: of the object.
        store: whose credentials are used, if it is on S3.
        with_bytes: False asks for its headers only.

    Raises:
        SourceError: it does not exist; SourceDeniedError where these credentials may not read it.
        StoreError: the server cannot be reached now.
    """
    bucket, key = handle_and_key(uri, store)
    try:
        result = await obstore.get_async(bucket, key, options={"head": not with_bytes})
        return SourceObject(uri, result, store)
    except (BaseError, OSError) as error:
        raise await _source_error(uri, error, store) from None


async def read_beginning(source: Source, limit: int, store: Store) -> bytes:
    """The first bytes of an S3 object.

    Raises:
        SourceError: it has changed since it was identified, or cannot be read.
        StoreError: the server cannot be reached now.
    """
    bucket, key = handle_and_key(source.location, store)
    try:
        result = await obstore.get_async(bucket, key, options={"range": (0, limit)})
        data = bytes(await result.bytes_async())
    except (BaseError, OSError) as error:
        raise await _source_error(source.uri, error, store) from None
    if SourceObject(source.location, result, store).source.identity != source.identity:
        raise changed(source)
    return data


def changed(source: Source) -> SourceError:
    """The error for a source that is not what it was when it was identified."""
    return SourceError(f"changed while it was in use: image {source.uri}: run it again")


def handle_and_key(uri: str, store: Store) -> tuple[S3Store, str]:
    """An obstore handle on the bucket of ``s3://bucket/key``, and the key.

    Raises:
        SourceError: it is not ``s3://bucket/key``, or obstore would refuse the key, or read another object.
        SourceDeniedError: there are no credentials; other sources may do without.
    """
    check_s3_uri(uri)
    bucket, key = split_s3_uri(uri)
    try:
        return store.source_access.bucket(bucket), key
    except ConfigurationError as error:
        raise SourceDeniedError(f"{error.message}: image {uri}") from None


async def objects_below(bucket: str, prefix: str, store: Store) -> AsyncGenerator[list[Entry], None]:
    """All objects of a bucket whose keys begin with ``prefix``, whatever the keys, a page at a time.

    Raises:
        ConfigurationError: there is no such bucket, or it may not be listed.
        StoreError: it cannot be listed now.
    """
    pages = store.source_access.pages(bucket, prefix)
    with translated("list", f"s3://{bucket}/{prefix}"):
        while (page := await asyncio.to_thread(next, pages, None)) is not None:
            yield page


async def is_served(uri: str, store: Store) -> bool:
    """Whether the server answers for the bucket of an object: then it is the object that has the problem."""
    if not uri.lower().startswith("s3://"):
        return False
    status, _ = await asyncio.to_thread(store.source_access.look_at_bucket, split_s3_uri(uri)[0])
    return status is not None and not _may_pass(status)


async def _source_error(uri: str, error: Exception, store: Store) -> SourceError | StoreError:
    """What is wrong with the picture; a StoreError where it is the server that cannot be reached."""
    if isinstance(error, FileNotFoundError) and not bucket_is_missing(error):
        return SourceError(f"no such object: image {uri}")
    if "Metadata value for" in str(error):  # some servers take what S3 does not allow, and obstore reads none
        return SourceError(f"metadata is not ASCII: image {uri}: upload it again with ASCII metadata")
    status, code = answered_with(error)
    if code == "InvalidObjectState":
        storage_class = _STORAGE_CLASS.search(str(error))
        shown = f" ({storage_class[1]})" if storage_class else ""
        return SourceError(f"archived{shown}: image {uri}: restore it first")
    if status == HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE:  # there is no first byte
        return SourceError(f"not an image but an empty file: image {uri}")
    if status and (status < HTTPStatus.BAD_REQUEST or code == "AuthorizationHeaderMalformed"):
        return await _refusal(uri, status, code, store)
    problem = translate(error, f"cannot read image {uri}")
    if isinstance(error, PermissionDeniedError | UnauthenticatedError) or not problem.retryable:
        return SourceDeniedError(problem.message)
    if status is None or _may_pass(status):
        return StoreError(problem.message)
    return await _refusal(uri, status, code, store)


async def _refusal(uri: str, status: int, code: str, store: Store) -> SourceError:
    """What an answer means that the same request will get again."""
    if status in (HTTPStatus.METHOD_NOT_ALLOWED, HTTPStatus.GONE):
        return SourceError(f"deleted (HTTP {status}): image {uri}")
    access, bucket = store.source_access, split_s3_uri(uri)[0]
    _, region = await asyncio.to_thread(access.look_at_bucket, bucket)
    if region and region != access.region:
        return SourceDeniedError(
            f"bucket is in region {region}, not {access.region}: image {uri}: restyle its images in a run of "
            f"their own, with AWS_DEFAULT_REGION={region}"
        )
    if status < HTTPStatus.BAD_REQUEST:
        return SourceDeniedError(
            f"the server redirects to another: image {uri}: use the endpoint of its bucket"
        )
    hint = ": is it encrypted with a key of your own (SSE-C), which WaveSpeedAI does not have?"
    advice = hint if status == HTTPStatus.BAD_REQUEST and not code else ""
    return SourceDeniedError(f"HTTP {' '.join(filter(None, (str(status), code)))}: image {uri}{advice}")


def _may_pass(status: int) -> bool:
    return status >= HTTPStatus.INTERNAL_SERVER_ERROR or status in (
        HTTPStatus.REQUEST_TIMEOUT,
        HTTPStatus.CONFLICT,
        HTTPStatus.TOO_EARLY,
        HTTPStatus.TOO_MANY_REQUESTS,
    )
