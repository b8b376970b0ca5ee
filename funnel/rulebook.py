"""
Rules of a business, in a file that is read again when it changes:

    [[rule]]
    name = "launch"                        # how traces call it
    do = "pin"                             # pin, boost, bury, block, only
    items = ["sku-1", "sku-2"]             # on which items: these,
    where = 'brand = "Acme" and price < 10'    # or those that meet conditions (funnel.predicate)
    place = 1                              # pin: from 1; the items have this place and the next
    by = 1.5                               # boost, bury: factor on the value; bury without: last
    scenes = ["search"]                    # when: in these scenes,
    queries = ["wireless mouse"]           # for one of these queries, case and blanks aside,
    words = ["mouse"]                      # for queries with all these words,
    users = { segment = ["pro"] }          # for users with one of these values,
    since = 2026-11-27T00:00:00Z           # and from then
    until = 2026-11-28T00:00:00Z           # until before then

`block` keeps items off every page it is for; with one or more `only` rules nothing else comes.
"""

from __future__ import annotations

import logging
import threading
import tomllib
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from funnel.config import Config
from funnel.errors import BadConfig, BadQuery
from funnel.predicate import parse

log = logging.getLogger(__name__)


class Rule(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str = Field(min_length=1)
    do: Literal["pin", "boost", "bury", "block", "only"]
    items: tuple[str, ...] = ()
    where: str = ""
    place: int = Field(0, ge=0)
    by: float | None = Field(None, gt=0.0)
    scenes: tuple[str, ...] = ()
    queries: tuple[str, ...] = ()
    words: tuple[str, ...] = ()
    users: dict[str, tuple[str, ...]] = Field(default_factory=dict)
    since: datetime | None = None
    until: datetime | None = None

    @model_validator(mode="after")
    def _sound(self) -> Rule:
        said = f"rule '{self.name}'"
        if not self.items and not self.where.strip():
            raise ValueError(f"{said} is on no items: give items or where")
        if (self.do == "pin") != bool(self.place):
            raise ValueError(f"{said}: place (from 1) goes with do = 'pin', and with nothing else")
        if self.do == "pin" and not self.items:
            raise ValueError(f"{said}: pins name their items")
        if self.by is not None and self.do not in ("boost", "bury"):
            raise ValueError(f"{said}: by goes with boost and bury alone")
        if self.do == "boost" and (self.by is None or self.by <= 1.0):
            raise ValueError(f"{said}: boost needs by, above 1; below 1 it is bury")
        if self.do == "bury" and self.by is not None and self.by >= 1.0:
            raise ValueError(f"{said}: bury needs by below 1; above 1 it is boost")
        if self.since and self.until and _ms(self.since) >= _ms(self.until):
            raise ValueError(f"{said}: since {self.since} is not before until {self.until}")
        if self.where.strip():
            try:
                parse(self.where)
            except BadQuery as error:
                raise ValueError(f"{said}: where: {error}") from error
        return self

    def holds(self, scene: str, text: str, at: int) -> bool:
        """Whether the rule is for a request, but for its user."""
        if self.scenes and scene not in self.scenes:
            return False
        if self.since is not None and at < _ms(self.since):
            return False
        if self.until is not None and at >= _ms(self.until):
            return False
        words = text.casefold().split()
        if self.queries and " ".join(words) not in {plain(query) for query in self.queries}:
            return False
        return {plain(word) for word in self.words} <= set(words)


def plain(text: str) -> str:
    return " ".join(text.casefold().split())


def _ms(moment: datetime) -> int:
    """Without a zone it is UTC."""
    zoned = moment if moment.tzinfo is not None else moment.replace(tzinfo=UTC)
    return round(zoned.timestamp() * 1000)


class _File(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    rule: tuple[Rule, ...] = ()


def read_rules(path: str | Path) -> tuple[Rule, ...]:
    """The rules of a file, in its order. Raises `BadConfig` with everything that is wrong."""
    try:
        table: Any = tomllib.loads(Path(path).read_text(encoding="utf-8"))
        rules = _File.model_validate(table).rule
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise BadConfig(f"the rules {path} cannot be read: {error}") from error
    except ValidationError as error:
        wrong = "\n  ".join(
            f"{'.'.join(map(str, one['loc']))}: {one['msg']}" for one in error.errors()
        )
        raise BadConfig(f"the rules {path} are not sound:\n  {wrong}") from error
    names = [rule.name for rule in rules]
    for name in names:
        if names.count(name) > 1:
            raise BadConfig(f"the rules {path} have two of the name '{name}': rename one")
    return rules


class RuleBook:
    """The rules of a file as of the last `refresh`. Raises `BadConfig` where the first reading
    fails; later, what is wrong is logged and the rules stay as they were."""

    def __init__(self, path: str | Path):
        self.path = Path(path)
        self._lock = threading.Lock()
        self._stamp = self._stamped()
        self.rules = read_rules(self.path)
        self.version = 0

    def refresh(self) -> bool:
        """Reads the file again if it has changed; whether the rules did."""
        with self._lock:
            stamp = self._stamped()
            if stamp == self._stamp:
                return False
            self._stamp = stamp
            try:
                rules = read_rules(self.path)
            except BadConfig as error:
                log.error("the rules stay as they were: %s", error)
                return False
            self.rules = rules
            self.version += 1
            log.warning("%s: %d rules", self.path, len(rules))
            return True

    def _stamped(self) -> tuple[int, int, int]:
        try:
            about = self.path.stat()
        except OSError:
            return 0, 0, 0
        return about.st_mtime_ns, about.st_size, about.st_ino


def rulebooks(config: Config) -> dict[str, RuleBook]:
    """The rule files of all scenes, each once. Raises `BadConfig` for one that is not sound."""
    paths = [scene.rerank.rules for scene in config.scenes.values() if scene.rerank.rules]
    return {path: RuleBook(path) for path in dict.fromkeys(paths)}
