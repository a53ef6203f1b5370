"""Whether outputs are what was asked for. What is wrong with them is told; it never loses a picture."""

from __future__ import annotations

from collections.abc import Mapping
from typing import cast

from PIL import Image

from prefect_wavespeed.api.models import ReduxParams
from prefect_wavespeed.job import OutputWarning, WarningCode
from prefect_wavespeed.quality.formats import ImageInfo
from prefect_wavespeed.words import counted

# Of 255, over a picture that was reduced to about a hundred pixels: what is left of a codec's noise is less;
# what is left of a photograph is more, at a sixteenth of its contrast, or with stars as its only light.
_ONE_COLOUR = 10


def is_blank(reduced: Image.Image) -> bool:
    """Whether a picture is of one colour, or transparent all over.

    Args:
        reduced: the picture with its longer side reduced to about a hundred pixels, which averages noise out.
    """
    opaque = reduced.mode == "RGB"  # as a JPEG mostly is
    found = (reduced if opaque else reduced.convert("RGBA")).getextrema()
    extremes = cast("tuple[tuple[int, int], ...]", found)
    is_transparent = not opaque and extremes[3][1] == 0
    return is_transparent or all(most - least <= _ONE_COLOUR for least, most in extremes)


def count_differs(params: ReduxParams, came: int, why: str = "") -> list[OutputWarning]:
    """The warning for fewer or more outputs than were asked for and are paid.

    Args:
        params: what was asked for.
        came: how many outputs there are.
        why: what came instead of those that are missing, if anything did.
    """
    if came == params.num_images:
        return []
    if came > params.num_images:
        message = f"{came:,} pictures came instead of {params.num_images}: the others are not stored"
        return [OutputWarning(code="extra_outputs", message=message)]
    message = f"{came:,} of {counted(params.num_images, 'picture')} came{why and ': '}{why}"
    return [OutputWarning(code="missing_outputs", message=message)]


def differences(
    number: int, params: ReduxParams, found: ImageInfo, *, blank: bool, odd: str | None = None
) -> list[OutputWarning]:
    """The warnings about one output.

    Args:
        number: of the output, from 1.
        params: what was asked for.
        found: what came.
        blank: whether it is of one colour.
        odd: what is unusual about it.
    """
    warnings = []
    if found.width and (found.width, found.height) != (params.width, params.height):
        message = f"it has {found.width}×{found.height} pixels, not {params.width}×{params.height}"
        warnings.append(OutputWarning(code="size_differs", message=message, output=number))
    if found.format != params.output_format:
        message = f"it is a {found.format}, not a {params.output_format}"
        warnings.append(OutputWarning(code="format_differs", message=message, output=number))
    if blank:
        warnings.append(OutputWarning(code="blank", message="it is of one colour all over", output=number))
    if odd:
        warnings.append(OutputWarning(code="unusual", message=odd, output=number))
    return warnings


def not_checked(number: int) -> OutputWarning:
    """The warning about an output that is in quarantine because nothing says that it is safe.

    Args:
        number: of the output, from 1.
    """
    return OutputWarning(
        code="not_checked",
        message="WaveSpeedAI did not say whether it is safe for work: it is in quarantine/",
        output=number,
    )


def described(counts: Mapping[WarningCode, int], flagged: int = 0) -> list[str]:
    """The warnings of many jobs, in a few lines for people.

    Args:
        counts: how many there are, by code.
        flagged: how many pictures are flagged as unsafe for work.
    """
    listed = ", ".join(f"{count:,} {code}" for code, count in counts.items() if code != "not_checked")
    lines = [f"warnings: {listed}"] if listed else []
    if flagged:
        lines.append(
            f"{counted(flagged, 'picture')} flagged as unsafe for work: column flagged of the report"
        )
    if unchecked := counts.get("not_checked", 0):
        lines.append(
            f"{counted(unchecked, 'picture')} in quarantine/: WaveSpeedAI did not say whether they are safe "
            "for work; with nsfw_unchecked=keep, later ones are stored like others"
        )
    return lines
