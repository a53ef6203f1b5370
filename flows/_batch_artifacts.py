"""What a batch came to, for people who look at its run in Prefect's UI."""

from __future__ import annotations

from prefect import get_run_logger
from prefect.artifacts import acreate_markdown_artifact, acreate_table_artifact

from prefect_wavespeed.batch.job_table import JobTable
from prefect_wavespeed.batch.report import AccountRow, Summary
from prefect_wavespeed.errors import redact
from prefect_wavespeed.flows._artifacts import cell, picture
from prefect_wavespeed.storage.store import Store
from prefect_wavespeed.words import counted

_FAILURES = 100
_PAIRS = 12


async def show_account(table: JobTable, summary: Summary, store: Store, folder: str) -> None:
    """Put up a summary, a table of failures and the first pairs of pictures.

    What goes wrong here is logged and no more: the pictures and the account are stored.
    """
    try:
        await acreate_markdown_artifact(
            _summary(summary, store.uri_of(folder)), key="restyle-summary", description=_headline(summary)
        )
        if failures := table.failures(_FAILURES):
            await acreate_table_artifact(
                [_failure(row) for row in failures],
                key="restyle-failures",
                description="The first rows that came to nothing",
            )
        if pairs := _pairs(table):
            await acreate_markdown_artifact(pairs, key="restyle-gallery", description="The first pictures")
    except Exception as error:
        get_run_logger().warning("the account could not be shown: %s", redact(error))


def _headline(summary: Summary) -> str:
    counts = ", ".join(f"{count:,} {name}" for name, count in summary.counts.items())
    return f"{counted(summary.rows, 'row')}: {counts}; {summary.spent_usd:,.4g} USD spent"


def _summary(summary: Summary, account: str) -> str:
    rate = "" if summary.images_per_minute is None else f" ({summary.images_per_minute:,.0f} a minute)"
    facts = [
        *((f"Rows {name}", f"{count:,}") for name, count in summary.counts.items()),
        *((f"Failed with {name}", f"{count:,}") for name, count in summary.errors.items()),
        ("Pictures stored", f"{summary.images:,} in {summary.seconds:,.0f} s{rate}"),
        ("Spent", f"{summary.spent_usd:,.4g} USD"),
        ("Quoted", "" if summary.quoted_usd is None else f"{summary.quoted_usd:,.4g} USD"),
        ("Balance at the start", "" if summary.balance_usd is None else f"{summary.balance_usd:,.2f} USD"),
        ("Seconds an image, p50 and p95", _seconds(summary)),
        ("Manifest", summary.manifest),
        ("Account", f"{account}/"),
    ]
    lines = "\n".join(f"| {cell(name)} | {cell(value)} |" for name, value in facts if value)
    return f"# {counted(summary.rows, 'row')}\n\n| | |\n| --- | --- |\n{lines}\n"


def _seconds(summary: Summary) -> str:
    if summary.latency_p50 is None or summary.latency_p95 is None:
        return ""
    return f"{summary.latency_p50:.1f}, {summary.latency_p95:.1f}"


def _failure(row: AccountRow) -> dict[str, object]:
    return {
        "row": row.row,
        "id": row.id or "",
        "image": row.image,
        "status": row.status,
        "error": row.error_type or "",
        "message": row.error_message or "",
        "job": row.job_key or "",
    }


def _pairs(table: JobTable) -> str:
    lines = []
    for row, thumbs in sorted(table.pairs(_PAIRS), key=lambda pair: pair[0].row):
        source = picture(thumbs.source) if thumbs.source else cell(row.image)
        outputs = " ".join(map(picture, thumbs.outputs))
        lines.append(f"| {cell(row.id or row.row)} | {source} | {outputs} |")
    if not lines:
        return ""
    return "| | source | restyled |\n| --- | --- | --- |\n" + "\n".join(lines) + "\n"
