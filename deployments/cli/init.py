"""`restyle init`: a small project that a team keeps as its own."""

from __future__ import annotations

import re
from importlib import resources
from json import dumps
from pathlib import Path

from prefect_wavespeed.errors import ConfigurationError

# Each file of a project, and the file of this package that it is made from.
_FILES = {
    "README.md": "deployments/template/README.md",
    "manifest.jsonl": "deployments/template/manifest.jsonl",
    "photos/coffee.jpg": "examples/coffee.jpg",
    ".env.example": "deployments/template/env.example",
    ".gitignore": "deployments/template/gitignore",
}
_HEADER = """\
# What runs by itself, and when:  prefect --no-prompt deploy --all
#
# Change it as you like. The settings are Prefect variables, which `restyle setup` writes from the environment
# (.env.example). The flows are an installed package, so there is nothing to build, push or pull.
name: {name}
"""
_TOLD = 5  # names of what is in the way


def run(folder: str, version: str) -> int:
    """Write the project, whole or not at all, and print what comes next.

    Args:
        folder: an empty one, or one that is to be made.
        version: of this package.

    Returns:
        The exit status: 0.

    Raises:
        ConfigurationError: the folder is not empty, or cannot be written.
    """
    root = Path(folder).expanduser()
    try:
        _refuse_what_is_in_the_way(root)
        contents = _contents(root.resolve().name, version)
        _write(root, contents)
    except OSError as error:
        raise ConfigurationError(
            f"{folder}: {error.strerror or error}: name a folder that can be written"
        ) from None
    print(f"made {', '.join(contents)}\nnow read {root / 'README.md'}")
    return 0


def _refuse_what_is_in_the_way(root: Path) -> None:
    if not root.exists():
        return
    there = sorted(path.name for path in root.iterdir() if path.name != ".git")
    if there:
        more = f" and {len(there) - _TOLD} more" if len(there) > _TOLD else ""
        raise ConfigurationError(
            f"{root} is not empty: {', '.join(there[:_TOLD])}{more}: name an empty or a new folder"
        )


def _contents(name: str, version: str) -> dict[str, bytes]:
    package = resources.files("prefect_wavespeed")
    made = {path: (package / template).read_bytes() for path, template in _FILES.items()}
    readme = made["README.md"].decode()
    made["README.md"] = readme.replace("{name}", name).replace("{version}", version).encode()
    # the deployments are this package's own: there is one description of them
    described = (package / "deployments" / "prefect.yaml").read_text()
    _, _, body = re.split(r"^(name: .*\n)", described, maxsplit=1, flags=re.MULTILINE)
    made["prefect.yaml"] = (_HEADER.format(name=dumps(name)) + body).encode()
    return made


def _write(root: Path, contents: dict[str, bytes]) -> None:
    made: list[Path] = []
    try:
        for path in [root / name for name in contents]:
            for folder in reversed(path.parents):
                if not folder.exists():
                    folder.mkdir()
                    made.append(folder)
            with path.open("xb") as file:
                made.append(path)
                file.write(contents[str(path.relative_to(root))])
    except BaseException:
        for path in reversed(made):
            path.rmdir() if path.is_dir() else path.unlink()
        raise
