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

SCRIPT = Path(__file__).parents[1] / "ceph-rgw.sh"
PROGRAMS = ("ceph", "ceph-mon", "ceph-osd", "radosgw", "radosgw-admin")


@dataclass(frozen=True)
class CephGateway:
    """The address of a gateway, and its only user."""

    endpoint: str
    bucket: str = "restyle"
    access_key: str = "restyle"
    secret_key: str = field(default="restyle-secret", repr=False)
    region: str = "default"

    @property
    def env(self) -> dict[str, str]:
        """The environment variables with which ``s3://`` means this gateway."""
        return {
            "AWS_ENDPOINT_URL_S3": self.endpoint,
            "AWS_ACCESS_KEY_ID": self.access_key,
            "AWS_SECRET_ACCESS_KEY": self.secret_key,
            "AWS_DEFAULT_REGION": self.region,
        }

    def client(self, *, secret_key: str | None = None) -> S3Client:
        """A boto3 client for the gateway, with its own secret key unless another is given."""
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
        """Post a notification to a URL for every object that is created below a prefix of the bucket.

        The gateway keeps what is not answered with 2xx and posts it again.
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
    """Run a gateway with an empty bucket; it also ends when this process is killed.

    Raises:
        RuntimeError: Ceph is not installed, or the gateway did not start (stderr has the reason).
    """
    missing = [program for program in PROGRAMS if which(program) is None]
    if missing:
        raise RuntimeError(f"not installed: {', '.join(missing)}: run tests/ceph-rgw.sh install")
    # The script stops the daemons when its standard input closes, however this process ends.
    pipe = subprocess.PIPE
    with subprocess.Popen([SCRIPT, "run"], stdin=pipe, stdout=pipe, text=True) as script:
        assert script.stdout
        endpoint = script.stdout.readline().strip()
        if not endpoint:
            raise RuntimeError("the Ceph gateway did not start: see stderr")
        gateway = CephGateway(endpoint)
        gateway.client().create_bucket(Bucket=gateway.bucket)
        yield gateway
