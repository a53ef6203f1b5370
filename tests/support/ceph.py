"""A real S3 server for tests: a Ceph gateway on loopback, see ``tests/ceph-rgw.sh``."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from shutil import which
from typing import TYPE_CHECKING

import boto3
from botocore.config import Config

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

SCRIPT = Path(__file__).with_name("ceph-rgw.sh")
PROGRAMS = ("ceph", "ceph-mon", "ceph-osd", "radosgw", "radosgw-admin")


@dataclass(frozen=True)
class CephGateway:
    """Where the gateway listens and who may use it."""

    endpoint: str
    bucket: str = "restyle"
    access_key: str = "restyle"
    secret_key: str = field(default="restyle-secret", repr=False)
    region: str = "default"

    @property
    def env(self) -> dict[str, str]:
        """What a child process needs in its environment so that ``s3://`` means this gateway."""
        return {
            "AWS_ENDPOINT_URL_S3": self.endpoint,
            "AWS_ACCESS_KEY_ID": self.access_key,
            "AWS_SECRET_ACCESS_KEY": self.secret_key,
            "AWS_DEFAULT_REGION": self.region,
        }

    def client(self, *, secret_key: str | None = None) -> S3Client:
        """A boto3 client for the gateway, with another secret key if one is given."""
        return boto3.client(
            "s3",
            endpoint_url=self.endpoint,
            aws_access_key_id=self.access_key,
            aws_secret_access_key=secret_key or self.secret_key,
            region_name=self.region,
            config=Config(
                s3={"addressing_style": "path"},
                max_pool_connections=32,
                request_checksum_calculation="when_required",
                response_checksum_validation="when_required",
            ),
        )

    def notify(self, url: str, prefix: str) -> None:
        """Tell of every object that is created below a prefix of the bucket, by posts to a URL.

        What is not answered with 2xx is kept by the gateway and told again.
        """
        topics = boto3.client(
            "sns",
            endpoint_url=self.endpoint,
            aws_access_key_id=self.access_key,
            aws_secret_access_key=self.secret_key,
            region_name=self.region,
        )
        attributes = {"push-endpoint": url, "persistent": "true"}
        topic = topics.create_topic(Name="created", Attributes=attributes)["TopicArn"]
        self.client().put_bucket_notification_configuration(
            Bucket=self.bucket,
            NotificationConfiguration={
                "TopicConfigurations": [
                    {
                        "Id": "created",
                        "TopicArn": topic,
                        "Events": ["s3:ObjectCreated:*"],
                        "Filter": {"Key": {"FilterRules": [{"Name": "prefix", "Value": prefix}]}},
                    }
                ]
            },
        )


@contextmanager
def ceph_gateway() -> Iterator[CephGateway]:
    """A gateway of its own with an empty bucket, gone afterwards, also when this process is killed.

    Raises:
        RuntimeError: Ceph is not installed, or the gateway did not start (its last words are on stderr).
    """
    missing = [program for program in PROGRAMS if which(program) is None]
    if missing:
        raise RuntimeError(f"{', '.join(missing)} not found: run tests/ceph-rgw.sh install (as root)")
    # The script stops the daemons when its standard input closes, however this process ends.
    pipe = subprocess.PIPE
    with subprocess.Popen([SCRIPT, "run"], stdin=pipe, stdout=pipe, text=True) as script:
        assert script.stdout
        endpoint = script.stdout.readline().strip()
        if not endpoint:
            raise RuntimeError("the Ceph gateway did not start: see above")
        gateway = CephGateway(endpoint)
        gateway.client().create_bucket(Bucket=gateway.bucket)
        yield gateway
