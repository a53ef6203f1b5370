"""Rich's console for texts that others wrote."""

from __future__ import annotations

from collections.abc import Iterable
from typing import IO, Any, cast

from rich.console import Console as RichConsole
from rich.console import ConsoleOptions, RenderableType
from rich.segment import Segment

from prefect_wavespeed.words import printable


class Console(RichConsole):
    """Shows control characters as escapes, and takes nothing for markup."""

    def __init__(self, **options: Any) -> None:
        super().__init__(highlight=False, markup=False, **options)

    @property
    def file(self) -> IO[str]:
        """Where it writes: below what Rich itself puts there for a bar, and below what escapes `print`."""
        file: Any = super().file
        while below := getattr(file, "rich_proxied_file", None):
            file = below
        return cast("IO[str]", file)

    @file.setter
    def file(self, file: IO[str]) -> None:
        self._file = file

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterable[Segment]:
        """Render text; Rich's own control sequences, such as those of a bar, are not text."""
        for segment in super().render(renderable, options):
            yield segment if segment.control else segment._replace(text=printable(segment.text, keep="\n"))
