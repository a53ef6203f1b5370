"""What an output may be called: a mistyped URL or block would be a new directory with paid pictures."""

from __future__ import annotations

import re
from difflib import SequenceMatcher
from pathlib import Path

from prefect_wavespeed.errors import ConfigurationError
from prefect_wavespeed.urls import mistyped_url, path_of_file_url

BUCKET_BLOCK_TYPE = "s3-bucket"
DIRECTORY_BLOCK_TYPE = "local-file-system"
"""Types of Prefect's blocks, as slugs, in which outputs are saved; ``blocks.output`` opens them."""

_FORMS = f"use s3://bucket/prefix, {BUCKET_BLOCK_TYPE}/NAME, {DIRECTORY_BLOCK_TYPE}/NAME or a directory"
_LIKENESS = 0.8

_PLAINLY_A_PATH = re.compile(r"(\.{0,2}/|\.{1,2}$).*", re.DOTALL)
_S3_URI = re.compile(r"s3://[A-Za-z0-9._-]+(/+(?!\.{1,2}(/|$))[^/?#\\]+)*/*(?<!\s)")
_BLOCK = re.compile(rf"({BUCKET_BLOCK_TYPE}|{DIRECTORY_BLOCK_TYPE})/[a-z0-9-]+")
_NO_FOLDER = re.compile(r"""[:;\\'"$`*?<>|\x00-\x1f]|^\s|\s$""")
# The first part of what should be a relative path, but names a service or a host.
_SERVICE = re.compile(
    r"(?i)(.*[-_])?(s3|aws|gcs|gs|gcp|azure|minio|r2|buckets?|blob|smb|wavespeed|https?)([-_].*)?"
    r"|(gcs|azure|github|gitlab|remote)[-_].*|localhost|([a-z0-9-]+\.)+[a-z]{2,}|\d+(\.\d+){3}"
)


def check_output_name(output: str, field: str = "output") -> None:
    """Refuse a name of an output that looks like a mistyped URL or block.

    A relative path is taken for a directory only if nothing about it is odd, or the directory exists already.
    One that is really called so can be given as ``./NAME``.

    Args:
        output: ``s3://bucket/prefix``, a block or a directory.
        field: what the person calls it, for the error.

    Raises:
        ConfigurationError: it is empty, or looks like one; the message says what was probably meant.
    """
    if not output.strip():
        raise ConfigurationError(f"{field} is empty: use a directory or s3://bucket/prefix")
    if _PLAINLY_A_PATH.fullmatch(output) or _S3_URI.fullmatch(output) or _BLOCK.fullmatch(output):
        return
    slug, _, name = output.partition("/")
    if slug in (BUCKET_BLOCK_TYPE, DIRECTORY_BLOCK_TYPE) and name:
        raise ConfigurationError(
            f"{field} {output}: no name of a block: it has small letters, digits and dashes: use {slug}/NAME"
        )
    if not _is_odd(output, slug) or _is_directory(output):
        return
    advice = _advice(output, slug, name)
    if "://" not in output:
        advice += f"{'' if advice.endswith('?') else '.'} For a directory of this name give ./{output}"
    raise ConfigurationError(f"{field} {output}: {advice}")


def _is_odd(output: str, slug: str) -> bool:
    if output.startswith("~"):
        return not _is_directory(slug)
    return bool(_NO_FOLDER.search(output) or _SERVICE.fullmatch(slug) or _meant_block(slug, ""))


def _is_directory(path: str) -> bool:
    try:
        return Path(path).expanduser().is_dir()
    except (OSError, RuntimeError, ValueError):  # RuntimeError: no such user
        return False


def _advice(output: str, slug: str, name: str) -> str:
    """What was probably meant, or what to use instead."""
    if (bare := output.strip().strip("'\"`").strip()) != output:
        return f"leave out the quotes or blanks around it: {bare or 'it is empty'}"
    if path := path_of_file_url(output):
        return f"use the path {path}"
    url = output if "://" in output else mistyped_url(output) or ""
    scheme, _, rest = url.partition("://")
    if scheme.lower() not in ("", "s3"):
        return f"unsupported scheme {scheme}://: {_FORMS}"
    if meant := f"s3://{rest}" if url else _meant_block(slug, name):
        meant = meant.replace("\\", "/")
        if meant != output and (
            _S3_URI.fullmatch(meant) or _BLOCK.fullmatch(meant) or meant.endswith("NAME")
        ):
            return f"did you mean {meant}?"
    if url:
        if not rest.partition("/")[0].strip():
            return "no bucket: use s3://bucket/prefix"
        return "not a bucket and a prefix: a prefix has no '?', '#', '.' or '..': use s3://bucket/prefix"
    return f"it looks like a URL, a block or a host, and is none that can be used: {_FORMS}"


def _meant_block(slug: str, name: str) -> str | None:
    for known in (BUCKET_BLOCK_TYPE, DIRECTORY_BLOCK_TYPE):
        is_alike = SequenceMatcher(None, _letters(slug), _letters(known)).ratio() > _LIKENESS
        if is_alike and slug[:1].lower() == known[0]:
            return f"{known}/{name or 'NAME'}"
    return None


def _letters(slug: str) -> str:
    return re.sub(r"[\W_]", "", slug).lower()
