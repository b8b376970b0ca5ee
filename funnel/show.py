"""Results for people: pages, reports and comparisons as tables."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from math import isnan
from typing import TYPE_CHECKING, Any

from rich.console import Console, Group, RenderableType
from rich.table import Table
from rich.text import Text

from funnel.config import STAGES
from funnel.evaluate import Figure, Report
from funnel.intake import Upserted
from funnel.page import Hit, Page
from funnel.parity import Parity
from funnel.replay import Comparison
from funnel.types import Step, Suggestion

if TYPE_CHECKING:
    from features.sponsors import Sponsor
    from features.store import DeadLetter
    from funnel.rulebook import Rule

EXCERPT = 160  # characters of a passage
SHOWN = ("brand", "category", "price")  # attributes that fit beside a title


def suggestions(found: Iterable[Suggestion]) -> RenderableType:
    rows = [(s.text, s.score, "instead of what was typed" if s.corrected else "") for s in found]
    return table("", ("text", "score", ""), rows)


def upserted(told: Upserted) -> RenderableType:
    """The counts, and the first of those that were refused."""
    counts = Text(f"{told.accepted:,} accepted, {told.refusals:,} refused")
    if not told.refusals:
        return counts
    rows = [(one.index + 1, Text(one.item_id), Text(one.reason)) for one in told.refused]
    return Group(counts, table("", ("number", "item", "why it was refused"), rows))


def refused(found: Sequence[DeadLetter], total: int) -> RenderableType:
    """Dead letters, the newest first."""
    if not found:
        return Text("no event was refused", style="dim")
    rows = [
        (
            datetime.fromtimestamp(one.at / 1e3, UTC).isoformat(" ", "seconds"),
            Text(one.reason),
            Text(" ".join(f"{name}={value}" for name, value in one.event.items())),
        )
        for one in found
    ]
    return table(f"{len(rows):,} of {total:,} refused events", ("when, UTC", "why", "event"), rows)


def rules(found: Sequence[Rule]) -> RenderableType:
    """What each rule does, on what, and when."""
    rows = []
    for rule in found:
        what = [", ".join(rule.items), rule.where]
        when = [
            " or ".join(rule.scenes),
            " or ".join(f"'{query}'" for query in rule.queries),
            f"with {' '.join(rule.words)}" if rule.words else "",
            "; ".join(f"{name} {' or '.join(values)}" for name, values in rule.users.items()),
            f"from {rule.since}" if rule.since else "",
            f"until {rule.until}" if rule.until else "",
        ]
        how = f" at {rule.place}" if rule.place else f" × {rule.by:g}" if rule.by else ""
        rows.append(
            (
                Text(rule.name),
                rule.do + how,
                Text("; ".join(part for part in what if part)),
                Text("; ".join(part for part in when if part) or "always"),
            )
        )
    return table(f"{len(rows)} rules", ("rule", "does", "on", "when"), rows)


def sponsors(found: Sequence[Sponsor], now: int) -> RenderableType:
    """Budgets, what is gone of them, and the share of requests they last for now."""
    if not found:
        return Text("no sponsor has a budget: none is limited", style="dim")
    rows = [
        (
            Text(one.sponsor_id),
            one.budget,
            round(one.spent, 4),
            _day(one.since),
            _day(one.until) if one.until else "it is gone",
            f"{one.rate(now):.0%}",
        )
        for one in found
    ]
    columns = ("sponsor", "budget", "spent", "from, UTC", "until", "takes part in")
    return table("", columns, rows)


def _day(at: int) -> str:
    return datetime.fromtimestamp(at / 1e3, UTC).isoformat(" ", "minutes")


def table(title: str, columns: Iterable[str], rows: Iterable[Iterable[Any]]) -> Table:
    """Numbers to the right, the rest to the left."""
    cells = [list(row) for row in rows]
    made = Table(title=title or None, title_justify="left", header_style="bold", expand=False)
    for place, column in enumerate(columns):
        numeric = all(isinstance(row[place], int | float) for row in cells) and bool(cells)
        made.add_column(column, justify="right" if numeric else "left", overflow="fold")
    for row in cells:
        made.add_row(*(cell if isinstance(cell, Text) else _cell(cell) for cell in row))
    return made


def _cell(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def page(page: Page, trace: bool = False) -> RenderableType:
    """The hits; with `trace` the funnel they came through as well."""
    rows = [
        [
            hit.position,
            hit.item_id,
            _title(hit),
            " · ".join(hit.attributes[name] for name in SHOWN if name in hit.attributes),
            round(hit.score, 4),
            _evidence(hit.evidence) if trace else hit.why,
        ]
        for hit in page.hits
    ]
    columns = ["#", "item", "title", "", "score", "evidence" if trace else "why"]
    head = f"{len(page.hits)} of {page.total} candidates in {page.ms:.1f} ms"
    parts: list[RenderableType] = [
        table(f"{head} · request {page.request_id} · generation {page.generation}", columns, rows)
    ]
    if not page.hits:
        parts.append(Text("nothing matches", style="dim"))
    for facet in page.facets:
        counts = [f"{value} ({count})" for value, count in facet.values[:8]]
        counts += [f"{b.low:g}..{b.high:g} ({b.count})" for b in facet.buckets]
        parts.append(Text(f"{facet.attribute}: {', '.join(counts) or 'nothing'}", style="dim"))
    if trace:
        parts.append(steps(page.steps))
        parts += [Text(note, style="dim") for step in page.steps for note in step.notes]
    if page.degraded:
        parts.append(Text("degraded: " + "; ".join(page.degraded), style="yellow"))
    if page.cursor:
        parts.append(Text(f"next page: --cursor {page.cursor}", style="dim"))
    return Group(*parts)


def _title(hit: Hit) -> Text:
    """The title, and below it the passage that was found."""
    title = _marked(hit.highlight) if hit.highlight else Text(hit.title)
    if (found := hit.passage) is not None:
        known = found.start is not None and found.end is not None
        where = f" {found.start}..{found.end}" if known else ""
        text = " ".join(found.text.split())
        text = text if len(text) <= EXCERPT else text[: EXCERPT - 1] + "…"
        title.append(f"\n{found.parent_id}{where}: {text}", style="dim")
    return title


def _evidence(evidence: Mapping[str, float]) -> str:
    """What the stages and channels gave the item, without the features behind it."""
    named = {name: value for name, value in evidence.items() if not name.startswith("live.")}
    return " · ".join(f"{name} {value:.3g}" for name, value in sorted(named.items()))


def _marked(text: str) -> Text:
    """`<b>…</b>` as bold, the escapes of a highlight undone."""
    import html
    import re

    made = Text()
    for part in re.split(r"(<b>.*?</b>)", text):
        bold = part.startswith("<b>")
        made.append(html.unescape(part[3:-4] if bold else part), style="bold" if bold else "")
    return made


def steps(found: Iterable[Step]) -> Table:
    """The funnel of one request: what each channel and stage saw, kept and dropped."""
    rows = []
    for step in found:
        inside = "." in step.name
        dropped = "" if inside else max(step.seen - step.kept, 0)
        name = f"  {step.name.split('.', 1)[1]}" if inside else step.name
        rows.append(
            [name, "" if inside else step.seen, step.kept, dropped, f"{step.ms:.2f}", step.fault]
        )
    return table("funnel", ["stage", "saw", "kept", "dropped", "ms", "fault"], rows)


def evaluation(report: Report) -> RenderableType:
    """Every order of one scene with its intervals, and what survives each stage."""
    metrics = list(next(iter(report.orders.values())))
    first = [name for name in ("page", "rank", "prerank", "recall") if name in report.orders]
    names = [*first, *(name for name in report.orders if name not in first)]
    rows = [[name, *(_figure(report.orders[name][m]) for m in metrics)] for name in names]
    survival = [[f"{report.survival[name]:.3f}" for name in STAGES]]
    of = f" of {report.users} users" if report.users < report.requests else ""
    return Group(
        table(
            f"{report.scene}: {report.requests} requests{of} ({report.kind}), 95 % intervals",
            ["order", *metrics],
            rows,
        ),
        table("share of the relevant items left after", STAGES, survival),
        Text(_faithful(report.fidelity), style="dim"),
        Text(f"coverage: {report.coverage:.1%} of the catalogue in the first ten", style="dim"),
    )


def _faithful(fidelity: float | None) -> str:
    if fidelity is None:
        return "prerank's fidelity: rank has no model here"
    return f"prerank lets through {fidelity:.1%} of what rank would put first among all recalled"


def _figure(figure: Figure) -> str:
    if isnan(figure.mean):  # nothing to measure it on
        return "-"
    return f"{figure.mean:.4f} [{figure.low:.4f}, {figure.high:.4f}]"


def comparison(found: Comparison) -> RenderableType:
    rows = [
        [name, d.a, d.b, f"{d.difference:+.4f} [{d.low:+.4f}, {d.high:+.4f}]"]
        for name, d in found.metrics.items()
    ]
    rows += [
        ["latency p50 ms", found.ms_a[0], found.ms_b[0], ""],
        ["latency p99 ms", found.ms_a[1], found.ms_b[1], ""],
        ["logged pages reproduced", f"{found.reproduced_a:.1%}", f"{found.reproduced_b:.1%}", ""],
    ]
    note = (
        f"{found.requests} requests, {found.answered} with a positive action after them, "
        f"{found.degraded} degraded when logged · overlap {found.overlap:.1%}, "
        f"same page {found.same:.1%}"
    )
    return Group(table("replay", ["", "A", "B", "B - A, 95 % interval"], rows), Text(note))


def parity(found: Parity) -> RenderableType:
    """What differs first, then what does not."""
    columns = sorted(found.columns.items(), key=lambda entry: (-entry[1].differ, entry[0]))
    rows = [
        (name, c.compared, c.differ, c.worst, c.logged, c.recomputed, c.request if c.differ else "")
        for name, c in columns
    ]
    heads = ("column", "values", "differ", "worst", "logged", "recomputed", "request")
    verdict = "logged and recomputed agree" if found.holds else "logged and recomputed differ"
    degraded = f", {found.degraded} degraded left out" if found.degraded else ""
    return table(f"{verdict} · {found.requests} requests{degraded}", heads, rows)


def settings(rows: Iterable[tuple[str, Any, str]]) -> Table:
    return table("", ["setting", "value", "meaning"], [[k, _toml(v), m] for k, v, m in rows])


def _toml(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, str):
        return f'"{value}"'
    if isinstance(value, list | tuple):
        return "[" + ", ".join(_toml(part) for part in value) + "]"
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{k} = {_toml(v)}" for k, v in value.items()) + "}"
    return str(value)


# A pipe or a log file has no width of its own.
CONSOLE = Console(highlight=False, width=None if sys.stdout.isatty() else 130)
