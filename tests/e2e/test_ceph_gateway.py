"""What the ledger relies on, shown on the real server that the other tests here use."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest
from botocore.exceptions import ClientError

from tests.support.ceph import CephGateway


def test_a_second_create_is_refused_and_changes_nothing(ceph: CephGateway) -> None:
    s3 = ceph.client()
    s3.put_object(Bucket=ceph.bucket, Key="second/claim", Body=b"first", IfNoneMatch="*")
    with pytest.raises(ClientError, match="PreconditionFailed"):
        s3.put_object(Bucket=ceph.bucket, Key="second/claim", Body=b"second", IfNoneMatch="*")
    assert s3.get_object(Bucket=ceph.bucket, Key="second/claim")["Body"].read() == b"first"


def test_of_24_racing_creators_one_wins(ceph: CephGateway) -> None:
    s3 = ceph.client()

    def create(writer: int) -> int:
        try:
            s3.put_object(Bucket=ceph.bucket, Key="race/claim", Body=str(writer).encode(), IfNoneMatch="*")
        except ClientError as refusal:
            return refusal.response["ResponseMetadata"]["HTTPStatusCode"]
        return 200

    with ThreadPoolExecutor(24) as pool:
        answers = list(pool.map(create, range(24)))
    assert sorted(answers) == [200] + [412] * 23
    won = s3.get_object(Bucket=ceph.bucket, Key="race/claim")["Body"].read()
    assert won == str(answers.index(200)).encode()


def test_a_wrong_secret_key_is_refused(ceph: CephGateway) -> None:
    with pytest.raises(ClientError, match="SignatureDoesNotMatch"):
        ceph.client(secret_key="wrong").list_objects_v2(Bucket=ceph.bucket)
