"""`restyle init`: a small project for a team to keep as its own."""

from __future__ import annotations

import re
from importlib import resources
from json import dumps
from pathlib import Path

from prefect_wavespeed.errors import ConfigurationError
from prefect_wavespeed.local_files import expanded
from prefect_wavespeed.version import package_version

# Each file of the project, and the file of this package that it is made from.
_FILES = {
    "README.md": "deployments/template/README.md",
    "manifest.jsonl": "deployments/template/manifest.jsonl",
    "photos/coffee.jpg": "examples/coffee.jpg",
    ".env.example": "deployments/template/env.example",
    ".gitignore": "deployments/template/gitignore",
}
_HEADER = """\
# Deployments and their schedules:  prefect --no-prompt deploy --all
#
# Change them as you like. The settings are Prefect variables, which `restyle setup` writes from the
# environment (.env.example). The flows are an installed package, so there is nothing to build, push or pull.
name: {name}
"""
_MAX_NAMES = 5  # of files in a folder that is not empty


def init(folder: str = ".", /) -> int:
    """Write the project, whole or not at all, and print what comes next.

    Args:
        folder: An empty folder, or one to create; by default the current one.

    Raises:
        ConfigurationError: the folder is not empty, or cannot be written.
    """
    try:
        root = expanded(folder)
        _require_empty(root)
        contents = _contents(root.resolve().name)
        _write(root, contents)
    except OSError as error:
        raise ConfigurationError(
            f"{folder}: {error.strerror or error}: choose a folder that can be written"
        ) from None
    print(f"created {', '.join(contents)}\nnow read {root / 'README.md'}")
    return 0


def _require_empty(root: Path) -> None:
    if not root.exists():
        return
    names = sorted(path.name for path in root.iterdir() if path.name != ".git")
    if names:
        more = f" and {len(names) - _MAX_NAMES} more" if len(names) > _MAX_NAMES else ""
        raise ConfigurationError(
            f"{root} is not empty: {', '.join(names[:_MAX_NAMES])}{more}: choose an empty or a new folder"
        )


def _contents(name: str) -> dict[str, bytes]:
    package = resources.files("prefect_wavespeed")
    contents = {path: (package / file).read_bytes() for path, file in _FILES.items()}
    readme = contents["README.md"].decode()
    readme = readme.replace("{name}", name).replace("{version}", package_version())
    contents["README.md"] = readme.encode()
    # the same deployments as this package's own, under another header
    ours = (package / "deployments" / "prefect.yaml").read_text()
    _, _, body = re.split(r"^(name: .*\n)", ours, maxsplit=1, flags=re.MULTILINE)
    contents["prefect.yaml"] = (_HEADER.format(name=dumps(name)) + body).encode()
    return contents


def _write(root: Path, contents: dict[str, bytes]) -> None:
    created: list[Path] = []
    try:
        for path in [root / name for name in contents]:
            for folder in reversed(path.parents):
                if not folder.exists():
                    folder.mkdir()
                    created.append(folder)
            with path.open("xb") as file:
                created.append(path)
                file.write(contents[str(path.relative_to(root))])
    except BaseException:
        for path in reversed(created):
            path.rmdir() if path.is_dir() else path.unlink()
        raise
