"""`restyle doctor --live --resume`: what the billing says of the pictures, and whether their URLs still work.

Nothing is submitted.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from functools import partial
from math import isclose
from typing import Any

from prefect_wavespeed.errors import ConfigurationError, NotFoundError, OutputError
from prefect_wavespeed.inspect.live.probing_client import BILLINGS, ProbingClient
from prefect_wavespeed.inspect.live.report import (
    Finding,
    LivePicture,
    LiveReport,
    finding,
    load_report,
    not_known,
    shown,
)
from prefect_wavespeed.retry import retry
from prefect_wavespeed.storage.store import Store
from prefect_wavespeed.words import counted

_MILLIONTH = 1_000_000
_MARGIN = timedelta(minutes=10)
_PAGES = 50
_TRIES = 4
_LATER = "ask again later with --resume: records and refunds may take hours"

_Record = Mapping[str, Any]


async def resume(client: ProbingClient, store: Store) -> LiveReport:
    """Fill in what an earlier run had to leave open.

    Raises:
        ConfigurationError: there was none, with this API and this output.
        RestyleError: the key is refused, the billing cannot be read, or the store cannot be used.
    """
    report = await load_report(store, client.base_url)
    if report is None or not report.pictures:
        raise ConfigurationError(
            f"--resume: {store.uri} holds no pictures of `restyle doctor --live` with {client.base_url}: "
            "run it without --resume first"
        )
    report.newly_spent_usd = 0.0
    times = [picture.created_at for picture in report.pictures if picture.created_at] or [report.asked_at]
    records = await _records(client, min(times) - _MARGIN, {one.prediction_id for one in report.pictures})
    report.add(about_billing(records, report.pictures))
    report.add([await _urls(client, report.pictures, datetime.now(UTC) - max(times))])
    await report.save(store)
    return report


async def _records(client: ProbingClient, since: datetime, wanted: set[str]) -> list[_Record]:
    """The records of these predictions, as they came."""
    found: dict[str, _Record] = {}
    for number in range(1, _PAGES + 1):
        await retry(partial(client.billings, page=number, start_time=since), tries=_TRIES)
        answer = client.answer_to(BILLINGS)
        items = answer.data.get("items") if answer and isinstance(answer.data, dict) else None
        new = {str(item.get("uuid") or item): item for item in items or () if isinstance(item, dict)}
        if new.keys() <= found.keys():
            break
        found |= new
    return [record for record in found.values() if _prediction_of(record) in wanted]


def about_billing(records: Sequence[_Record], pictures: Sequence[LivePicture]) -> list[Finding]:
    """What the billing says.

    Args:
        records: of these pictures, as they came.
        pictures: those that were submitted.
    """
    if not records:
        return [
            not_known(name, "no record of the pictures yet", _LATER)
            for name in ("billing", "billing_unit", "billed")
        ]
    by_id = {picture.prediction_id: picture for picture in pictures}
    charges = [record for record in records if not _is_refund(record)]
    unit = _unit(charges, by_id)
    return [
        _about_records(records, by_id),
        _about_unit(charges, by_id, unit),
        _about_sum(records, by_id, unit),
    ]


def _about_records(records: Sequence[_Record], by_id: Mapping[str, LivePicture]) -> Finding:
    counts = {
        name: sorted(str(record.get("billing_type")) for record in records if _prediction_of(record) == name)
        for name in by_id
    }
    missing = sum(not types for types in counts.values())
    kinds = sorted({", ".join(types) for types in counts.values() if types})
    found = f"for each picture: {' or '.join(kinds)}"
    if missing:
        return not_known("billing", f"{found}; none yet for {missing} of {len(by_id)}", _LATER)
    means = "`restyle costs` compares the ledger with it, prediction by prediction"
    return finding("billing", found, means)


def _unit(charges: Sequence[_Record], by_id: Mapping[str, LivePicture]) -> float | None:
    """What a price has to be divided by to be in USD; None where no record tells."""
    for record in charges:
        price, quote = _price(record), by_id[_prediction_of(record)].quoted_usd
        for unit in (1, _MILLIONTH):
            if price and quote and 0.2 < price / unit / quote < 5:  # a discount may have changed since
                return unit
    return None


def _about_unit(charges: Sequence[_Record], by_id: Mapping[str, LivePicture], unit: float | None) -> Finding:
    times = ", ".join(sorted({_form(record.get("created_at")) for record in charges})) or "none"
    match unit:
        case 1:
            return finding("billing_unit", f"USD; times: {times}", "read as they are")
        case None:
            prices = ", ".join(sorted({str(record.get("price")) for record in charges}))
            means = "`restyle costs` may show differences: please report this"
            return finding("billing_unit", f"unclear: {prices}; times: {times}", means)
    return finding("billing_unit", f"millionths of a USD; times: {times}", "converted, by the quote")


def _about_sum(records: Sequence[_Record], by_id: Mapping[str, LivePicture], unit: float | None) -> Finding:
    if unit is None:
        return not_known("billed", "the unit is unclear")
    billed = sum((-1 if _is_refund(record) else 1) * abs(_price(record) or 0) / unit for record in records)
    seen = {_prediction_of(record) for record in records}
    expected = sum(
        one.quoted_usd for one in by_id.values() if one.state != "failed" and one.prediction_id in seen
    )
    found = f"{billed:.6g} USD for {counted(len(seen), 'picture')}, quoted {expected:.6g} USD"
    if isclose(billed, expected, abs_tol=1e-6):
        return finding("billed", found, "quotes are what is billed, once for each picture")
    return finding("billed", found, "quotes and caps are not exact: compare with `restyle costs`")


async def _urls(client: ProbingClient, pictures: Sequence[LivePicture], age: timedelta) -> Finding:
    """Whether the URLs that an earlier run was given still work without the key."""
    urls = [url for picture in pictures for url in picture.output_urls]
    if not urls:
        return not_known("urls_later", "no picture came by URL")
    working = 0
    for url in urls:
        try:
            await client.download(url)
        except (NotFoundError, OutputError):
            continue
        working += 1
    found = f"{working} of {len(urls)} work {_ago(age)} later, without query and key"
    if working == len(urls):
        return finding("urls_later", found, "an interrupted job still finds its pictures")
    means = "the result call is asked for new ones, which may help: store pictures soon"
    return finding("urls_later", found, means)


def _prediction_of(record: _Record) -> str:
    prediction = record.get("prediction")
    return str(prediction.get("uuid", "")) if isinstance(prediction, dict) else ""


def _is_refund(record: _Record) -> bool:
    return "refund" in str(record.get("billing_type", "")).lower()


def _price(record: _Record) -> float | None:
    try:
        return float(record.get("price"))  # type: ignore[arg-type]
    except (TypeError, ValueError):
        return None


def _form(moment: Any) -> str:
    if isinstance(moment, int | float) or (isinstance(moment, str) and moment.isdecimal()):
        return "milliseconds" + (" as text" if isinstance(moment, str) else "")
    return "RFC 3339" if isinstance(moment, str) and "T" in moment else f"other ({shown(moment)})"


def _ago(age: timedelta) -> str:
    minutes = age.total_seconds() / 60
    if minutes < 120:
        return counted(round(max(0, minutes)), "minute")
    hours = minutes / 60
    return counted(round(hours), "hour") if hours < 48 else counted(round(hours / 24), "day")
