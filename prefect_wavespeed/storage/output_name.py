"""What an output may be called: a mistyped URL or block would be a new directory with paid pictures."""

from __future__ import annotations

import re
from difflib import SequenceMatcher

from prefect_wavespeed.errors import ConfigurationError
from prefect_wavespeed.urls import mistyped_url

BUCKET_BLOCK_TYPE = "s3-bucket"
DIRECTORY_BLOCK_TYPE = "local-file-system"
"""Types of Prefect's blocks, as slugs, in which outputs are saved; ``blocks.output`` opens them."""

_OTHER_BLOCK_TYPES = ("gcs-bucket", "azure-blob-storage-container", "remote-file-system", "smb")
_FORMS = "use a directory or s3://bucket/prefix"
_LIKENESS = 0.8


def check_output_name(output: str, field: str = "output") -> None:
    """Refuse a name of an output that looks like a mistyped URL or block.

    A directory that is really called so can be given as ``./NAME``.

    Args:
        output: ``s3://bucket/prefix``, a block or a directory.
        field: what the person calls it, for the error.

    Raises:
        ConfigurationError: it is empty, or looks like one; the message says what was probably meant.
    """
    if not output.strip():
        raise ConfigurationError(f"{field} is empty: {_FORMS}")
    url = output if "://" in output else mistyped_url(output) or ""
    scheme, _, rest = url.partition("://")
    if scheme.lower() not in ("", "s3"):
        raise ConfigurationError(f"unsupported scheme {scheme}://: {field} {output}: {_FORMS}")
    slug, _, name = output.partition("/")
    if slug in _OTHER_BLOCK_TYPES:
        raise ConfigurationError(
            f"{field} {output}: blocks of type {slug} are not supported: use {BUCKET_BLOCK_TYPE}/NAME or "
            f"{DIRECTORY_BLOCK_TYPE}/NAME"
        )
    meant = f"s3://{rest}" if url else _meant_block(slug, name)
    if meant and meant != output:
        raise ConfigurationError(
            f"{field} {output}: did you mean {meant}? For a directory of this name give ./{output}"
        )


def _meant_block(slug: str, name: str) -> str | None:
    for known in (BUCKET_BLOCK_TYPE, DIRECTORY_BLOCK_TYPE):
        is_alike = SequenceMatcher(None, _letters(slug), _letters(known)).ratio() > _LIKENESS
        if is_alike and slug[:1].lower() == known[0]:
            return f"{known}/{name or 'NAME'}"
    return None


def _letters(slug: str) -> str:
    return re.sub(r"[\W_]", "", slug).lower()
