"""The examples in the help, typed in a folder that holds only what they name."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from prefect_wavespeed.deployments.cli.shared.examples import EXAMPLES
from tests.support.emulator_process import Emulator
from tests.support.engine import PHOTO
from tests.support.prefect_server import PrefectServer
from tests.support.s3_servers import S3Server

# These have tests of their own: test_backfill.py, test_completion.py, test_incident.py and
# test_lost_submissions.py in tests/, test_gallery.py here.
IN_A_SHELL = sorted(EXAMPLES.keys() - {"backfill", "completion", "failures", "gallery", "resolve"})


@pytest.fixture(scope="module")
def bucket(moto: S3Server) -> S3Server:
    """The bucket of the examples, with some photographs."""
    client = moto.client()
    client.create_bucket(Bucket="bucket")
    for number, photo in enumerate(sorted(PHOTO.parent.glob("*.jpg"))):
        client.upload_file(str(photo), "bucket", f"in/{number}.jpg")
    return moto


@pytest.fixture(scope="module")
def emulator(emulator_process: Emulator) -> Emulator:
    """One account for all of them: the bucket remembers what was uploaded."""
    emulator_process.reset()
    return emulator_process


@pytest.mark.parametrize("command", IN_A_SHELL)
def test_examples_can_be_copied_as_they_are(
    command: str, prefect: PrefectServer, bucket: S3Server, emulator: Emulator, tmp_path: Path
) -> None:
    if "photo.jpg" in EXAMPLES[command]:
        shutil.copy(PHOTO, tmp_path / "photo.jpg")
    if "catalogue.jsonl" in EXAMPLES[command]:
        (tmp_path / "catalogue.jsonl").write_text('{"image": "s3://bucket/in/1.jpg", "variant": 7}\n')
    env = {
        **prefect.env,
        **bucket.env,
        "HOME": str(tmp_path),
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "WAVESPEED_API_KEY": "some-key",
        "WAVESPEED_BASE_URL": emulator.url,
    }
    script = ["bash", "-exc", EXAMPLES[command]]
    typed = subprocess.run(script, cwd=tmp_path, env=env, capture_output=True, text=True, timeout=600)
    assert typed.returncode == 0, typed.stdout + typed.stderr
