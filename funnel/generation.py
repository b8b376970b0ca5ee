"""
A generation: one immutable directory with everything the stages load, published as a unit.

    <root>/CURRENT              the id of the published generation
    <root>/<id>/manifest.json   format, config, cut, checksums, metrics, golden requests
    <root>/<id>/items/          the catalogue (funnel.catalogue)
    <root>/<id>/<part>/         what a stage loads, named after it: bm25/ vector/ item_cf/ rank/ ...

A build writes files into a draft directory of the same layout; `publish` checks, seals and renames.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from hashlib import blake2b
from pathlib import Path
from typing import Any

import numpy as np

from funnel.catalogue import Catalogue
from funnel.config import Config, parse
from funnel.errors import BadConfig, BadGeneration
from funnel.overlay import LiveCatalogue
from funnel.types import Array

FORMAT = 1
CURRENT = "CURRENT"
MANIFEST = "manifest.json"
CHECK_BYTES = 2 << 30  # more than this is checked by size alone when services start


@dataclass(frozen=True, slots=True)
class Manifest:
    """What a generation says of itself. Times are epoch ms."""

    id: str
    until: int  # it knows the events before this
    past: int  # the samples lie in [past, until)
    actions: tuple[str, ...]  # an action's place is its code
    config: Mapping[str, Any]
    data: str = ""  # digest of the data set
    spec: str = ""  # hash of the feature spec that the models were trained with
    code: str = ""
    created_at: int = 0
    live_position: str = "0"
    catalog_position: str = "0"  # the catalogue's log up to here is in its items
    files: Mapping[str, tuple[int, str]] = field(default_factory=dict)  # name -> bytes, blake2b
    metrics: Mapping[str, Any] = field(default_factory=dict)
    golden: tuple[Mapping[str, Any], ...] = ()
    format: int = FORMAT

    @staticmethod
    def read(path: Path) -> Manifest:
        try:
            table = json.loads((path / MANIFEST).read_text())
            if table.get("format") != FORMAT:
                raise BadGeneration(
                    f"{path} has format {table.get('format')}, this version reads {FORMAT}: "
                    "build the generation again"
                )
            files = {name: (int(size), str(sum_)) for name, (size, sum_) in table["files"].items()}
            lists = {"actions": tuple(table["actions"]), "golden": tuple(table["golden"])}
            return Manifest(**{**table, **lists, "files": files})
        except OSError as error:
            raise BadGeneration(f"no generation in {path}: {error.strerror}") from error
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise BadGeneration(f"{path / MANIFEST} is not a manifest: {error!r}") from error

    def write(self, path: Path) -> None:
        table = {name: getattr(self, name) for name in self.__slots__}
        write_text(path / MANIFEST, json.dumps(table, indent=1, sort_keys=True, default=list))


@dataclass(frozen=True, eq=False)
class Generation:
    """A generation, or the draft of one, opened for reading."""

    path: Path
    manifest: Manifest
    live: bool = False  # its items can change: `items` is a `LiveCatalogue`

    @staticmethod
    def open(path: str | Path, check: bool = True, live: bool = False) -> Generation:
        """Opens the directory. With `check` every file must be there, whole and unchanged."""
        generation = Generation(Path(path), Manifest.read(Path(path)), live)
        if check:
            generation.check()
        return generation

    @property
    def id(self) -> str:
        return self.manifest.id

    @cached_property
    def config(self) -> Config:
        """The config that it was built with."""
        try:
            return parse(self.manifest.config, str(self.path / MANIFEST))
        except BadConfig as error:
            raise BadGeneration(f"{error}; build the generation again") from error

    @cached_property
    def items(self) -> Catalogue:
        return LiveCatalogue(self.path / "items") if self.live else Catalogue(self.path / "items")

    @cached_property
    def users(self) -> Catalogue:
        return Catalogue(self.path / "users", key="user_id")

    def has(self, name: str) -> bool:
        return (self.path / name).exists()

    def file(self, name: str) -> Path:
        """The path of a file or directory of the generation, which must be there."""
        path = self.path / name
        if not path.exists():
            raise BadGeneration(f"{path} is missing: build the generation again")
        return path

    def array(self, name: str) -> Array:
        """A memory-mapped `.npy` file."""
        try:
            array: Array = np.load(self.file(f"{name}.npy"), mmap_mode="r")
        except ValueError as error:
            raise BadGeneration(f"{self.path / name}.npy is corrupt: {error}") from error
        return array

    def json(self, name: str) -> Any:
        try:
            return json.loads(self.file(name).read_text())
        except ValueError as error:
            raise BadGeneration(f"{self.path / name} is corrupt: {error}") from error

    def check(self, all_bytes: bool = False) -> None:
        """Raises `BadGeneration` naming the file that is missing, cut short or changed."""
        whole = all_bytes or sum(size for size, _ in self.manifest.files.values()) <= CHECK_BYTES
        for name, (size, digest) in self.manifest.files.items():
            path = self.file(name)
            if path.stat().st_size != size:
                raise BadGeneration(
                    f"{path} has {path.stat().st_size} bytes, its manifest says {size}: "
                    "run `funnel rollback`, or build again"
                )
            if whole and file_digest(path) != digest:
                raise BadGeneration(
                    f"{path} was changed after it was published (checksum differs): "
                    "run `funnel rollback`, or build again"
                )


def seal(draft: Path, manifest: Manifest) -> Manifest:
    """Writes the manifest of a finished draft, with the checksum of every file in it."""
    files = {
        str(path.relative_to(draft)): (path.stat().st_size, file_digest(path))
        for path in sorted(draft.rglob("*"))
        if path.is_file() and path.name != MANIFEST
    }
    table = {name: getattr(manifest, name) for name in manifest.__slots__}
    sealed = Manifest(**{**table, "files": files})
    sealed.write(draft)
    return sealed


def publish(draft: Path, root: Path, manifest: Manifest) -> Path:
    """Copies a draft (by hard links where possible) to `<root>/<id>` and points CURRENT at it.

    Each of the two is one atomic rename: a reader sees the old generation or the new one, whole.
    """
    target = root / manifest.id
    if target.exists():
        raise BadGeneration(f"generation {manifest.id} exists already in {root}")
    fresh = root / f".{manifest.id}"
    shutil.rmtree(fresh, ignore_errors=True)
    root.mkdir(parents=True, exist_ok=True)
    shutil.copytree(draft, fresh, copy_function=_link)
    seal(fresh, manifest)
    fresh.rename(target)
    point(root, manifest.id)
    return target


def point(root: Path, generation: str) -> None:
    """Makes `generation` the published one."""
    if not (root / generation / MANIFEST).exists():
        known = ", ".join(generations(root)) or "none"
        raise BadGeneration(f"no generation '{generation}' in {root}; there are: {known}")
    write_text(root / CURRENT, generation + "\n")


def current(root: Path) -> str:
    """The id of the published generation."""
    try:
        return (root / CURRENT).read_text().strip()
    except OSError as error:
        raise BadGeneration(
            f"no generation is published in {root}: run `funnel build DATA`"
        ) from error


def generations(root: Path) -> list[str]:
    """The ids of all the generations, oldest first."""
    found = [path.parent for path in root.glob(f"*/{MANIFEST}") if path.parent.name[0] != "."]
    return sorted((path.name for path in found), key=lambda id: (_created(root / id), id))


def _created(path: Path) -> int:
    try:
        return Manifest.read(path).created_at
    except BadGeneration:
        return 0  # listed all the same: the reader of the list decides what to do about it


def rollback(root: Path) -> str:
    """Points CURRENT at the generation published before the present one, and returns its id."""
    ids, now = generations(root), current(root)
    before = ids[: ids.index(now)] if now in ids else ids
    if not before:
        raise BadGeneration(f"there is no generation before {now} in {root}")
    point(root, before[-1])
    return before[-1]


def file_digest(path: Path) -> str:
    digest = blake2b(digest_size=16)
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def write_text(path: Path, text: str) -> None:
    """Replaces the file in one step: a reader sees the old text or the new one."""
    fresh = path.with_name(f".{path.name}.{os.getpid()}")
    fresh.write_text(text)
    fresh.replace(path)


def _link(source: str, target: str) -> None:
    try:
        os.link(source, target)
    except OSError:  # another file system
        shutil.copy2(source, target)
