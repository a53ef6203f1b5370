"""Every image in a folder, or that matches a pattern, except the pictures that this project stored there."""

from __future__ import annotations

import glob
import os
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import NoReturn

from prefect_wavespeed.batch.manifest.prefix import Found, candidates, no_images
from prefect_wavespeed.batch.manifest.text import UnreadableError
from prefect_wavespeed.storage import layout
from prefect_wavespeed.storage.store import Store


def is_folder_or_pattern(manifest: str) -> bool:
    """Whether a path names a folder, or is a pattern such as ``photos/**/*.jpg``."""
    try:
        path = Path(manifest).expanduser()
        return bool(manifest) and (path.is_dir() or (glob.has_magic(manifest) and not path.exists()))
    except (OSError, RuntimeError, ValueError):
        return False  # what is wrong with it is said when it is opened as a file


def images_in(manifest: str, store: Store, left_out: Counter[str]) -> Iterator[str]:
    """The absolute paths of the images in a folder and all below it, or of those that match a pattern.

    Hidden files and folders are passed over.

    Args:
        manifest: the folder or the pattern.
        store: where outputs go: what it holds is passed over.
        left_out: counts the files that are no images, by the ending of their names.

    Raises:
        UnreadableError: a folder cannot be read, or there are none.
    """
    named, found = os.path.abspath(Path(manifest).expanduser()), Found()  # noqa: PTH100 - no link is followed
    is_folder = Path(named).is_dir()
    paths = _walk(named) if is_folder else _matching(named)
    root = f"{_fixed_part(named)}{os.sep}"
    for image in candidates(paths, root, store, left_out, found):
        if _is_stored(image, root):
            found.stored += 1
        else:
            found.images += 1
            yield image
    if not found.images:
        raise no_images("below it" if is_folder else "match it", left_out, found)


def _walk(folder: str) -> Iterator[str]:
    for parent, folders, files in os.walk(folder, onerror=_refuse):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        yield from (str(Path(parent, name)) for name in sorted(files) if not name.startswith("."))


def _refuse(error: OSError) -> NoReturn:
    raise UnreadableError(f"{error.strerror}: {error.filename}")


def _matching(pattern: str) -> Iterator[str]:
    found = glob.glob(pattern, recursive=True)  # noqa: PTH207 - Path.glob finds hidden ones, too
    return (path for path in sorted(found) if Path(path).is_file())


def _fixed_part(named: str) -> str:
    """The folder that a pattern begins with, or the folder itself."""
    path = Path(named)
    return str(next(folder for folder in (path, *path.parents) if folder.is_dir()))


def _is_stored(path: str, root: str) -> bool:
    """Whether it is a picture that another output stored."""
    if not layout.is_picture(path.removeprefix(root)):
        return False
    job = Path(path).parent
    return (job.parent.parent / layout.metadata(job.name)).is_file()
