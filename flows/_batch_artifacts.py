"""The report of a batch as artifacts, for people who look at its run in Prefect's UI."""

from __future__ import annotations

from collections.abc import Sequence

from prefect.artifacts import acreate_link_artifact, acreate_markdown_artifact, acreate_table_artifact

from prefect_wavespeed.batch.manifest.left_out import left_out_line
from prefect_wavespeed.batch.report.gallery import gallery_command
from prefect_wavespeed.batch.report.query import JobReport
from prefect_wavespeed.batch.report.rows import ReportRow, Summary, Thumbnails
from prefect_wavespeed.errors import redact
from prefect_wavespeed.flows._artifacts import picture
from prefect_wavespeed.flows._said import run_log
from prefect_wavespeed.reasons import in_words
from prefect_wavespeed.storage import layout
from prefect_wavespeed.storage.s3_names import split_s3_uri
from prefect_wavespeed.storage.store import Store
from prefect_wavespeed.words import counted, markdown

_FAILURES = 100
_PICTURED = 12


async def show_report(report: JobReport, summary: Summary, store: Store, output: str) -> None:
    """Create artifacts of the run: a summary, rows without pictures, some pictures, the way to the gallery.

    Args:
        report: what its rows say.
        summary: the run in figures.
        store: where the report is.
        output: the same as the user named it.

    Errors are logged and otherwise ignored: the pictures and the report are stored.
    """
    try:
        await acreate_markdown_artifact(
            _summary(summary), key="restyle-summary", description=_headline(summary)
        )
        if failures := [_failure(row) for row in report.failures(_FAILURES)]:
            await acreate_table_artifact(
                failures, key="restyle-failures", description="The first rows that have no pictures"
            )
        if ignored := [_ignored(row) for row in report.ignored(_FAILURES)]:
            await acreate_table_artifact(
                ignored, key="restyle-ignored", description="The first rows that were ignored"
            )
        if gallery := _gallery(report):
            await acreate_markdown_artifact(gallery, key="restyle-gallery", description="The first pictures")
        await _show_gallery(summary, store, output)
    except Exception as error:
        run_log().warning("the report could not be shown: %s", redact(error))


async def show_quote(lines: Sequence[str]) -> None:
    """Create what a batch would cost as an artifact of the run.

    Errors are logged and otherwise ignored: the state says it as well.
    """
    page = "# Dry run\n\n" + "".join(f"- {markdown(line)}\n" for line in lines)
    try:
        await acreate_markdown_artifact(page, key="restyle-quote", description="What the batch would cost")
    except Exception as error:
        run_log().warning("the quote could not be shown: %s", redact(error))


async def _show_gallery(summary: Summary, store: Store, output: str) -> None:
    """A link into AWS's console; elsewhere what to type, as no browser opens the file from Prefect's page."""
    key, title = "restyle-gallery-link", "All pictures: the gallery"
    command = gallery_command(summary, store, output)
    uri = f"{summary.report}{layout.GALLERY}"
    link = store.access.console_url(*split_s3_uri(uri)) if store.access else None
    if link:
        description = f"This shows it with its pictures: `{command}`"
        await acreate_link_artifact(link, link_text=title, key=key, description=description)
        return
    where = "" if store.access else " on the machine that has the pictures"
    page = f"Type this{where}:\n\n```bash\n{command}\n```\n\nThe page itself is {markdown(uri)}\n"
    await acreate_markdown_artifact(page, key=key, description=title)


def _headline(summary: Summary) -> str:
    return f"{counted(summary.row_count, 'row')}: {summary.outcome}; {summary.spent_usd:,.4g} USD spent"


def _summary(summary: Summary) -> str:
    rate = "" if summary.images_per_minute is None else f" ({summary.images_per_minute:,.0f} a minute)"
    figures = [
        ("Rows", f"{summary.row_count:,}"),
        *((f"Failed with {name}", f"{count:,}") for name, count in summary.errors.items()),
        *((f"Warnings, {code}", f"{count:,}") for code, count in summary.warnings.items()),
        ("Pictures flagged as unsafe for work", f"{summary.flagged:,}" if summary.flagged else ""),
        ("Left out", left_out_line(summary.left_out) if summary.left_out else ""),
        ("Pictures stored", f"{summary.images:,} in {summary.seconds:,.0f} s{rate}"),
        ("Spent", f"{summary.spent_usd:,.4g} USD"),
        ("Quoted", "" if summary.quoted_usd is None else f"{summary.quoted_usd:,.4g} USD"),
        ("Balance at the start", "" if summary.balance_usd is None else f"{summary.balance_usd:,.2f} USD"),
        ("Seconds an image, p50 and p95", _latency(summary)),
        ("Manifest", summary.manifest),
        ("Report", summary.report),
    ]
    lines = "\n".join(f"| {markdown(name)} | {markdown(value)} |" for name, value in figures if value)
    # text, which the UI wraps; it cuts off a table that is wider than the page
    reasons = "".join(f"- {markdown(line)}\n" for line in summary.failure_lines)
    return f"# {summary.outcome}\n\n{reasons}\n| | |\n| --- | --- |\n{lines}\n"


def _latency(summary: Summary) -> str:
    if summary.latency_p50 is None or summary.latency_p95 is None:
        return ""
    return f"{summary.latency_p50:.1f}, {summary.latency_p95:.1f}"


def _ignored(row: ReportRow) -> dict[str, object]:
    return _cells({"row": row.row, "id": row.id, "reason": row.reason, "image": row.image})


def _cells(row: dict[str, object]) -> dict[str, object]:
    """A row of a table, whose texts Prefect's page renders as Markdown."""
    return {
        name: value if isinstance(value, int) else markdown("" if value is None else value)
        for name, value in row.items()
    }


def _failure(row: ReportRow) -> dict[str, object]:
    return _cells(
        {
            "row": row.row,
            "id": row.id,
            "reason": row.reason,
            "status": in_words(row.status),
            "image": row.image,
            "error": row.error_type,
            "prediction": row.prediction_id,
            "job": row.job_key,
        }
    )


def _gallery(report: JobReport) -> str:
    lines = []
    for row, thumbnails in report.pictured(_PICTURED):
        source = picture(thumbnails.source) if thumbnails.source else markdown(row.image)
        outputs = " ".join([*(_picture(*each, row, thumbnails) for each in row.numbered), *_dropped(row)])
        lines.append(f"| {markdown(row.id or row.row)} | {source} | {outputs or markdown(row.reason)} |")
    if not lines:
        return ""
    return "| | source | restyled |\n| --- | --- | --- |\n" + "\n".join(lines) + "\n"


def _picture(number: int, uri: str, row: ReportRow, thumbnails: Thumbnails) -> str:
    if layout.is_quarantined(uri):
        return "in quarantine"
    if number in row.flagged:
        return "flagged, not shown"
    jpeg = thumbnails.outputs.get(number)
    return picture(jpeg) if jpeg else "stored"


def _dropped(row: ReportRow) -> list[str]:
    return ["flagged, dropped"] * len(row.dropped)
