"""The columns of a manifest: those that mean something here, and what becomes of a team's own."""

from __future__ import annotations

import csv
import difflib
import re
import shlex
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from typing import Any, NamedTuple

from prefect_wavespeed.api.models import NO_PROMPT, SHORT_NAMES, TRANSPORT, ReduxParams
from prefect_wavespeed.batch.manifest.carried import Cell, Values, carried_value
from prefect_wavespeed.batch.manifest.values import Kind, show, strip

_KIND_OF_TYPE: dict[object, Kind] = {int: "a whole number", float: "a number", bool: "true or false"}
KINDS: dict[str, Kind] = {
    "image": "text",
    "id": "text or a number",
    "variant": "a whole number",
    **{name: _KIND_OF_TYPE.get(param.annotation, "text") for name, param in ReduxParams.model_fields.items()},
}
"""What a manifest may say about an image, and what each of these columns holds."""
_KNOWN = {name: name for name in KINDS} | {short: name for name, short in SHORT_NAMES.items()}
THE_COLUMNS = "the columns are " + ", ".join(
    f"{name} or {SHORT_NAMES[name]}" if name in SHORT_NAMES else name
    for name in KINDS
    if name not in TRANSPORT  # accepted, and of no use to anybody
)
ALL = "*"

_NAMELESS = re.compile(r"|Unnamed: \d+")  # pandas calls a column so that had no name
_UNKNOWN = "unknown column"
_SHOWN = 8  # names
_OFTEN_CALLED = {
    "image": re.compile(
        r"(image|img|photo|picture|pic|source)s?(url|uri|link|path|src|file|name)?|url|uri|src|file(name|path)?"
    ),
    "id": re.compile(r"sku|(row|product|item|article|asset|image)(id|no|nr|number|code)|ean|gtin|upc|asin"),
}
"""What teams call these columns, in letters. Nothing is proposed for others: a wrong guess is billed."""


class Divided(NamedTuple):
    """A row's cells: the known ones by their known names, those to carry, and what is wrong with others."""

    known: dict[str, Any]
    carried: Values
    problem: str | None


class _Role(NamedTuple):
    """What a column is for: as which known one it counts, and under which name it is carried, if it is."""

    name: str
    known: str | None
    carried_as: str | None


@dataclass(frozen=True)
class Columns:
    """Which column of a manifest means what.

    Attributes:
        renamed: by the manifest's name, the known column that it stands for.
        carried: the manifest's names of columns for the report; ``*`` stands for all that are not known.
        ignored: the manifest's names of columns that are left aside.
    """

    renamed: Mapping[str, str] = field(default_factory=dict)
    carried: frozenset[str] = frozenset()
    ignored: frozenset[str] = frozenset()

    @classmethod
    def of(cls, columns: str = "", carry: str = "", ignore: str = "") -> Columns:
        """Read what an option says.

        Args:
            columns: ``image=image_url,id=sku``.
            carry: ``sku,category`` or ``*``. A name with a comma in it is put in double quotes.
            ignore: ``notes,colour``.

        Raises:
            ValueError: it cannot be read, or there is no such known column; in words for people.
        """
        renamed: dict[str, str] = {}
        for pair in _names(columns):
            known, is_pair, theirs = (strip(part) for part in pair.partition("="))
            if not (is_pair and theirs):
                raise ValueError(f"{show(pair)}: give pairs such as image=image_url,id=sku")
            if known not in _KNOWN:
                raise ValueError(f"there is no column {show(known)}; {THE_COLUMNS}")
            if theirs in renamed or _KNOWN[known] in renamed.values():
                raise ValueError(f"{show(pair)}: give each column once")
            renamed[theirs] = _KNOWN[known]
        return cls(renamed, frozenset(_names(carry)), frozenset(_names(ignore)))

    @cached_property
    def known(self) -> dict[str, str]:
        """By the manifest's name, the known column. A renamed one frees its own name for a team's use."""
        taken = self.renamed.values()
        return {name: known for name, known in _KNOWN.items() if known not in taken} | {**self.renamed}

    def given(self) -> str:
        """The options that say so, as they may be typed; empty where there are none."""
        options = {
            "columns": _pairs(self.renamed),
            "carry": sorted(self.carried),
            "ignore_columns": sorted(self.ignored),
        }
        return ", ".join(f"{option}={_joined(names)}" for option, names in options.items() if names)

    def wants(self, name: str) -> bool:
        """Whether a column is looked at."""
        return not is_nameless(name) and name not in self.ignored

    def divide(self, cells: Mapping[str, Any], *, from_text: bool) -> Divided:
        """Divide the cells of a row, which are not empty.

        Args:
            cells: by column, blanks around its name or not.
            from_text: all of them are text, as in CSV: a carried one may be a number.
        """
        found: dict[str, Any] = {}
        carried: Values = {}
        unknown: list[str] = []
        twice: list[str] = []
        for column, value in cells.items():
            if not (role := self._role(column)):
                continue
            if role.known in found:
                first = next(name for name in cells if (of := self._role(name)) and of.known == role.known)
                twice.append(_twice(strip(first), role.name))
            elif role.known:
                found[role.known] = value
            if role.carried_as is not None:
                carried[role.carried_as] = carried_value(Cell(value) if from_text else value)
            elif not role.known:
                unknown.append(role.name)
        problems = [self._refusal(unknown, found), *twice] if unknown else twice
        return Divided(found, carried, "; ".join(problems) or None)

    @cached_property
    def _role(self) -> Callable[[str], _Role | None]:
        """Of a column, by its name; None where it is not looked at. Every row has the same ones."""
        return lru_cache(1_000)(self._find_role)

    def _find_role(self, column: str) -> _Role | None:
        name = strip(column)
        carried_as = _plain(name) if self._carries(name) else None
        return _Role(name, self.known.get(name), carried_as) if self.wants(name) else None

    def refusal_of_header(self, names: Sequence[str]) -> str | None:
        """What is wrong with the columns of a table; None if nothing is."""
        its_columns = f"its columns are {', '.join(names)}"
        for name in (*self.renamed, *sorted(self.carried - {ALL})):
            if name not in names:
                return f"no column {name!r}: {its_columns}"
        wanted = [name for name in names if self.wants(name)]
        if unknown := [name for name in wanted if name not in self.known and not self._carries(name)]:
            present = {self.known[name] for name in wanted if name in self.known}
            return f"{self._refusal(unknown, present)}; {THE_COLUMNS}"
        meant: dict[str, str] = {}
        for name in wanted:
            known = self.known.get(name)
            if wanted.count(name) > 1:
                return f"column {name!r} appears twice"
            if known in meant:
                return _twice(meant[known], name)
            if known:
                meant[known] = name
        return None if "image" in meant else f"no column 'image': {its_columns}; name it with columns=image=…"

    def _carries(self, name: str) -> bool:
        if name in self.carried:
            return True
        if ALL not in self.carried or name in self.known or name == "prompt":
            return False
        return not self._misspelt(name)

    @cached_property
    def _misspelt(self) -> Callable[[str], str | None]:
        """Gives the known column that a name differs from by a slip: it might be billed with a default."""
        return lru_cache(1_000)(self._find_slip)

    def _find_slip(self, name: str) -> str | None:
        slip = _letters(name)
        for known, means in self.known.items():
            if means in TRANSPORT:
                continue
            letters = _letters(known)
            if letters == slip:
                return known
            if len(letters) > 3 and abs(len(letters) - len(slip)) < 2 and _likeness(letters, slip) >= 0.75:
                return known
        return None

    def _refusal(self, names: Sequence[str], present: Collection[str]) -> str:
        """The reason for refusing columns that mean nothing, beside the known ones that are present."""
        what = _UNKNOWN if len(names) == 1 else f"{_UNKNOWN}s"
        alike = {name: known for name in names if (known := self._misspelt(name))}
        slips = {name: known for name, known in alike.items() if self.known[known] not in present}
        twins = alike.keys() - slips
        shown = [f"{show(name)}{f' ({alike[name]}?)' if name in twins else ''}" for name in names[:_SHOWN]]
        hints = [NO_PROMPT] if "prompt" in names else []
        if slips:
            them = "it" if len(slips) == 1 else "them"
            meant = ", ".join(slips.values())
            hints.append(f"did you mean {meant}? Rename {them}, or columns={_joined(_pairs(slips))}")
        elif renames := _pairs(_often_called(names, present)):
            hints.append(f"columns={_joined(renames)} if that is what it holds")
        if others := [name for name in names if name not in slips] or (names if self.carried else []):
            them = "it" if len(others) == 1 else "them"
            carry, ignore = (_joined([*sorted(those), *others]) for those in (self.carried, self.ignored))
            hints.append(
                f"carry={carry} takes {them} into the report, ignore_columns={ignore} leaves {them} out"
            )
        return f"{what} {', '.join(shown)}{', …' if len(names) > _SHOWN else ''}: {'; '.join(hints)}"


KNOWN_COLUMNS = Columns()
"""No column has another name, and there are no others."""


def say_columns(reasons: Iterable[str]) -> str:
    """The known columns, where one of the reasons is a column that is not known; else nothing."""
    return f"; {THE_COLUMNS}" if any(_UNKNOWN in reason for reason in reasons) else ""


def is_nameless(name: str) -> bool:
    """Whether a column has no name: an index, or what is left of an empty column of a spreadsheet."""
    return _NAMELESS.fullmatch(name) is not None


def _often_called(names: Sequence[str], present: Collection[str]) -> dict[str, str]:
    """By a team's own name, the known column that it probably is; for each of these the first name."""
    found: dict[str, str] = {}
    for known, pattern in _OFTEN_CALLED.items():
        mine = [name for name in names if pattern.fullmatch(_letters(name))]
        if mine and known not in present:
            found[mine[0]] = known
    return found


def _pairs(renames: Mapping[str, str]) -> list[str]:
    return [f"{known}={name}" for name, known in renames.items()]


def _twice(one: str, other: str) -> str:
    leave_out = f"ignore_columns={_joined([other])}"
    return f"columns {show(one)} and {show(other)} mean the same: leave one out, such as {leave_out}"


def _names(text: str) -> list[str]:
    """Names with commas between them; one that has a comma in it stands in double quotes."""
    (names,) = csv.reader([text], skipinitialspace=True) if text.strip() else [[]]
    return [name for name in map(strip, names) if name]


def _joined(names: Sequence[str]) -> str:
    """Names as an option takes them, to be pasted."""
    return shlex.quote(",".join(f'"{name}"' if "," in name else name for name in names))


def _plain(name: str) -> str:
    return name.encode("utf-8", "replace").decode()


def _letters(name: str) -> str:
    return re.sub(r"[\W_]", "", name).casefold()


def _likeness(one: str, other: str) -> float:
    return difflib.SequenceMatcher(None, one, other).ratio()
