"""What lies below a prefix and is no row, counted by the ending of its name."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping
from pathlib import PurePosixPath

from prefect_wavespeed.quality.other_formats import PICTURE_ENDINGS
from prefect_wavespeed.words import counted

NO_ENDING = "no ending"
_ENDING = re.compile(r"\.[a-z0-9_-]{1,10}")
_OTHER_ENDING = "another ending"
_SHOWN = 8


def ending_of(key: str) -> str:
    """The ending of a key's name in lower case, with its dot; it is safe to show."""
    ending = PurePosixPath(key.rpartition("/")[2]).suffix.lower()
    if not ending:
        return NO_ENDING
    return ending if _ENDING.fullmatch(ending) else _OTHER_ENDING


def is_marker(key: str) -> bool:
    """Whether a key is a folder, as consoles (``a/``) and Hadoop (``a_$folder$``) make them."""
    return key.endswith(("/", "_$folder$"))


def left_out_line(left_out: Mapping[str, int]) -> str:
    """``5 objects left out: 2 .heic, 3 .txt; convert .heic to JPEG``.

    Args:
        left_out: objects by ending; there are some.
    """
    counts = Counter(left_out).most_common()
    shown = [
        f"{count:,} {ending if ending[0] == '.' else f'with {ending}'}" for ending, count in counts[:_SHOWN]
    ]
    if others := sum(count for _, count in counts[_SHOWN:]):
        shown.append(f"{others:,} others")
    pictures = [ending for ending, _ in counts if ending in PICTURE_ENDINGS][:_SHOWN]
    advice = f"; convert {', '.join(pictures)} to JPEG" if pictures else ""
    return f"{counted(sum(left_out.values()), 'object')} left out: {', '.join(shown)}{advice}"
