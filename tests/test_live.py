"""`restyle doctor --live`: what it says of an API is what that API does, and it costs what it says."""

from __future__ import annotations

import json
import re
import signal
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from prefect.blocks.system import Secret
from pydantic import SecretStr

from prefect_wavespeed.api.traits import ApiTraits
from prefect_wavespeed.blocks import WaveSpeed
from tests.support.doc_pages import ROOT
from tests.support.emulator_process import Emulator
from tests.support.engine import QUICK
from tests.support.in_process import restyle
from tests.support.prefect_server import PrefectServer
from tests.support.processes import Ended, wait_until
from tests.support.s3_proxy import proxy
from tests.support.s3_servers import S3Server

KEY = "key-that-nobody-may-see"
PRICE = 0.025


@dataclass
class Doctor:
    """The command, an account and an output."""

    prefect: PrefectServer
    emulator: Emulator
    out: Path
    env: dict[str, str] = field(default_factory=dict)

    @property
    def environment(self) -> dict[str, str]:
        return {"WAVESPEED_API_KEY": KEY, "WAVESPEED_BASE_URL": self.emulator.url, **self.env}

    def run(self, *options: str, out: str | None = None) -> Ended:
        """Run it; the key is nowhere in what it prints and keeps."""
        output = ("--out", str(self.out) if out is None else out) if out != "" else ()
        ended = restyle("doctor", *options, *output, prefect=self.prefect, env=self.environment)
        assert KEY not in ended.stdout + ended.stderr
        assert not [
            path for path in self.out.rglob("*") if path.is_file() and KEY.encode() in path.read_bytes()
        ]
        return ended

    def live(self, *options: str) -> Report:
        """Run it with --live --json."""
        ended = self.run("--live", "--json", *options)
        assert ended.status == 0, ended
        report = json.loads(ended.stdout)
        (kept,) = self.out.glob("doctor/*.json")
        assert json.loads(kept.read_text()) == report
        return Report(report, ended.stderr)

    @property
    def submissions(self) -> int:
        """How many were sent, refused ones included."""
        calls: Mapping[str, int] = self.emulator.ledger()["calls"]
        return calls.get("submit", 0)

    def billed_at_most_once_each(self) -> None:
        """Each job has a seed of its own."""
        seeds = [prediction["input"]["seed"] for prediction in self.emulator.ledger()["predictions"]]
        assert len(set(seeds)) == len(seeds)


@dataclass
class Report:
    """What it printed."""

    json: dict[str, Any]
    stderr: str

    @property
    def findings(self) -> dict[str, str]:
        return {one["name"]: one["found"] for one in self.json["findings"]}

    @property
    def spent(self) -> tuple[float, float]:
        """Now, and for all pictures."""
        return self.json["newly_spent_usd"], self.json["spent_usd"]

    def says(self, expected: Mapping[str, str]) -> None:
        """It found these things, each a pattern."""
        found = self.findings
        assert {
            name: found[name] for name, text in expected.items() if not re.search(text, found[name])
        } == {}


@pytest.fixture
def doctor(prefect: PrefectServer, emulator: Emulator, tmp_path: Path) -> Doctor:
    return Doctor(prefect, emulator, tmp_path / "out")


# --- what it says ---

RECORDED = {
    "price": "0.025 USD by `price`, `discounted_price` ",
    "unknown_prediction": "^HTTP 404: prediction not found$",
    "history_inputs": "^under `input`$",
    "result_inputs": "^under `input`$",
    "inputs_kept": "^the same$",
    "history_delay": "^at once$",
    "result_again": "^the same$",
    "outputs": "^a list of texts$",
    "output_urls": "^the same in a second call, without a signature, no key needed",
    "nsfw": "^null$",
    "unknown_field": r"refused, HTTP 400: invalid parameter .guidence_scale",
    "out_of_range": r"refused, HTTP 400: invalid parameter .guidance_scale",
    "base64": "^the result holds the pictures$",
    "sync": "answered with the finished picture$",
    "limits": "no answer was a 429; no header",
}
BILLED = {
    "billing": "^for each picture: deduct$",
    "billing_unit": "^USD; times: RFC 3339$",
    "billed": "^0.075 USD for 3 pictures, quoted 0.075 USD$",
    "urls_later": "^2 of 2 work 0 minutes later",
}
TELLS = ApiTraits(history_has_inputs=True, result_has_inputs=True, image_url_is_kept=True)


@dataclass(frozen=True)
class Case:
    """Dialects, and what differs from the recorded answers."""

    dialects: Sequence[str]
    traits: ApiTraits
    found: Mapping[str, str] = field(default_factory=dict)
    billed: Mapping[str, str] = field(default_factory=dict)
    pictures: int = 3


CASES = [
    Case([], TELLS),
    Case(
        ["strict"],
        TELLS.model_copy(update={"result_has_inputs": False}),
        {"result_inputs": "^none$", "nsfw": "^a list of 1 boolean for 1 output$"},
    ),
    Case(
        ["history-without-inputs", "result-without-inputs"],
        ApiTraits(history_has_inputs=False, result_has_inputs=False),
        {
            "history_inputs": "^none, though include_inputs asks",
            "result_inputs": "^none$",
            "inputs_kept": "^not known: no call reports any$",
        },
    ),
    Case(
        [
            *("image-moved", "refusals-enveloped", "text-in-errors", "unknown-is-400"),
            *("history-says-inputs", "price-unit", "billing-rfc3339"),
        ],
        TELLS.model_copy(update={"image_url_is_kept": False}),
        {
            "price": r"^0.025 USD by `unit_price` \(/model/price\)$",
            "unknown_prediction": "^HTTP 200, code 400: prediction not found$",
            "history_inputs": "^under `inputs`$",
            "inputs_kept": "^the image has another URL, on static.wavespeed.example$",
            "unknown_field": "refused, HTTP 200, code 1400: invalid",
            "out_of_range": "refused, HTTP 200, code 1400: invalid",
        },
    ),
    Case(
        [
            *("fields-dropped", "history-refuses-inputs", "result-says-inputs", "nsfw-boolean"),
            *("outputs-string", "billing-millionths", "billing-total"),
        ],
        TELLS.model_copy(update={"history_has_inputs": False}),
        {
            "history_inputs": "^none, and include_inputs is refused$",
            "result_inputs": "^under `inputs`$",
            "nsfw": "^one boolean$",
            "outputs": "^one text, without a list$",
            "unknown_field": "accepted silently and billed$",
            "out_of_range": "accepted silently and billed$",
        },
        {
            "billing_unit": "^millionths of a USD; times: RFC 3339$",
            "billed": "^0.125 USD for 5 pictures, quoted 0.125 USD$",
            "urls_later": "^4 of 4 ",
        },
        pictures=5,
    ),
    Case(
        [
            *("price-legacy-only", "outputs-objects", "unknown-is-500", "submit-error-with-task"),
            *("billing-milliseconds", "billing-final-price"),
        ],
        TELLS,
        {
            "price": r"^0.025 USD by `unit_price` \(/model/pricing alone\)$",
            "unknown_prediction": "^HTTP 500: prediction not found$",
            "outputs": "^a list of objects with `url`$",
            "sync": "^the submission does not wait: HTTP 400, created$",
        },
        {"billing_unit": "^USD; times: milliseconds as text$"},
    ),
]


@pytest.mark.parametrize(
    "case",
    [
        pytest.param(
            case,
            id=" + ".join(case.dialects) or "as recorded",
            marks=[pytest.mark.e2e] if number else [],
        )
        for number, case in enumerate(CASES)
    ],
)
def test_what_it_finds_is_what_the_api_does_and_it_costs_what_it_says(case: Case, doctor: Doctor) -> None:
    doctor.emulator.dialects(*case.dialects)
    cost = round(PRICE * case.pictures, 6)
    report = doctor.live("--spend", "0.125")
    assert report.stderr.splitlines()[0] == "at most 5 pictures, 0.125 USD: --spend allows 0.125 USD"
    report.says({**RECORDED, **case.found})
    assert ApiTraits.model_validate(report.json["traits"]) == case.traits
    assert report.spent == (cost, cost)
    assert (doctor.emulator.ledger()["spent"], doctor.submissions) == (cost, 5)
    doctor.billed_at_most_once_each()

    again = doctor.live("--spend", "0.125")
    assert again.stderr.startswith(f"nothing is billed: {case.pictures} pictures of an earlier run")
    again.says({**RECORDED, **case.found})

    later = doctor.live("--resume")
    later.says({**RECORDED, **case.found, **BILLED, **case.billed})
    assert [run.spent for run in (again, later)] == [(0, cost)] * 2
    assert (doctor.emulator.ledger()["spent"], doctor.submissions) == (cost, 5)


def test_without_json_each_finding_is_a_line_and_the_documentation_shows_the_same(doctor: Doctor) -> None:
    ended = doctor.run("--live")
    assert ended.status == 0
    *_, spent, kept, report = ended.stdout.splitlines()
    assert spent == "spent: 0.075 USD now, 0.075 USD for all 3 pictures, by the price call"
    assert kept.startswith("recovery cannot use it yet: no WaveSpeed block is saved; `restyle setup`")
    assert report == f"report: {next(doctor.out.glob('doctor/*.json'))}"
    *findings, spent, _, _ = doctor.run("--live", "--resume").stdout.splitlines()
    assert spent == "spent: 0 USD now, 0.075 USD for all 3 pictures, by the price call"
    _, _, section = (ROOT / "docs" / "api.md").read_text().partition("{ #find-out }")
    sample = re.findall(r"^\| (.+) \| (.+) \| (.*?) ?\|$", section, re.MULTILINE)
    assert findings == [f"{asked}: {found}" + (f" → {so}" if so else "") for asked, found, so in sample[1:]]


@pytest.mark.e2e
def test_a_history_that_lags_and_a_limit_are_reported(doctor: Doctor) -> None:
    doctor.emulator.faults(
        [
            {"on": "submit", "fault": "refused", "status": 429},
            {"on": "prediction", "fault": "unlisted", "seconds": 1.2},
        ]
    )
    report = doctor.live()
    report.says(
        {"history_delay": "^after 2 s$", "limits": "^1 answer of HTTP 429: You have reached .*; no header"}
    )
    assert report.spent == (0.075, 0.075)


# --- what it leaves for recovery ---


def test_what_recovery_relies_on_is_kept_in_the_block(doctor: Doctor) -> None:
    with doctor.prefect.used_here():
        WaveSpeed(api_key=Secret(value=SecretStr(KEY)), base_url=doctor.emulator.url).save(
            "live", overwrite=True
        )
    doctor.emulator.dialects("result-without-inputs")
    ended = doctor.run("--live", "--wavespeed", "live")
    assert "recovery uses it: saved in wavespeed/live" in ended.stdout
    again = doctor.run("--live", "--wavespeed", "live")
    assert "recovery uses it: wavespeed/live has it already" in again.stdout
    with doctor.prefect.used_here():
        block = WaveSpeed.load("live")
        assert isinstance(block, WaveSpeed)
    assert block.traits == TELLS.model_copy(update={"result_has_inputs": False})
    assert block.get_client().traits == block.traits
    assert block.api_key.value.get_secret_value() == KEY


# --- what it spends ---


@pytest.mark.e2e
def test_no_more_is_spent_than_allowed_by_all_runs_together(doctor: Doctor) -> None:
    doctor.emulator.dialects("fields-dropped")
    first = doctor.live("--spend", "0.06")
    assert first.stderr.startswith(
        "at most 2 pictures, 0.05 USD: --spend allows 0.06 USD; all 5 need --spend 0.125"
    )
    left = dict.fromkeys(
        ("out_of_range", "base64", "sync"), "^not tried: it costs 0.025 USD: --spend 0.075 tries it$"
    )
    first.says(left)
    assert first.spent == (0.05, 0.05)
    again = doctor.live("--spend", "0.06")
    again.says(left)
    assert (again.spent, doctor.submissions) == ((0, 0.05), 2)
    rest = doctor.live("--spend", "0.125")
    assert rest.stderr.startswith(
        "at most 3 pictures, 0.075 USD: --spend allows 0.125 USD, 2 pictures of an earlier run"
    )
    assert rest.spent == (0.075, 0.125)
    assert rest.findings["sync"] == "the submission is answered with the finished picture"
    assert doctor.emulator.ledger()["spent"] == 0.125


def test_lost_answers_are_found_again_also_of_odd_requests(doctor: Doctor) -> None:
    doctor.env = {
        "RESTYLE_LEASE_SECONDS": f"{QUICK.lease_seconds}",
        "RESTYLE_SUBMIT_TIMEOUT_SECONDS": "1",
        "RESTYLE_RECONCILE_SECONDS": "1",
    }
    doctor.emulator.dialects("fields-dropped")
    doctor.emulator.faults([{"on": "submit", "fault": "drop_after", "times": 3}])
    report = doctor.live()
    report.says({"unknown_field": "accepted silently", "out_of_range": "accepted silently"})
    assert report.spent == (0.1, 0.1)
    assert doctor.emulator.ledger()["spent"] == 0.1
    doctor.billed_at_most_once_each()


def test_what_cannot_be_asked_now_is_asked_again_and_what_is_paid_is_counted(doctor: Doctor) -> None:
    fails = {"fault": "status", "status": 403, "message": "not now"}
    doctor.emulator.faults([{"on": "history", **fails, "times": None}])
    first = doctor.live()
    first.says({"history_inputs": "^not known: .*not now", "history_delay": "^not known: .*not now"})
    assert first.spent == (0.075, 0.075)
    doctor.emulator.faults([])
    again = doctor.live()
    again.says({"history_inputs": "^under `input`$"})
    assert (again.spent, doctor.emulator.ledger()["spent"]) == ((0, 0.075), 0.075)


def test_an_ordinary_picture_that_fails_is_an_error_and_not_paid(doctor: Doctor) -> None:
    doctor.emulator.faults([{"on": "prediction", "fault": "failed", "code": 1200, "message": "not allowed"}])
    ended = doctor.run("--live")
    assert (ended.status, ended.stdout) == (1, "")
    assert "not allowed" in ended.stderr
    assert "use another --out" in ended.stderr
    assert doctor.emulator.ledger()["spent"] == 0
    assert doctor.live("--resume").findings["billing"] == "for each picture: deduct, refund"


@pytest.mark.e2e
def test_interrupted_it_goes_on_with_the_same_pictures(doctor: Doctor) -> None:
    doctor.emulator.faults([{"on": "prediction", "fault": "slow", "seconds": 3}])
    command = doctor.prefect.start("doctor", "--live", "--out", str(doctor.out), env=doctor.environment)
    wait_until(
        lambda: doctor.emulator.ledger()["predictions"] and list(doctor.out.glob("open/*/*.prediction.json"))
    )
    command.send(signal.SIGINT)
    ended = command.ended()
    assert ended.status == 130
    assert "interrupted: the same command continues where it stopped; nothing is billed twice" in ended.stderr
    report = doctor.live()
    report.says(RECORDED | {"history_delay": "^not known: it was submitted by an earlier run$"})
    assert report.spent == (0.05, 0.075)
    assert doctor.emulator.ledger()["spent"] == 0.075


# --- mistakes ---


@pytest.mark.parametrize(
    ("options", "out", "expected"),
    [
        (["--live"], "", "--live needs --out"),
        (["--spend", "1"], None, "--spend needs --live"),
        (["--resume"], None, "--resume needs --live"),
        (["--live", "--resume", "--spend", "1"], None, "leave out --spend"),
        (["--live", "--spend", "0"], None, "--spend 0: give an amount above 0"),
        (["--live", "--spend", "-1"], None, "--spend -1: give"),
        (["--live", "--spend", "nan"], None, "--spend nan: give"),
        (["--live", "--spend", "0.02"], None, "one picture costs 0.025 USD"),
        (["--live", "--resume"], None, "run it without --resume first"),
        (["--live", "--wavespeed", "nobody"], None, "wavespeed/nobody"),
        (["--live"], "gs://bucket/x", "gs://"),
    ],
)
def test_a_mistake_is_one_line_and_nothing_is_spent(
    options: list[str], out: str | None, expected: str, doctor: Doctor
) -> None:
    _is_refused(doctor, doctor.run(*options, out=out), expected)


def test_without_credits_nothing_is_sent(doctor: Doctor) -> None:
    doctor.emulator.price(1000)
    _is_refused(doctor, doctor.run("--live", "--spend", "9000"), "the balance is 100 USD: top up the account")


def test_without_a_price_nothing_is_sent(doctor: Doctor) -> None:
    doctor.emulator.faults(
        [{"on": call, "fault": "status", "status": 404, "times": None} for call in ("price", "pricing")]
    )
    _is_refused(doctor, doctor.run("--live"), "404")


def test_nothing_is_sent_with_an_output_that_ignores_create_if_absent(doctor: Doctor, moto: S3Server) -> None:
    with proxy(moto) as (way, seen):
        way.ignore_conditions = True
        doctor.env = dict(seen.env)
        _is_refused(doctor, doctor.run("--live", out=f"s3://{seen.bucket}/live"), "If-None-Match")


def _is_refused(doctor: Doctor, ended: Ended, expected: str) -> None:
    assert (ended.status, ended.stdout) == (1, "")
    assert ended.stderr.startswith("error: ")
    assert ended.stderr.count("\n") == 1
    assert expected in ended.stderr
    assert doctor.submissions == 0
