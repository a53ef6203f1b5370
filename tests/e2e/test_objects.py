"""Objects created on a real S3 server, whose answers are not those of moto."""

from __future__ import annotations

import json
import uuid
from dataclasses import replace

import httpx
import pytest

from prefect_wavespeed.errors import PredictionFailedError, SourceDeniedError
from prefect_wavespeed.job import Restyled
from tests.support.ceph import CephGateway
from tests.support.emulator_process import Emulator
from tests.support.engine import PHOTO
from tests.support.objects import World
from tests.support.s3_servers import S3Server

OTHER_PHOTO = PHOTO.with_name("coffee.jpg")


@pytest.fixture
def world(ceph: CephGateway, emulator: Emulator) -> World:
    s3 = S3Server(ceph.endpoint, ceph.bucket, ceph.access_key, ceph.secret_key, ceph.region)
    return World(s3, emulator, uuid.uuid4().hex)


async def test_an_object_is_restyled_once_by_its_metadata_and_again_when_it_is_overwritten(
    world: World,
) -> None:
    metadata = {"restyle-num-images": "2", "Restyle-Size": "256*320"}
    created = world.put("ü +%41'#?.jpg", PHOTO.read_bytes(), Metadata=metadata)
    for _ in range(3):
        restyled = await world.deliver(created, allowed=("num_images", "size"))
        assert isinstance(restyled, Restyled)
        assert [(output.width, output.height) for output in restyled.outputs] == [(256, 320)] * 2
    again = world.put("ü +%41'#?.jpg", OTHER_PHOTO.read_bytes())
    assert isinstance(await world.deliver(created), Restyled)
    assert isinstance(await world.deliver(again), Restyled)
    assert world.submitted == 2


async def test_our_own_pictures_are_recognized_by_their_metadata(world: World) -> None:
    restyled = await world.deliver(world.put("a.jpg", PHOTO.read_bytes()))
    assert isinstance(restyled, Restyled)
    s3 = world.s3.client()
    source = f"{world.s3.bucket}/{restyled.outputs[0].uri}".replace(f"/s3://{world.s3.bucket}", "")
    copy = f"{world.folder}/in/copy.jpg"
    s3.copy_object(Bucket=world.s3.bucket, Key=copy, CopySource=source)
    created = world.put("b.jpg", b"").model_copy(update={"key": copy})
    assert "is an output of this project" in str(await world.deliver(created))
    assert world.submitted == 1


async def test_a_version_with_other_bytes_is_a_job_and_a_deleted_object_a_dead_letter(
    world: World,
) -> None:
    """The output is in another bucket: in buckets with versions, Ceph 16 ignores create-if-absent."""
    bucket = f"versions-{uuid.uuid4().hex[:8]}"
    s3 = world.s3.client()
    s3.create_bucket(Bucket=bucket)
    s3.put_bucket_versioning(Bucket=bucket, VersioningConfiguration={"Status": "Enabled"})
    world = replace(world, sources=bucket)
    first = world.put("a.jpg", PHOTO.read_bytes())
    assert first.version
    for _ in range(2):
        assert isinstance(await world.deliver(first), Restyled)
    again = world.put("a.jpg", PHOTO.read_bytes())  # the same bytes
    assert again.version != first.version
    assert isinstance(await world.deliver(again), Restyled)
    assert world.submitted == 1
    assert isinstance(await world.deliver(world.put("a.jpg", OTHER_PHOTO.read_bytes())), Restyled)
    assert world.submitted == 2
    gone = world.put("gone.jpg", PHOTO.read_bytes())
    world.delete(gone)
    for etag in (gone.etag, "1" * 32, "2" * 32):  # whoever can send events may make ETags up
        with pytest.raises(PredictionFailedError, match="no such object"):
            await world.deliver(gone.model_copy(update={"etag": etag, "version": etag}))
    assert world.letter()["source"]["identity"] == f"{gone.uri}#etag="


async def test_unreadable_metadata_is_a_dead_letter(world: World) -> None:
    created = world.put("a.jpg", PHOTO.read_bytes())
    url = world.s3.client().generate_presigned_url(
        "put_object", Params={"Bucket": created.bucket, "Key": created.key}
    )
    odd = [(b"x-amz-meta-note", "ü".encode())]
    async with httpx.AsyncClient(trust_env=False) as http:
        (await http.put(url, content=PHOTO.read_bytes(), headers=odd)).raise_for_status()
    for _ in range(2):
        with pytest.raises(PredictionFailedError, match="metadata is not ASCII"):
            await world.deliver(created)
    assert world.letter()["last_attempt"] == 0
    assert world.submitted == 0


async def test_a_wrong_secret_key_is_no_dead_letter(world: World) -> None:
    created = world.put("a.jpg", PHOTO.read_bytes())
    wrong = replace(world, s3=replace(world.s3, secret_key="wrong"))
    with pytest.raises(SourceDeniedError, match="wrong secret access key"):
        await wrong.deliver(created)
    assert not world.below("")
    assert isinstance(await world.deliver(created), Restyled)


async def test_denied_access_is_no_dead_letter(world: World) -> None:
    created, s3 = world.put("a.jpg", PHOTO.read_bytes()), world.s3.client()
    nobody = {
        "Effect": "Deny",
        "Principal": "*",
        "Action": "s3:GetObject",
        "Resource": f"arn:aws:s3:::{created.bucket}/{created.key}",
    }
    s3.put_bucket_policy(
        Bucket=created.bucket, Policy=json.dumps({"Version": "2012-10-17", "Statement": [nobody]})
    )
    try:
        with pytest.raises(SourceDeniedError, match="access denied"):
            await world.deliver(created)
    finally:
        s3.delete_bucket_policy(Bucket=created.bucket)
    assert not world.below("failed/")
    assert isinstance(await world.deliver(created), Restyled)
