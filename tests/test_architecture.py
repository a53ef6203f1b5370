"""The shape of the house holds: who may import whom, what is private, how long things may be."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.support.architecture import (
    FACE_USERS,
    MAX_FILE_LINES,
    MAX_FOLDER_FILES,
    MAX_FUNCTION_LINES,
    MAY_IMPORT,
    TESTS_OF_PRIVATE,
    circles,
    face_used,
    full_folders,
    long_files,
    long_functions,
    private_used,
    room_of,
    upward,
)
from tests.support.imports import LINKED, PACKAGE, ROOT, Module, module_graph, modules, parsed


def _complain(offenders: list[str], way_out: str) -> None:
    assert not offenders, "\n".join([f"{way_out}:", *offenders])


@pytest.fixture(scope="module")
def everything() -> dict[str, Module]:
    return modules(PACKAGE, "tests", "benchmarks")


@pytest.fixture(scope="module")
def product(everything: dict[str, Module]) -> dict[str, Module]:
    return {name: module for name, module in everything.items() if name.startswith(PACKAGE)}


def test_every_module_is_in_a_room_of_the_drawing(product: dict[str, Module]) -> None:
    assert {room_of(name) for name in product} == set(MAY_IMPORT)


def test_the_drawing_has_no_circle() -> None:
    _complain(circles(MAY_IMPORT), "rooms that may import each other are one room")


def test_imports_point_down_only(product: dict[str, Module]) -> None:
    _complain(upward(product), "move what is needed to the lower room, or pass it in as an argument")


def test_no_modules_import_each_other_in_a_circle(product: dict[str, Module]) -> None:
    _complain(circles(module_graph(product)), "move what both need to a module below them")


def test_only_users_import_from_the_face(everything: dict[str, Module]) -> None:
    _complain(face_used(everything, FACE_USERS), "import from the module that defines the name")


def test_what_is_private_is_used_in_its_own_folder_only(everything: dict[str, Module]) -> None:
    _complain(private_used(everything, TESTS_OF_PRIVATE), "drop the underscore, or use what is public")


def test_no_file_is_too_long() -> None:
    _complain(long_files(), f"split what has more than {MAX_FILE_LINES} lines by its reasons to change")


def test_no_function_is_too_long(product: dict[str, Module]) -> None:
    _complain(long_functions(product), f"split what has more than {MAX_FUNCTION_LINES} lines")


def test_no_folder_is_too_full() -> None:
    _complain(full_folders(), f"make a folder within one of more than {MAX_FOLDER_FILES} files")


def test_make_types_checks_every_python_file() -> None:
    (recipe,) = re.findall(r"^types:.*\n((?:\t.*\n)+)", (ROOT / "Makefile").read_text(), re.MULTILINE)
    packages = set(re.findall(r"-p (\w+)", recipe))
    folders = {
        path.parts[0] for folder in ROOT.iterdir() if folder.is_dir() for path in _python_files(folder)
    }
    assert folders == packages | set(LINKED) | {"docs"}
    assert "mypy docs/*.py" in recipe
    assert {str(path.parent) for path in _python_files(ROOT / "docs")} == {"docs"}


def _python_files(folder: Path) -> list[Path]:
    if folder.name.startswith(".") or folder.name in ("build", "demo", "site"):  # none of ours
        return []
    return [path.relative_to(ROOT) for path in folder.rglob("*.py")]


# The checks themselves, on a house of two or three files.


def _house(**files: str) -> dict[str, Module]:
    paths = {Path(name.replace("__", "/") + ".py"): text for name, text in files.items()}
    paths[Path("prefect_wavespeed/__init__.py")] = ""
    return parsed(paths)


@pytest.mark.parametrize(
    "text",
    [
        "from prefect_wavespeed.steps.step_set import StepSet",
        "from prefect_wavespeed.steps import step_set",
        "import prefect_wavespeed.steps.step_set",
        "from ..steps import step_set",
        "def late():\n    from prefect_wavespeed.steps import step_set",
        "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import prefect_wavespeed.steps.step_set",
        "import importlib\nimportlib.import_module('prefect_wavespeed.steps.step_set')",
    ],
)
def test_an_import_upward_is_found_however_it_is_spelled(text: str) -> None:
    house = _house(prefect_wavespeed__api__client=text, prefect_wavespeed__steps__step_set="")
    (offender,) = upward(house)
    assert "prefect_wavespeed/api/client.py" in offender
    assert "api may not import steps" in offender


def test_a_linked_folder_is_a_room_of_the_package() -> None:
    house = _house(
        tasks__submit="import prefect_wavespeed.flows.settle",
        flows__settle="",
        flows__other="import tasks.submit",
    )
    (offender,) = upward(house)
    assert offender.startswith("tasks/submit.py:1: tasks may not import flows")


def test_a_circle_is_found_and_so_is_one_beside_it() -> None:
    house = _house(
        prefect_wavespeed__batch__a="import prefect_wavespeed.batch.b",
        prefect_wavespeed__batch__b="def late():\n    import prefect_wavespeed.batch.c",
        prefect_wavespeed__batch__c="import prefect_wavespeed.batch.a",
        prefect_wavespeed__steps__d="import prefect_wavespeed.steps.e",
        prefect_wavespeed__steps__e="import prefect_wavespeed.steps.d",
    )
    assert len(circles(module_graph(house))) == 2


@pytest.mark.parametrize(
    "text",
    [
        "from prefect_wavespeed.tasks._runtime import opened",
        "from prefect_wavespeed.tasks import _runtime",
        "from prefect_wavespeed.tasks.submit import _go",
        "from prefect_wavespeed.tasks import submit\nsubmit._go()",
        "import prefect_wavespeed.tasks.submit\nprefect_wavespeed.tasks.submit._go()",
    ],
)
def test_a_private_thing_is_found_however_it_is_used(text: str) -> None:
    house = _house(flows__settle=text, tasks__submit="", tasks___runtime="", tasks__other=text)
    (offender,) = private_used(house, {})
    assert offender.endswith("is private to prefect_wavespeed.tasks")
    assert offender.startswith("flows/settle.py")


def test_a_name_from_the_face_is_found() -> None:
    house = _house(
        tests__test_a="from prefect_wavespeed import Engine", tests__b="from prefect_wavespeed import api"
    )
    assert len(face_used(house, users=())) == 2
    assert not face_used(house, users=("tests.test_a", "tests.b"))
