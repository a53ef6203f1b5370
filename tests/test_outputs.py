"""What is wrong with outputs is told: too few, of another size or format, blank, not checked."""

from __future__ import annotations

import random
from io import BytesIO
from typing import Any, get_args

import pytest
from PIL import Image, ImageChops, ImageDraw

from prefect_wavespeed import metrics
from prefect_wavespeed.api.models import ReduxParams
from prefect_wavespeed.job import NsfwPolicy, NsfwRules, UncheckedPolicy, WarningCode
from prefect_wavespeed.quality.formats import CONTENT_TYPES, ImageInfo
from prefect_wavespeed.quality.outputs import count_differs, differences
from prefect_wavespeed.quality.verify import examine_output
from tests.support.engine import PHOTO

PHOTOS = sorted(PHOTO.parent.glob("*.jpg"))
ENCODINGS: dict[str, dict[str, Any]] = {
    "jpeg, bad": {"format": "jpeg", "quality": 5},
    "jpeg, good": {"format": "jpeg", "quality": 95},
    "webp": {"format": "webp", "quality": 75},
    "png": {"format": "png"},
}
encoded_each_way = pytest.mark.parametrize("encoding", ENCODINGS.values(), ids=ENCODINGS)


def is_blank(image: Image.Image, **encoding: Any) -> bool:
    data = BytesIO()
    image.save(data, **encoding)
    return examine_output(data.getvalue(), with_thumbnail=False).blank


def noisy(image: Image.Image, spread: float) -> Image.Image:
    noise = Image.merge("RGB", [Image.effect_noise(image.size, spread) for _ in range(3)])
    return ImageChops.add(image, noise, offset=-128)


@encoded_each_way
@pytest.mark.parametrize("colour", ["black", "white", "#0dc85a"])
@pytest.mark.parametrize(("edge", "noise"), [(256, 0), (256, 1), (512, 2)])
def test_a_picture_of_one_colour_is_blank_with_a_codecs_noise_too(
    edge: int, noise: float, colour: str, encoding: dict[str, Any]
) -> None:
    plain = Image.new("RGB", (edge, edge), colour)
    assert is_blank(noisy(plain, noise) if noise else plain, **encoding)


@encoded_each_way
@pytest.mark.parametrize("photo", PHOTOS, ids=lambda photo: photo.stem)
def test_a_photograph_is_not_blank_however_dark_or_bright(photo: Any, encoding: dict[str, Any]) -> None:
    whole = Image.open(photo).convert("RGB").resize((256, 256))
    assert not is_blank(whole, **encoding)
    if encoding.get("quality") != 5:  # which leaves nothing of what follows
        assert not is_blank(whole.point([value // 16 for value in range(256)] * 3), **encoding)
        assert not is_blank(whole.point([239 + value // 16 for value in range(256)] * 3), **encoding)


@encoded_each_way
def test_a_night_sky_is_not_blank(encoding: dict[str, Any]) -> None:
    sky, chance = Image.new("RGB", (1024, 1024), (3, 3, 8)), random.Random(1)
    for _ in range(60):
        x, y = chance.randrange(1000), chance.randrange(1000)
        ImageDraw.Draw(sky).ellipse((x, y, x + 3, y + 3), fill=(255, 250, 240))
    assert not is_blank(sky, **encoding)


def test_a_transparent_picture_is_blank_and_a_cut_out_is_not() -> None:
    photo = Image.open(PHOTO).convert("RGB").resize((256, 256))
    transparent = photo.copy()
    transparent.putalpha(0)
    assert is_blank(transparent, format="png")
    cut_out = Image.new("RGBA", photo.size, "black")
    cut_out.putalpha(photo.convert("L"))
    assert not is_blank(cut_out, format="png")


def test_a_grey_picture_in_16_bits_is_not_taken_for_a_white_one() -> None:
    deep = Image.open(PHOTO).convert("I").point(lambda value: value * 257).convert("I;16")
    assert not is_blank(deep, format="png")
    assert is_blank(Image.new("I;16", (256, 256), 40_000), format="png")


def found(kind: str = "jpeg", width: int = 512, height: int = 256) -> ImageInfo:
    return ImageInfo(kind, CONTENT_TYPES[kind], width, height)


@pytest.mark.parametrize(
    ("came", "blank", "told"),
    [
        (found(), False, {}),
        (found(), True, {"blank": "it is of one colour all over"}),
        (found(width=256, height=512), False, {"size_differs": "it has 256×512 pixels, not 512×256"}),
        (found("webp"), False, {"format_differs": "it is a webp, not a jpeg"}),
    ],
)
def test_what_differs_from_what_was_asked_for_is_told(
    came: ImageInfo, blank: bool, told: dict[str, str]
) -> None:
    warnings = differences(3, ReduxParams(size="512*256"), came, blank=blank)
    assert {warning.code: warning.message for warning in warnings} == told
    assert all(warning.output == 3 for warning in warnings)


def test_everything_that_differs_is_told_at_once() -> None:
    warnings = differences(1, ReduxParams(), found("png"), blank=True)
    assert [warning.code for warning in warnings] == ["size_differs", "format_differs", "blank"]


@pytest.mark.parametrize(
    ("asked", "came", "message"),
    [
        (3, 1, "1 of 3 pictures came"),
        (2, 1, "1 of 2 pictures came"),
        (2, 2, None),
        (1, 2, "2 pictures came instead of 1: the others are not stored"),
    ],
)
def test_another_number_of_outputs_is_told_once(asked: int, came: int, message: str | None) -> None:
    warnings = count_differs(ReduxParams(num_images=asked), came)
    assert [(warning.message, warning.output) for warning in warnings] == [(message, None)] * bool(message)


@pytest.mark.parametrize(
    ("flagged", "unchecked", "safe", "unsafe", "unknown"),
    [
        ("keep", "quarantine", "keep", "keep", "keep"),
        ("keep", "keep", "keep", "keep", "keep"),
        ("quarantine", "quarantine", "keep", "quarantine", "quarantine"),
        ("quarantine", "keep", "keep", "quarantine", "keep"),
        ("drop", "quarantine", "keep", "drop", "quarantine"),
        ("drop", "keep", "keep", "drop", "keep"),
    ],
)
def test_nsfw_rules_say_what_becomes_of_an_output(
    flagged: NsfwPolicy, unchecked: UncheckedPolicy, safe: str, unsafe: str, unknown: str
) -> None:
    rules = NsfwRules(flagged=flagged, unchecked=unchecked)
    assert [rules.applied_to(flag) for flag in (False, True, None)] == [safe, unsafe, unknown]


def test_every_code_has_a_counter_from_the_start() -> None:
    (family,) = metrics.WARNINGS.collect()
    counted = {sample.labels["code"] for sample in family.samples}
    assert counted == set(get_args(WarningCode))
