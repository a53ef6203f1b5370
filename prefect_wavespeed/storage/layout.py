"""Every path of the storage layout; no other file spells one. Use it qualified: ``layout.claim(key, 1)``.

::

    images/{job name}/1.jpeg … n.jpeg       the pictures
    images/{job name}/metadata.json         written last: it exists, so the job is done
    quarantine/{job name}/1.jpeg            pictures that are flagged, or not checked (``NsfwRules``)
    open/{job key}/{attempt}.claim.json     the attempt belongs to the runner whose nonce it holds
    open/{job key}/{attempt}.prediction.json    the attempt's prediction
    open/{job key}/{attempt}.error.json     what went wrong last with the attempt
    failed/{job key}.json                   dead letter
    runs/dt=YYYY-MM-DD/{flow run id}/       a batch's report
    images/.names/{sha256}.json             the name under which a local file was first used
    uploads/{sha256}/{API host}/{time}.json     where a picture was uploaded to
    doctor/{API host}.json                  what `restyle doctor --live` found out
    .restyle-output                         marks a directory, so that it cannot be taken for a new one
    .probe/                                 objects that exist for a moment

A job key is 64 hexadecimal digits (``Job.key``), a job name ``{slug}-{the key's first 16 digits}``
(``Job.name``). All paths are relative to the store; those of folders end with a slash, except a run's and a
shard's.
"""

from __future__ import annotations

import re
import uuid
from datetime import date, datetime
from typing import Literal, cast

OpenKind = Literal["claim", "prediction", "candidates", "not-submitted", "error"]
"""What an object of an unfinished job is."""

IMAGES = "images/"
QUARANTINE = "quarantine/"
OPEN = "open/"
FAILED = "failed/"
RUNS = "runs/"
UPLOADS = "uploads/"
DOCTOR = "doctor/"
PROBE = ".probe/"
MARKER = ".restyle-output"
MARKER_TEXT = b"Leave this file here: without it, runs take this directory for a disk that is not mounted.\n"

METADATA_SUFFIX = "/metadata.json"
CLAIM_SUFFIX = ".claim.json"
PREDICTION_SUFFIX = ".prediction.json"
CANDIDATES_SUFFIX = ".candidates.json"
NOT_SUBMITTED_SUFFIX = ".not-submitted.json"
ERROR_SUFFIX = ".error.json"
DEAD_LETTER_SUFFIX = ".json"

# A run's files, below its folder
REPORT_JSONL = "report.jsonl"
REPORT_PARQUET = "report.parquet"
GALLERY = "gallery.html"
SUMMARY = "summary.json"

_OPEN_OBJECT = re.compile(
    r"open/([0-9a-f]{64})/(\d+)\.(claim|prediction|candidates|not-submitted|error)\.json"
)
_OPEN_KEY = re.compile(r"open/([0-9a-f]{64})/.*")
_DEAD_LETTER = re.compile(r"failed/([0-9a-f]{64})\.json")
_METADATA = re.compile(r"images/[^/]*-([0-9a-f]{16})/metadata\.json")
_UPLOAD = re.compile(r"uploads/([0-9a-f]{64})/")
_RUN = re.compile(r"runs/dt=\d{4}-\d\d-\d\d/[^/]+(?=/)")
_PICTURE = re.compile(r"(?:^|/)(?:images|quarantine)/[^/]+-[0-9a-f]{16}/\d+\.\w+$")


# --- jobs ---


def images(job_name: str) -> str:
    """The folder of a job's pictures and its side-car."""
    return f"{IMAGES}{job_name}/"


def quarantine(job_name: str) -> str:
    """The folder of a job's quarantined pictures."""
    return f"{QUARANTINE}{job_name}/"


def picture(job_name: str, number: int, extension: str, *, quarantined: bool = False) -> str:
    """A job's picture; they are numbered from 1."""
    folder = quarantine(job_name) if quarantined else images(job_name)
    return f"{folder}{number}.{extension}"


def metadata(job_name: str) -> str:
    """A job's side-car."""
    return f"{IMAGES}{job_name}{METADATA_SUFFIX}"


def remarks(job_name: str) -> str:
    """An empty object beside a job's pictures, which a listing shows: its side-car has warnings or flags."""
    return f"{IMAGES}{job_name}/remarks"


def open_job(key: str) -> str:
    """The folder of an unfinished job."""
    return f"{OPEN}{key}/"


def claim(key: str, attempt: int) -> str:
    """The claim on an attempt; attempts are numbered from 1."""
    return f"{OPEN}{key}/{attempt}{CLAIM_SUFFIX}"


def prediction(key: str, attempt: int) -> str:
    """The record of an attempt's prediction."""
    return f"{OPEN}{key}/{attempt}{PREDICTION_SUFFIX}"


def candidates(key: str, attempt: int) -> str:
    """Which predictions may be an attempt's, where the API did not tell."""
    return f"{OPEN}{key}/{attempt}{CANDIDATES_SUFFIX}"


def not_submitted(key: str, attempt: int) -> str:
    """What a person found out: nothing was submitted up to this attempt beyond what is recorded."""
    return f"{OPEN}{key}/{attempt}{NOT_SUBMITTED_SUFFIX}"


def error(key: str, attempt: int) -> str:
    """What went wrong last with an attempt."""
    return f"{OPEN}{key}/{attempt}{ERROR_SUFFIX}"


def dead_letter(key: str) -> str:
    """The dead letter of a job that failed for good."""
    return f"{FAILED}{key}{DEAD_LETTER_SUFFIX}"


def parse_open(path: str) -> tuple[str, int, OpenKind] | None:
    """Key, attempt and kind of an object below ``open/``; None for a stray one."""
    match = _OPEN_OBJECT.fullmatch(path)
    return (match[1], int(match[2]), cast("OpenKind", match[3])) if match else None


def key_of_open(path: str) -> str | None:
    """The key of the job to which any object below ``open/`` belongs; None for a stray one."""
    match = _OPEN_KEY.fullmatch(path)
    return match[1] if match else None


def key_of_dead_letter(path: str) -> str | None:
    """The job key of a dead letter; None when the path is not one's."""
    match = _DEAD_LETTER.fullmatch(path)
    return match[1] if match else None


def short_key_of_metadata(path: str) -> str | None:
    """The first 16 digits of the job key of a side-car; None when the path is not one's."""
    match = _METADATA.fullmatch(path)
    return match[1] if match else None


def key_of_record(path: str) -> str | None:
    """The job key of an object that names predictions, of a side-car its first 16 digits; None for others."""
    parsed = parse_open(path)
    if parsed:
        return parsed[0] if parsed[2] == "prediction" else None
    return short_key_of_metadata(path) or key_of_dead_letter(path)


def is_picture(path: str) -> bool:
    """Whether a path, below whatever prefix, is laid out like a picture that this project stored."""
    return _PICTURE.search(path) is not None


def is_quarantined(path: str) -> bool:
    """Whether a path, below whatever prefix, is that of a picture in quarantine."""
    return is_picture(path) and path.rsplit("/", 3)[-3] == "quarantine"


def number_of_picture(path: str) -> int | None:
    """The number of a job's picture; None when the path is not one's."""
    name = path.rpartition("/")[2].partition(".")[0]
    return int(name) if name.isascii() and name.isdigit() else None


# --- runs ---


def run(started: date | datetime, run_id: str) -> str:
    """The folder of a batch's report, without a slash at its end."""
    return f"{RUNS}dt={started:%Y-%m-%d}/{run_id}"


def run_of(path: str) -> str | None:
    """The folder of the run to which an object below ``runs/`` belongs; None for a stray one."""
    match = _RUN.match(path)
    return match[0] if match else None


def report_parts(run_folder: str) -> str:
    """The folder of the parts of a report while the batch, or a shard, runs."""
    return f"{run_folder}/parts/"


def report_part(run_folder: str, number: int) -> str:
    """One part of a report; they are numbered from 1."""
    return f"{run_folder}/parts/{number:05}.jsonl"


def caps(run_folder: str) -> str:
    """How a sharded batch's spending cap is divided among its shards."""
    return f"{run_folder}/caps.json"


def shards(run_folder: str) -> str:
    """The folder of all shards of a batch."""
    return f"{run_folder}/shards/"


def shard(run_folder: str, number: int, attempt: int) -> str:
    """The folder of one shard, without a slash at its end; it holds report parts like a run's."""
    return f"{run_folder}/shards/{number}.{attempt}"


def shard_jobs(shard_folder: str) -> str:
    """The list of the keys that a shard carries out."""
    return f"{shard_folder}/jobs.txt"


def shard_of_part(path: str) -> str | None:
    """The shard folder to which a report part belongs; None when the path is not a part's."""
    folder, part, _ = path.rpartition("/parts/")
    return folder if part else None


# --- sources ---


def source_name(sha256: str) -> str:
    """Where the name is kept under which a local file with these bytes was first used.

    It is below ``images/`` because the folders there have this name: without it, a renamed file would not
    find its pictures and be billed again.
    """
    return f"{IMAGES}.names/{sha256}.json"


def uploads(sha256: str, api_host: str) -> str:
    """The folder of the uploads of a picture to one API."""
    return f"{UPLOADS}{sha256}/{_folder_of(api_host)}/"


def upload(sha256: str, api_host: str, at: datetime) -> str:
    """The record of one upload of a picture, at a time by the store's clock."""
    return f"{uploads(sha256, api_host)}{at:%Y%m%dT%H%M%S%fZ}.json"


def sha256_of_upload(path: str) -> str | None:
    """The SHA-256 of the picture whose upload is recorded there; None for a stray object."""
    match = _UPLOAD.match(path)
    return match[1] if match else None


def _folder_of(api_host: str) -> str:
    return api_host.replace(":", "-")


# --- the API ---


def live_report(api_host: str) -> str:
    """What was found out about an API."""
    return f"{DOCTOR}{_folder_of(api_host)}.json"


# --- the store itself ---


def probe(name: str = "") -> str:
    """An object, or a folder of them, that exists for a moment; with a random name unless one is given."""
    return f"{PROBE}{name or uuid.uuid4().hex}"
