"""A job's key, seed and names: they are written into stores, so they must stay what they are."""

from __future__ import annotations

import hashlib
import json
import random
from typing import Any

import pytest
from pydantic import ValidationError

from prefect_wavespeed.api.models import MAX_SEED, MODEL, ReduxParams
from prefect_wavespeed.job import Job, Source, slug

SOURCE = Source(
    uri="https://example.com/a/Été%202024.JPG",
    identity="https://example.com/a/%C3%89t%C3%A9%202024.JPG",
    name="Été 2024.JPG",
    location="https://example.com/a/%C3%89t%C3%A9%202024.JPG?X-Amz-Signature=secret",
)


def test_the_key_of_a_job_never_changes() -> None:
    """Else every job of every user would be billed again after an upgrade."""
    job = Job(source=SOURCE)
    assert job.key == "da5b0130dae8c9b4345bd12394fe103c59ca045da9451e36b45c459fe15cfa3f"
    assert job.seed == 1525205428
    assert job.name == "ete-2024-da5b0130dae8c9b4"
    assert job.label == "ete-2024-da5b"


def test_the_key_is_the_sha256_of_the_canonical_json_of_the_request() -> None:
    drawn = random.Random(0)
    for _ in range(3_000):
        identity = "".join(drawn.choices('https://é"\\/\x7f😀\ud800{}:,', k=drawn.randrange(20)))
        variant = drawn.choice((0, 0, 1, 40))
        params: dict[str, Any] = {
            "size": f"{drawn.randint(256, 1536)}*512",
            "num_inference_steps": drawn.randint(1, 50),
            "guidance_scale": drawn.choice((3.5, 2, 7.25, 1 + drawn.random())),
            "num_images": drawn.randint(1, 4),
            "seed": -1 if variant else drawn.choice((-1, 0, drawn.randint(0, MAX_SEED))),
            "output_format": drawn.choice(("jpeg", "png", "webp")),
        }
        job = Job(
            source=SOURCE.model_copy(update={"identity": identity}),
            params=ReduxParams(**params, enable_sync_mode=drawn.random() < 0.5),
            variant=variant,
        )
        params["guidance_scale"] = float(params["guidance_scale"])
        request = {"model": MODEL, "source": identity, "params": params, "variant": variant}
        canonical = json.dumps(request, sort_keys=True, separators=(",", ":"))
        assert job.key == hashlib.sha256(canonical.encode()).hexdigest()


@pytest.mark.parametrize(
    "other",
    [
        Job(source=SOURCE.model_copy(update={"identity": "https://example.com/b.jpg"})),
        Job(source=SOURCE, variant=1),
        Job(source=SOURCE, params=ReduxParams(size="512*512")),
        Job(source=SOURCE, params=ReduxParams(num_inference_steps=20)),
        Job(source=SOURCE, params=ReduxParams(guidance_scale=4)),
        Job(source=SOURCE, params=ReduxParams(num_images=2)),
        Job(source=SOURCE, params=ReduxParams(seed=0)),
        Job(source=SOURCE, params=ReduxParams(output_format="png")),
    ],
)
def test_whatever_changes_the_picture_makes_another_job(other: Job) -> None:
    assert other.key != Job(source=SOURCE).key


@pytest.mark.parametrize(
    "same",
    [
        Job(source=SOURCE.model_copy(update={"name": "b.jpg", "uri": "b", "location": "c", "sha256": "d"})),
        Job(source=SOURCE, params=ReduxParams(enable_base64_output=True)),
        Job(source=SOURCE, params=ReduxParams(enable_sync_mode=True)),
        Job(source=SOURCE, params=ReduxParams(guidance_scale=3.50, size="01024*1024")),
    ],
)
def test_where_the_picture_is_and_how_the_answer_travels_is_the_same_job(same: Job) -> None:
    assert same.key == Job(source=SOURCE).key


def test_every_seed_is_one_that_the_api_takes_and_differs_by_variant() -> None:
    seeds = [Job(source=SOURCE, variant=variant).seed for variant in range(200)]
    assert all(0 <= seed <= MAX_SEED for seed in seeds)
    assert len(set(seeds)) == 200
    assert Job(source=SOURCE, params=ReduxParams(seed=MAX_SEED)).seed == MAX_SEED
    assert Job(source=SOURCE, params=ReduxParams(seed=0)).seed == 0


def test_the_request_bears_the_real_seed_and_every_parameter() -> None:
    params = ReduxParams(size="512*768", num_images=3, enable_sync_mode=True)
    job = Job(source=SOURCE, params=params, variant=2)
    request = job.request("https://example.com/signed")
    assert request.model_dump() == {
        **params.model_dump(),
        "seed": job.seed,
        "image": "https://example.com/signed",
    }


def test_a_seed_together_with_a_variant_is_refused() -> None:
    with pytest.raises(ValidationError, match="either variant or seed"):
        Job(source=SOURCE, params=ReduxParams(seed=7), variant=1)
    with pytest.raises(ValidationError, match="greater than or equal to 0"):
        Job(source=SOURCE, variant=-1)


def test_where_a_source_is_fetched_from_is_never_shown() -> None:
    assert "secret" not in repr(SOURCE)
    assert "secret" not in repr(Job(source=SOURCE))


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("astronaut.jpg", "astronaut"),
        ("Été 2024.JPG", "ete-2024"),
        ("__a..b--c.png", "a-b-c"),
        (".hidden", "hidden"),
        ("写真.jpg", "image"),
        ("", "image"),
        ("x" * 60 + ".jpg", "x" * 40),
        ("y" * 39 + " z.jpg", "y" * 39),
    ],
)
def test_a_slug_is_readable_and_safe_in_a_key(name: str, expected: str) -> None:
    assert slug(name) == expected
