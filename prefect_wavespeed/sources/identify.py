"""Which picture an ``image`` means: an https URL, ``s3://bucket/key``, or a local path."""

from __future__ import annotations

import unicodedata

from prefect_wavespeed.errors import SourceError, redact
from prefect_wavespeed.job import Source
from prefect_wavespeed.sources.files import file_source, read_file
from prefect_wavespeed.sources.objects import check_s3_uri, find_object, identify_object
from prefect_wavespeed.sources.urls import url_source
from prefect_wavespeed.storage.store import Store
from prefect_wavespeed.urls import mistyped_url, path_of_file_url
from prefect_wavespeed.words import printable


async def identify(image: str, store: Store) -> Source:
    """Find out which picture is meant, and refuse one that cannot be used, before anything is spent.

    Args:
        image: https URL, ``s3://bucket/key``, or a local path.
        store: where outputs go: an S3 source is read with its credentials, if it is on S3.

    Raises:
        SourceError: it is missing, cannot be read, is empty, or has more than 20 MB; a file that is no image.
        StoreError: the server of an S3 source, or the store, cannot be used now.
    """
    if source := check_image(image):
        return source
    if "://" not in image:
        return await file_source(image, store)
    return await identify_object(image, store)


def check_image(image: str) -> Source | None:
    """Refuse what cannot mean any picture, without looking whether there is one.

    Returns:
        The picture that a URL means; None for anything else, which has to be looked at.

    Raises:
        SourceError: it is empty, or no https URL, ``s3://bucket/key`` or path.
    """
    if not image.isprintable() and any(unicodedata.category(char) in ("Cc", "Cs") for char in image):
        raise SourceError(
            f"control character: image {redact(printable(image))}: rename it, or correct the manifest"
        )
    if not image.strip():
        raise SourceError("image is empty: use an https URL, s3://bucket/key, or the path of a picture")
    if image[:5].lower() == "data:":
        raise SourceError(
            f"data: URI: image {redact(image[:40])}…: save the picture as a file, and give its path"
        )
    if image[:4].lower() == "arn:":
        raise SourceError(f"ARN: image {redact(image)}: use s3://bucket/key")
    if path := path_of_file_url(image):
        raise SourceError(f"file URL: image {redact(image)}: use the path {redact(path)}")
    if meant := mistyped_url(image):
        raise SourceError(f"mistyped URL: image {redact(image)}: did you mean {redact(meant)}?")
    scheme, separator, _ = image.partition("://")
    if not separator:
        return None
    if scheme.lower() != "s3":
        return url_source(image)
    check_s3_uri(image)
    return None


def is_url(source: Source) -> bool:
    """Whether WaveSpeedAI fetches it, and nobody else: it is neither a file nor on S3."""
    scheme, separator, _ = source.location.partition("://")
    return bool(separator) and scheme.lower() != "s3"


async def read_source(source: Source, store: Store) -> bytes | None:
    """The picture itself where it is a file or on S3; None for a URL, which WaveSpeedAI fetches.

    Raises:
        SourceError: it cannot be read any more, or has more than 20 MB.
        StoreError: the server cannot be reached now.
    """
    if is_url(source):
        return None
    if "://" not in source.location:
        return await read_file(source.location)
    return await (await find_object(source.location, store)).read()
