"""What the ledger relies on, shown on the real server that the other tests here use."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest
from botocore.exceptions import ClientError

from tests.ceph import CephGateway


def test_a_second_create_is_refused_and_changes_nothing(ceph: CephGateway) -> None:
    s3 = ceph.client()
    s3.put_object(Bucket=ceph.bucket, Key="second/claim", Body=b"first", IfNoneMatch="*")
    with pytest.raises(ClientError, match="PreconditionFailed"):
        s3.put_object(Bucket=ceph.bucket, Key="second/claim", Body=b"second", IfNoneMatch="*")
    assert s3.get_object(Bucket=ceph.bucket, Key="second/claim")["Body"].read() == b"first"


def test_of_24_racing_creators_one_wins(ceph: CephGateway) -> None:
    s3 = ceph.client()

    def create(writer: int) -> int | None:
        try:
            s3.put_object(Bucket=ceph.bucket, Key="race/claim", Body=str(writer).encode(), IfNoneMatch="*")
        except ClientError as error:
            assert error.response["ResponseMetadata"]["HTTPStatusCode"] == 412
            return None
        return writer

    with ThreadPoolExecutor(24) as pool:
        winners = [writer for writer in pool.map(create, range(24)) if writer is not None]
    assert len(winners) == 1
    assert s3.get_object(Bucket=ceph.bucket, Key="race/claim")["Body"].read() == str(winners[0]).encode()


def test_a_wrong_secret_key_is_refused(ceph: CephGateway) -> None:
    with pytest.raises(ClientError, match="SignatureDoesNotMatch"):
        ceph.client(secret_key="wrong").list_objects_v2(Bucket=ceph.bucket)
