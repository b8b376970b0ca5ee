"""
Directories that a job writes anew.

Published generations share files with the drafts by hard links: a job never writes into a file that
is there, it removes the directory and makes another.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path


def removed(path: Path) -> Path:
    """The path, with nothing there any more."""
    if path.is_file():
        path.unlink()
    shutil.rmtree(path, ignore_errors=True)
    return path


def fresh(path: Path) -> Path:
    """The path as an empty directory."""
    removed(path).mkdir(parents=True)
    return path


def mirrored(source: Path, target: Path) -> Path:
    """`target` as a second `source`, sharing its files where the file system can."""
    shutil.copytree(source, removed(target), copy_function=_link)
    return target


def _link(source: str, target: str) -> None:
    try:
        os.link(source, target)
    except OSError:  # another file system, or one without links
        shutil.copy2(source, target)
