"""What the report of a batch says: the outcome of every row, and the run in figures."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from datetime import date, datetime
from shlex import quote
from typing import Literal, TypeAlias

from pydantic import BaseModel, ConfigDict, Field, PrivateAttr

from prefect_wavespeed.batch.manifest.carried import ColumnType, Value
from prefect_wavespeed.batch.manifest.left_out import left_out_line
from prefect_wavespeed.batch.outcome import Status, counts_in_words
from prefect_wavespeed.concurrency import run_to_end
from prefect_wavespeed.errors import ConfigurationError
from prefect_wavespeed.job import WarningCode
from prefect_wavespeed.process_local import ProcessLocal
from prefect_wavespeed.quality.outputs import described
from prefect_wavespeed.reasons import Reason
from prefect_wavespeed.storage import layout
from prefect_wavespeed.storage.documents import decode
from prefect_wavespeed.storage.open_store import open_store
from prefect_wavespeed.storage.scratch import scratch_folder
from prefect_wavespeed.storage.store import Store
from prefect_wavespeed.words import counted, html_table


class ReportRow(BaseModel):
    """The outcome of one row of the manifest: a line of ``report.jsonl``, a row of ``report.parquet``."""

    row: int = Field(ge=1, description="The row's number in the manifest.")
    id: str | None = Field(default=None, description="The user's own name for it.")
    image: str = Field(description="The source, without its signature.")
    status: Status = Field(
        description="stored: by this run; done: stored earlier; submitted: left to settle; failed: an error, "
        "for good or in this run; given_up: failed for good in an earlier run, and was not tried again; "
        "open: left open in the ledger when the run ended; unsubmitted: never sent; "
        "invalid: a bad row that was skipped."
    )
    variant: int = Field(default=0, ge=0, description="Another picture of the same source: 0, 1, 2, …")
    job_key: str | None = Field(default=None, description="The job; rows with the same key share a picture.")
    prediction_id: str | None = Field(
        default=None,
        description="WaveSpeedAI's id of the prediction. Of a row that is done, it may be left empty: the "
        "side-car has it.",
    )
    seed: int | None = Field(default=None, description="The seed that was sent.")
    outputs: list[str] = Field(default_factory=list, description="Full uris of the pictures.")
    warnings: list[WarningCode] = Field(
        default_factory=list, description="What is wrong with the pictures: the codes in the side-car."
    )
    warning_outputs: list[int | None] = Field(
        default_factory=list,
        description="For each warning the number of the picture, from 1; null if it is about all of them.",
    )
    flagged: list[int] = Field(
        default_factory=list,
        description="Numbers, from 1, of the pictures that WaveSpeedAI flags as unsafe for work, those in "
        "quarantine and those that were dropped included.",
    )
    metadata_uri: str | None = Field(default=None, description="Full uri of the side-car.")
    cost_usd: float | None = Field(
        default=None,
        description="USD that this run paid for it: 0 for what is done; null when not known. The "
        "side-car has what it cost.",
    )
    attempts: int | None = Field(default=None, description="How often it was submitted.")
    error_type: str | None = Field(default=None, description="The error's class.")
    error_message: str | None = Field(default=None, description="What happened and what to do.")
    error_code: int | None = Field(
        default=None, description="WaveSpeedAI's code of a prediction that failed, where it has one."
    )
    attempt_errors: list[str] = Field(
        default_factory=list,
        description="How each attempt ended, the first one first; empty where no attempt failed.",
    )
    retryable: bool | None = Field(
        default=None, description="Whether the same may succeed later; null when there was no error."
    )
    seconds: float | None = Field(
        default=None, description="From submission to stored, in seconds; null unless stored by this run."
    )
    carried: dict[str, Value] = Field(
        default_factory=dict,
        description="The manifest's own columns that the batch was asked to carry, by name: text, numbers, "
        "true or false; dates as ISO 8601 text. All values of a column are of one type.",
    )

    @property
    def numbered(self) -> list[tuple[int, str]]:
        """Each picture's number, from 1, and its uri."""
        return [(layout.number_of_picture(uri) or place, uri) for place, uri in enumerate(self.outputs, 1)]

    @property
    def dropped(self) -> list[int]:
        """Numbers of the pictures that were flagged and not stored."""
        stored = {number for number, _ in self.numbered}
        return [number for number in self.flagged if number not in stored]

    @property
    def name(self) -> str:
        """How a person finds the row: its id, or its number."""
        return self.id or f"row {self.row}"

    @property
    def reason(self) -> str:
        """Why it has no pictures: how its last attempt ended, before what that means for the job."""
        message = self.error_message or ("it was not its turn" if self.status == "unsubmitted" else "")
        last = self.attempt_errors[-1] if self.attempt_errors else ""
        return message if not last or last in message else f"{last}: {message}"


class Summary(BaseModel):
    """A whole run in figures, ``summary.json``. It is written last: it exists, so the report is complete."""

    model_config = ConfigDict(populate_by_name=True, serialize_by_alias=True)

    schema_: Literal[1] = Field(default=1, alias="schema")
    flow_run_id: str | None = None
    flow_run_name: str | None = None
    manifest: str = Field(description="What was read, without its signature.")
    partition: date | None = Field(
        default=None, description="The day of the manifest; null if its name has no {date} to fill in."
    )
    options_digest: str = Field(
        default="", description="Tells apart runs whose options make other pictures of the same manifest."
    )
    output: str = Field(description="Where the pictures are.")
    report: str = Field(default="", description="Where the report is.")
    started: datetime
    ended: datetime
    row_count: int = Field(alias="rows", ge=0, description="Rows of the manifest.")
    counts: dict[Status, int] = Field(description="Rows by status.")
    errors: dict[str, int] = Field(default_factory=dict, description="Failed rows, by the error's class.")
    reasons: list[Reason] = Field(
        default_factory=list,
        description="Why rows have no pictures, the most frequent reasons first, with the ids of the first "
        "rows (where a row has no id, its number: row 7).",
    )
    warnings: dict[WarningCode, int] = Field(
        default_factory=dict,
        description="Warnings by code, over the distinct jobs that are stored, by this run or earlier.",
    )
    flagged: int = Field(
        default=0,
        ge=0,
        description="Pictures that are flagged as unsafe for work, kept or not, over the same jobs.",
    )
    left_out: dict[str, int] = Field(
        default_factory=dict,
        description="Objects below the manifest's prefix that are no images, by the ending of their names.",
    )
    carried: dict[str, ColumnType] = Field(
        default_factory=dict, description="The manifest's own columns that the rows carry, and their types."
    )
    jobs: int = Field(ge=0, description="Distinct jobs among the rows.")
    quoted_usd: float | None = Field(default=None, description="What the run was quoted at, in USD.")
    spent_usd: float = Field(description="What this run paid, in USD.")
    balance_usd: float | None = Field(
        default=None, description="The account's balance before the first submission, in USD."
    )
    latency_p50: float | None = Field(
        default=None, description="Median of the rows' seconds, over those stored by this run."
    )
    latency_p95: float | None = Field(
        default=None, description="95th percentile of the rows' seconds, over those stored by this run."
    )
    images: int = Field(ge=0, description="Pictures stored by this run.")
    images_per_minute: float | None = Field(default=None, description="Pictures stored a minute.")
    seconds: float = Field(ge=0, description="How long the run took.")

    _store: ProcessLocal[Store] = PrivateAttr(default_factory=ProcessLocal)

    def read_from(self, store: Store) -> Summary:
        """The same, and in this process its rows are read from this store, by the run's own credentials."""
        self._store = ProcessLocal(store)
        return self

    def rows(self) -> list[ReportRow]:
        """The outcome of every row, read from the report: all of them in memory.

        Raises:
            ConfigurationError: there is no report any more.
            StoreError: the store cannot be read now.
        """
        return list(self.each_row())

    def each_row(self) -> Iterator[ReportRow]:
        """The same rows one after the other, however many there are."""
        return read_rows(self.report, self._store.value)

    def _repr_html_(self) -> str:
        """What a notebook shows: the figures, and why rows failed."""
        rows = {
            "Rows": f"{self.row_count:,}: {self.outcome}",
            "Pictures": f"{self.images:,} stored in {self.seconds:,.1f} s",
            "Spent": f"{self.spent_usd:,.4g} USD",
            **{f"Reason {number}": reason.line for number, reason in enumerate(self.reasons, 1)},
            "Report": self.report,
        }
        return html_table(rows)

    @property
    def outcome(self) -> str:
        """How the rows ended, in one line: ``284 stored, 12 failed, 4 rows ignored``."""
        return counts_in_words(self.counts)

    @property
    def failure_lines(self) -> list[str]:
        """What failed and why, for the end of a log: a line a reason, and what to type for every row."""
        lines = [reason.line for reason in self.reasons]
        if lines and self.flow_run_id:
            lines.append(f"every row: restyle failures --out {quote(self.output)} --run {self.flow_run_id}")
        return lines

    @property
    def closing_lines(self) -> list[str]:
        """All that a person reads at the end of a run, however it ended."""
        rate = "" if self.images_per_minute is None else f", {self.images_per_minute:,.0f} a minute"
        spent = f"{self.spent_usd:g} USD spent"
        given_up = "given up: earlier runs failed; --retry-failed tries again"
        return [
            f"{counted(self.row_count, 'row')}: {self.outcome}",
            f"{counted(self.images, 'picture')} stored in {self.seconds:,.1f} s{rate}; {spent}",
            *described(self.warnings, self.flagged),
            *([given_up] if "given_up" in self.counts else []),
            *([left_out_line(self.left_out)] if self.left_out else []),
            f"report: {self.report}",
            *self.failure_lines,
        ]


@dataclass
class Thumbnails:
    """Small JPEGs of a row's pictures.

    Attributes:
        source: of the source; None if there is none.
        outputs: of the outputs, by their numbers, from 1.
    """

    source: bytes | None = field(repr=False, default=None)
    outputs: dict[int, bytes] = field(repr=False, default_factory=dict)


Rows: TypeAlias = Callable[[], Iterable[tuple[ReportRow, Thumbnails | None]]]


def encode_part(rows: Iterable[ReportRow]) -> bytes:
    """Rows as lines of JSON."""
    return b"".join(row.model_dump_json().encode() + b"\n" for row in rows)


def decode_rows(lines: Iterable[bytes], uri: str) -> Iterator[ReportRow]:
    """The rows of a report, or of a part of one.

    Args:
        lines: its lines.
        uri: where it is, for the error.

    Raises:
        StoreError: a line is no row.
    """
    return (decode(line, ReportRow, uri) for line in lines if line.strip())


def read_rows(report: str, store: Store | None = None) -> Iterator[ReportRow]:
    """The outcome of every row of a run, one after the other, however many there are.

    Args:
        report: where the report is, as `Summary.report` says.
        store: the output that it is in; by default opened by the report's address.

    Raises:
        ConfigurationError: there is no report.
        StoreError: the store cannot be read now.
    """
    output, _, run = report.rstrip("/").rpartition(f"/{layout.RUNS}")
    if not output:
        raise ConfigurationError(f"report {report!r}: not the path or URL of a report: give summary.report")
    with scratch_folder() as scratch:
        file = scratch / layout.REPORT_JSONL
        path = f"{layout.RUNS}{run}/{layout.REPORT_JSONL}"
        if not run_to_end((store or open_store(output)).get_file(path, file)):
            raise ConfigurationError(
                f"report {report}: there is none: the run has not ended, or the report was deleted"
            )
        with file.open("rb") as lines:
            yield from decode_rows(lines, f"{report}/{layout.REPORT_JSONL}")
