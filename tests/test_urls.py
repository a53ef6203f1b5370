"""What of a URL makes it this picture and no other, and what must not be shown."""

from __future__ import annotations

import pytest

from prefect_wavespeed.urls import without_signature

PICTURE = "https://example.com/pictures/a%20b.jpg"

SIGNATURES = {
    "S3 v4": (
        "X-Amz-Algorithm=AWS4-HMAC-SHA256&X-Amz-Credential=AKIA%2F20260101%2Fus-east-1%2Fs3%2Faws4_request"
        "&X-Amz-Date=20260101T000000Z&X-Amz-Expires=3600&X-Amz-SignedHeaders=host&X-Amz-Signature=0f"
        "&X-Amz-Security-Token=abc"
    ),
    "S3 v2": "AWSAccessKeyId=AKIA&Signature=abc%3D&Expires=1700000000",
    "Google v4": (
        "X-Goog-Algorithm=GOOG4-RSA-SHA256&X-Goog-Credential=x&X-Goog-Date=20260101T000000Z&X-Goog-Expires=60"
        "&X-Goog-SignedHeaders=host&X-Goog-Signature=0f"
    ),
    "Google v2": "GoogleAccessId=x%40y&Expires=1700000000&Signature=abc",
    "Azure": (
        "sv=2024-11-04&ss=b&srt=o&sp=r&st=2026-01-01T00%3A00Z&se=2026-01-02T00%3A00Z&spr=https&sr=b&sig=abc"
    ),
    "CloudFront": "Expires=1700000000&Signature=abc&Key-Pair-Id=K2",
    "CloudFront policy": "Policy=eyJ&Signature=abc&Key-Pair-Id=K2",
    "Alibaba": "OSSAccessKeyId=x&Expires=1700000000&Signature=abc",
    "Tencent": "q-sign-algorithm=sha1&q-ak=x&q-sign-time=1;2&q-key-time=1;2&q-signature=abc",
    "a token": "token=abc",
}


@pytest.mark.parametrize("signature", SIGNATURES.values(), ids=SIGNATURES)
def test_a_signature_goes_and_other_parameters_stay(signature: str) -> None:
    assert without_signature(f"{PICTURE}?{signature}") == PICTURE
    assert without_signature(f"{PICTURE}?v=2&{signature}&page=") == f"{PICTURE}?v=2&page="


@pytest.mark.parametrize("query", ["page=1", "page=2", "w=200&h=100", "v=", "format=webp", "size=10*20"])
def test_what_says_which_form_of_a_picture_is_meant_stays(query: str) -> None:
    assert without_signature(f"{PICTURE}?{query}").replace("%2A", "*") == f"{PICTURE}?{query}"


@pytest.mark.parametrize(
    "query",
    ["id=s3cret", "share=s3cret", "code=s3cret", "st=s3cret", "hmac=s3cret", "s3cret", "v=https://s3cret"],
)
def test_whatever_may_let_its_bearer_in_is_not_shown_and_still_tells_pictures_apart(query: str) -> None:
    shown = without_signature(f"{PICTURE}?w=200&{query}")
    assert "s3cret" not in shown
    assert shown.startswith(f"{PICTURE}?w=200&")
    assert without_signature(shown) == shown
    assert shown != without_signature(f"{PICTURE}?w=200&{query}2") != without_signature(f"{PICTURE}?w=200")


def test_credentials_and_fragment_go_and_only_the_path_keeps_its_case() -> None:
    url = "HTTPS://User:pw@Example.COM:8443/Path?page=&v=2#part"
    assert without_signature(url) == "https://example.com:8443/Path?page=&v=2"


def test_what_has_no_signature_is_left_as_it_was() -> None:
    url = without_signature(f"{PICTURE}?v=2")
    assert url == without_signature(url) == f"{PICTURE}?v=2"
