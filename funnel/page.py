"""What a caller asks of the gateway and what it gets: plain values, no protobuf."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from funnel.types import Predicate, Step


@dataclass(frozen=True, slots=True)
class Ask:
    """One request for a page. Empty and zero mean: the scene's or the gateway's default."""

    scene: str
    user_id: str = ""
    text: str = ""
    item_id: str = ""
    filters: tuple[Predicate, ...] = ()  # all must hold
    where: str = ""  # one more, as text (funnel.predicate)
    facets: tuple[str, ...] = ()
    sort: str = ""  # a numeric attribute, `-` before it: highest first
    blocked: tuple[str, ...] = ()  # items that must not come
    limit: int = 0
    cursor: str = ""
    trace: int = 0
    request_id: str = ""
    at: int = 0


@dataclass(frozen=True, slots=True)
class Passage:
    """A part of a document. Offsets count characters of the document's text; None: not known."""

    passage_id: str  # the item's id
    parent_id: str
    start: int | None
    end: int | None
    text: str
    before: tuple[Passage, ...] = ()  # its neighbours, in reading order
    after: tuple[Passage, ...] = ()


@dataclass(frozen=True, slots=True)
class Hit:
    item_id: str
    score: float
    title: str
    attributes: Mapping[str, str] = field(default_factory=dict)
    highlight: str = ""
    why: str = ""
    position: int = 0  # from 1
    sponsored: bool = False
    evidence: Mapping[str, float] = field(default_factory=dict)
    passage: Passage | None = None  # where the item is a part of a document
    price: float = 0.0  # sponsored: what a click on it costs the sponsor
    propensity: float = 0.0  # the chance of standing here, given the hits above; 0: unknown


@dataclass(frozen=True, slots=True)
class Bucket:
    """Items whose number lies in [low, high]."""

    low: float
    high: float
    count: int


@dataclass(frozen=True, slots=True)
class Facet:
    attribute: str
    values: tuple[tuple[str, int], ...] = ()  # most frequent first
    low: float | None = None  # of a number; None where no item has one
    high: float | None = None
    buckets: tuple[Bucket, ...] = ()  # rising


@dataclass(frozen=True, slots=True)
class Page:
    hits: tuple[Hit, ...]
    request_id: str
    generation: str
    total: int = 0  # candidates that recall found
    facets: tuple[Facet, ...] = ()
    variants: Mapping[str, str] = field(default_factory=dict)
    cursor: str = ""  # of the next page; empty on the last
    steps: tuple[Step, ...] = ()
    degraded: tuple[str, ...] = ()
    ms: float = 0.0
