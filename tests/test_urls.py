"""What of a URL makes it this picture and no other, and what must not be shown."""

from __future__ import annotations

import pytest

from prefect_wavespeed.api.urls import NotPublicError, check_reachable
from prefect_wavespeed.urls import without_signature

_EMBEDDED = "64:ff9b::{}", "::ffff:{}", "::{}"  # NAT64, mapped, compatible

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


@pytest.mark.parametrize(
    "ipv4", ["10.0.0.1", "127.0.0.1", "169.254.169.254", "192.168.1.1", "100.64.0.1", "0.0.0.0"]
)
def test_a_private_address_is_refused_in_whatever_it_is_wrapped(ipv4: str) -> None:
    as_hexadecimal = "{:02x}{:02x}:{:02x}{:02x}".format(*map(int, ipv4.split(".")))
    wrapped = [each.format(ipv4) for each in _EMBEDDED] + [f"2002:{as_hexadecimal}::1"]  # the last is 6to4
    for address in [ipv4, *wrapped, "64:ff9b:1::1", "224.0.0.1", "ff0e::1", "fd00:ec2::254"]:
        with pytest.raises(NotPublicError):
            check_reachable(address, "api.example.com")


@pytest.mark.parametrize(
    "address", ["93.184.215.14", "2606:2800:21f:cb07:6820:80da:af6b:8b2c", "64:ff9b::5db8:d70e"]
)
def test_a_public_address_is_not_refused(address: str) -> None:
    check_reachable(address, "api.example.com")
