"""What obstore, S3 servers and the system say, as our errors: the reason first, and whether it may pass."""

from __future__ import annotations

import pytest
from botocore.exceptions import NoCredentialsError
from obstore.exceptions import (
    BaseError,
    GenericError,
    NotSupportedError,
    PermissionDeniedError,
    UnauthenticatedError,
)

from prefect_wavespeed.errors import (
    BucketNotFoundError,
    ConfigurationError,
    RestyleError,
    StoreDeniedError,
    StoreError,
    UnsafeStoreError,
)
from prefect_wavespeed.storage.errors import OTHER_REGION, bucket_is_missing, translate, translated
from prefect_wavespeed.trust import NOT_TRUSTED

REQUEST = "Error performing PUT http://user:pw@s3.example.com:9000/bucket/a.json in 8ms - "
ANSWER = REQUEST + "Server returned non-2xx status code: "
DEBUG = '\n\nDebug source:\nGeneric {\n    store: "S3",\n}'

CASES: list[tuple[Exception, type[RestyleError], str]] = [
    (
        FileNotFoundError(f"{ANSWER}404 Not Found: <Code>NoSuchBucket</Code>"),
        BucketNotFoundError,
        "bucket does not exist: cannot write X: create it or correct its name",
    ),
    (
        PermissionDeniedError(f"{ANSWER}403 Forbidden: <Code>InvalidAccessKeyId</Code>"),
        ConfigurationError,
        "unknown access key: cannot write X: check the credentials",
    ),
    (
        PermissionDeniedError(f"{ANSWER}403 Forbidden: <Code>SignatureDoesNotMatch</Code>"),
        ConfigurationError,
        "wrong secret access key: cannot write X: check the credentials",
    ),
    (
        PermissionDeniedError(f"{ANSWER}403 Forbidden: <Code>AccessDenied</Code>"),
        StoreDeniedError,
        "access denied: cannot write X: allow it to these credentials",
    ),
    (  # a HEAD's answer has no body, so no code
        PermissionDeniedError(f"{ANSWER}403 Forbidden: {DEBUG}"),
        StoreDeniedError,
        "access denied: cannot write X: allow it to these credentials",
    ),
    (
        GenericError(f"Unable to open file /out/a.json#1: Permission denied (os error 13){DEBUG}"),
        StoreDeniedError,
        "permission denied: cannot write X: allow it to this user",
    ),
    (
        GenericError(f"{REQUEST}HTTP error: Connection refused (os error 111)"),
        StoreError,
        "connection refused by http://s3.example.com:9000: cannot write X",
    ),
    (
        GenericError(f"{REQUEST}HTTP error: dns error: failed to lookup address"),
        StoreError,
        "unknown host http://s3.example.com:9000: cannot write X",
    ),
    (OSError("Connection refused"), StoreError, "connection refused by the server: cannot write X"),
    (OSError(28, "No space left on device"), StoreError, "no space left: cannot write X"),
    (
        UnauthenticatedError(
            f"No authentication for path External AWS credential provider: SSOTokenError: expired{DEBUG}"
        ),
        StoreError,
        "the credentials cannot be renewed: SSOTokenError: expired: cannot write X",
    ),
    (  # it may be right again
        PermissionDeniedError(f"{ANSWER}403 Forbidden: <Code>RequestTimeTooSkewed</Code>{DEBUG}"),
        StoreError,
        "this machine's clock is wrong: cannot write X: set it, and keep it right by NTP",
    ),
    (
        GenericError(f"{REQUEST}error sending request\n\nDebug source:\nInvalidCertificate(UnknownIssuer)"),
        ConfigurationError,
        "certificate of http://s3.example.com:9000 is not trusted: cannot write X: " + NOT_TRUSTED,
    ),
    (
        GenericError("Unable to create link from /out/a#1 to /out/a: Operation not permitted (os error 1)"),
        ConfigurationError,
        "no hard links here, which create-if-absent needs: cannot write X: use another file system, or S3",
    ),
    (
        GenericError(f"Generic S3 error: {ANSWER}503 Slow Down: <Error><Code>SlowDown</Code></Error>{DEBUG}"),
        StoreError,
        "HTTP 503 SlowDown from http://s3.example.com:9000: cannot write X",
    ),
    (
        GenericError(f"Generic S3 error: {REQUEST}Received redirect without LOCATION, this normally{DEBUG}"),
        ConfigurationError,
        "the bucket is in another region: cannot write X: " + OTHER_REGION,
    ),
    (
        GenericError(f"{REQUEST}error sending request\n\nDebug source:\nkind: Timeout,\n source: TimedOut,"),
        StoreError,
        "no answer in time from http://s3.example.com:9000: cannot write X",
    ),
    (
        GenericError(f"{REQUEST}error sending request\n\nDebug source:\nhyper::Error(IncompleteMessage)"),
        StoreError,
        "connection broken off by http://s3.example.com:9000: cannot write X",
    ),
    (
        GenericError(f"Generic S3 error: Invalid content length '-5': invalid digit found in string{DEBUG}"),
        ConfigurationError,
        "the server does not answer as S3 does: cannot write X: check the endpoint",
    ),
    (
        GenericError(f"Generic S3 error: {REQUEST}something new{DEBUG}"),
        StoreError,
        "cannot write X: Error performing PUT http://s3.example.com:9000/bucket/a.json - something new",
    ),
    (GenericError(f"503 Service Unavailable{DEBUG}"), StoreError, "cannot write X: 503 Service Unavailable"),
]


@pytest.mark.parametrize(("error", "kind", "message"), CASES, ids=[case[2] for case in CASES])
def test_an_error_has_its_reason_first(error: Exception, kind: type[RestyleError], message: str) -> None:
    ours = translate(error, "cannot write X")
    assert (type(ours), ours.message) == (kind, message)
    assert ours.retryable is (kind is StoreError)


def test_the_variable_that_names_the_server_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", "http://user:secret@s3.example.com:9000")
    message = translate(GenericError(f"{REQUEST}dns error"), "cannot read X").message
    assert message == "unknown host http://s3.example.com:9000 (AWS_ENDPOINT_URL_S3): cannot read X"


@pytest.mark.parametrize("error", [GenericError("down"), NoCredentialsError(), OSError("down")])
def test_what_is_raised_inside_is_raised_as_ours(error: Exception) -> None:
    with (
        pytest.raises(StoreError, match=r"^cannot read s3://bucket/a: ") as caught,
        translated("read", "s3://bucket/a"),
    ):
        raise error
    assert caught.value.__cause__ is None


@pytest.mark.parametrize("error", [NotSupportedError("no"), NotImplementedError("no")])
def test_a_store_without_conditional_puts_is_unsafe(error: BaseError | NotImplementedError) -> None:
    with (
        pytest.raises(UnsafeStoreError, match=r"^conditional put refused: X: use AWS S3, "),
        translated("write", "X"),
    ):
        raise error


def test_a_missing_bucket_is_not_mistaken_for_a_missing_object_nor_the_reverse() -> None:
    assert bucket_is_missing(FileNotFoundError("404: <Code>NoSuchBucket</Code>"))
    assert not bucket_is_missing(FileNotFoundError("404: <Code>NoSuchKey</Code>"))
