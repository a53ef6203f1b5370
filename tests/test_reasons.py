"""Failures are grouped by reason: what differs from one to the next does not divide them."""

from __future__ import annotations

from prefect_wavespeed.reasons import MAX_REASONS, Reasons


def test_what_differs_from_one_failure_to_the_next_does_not_divide_a_reason() -> None:
    reasons = Reasons()
    for n in range(12):
        reasons.add("failed", f"no such file: image /in/{n}.jpg", f"a{n}", f"/in/{n}.jpg")
        reasons.add("failed", f"download failed: HTTP 404: https://cdn.example/{n:032x}/1.jpeg", f"p{n}")
    reasons.add("given_up", "not safe (code 1200): https://a.example/1", "n1", "https://a.example/1")
    assert [reason.line for reason in reasons.listed()] == [
        "12 failed: no such file: image …: a0, a1, a2, a3, a4, a5, a6, a7, a8, a9 and 2 more",
        "12 failed: download failed: HTTP 404: …: p0, p1, p2, p3, p4, p5, p6, p7, p8, p9 and 2 more",
        "1 given up earlier: not safe (code 1200): https://a.example/1: n1",
    ], "a single one is shown as it came"


def test_the_list_is_short_however_many_reasons_there_are() -> None:
    reasons = Reasons()
    for n in range(30_000):
        reasons.add("failed", f"reason {n % 29_000}", f"n{n}")
    *listed, others = reasons.listed()
    assert [(reason.count, reason.first) for reason in listed][:1] == [(2, ["n0", "n29000"])]
    assert len(listed) == MAX_REASONS
    assert others.line == f"{30_000 - 2 * MAX_REASONS:,} failed: other reasons"
