"""
Conditions as text: `brand in ("Acme", "Bolt") and price 10..50 and not category = "Shoes/Running"`.

    expression  all of them: term `or` term …
    term        factor `and` factor …
    factor      `not` factor · `(` expression `)` · condition
    condition   name `=` value · name `!=` value · name [`not`] `in` `(` value, … `)`
                name < number (also <=, >, >=) · name low..high (either may be missing)
                name alone: it is true

A value is quoted, a number, a date (2024-05-01, UTC, as epoch ms), true, false, or a bare word. A
name that is not a word stands in backticks. A category finds those below it too. `and`, `or`,
`not` and `in` may be written in either case.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import NoReturn

import numpy as np

from funnel.errors import BadQuery
from funnel.types import All, AnyOf, Filter, Not, Predicate

MAX_TEXT = 10_000  # characters of a text
MAX_DEPTH = 16  # groups within groups
MAX_CONDITIONS = 128
MAX_VALUES = 10_000  # of all conditions together

TOKENS = re.compile(
    r"""\s*(?:
        (?P<quoted>"(?:[^"\\]|\\.)*"|'(?:[^'\\]|\\.)*')
      | (?P<named>`[^`]+`)
      | (?P<date>\d{4}-\d\d-\d\d(?:T\d\d:\d\d(?::\d\d(?:\.\d+)?)?Z?)?(?![\w-]))
      | (?P<number>[+-]?\d+(?:\.\d+)?(?:[eE][+-]?\d+)?(?![\w/:-]|\.\w*[^\W\d]))
      | (?P<sign>\.\.|!=|<=|>=|[=<>(),])
      | (?P<word>\w(?:[\w/:-]|\.(?!\.))*)
      | (?P<end>\Z)
    )""",
    re.VERBOSE | re.DOTALL,
)
KEYWORDS = ("and", "or", "not", "in")
SIGNS = "= != < <= > >= in low..high"


@dataclass(frozen=True, slots=True)
class Token:
    kind: str  # a group of TOKENS, or `key`
    text: str
    at: int  # characters before it


def parse(text: str, known: Collection[str] | None = None) -> Predicate:
    """The conditions that `text` spells. Raises `BadQuery` naming the position (from 1), what was
    found there and what could have been; also for attributes that are not `known` (None: any are),
    and for what is too long or too deep."""
    if len(text) > MAX_TEXT:
        raise BadQuery(f"the conditions have {len(text)} characters; at most {MAX_TEXT} are read")
    parser = _Parser(text, list(tokens(text)), known)
    made = parser.expression(0)
    if parser.now.kind != "end":
        parser.wrong("'and', 'or' or the end")
    check((made,))
    return made


def check(predicates: Iterable[Predicate]) -> None:
    """Raises `BadQuery` for more conditions, values or depth than a request may have."""
    conditions = values = 0
    left = [(predicate, 1) for predicate in predicates]
    while left:
        predicate, depth = left.pop()
        if depth > MAX_DEPTH:
            raise BadQuery(f"the conditions are nested more than {MAX_DEPTH} deep; flatten them")
        match predicate:
            case Filter():
                conditions += 1
                values += len(predicate.any_of)
            case Not(part):
                left.append((part, depth + 1))
            case All(parts) | AnyOf(parts):
                conditions += not parts
                left += [(part, depth + 1) for part in parts]
        if conditions > MAX_CONDITIONS or values > MAX_VALUES:
            raise BadQuery(
                f"more than {MAX_CONDITIONS} conditions or {MAX_VALUES} values in one request; "
                "put the values of one attribute into one condition, or ask for less"
            )


def tokens(text: str) -> Iterable[Token]:
    place = 0
    while True:
        match = TOKENS.match(text, place)
        if match is None:
            at = place + len(text[place:]) - len(text[place:].lstrip())
            fault = "a quote that never ends" if text[at] in "\"'`" else f"'{text[at]}'"
            raise BadQuery(f'position {at + 1} of the conditions: {fault}; quote values like "a b"')
        kind = str(match.lastgroup)
        found, at = match[kind], match.start(kind)
        if kind == "word" and found.lower() in KEYWORDS:
            kind, found = "key", found.lower()
        yield Token(kind, found, at)
        if kind == "end":
            return
        place = match.end()


@dataclass(slots=True)
class _Parser:
    text: str
    tokens: list[Token]
    known: Collection[str] | None
    place: int = 0

    @property
    def now(self) -> Token:
        return self.tokens[self.place]

    def wrong(self, wanted: str, token: Token | None = None) -> NoReturn:
        token = token or self.now
        found = "the end" if token.kind == "end" else f"'{token.text}'"
        raise BadQuery(f"position {token.at + 1} of the conditions: found {found}, not {wanted}")

    def take(self, *texts: str) -> bool:
        """Goes on if the next token is one of these signs or keywords."""
        here = self.now.kind in ("sign", "key") and self.now.text in texts
        self.place += here
        return here

    def need(self, sign: str) -> None:
        if not self.take(sign):
            self.wrong(f"'{sign}'")

    def expression(self, depth: int) -> Predicate:
        return self._joined(
            "or", AnyOf, lambda: self._joined("and", All, lambda: self.factor(depth))
        )

    def _joined(
        self,
        key: str,
        kind: Callable[[tuple[Predicate, ...]], Predicate],
        part: Callable[[], Predicate],
    ) -> Predicate:
        parts = [part()]
        while self.take(key):
            parts.append(part())
        return parts[0] if len(parts) == 1 else kind(tuple(parts))

    def factor(self, depth: int) -> Predicate:
        if depth > 4 * MAX_DEPTH:  # parentheses that mean nothing nest too
            raise BadQuery(
                f"position {self.now.at + 1} of the conditions: nested more than {MAX_DEPTH} deep"
            )
        if self.take("not"):
            return negated(self.factor(depth + 1))
        if self.take("("):
            inner = self.expression(depth + 1)
            self.need(")")
            return inner
        return self.condition()

    def condition(self) -> Filter:
        name = self.name()
        if self.take("=", "!="):
            exclude = self.tokens[self.place - 1].text == "!="
            found = self.range(name) if self.ranged() else Filter(name, (self.value(),))
            return replace(found, exclude=exclude)
        if self.now.kind == "key" and self.now.text == "not" and self._then("in"):
            self.place += 1
            return replace(self.listed(name), exclude=True)
        if self.now.kind == "key" and self.now.text == "in":
            return self.listed(name)
        if self.take("<", "<=", ">", ">="):
            return self.bounded(name, self.tokens[self.place - 1].text)
        if self.ranged():
            return self.range(name)
        if self.now.kind == "end" or self.now.text in ("and", "or", ")"):
            return Filter(name, ("true",))
        return self.wrong(f"one of {SIGNS}")

    def name(self) -> str:
        token = self.now
        if token.kind not in ("word", "named"):
            self.wrong("the name of an attribute, 'not' or '('")
        name = token.text.strip("`")
        if self.known is not None and name not in self.known:
            known = ", ".join(self.known) or "nothing"
            raise BadQuery(
                f"position {token.at + 1} of the conditions: cannot filter on '{name}'; "
                f"filterable here: {known}"
            )
        self.place += 1
        return name

    def _then(self, text: str) -> bool:
        following = self.tokens[min(self.place + 1, len(self.tokens) - 1)]
        return following.kind == "key" and following.text == text

    def ranged(self) -> bool:
        """Whether `..` comes, or comes after a number."""
        following = self.tokens[min(self.place + 1, len(self.tokens) - 1)]
        first = self.now if self.now.kind == "sign" else following
        return first.text == ".." and (first is self.now or self.now.kind in ("number", "date"))

    def range(self, name: str) -> Filter:
        start = self.now
        low = None if self.take("..") else self.number()
        if low is not None:
            self.need("..")
        high = self.number() if self.now.kind in ("number", "date") else None
        if low is None and high is None:
            self.wrong("a bound on one side of '..'", start)
        if low is not None and high is not None and low > high:
            raise BadQuery(
                f"position {start.at + 1} of the conditions: {low:g}..{high:g} is empty; "
                "swap the bounds"
            )
        return Filter(name, low=low, high=high)

    def listed(self, name: str) -> Filter:
        self.need("in")
        if self.ranged():
            return self.range(name)
        self.need("(")
        values = [self.value()]
        while self.take(","):
            values.append(self.value())
        self.need(")")
        return Filter(name, tuple(values))

    def bounded(self, name: str, sign: str) -> Filter:
        """A strict bound is the inclusive one a step further: the next number there is."""
        token, bound = self.now, self.number()
        if len(sign) == 1:
            bound = float(np.nextafter(bound, -math.inf if sign == "<" else math.inf))
        if not math.isfinite(bound):
            self.wrong("a number with others beyond it", token)
        return Filter(name, high=bound) if sign[0] == "<" else Filter(name, low=bound)

    def number(self) -> float:
        token = self.now
        if token.kind not in ("number", "date"):
            self.wrong("a number or a date like 2024-05-01")
        self.place += 1
        found = float(self._date(token)) if token.kind == "date" else float(token.text)
        if not math.isfinite(found):
            self.wrong("a number that is not too large", token)
        return found

    def value(self) -> str:
        token = self.now
        if token.kind not in ("quoted", "number", "word", "date"):
            self.wrong("a value")
        self.place += 1
        if token.kind == "quoted":
            return re.sub(r"\\(.)", r"\1", token.text[1:-1], flags=re.DOTALL)
        return token.text

    def _date(self, token: Token) -> int:
        try:
            moment = datetime.fromisoformat(token.text.removesuffix("Z")).replace(tzinfo=UTC)
        except ValueError:
            self.wrong("a date that exists, like 2024-05-01", token)
        return round(moment.timestamp() * 1000)


def negated(predicate: Predicate) -> Predicate:
    match predicate:
        case Filter():
            return replace(predicate, exclude=not predicate.exclude)
        case Not(part):
            return part
    return Not(predicate)


def plain(predicate: Predicate) -> list[object]:
    """As JSON: [attribute, values, low, high, exclude], ["all", …], ["any", …] or ["not", part]."""
    match predicate:
        case Filter():
            bounds = [predicate.low, predicate.high, predicate.exclude]
            return [predicate.attribute, list(predicate.any_of), *bounds]
        case Not(part):
            return ["not", [plain(part)]]
        case All(parts):
            return ["all", [plain(part) for part in parts]]
        case AnyOf(parts):
            return ["any", [plain(part) for part in parts]]


def read_plain(value: list[object]) -> Predicate:
    """What `plain` wrote."""
    match value:
        case [str(name), list(any_of), low, high, exclude]:
            return Filter(name, tuple(any_of), low, high, exclude)  # type: ignore[arg-type]
        case ["not", [list(part)]]:
            return Not(read_plain(part))
        case ["all", list(parts)]:
            return All(tuple(read_plain(part) for part in parts))
        case ["any", list(parts)]:
            return AnyOf(tuple(read_plain(part) for part in parts))
    raise BadQuery(f"not a condition: {value!r}")
