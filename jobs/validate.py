"""
Checks every row of a data set against its contract (`funnel.dataset`).

Rows that break it land in `rejected/<table>/` as they came, with the reason; where any did, or a
column had to be converted, the others are copied to `accepted/<table>/`. What is read from then on
is the accepted rows. Items and users are judged first: an event about a rejected item is rejected.
"""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import pyarrow as pa
import typer
from pyspark.sql import Column, DataFrame, SparkSession, Window
from pyspark.sql import functions as F
from rich.console import Console

from funnel.config import ACTIONS
from funnel.config import load as load_config
from funnel.dataset import (
    ACCEPTED,
    REJECTED,
    TABLES,
    VALIDATION,
    Table,
    digest,
    row_count,
    schema_of,
    shown,
    structure,
)
from funnel.errors import BadData, FunnelError
from funnel.generation import write_text
from jobs.report import EXAMPLES, REASONS, Counts, Finding, Report, errors, plain_value
from jobs.rules import REFERENCES, Limits, recast, row_rules, soft_rules, values
from jobs.tables import FILE, ROW, col, raw, replace, write

BROKEN = "__broken"  # names of the rules that a row breaks, "" where none
KEY, REPEAT = "__key", "__repeat"
NOT_BEFORE = 631_152_000_000  # 1990-01-01: earlier timestamps are seconds, not milliseconds
NOT_AFTER = 4_102_444_800_000  # 2100-01-01: later ones are microseconds


def validate(
    spark: SparkSession,
    data: Path,
    progress: Callable[[str], None] = lambda _: None,
    actions: Sequence[str] = ACTIONS,
    now: int | None = None,
    not_before: int = NOT_BEFORE,
) -> Report:
    """Judges every row, writes `rejected/`, `accepted/` and `validation.json`, and reports.

    `actions` are the known ones (`Config.all_actions`); `now` and `not_before` are epoch ms.
    Raises `BadData` where tables or required columns are missing, or a column has a type that
    cannot be converted: then no single row is worth looking at.
    """
    limits = Limits(tuple(actions), not_before, NOT_AFTER if now is None else now)
    schemas = structure(data)
    fresh = data / ".validating"
    try:
        shutil.rmtree(fresh, ignore_errors=True)
        (data / VALIDATION).unlink(missing_ok=True)
        (fresh / ACCEPTED).mkdir(parents=True)
        (fresh / REJECTED).mkdir()
    except OSError as error:
        raise BadData(f"cannot write into the data set {data}: {error}") from error
    tables: list[Counts] = []
    findings: list[Finding] = []
    paths: dict[str, Path] = {}  # of the accepted rows
    for name, stored in schemas.items():
        progress(f"validating {name}")
        paths[name], counts, found = _judge(spark, data, fresh, TABLES[name], stored, limits, paths)
        tables.append(counts)
        findings += found
    report = Report(
        str(data),
        limits.actions,
        limits.not_before,
        limits.not_after,
        tuple(tables),
        tuple(findings),
    )
    for part in (ACCEPTED, REJECTED):
        if not any((fresh / part).iterdir()):
            (fresh / part).rmdir()
        replace(fresh / part, data / part)
    fresh.rmdir()
    state = {
        name: {
            "digest": digest(data, name),
            "path": name if paths[name].parent == data else f"{ACCEPTED}/{name}",
        }
        for name in schemas
    }
    text = json.dumps({"tables": state, "report": asdict(report)}, indent=1)
    write_text(data / VALIDATION, text + "\n")
    return report


def _judge(
    spark: SparkSession,
    data: Path,
    fresh: Path,
    table: Table,
    stored: pa.Schema,
    limits: Limits,
    judged: Mapping[str, Path],
) -> tuple[Path, Counts, list[Finding]]:
    """Splits one table; `judged` says where the accepted rows of the tables before it are."""
    path = data / table.name
    rows, rejects = row_count(path), fresh / REJECTED / table.name
    known = {
        column: raw(spark, judged[other], schema_of(judged[other])).select(column)
        for column, (_, other) in REFERENCES.get(table.name, {}).items()
        if other in judged
    }
    checked = with_broken(raw(spark, path, stored), table, stored, limits, known)
    write(rejected(checked, table, stored), rejects, [])
    lost = row_count(rejects)
    findings = list(errors(table.name, rejects, _shows(table, stored, limits)) if lost else ())
    if not lost:
        shutil.rmtree(rejects)
    changed = recast(table, stored)
    if lost or changed:
        path = fresh / ACCEPTED / table.name
        order = [name for name in table.order if name in stored.names]
        write(kept(checked, table, stored), path, [*order, FILE, ROW])
        stored = schema_of(path)
    for name, (old, new) in changed.items():
        rule = f"{name} is {shown(old)}: read as {shown(new)}"
        findings.append(Finding(table.name, rule, "warning", rows))
    frame = raw(spark, path, stored)
    for soft in soft_rules(table, stored):
        findings += _warning(frame.where(soft.broken), table, soft.name, [*table.key, soft.column])
    if table.name == "events":
        alone = clicks_never_shown(frame)
        shows = ["user_id", "item_id", "timestamp", "request_id", "session_id", "scene"]
        findings += _warning(alone, table, "click without impression", shows)
    if rows == lost:
        findings.append(Finding(table.name, "no row is left", "warning", rows))
    return path, Counts(table.name, rows, rows - lost, lost), findings


def _shows(table: Table, stored: pa.Schema, limits: Limits) -> dict[str, tuple[str, ...]]:
    """Rule -> the columns of an example: the table's key and what the rule is about."""
    base = table.key if set(table.key) <= set(stored.names) else table.required
    rules = {rule.name: rule.column for rule in row_rules(table, stored, limits)}
    rules |= {f"unknown {noun}": c for c, (noun, _) in REFERENCES.get(table.name, {}).items()}
    shows = {rule: tuple(dict.fromkeys([*base, column])) for rule, column in rules.items()}
    return {**shows, _repeat(table): base}


def _repeat(table: Table) -> str:
    return f"duplicate {', '.join(table.key)}"


def with_broken(
    frame: DataFrame,
    table: Table,
    stored: pa.Schema,
    limits: Limits,
    known: Mapping[str, DataFrame],
) -> DataFrame:
    """The rows with BROKEN: the names of the errors in each, by itself and beside other rows.

    `known` holds, for a column that names rows of another table, a frame with the ids there are.
    """
    typed = values(table, stored)
    key = [typed[name] for name in table.key if name in typed]
    repeated = _repeated(frame, key) if len(key) == len(table.key) else None
    checks = {rule.name: rule.broken for rule in row_rules(table, stored, limits)}
    for place, (column, ids) in enumerate(known.items()):
        there = f"__known{place}"
        frame = frame.join(ids.toDF(there), typed[column] == F.col(there), "left")
        noun, _ = REFERENCES[table.name][column]
        checks[f"unknown {noun}"] = (F.trim(typed[column]) != "") & F.col(there).isNull()
    names = [F.when(broken, F.lit(name)) for name, broken in checks.items()]
    frame = frame.withColumn(BROKEN, F.concat_ws(REASONS, *names))
    if repeated is None:
        return frame
    again = _after_first(_keyed(frame, key, BROKEN), repeated)
    names = [F.nullif(F.col(BROKEN), F.lit("")), F.when(F.col(REPEAT), F.lit(_repeat(table)))]
    return frame.join(again, [FILE, ROW], "left").withColumn(BROKEN, F.concat_ws(REASONS, *names))


def _keyed(frame: DataFrame, key: Sequence[Column], *more: str) -> DataFrame:
    """The rows with a whole key (blank is none); its parts are named after KEY."""
    names = [f"{KEY}{place}" for place in range(len(key))]
    keys = [value.alias(name) for name, value in zip(names, key, strict=True)]
    keyed = frame.select(*keys, *more, FILE, ROW)
    for name in names:
        keyed = keyed.where(F.trim(name) != "")
    return keyed


def _repeated(frame: DataFrame, key: Sequence[Column]) -> DataFrame | None:
    """The keys that several rows have; None where there are none, the usual and cheap case."""
    keyed = _keyed(frame, key)
    names = [name for name in keyed.columns if name.startswith(KEY)]
    several = keyed.groupBy(*names).count().where("count > 1").drop("count")
    return None if several.isEmpty() else several


def _after_first(keyed: DataFrame, repeated: DataFrame) -> DataFrame:
    """FILE and ROW of all rows of a key but the first in order of arrival; sound rows go first."""
    names = repeated.columns
    first = Window.partitionBy(*names).orderBy(F.col(BROKEN) != "", FILE, ROW)
    rows = keyed.join(repeated, names, "left_semi")
    rows = rows.withColumn(REPEAT, F.row_number().over(first) > 1).where(REPEAT)
    return rows.select(FILE, ROW, REPEAT)


def rejected(checked: DataFrame, table: Table, stored: pa.Schema) -> DataFrame:
    """The broken rows as they came, with the rules they break and where they lay."""
    own = ("reason", "file", "row")
    return checked.where(F.col(BROKEN) != "").select(
        *(col(n).alias(f"original_{n}" if n in own else n) for n in stored.names),
        F.col(BROKEN).alias("reason"),
        F.substring_index(FILE, f"/{table.name}/", -1).alias("file"),
        F.col(ROW).alias("row"),
    )


def kept(checked: DataFrame, table: Table, stored: pa.Schema) -> DataFrame:
    """The sound rows, in canonical types."""
    typed = values(table, stored)
    columns = [typed.get(name, col(name)).alias(name) for name in stored.names]
    return checked.where(F.col(BROKEN) == "").select(*columns, FILE, ROW)


def clicks_never_shown(events: DataFrame) -> DataFrame:
    """Clicks without an impression, in the scenes that log impressions at all.

    A click's impression is one of the same user, item and scene; of the same request where the
    click names one, else of the same session where it names one.
    """
    for name in ("scene", "request_id", "session_id"):
        if name not in events.columns:
            events = events.withColumn(name, F.lit(None).cast("string"))
    events = events.withColumn("scene", F.coalesce("scene", F.lit("")))
    clicks = events.where("action = 'click'").alias("click")
    shown = events.where("action = 'impression'")
    scenes = shown.select("scene").distinct()
    same = ["user_id", "item_id", "scene"]
    # Few impressions are of a clicked item: the rest need not be sorted for the join.
    shown = shown.join(clicks.select(*same).distinct(), same, "left_semi")
    shown = shown.select(*same, "request_id", "session_id").distinct().alias("shown")
    matched = F.expr(
        "click.user_id = shown.user_id and click.item_id = shown.item_id"
        " and click.scene = shown.scene and case"
        " when click.request_id is not null then click.request_id <=> shown.request_id"
        " when click.session_id is not null then click.session_id <=> shown.session_id"
        " else true end"
    )
    return (
        clicks.join(F.broadcast(scenes), "scene", "left_semi")
        .alias("click")
        .join(shown, matched, "left_anti")
    )


def _warning(rows: DataFrame, table: Table, rule: str, shows: Sequence[str]) -> list[Finding]:
    """A finding where there are such rows."""
    count = rows.count()
    if not count:
        return []
    names = [name for name in dict.fromkeys(shows) if name in rows.columns]
    first = rows.orderBy(FILE, ROW).limit(EXAMPLES).select(*names).collect()
    examples = tuple({k: plain_value(v) for k, v in row.asDict().items()} for row in first)
    return [Finding(table.name, rule, "warning", count, examples)]


def main(
    data: Annotated[Path, typer.Argument(help="Data set: a directory of Parquet tables.")],
    config: Annotated[Path | None, typer.Option(help="TOML file with further actions.")] = None,
    now: Annotated[int | None, typer.Option(help="Later timestamps are errors (epoch ms).")] = None,
    strict: Annotated[bool, typer.Option(help="Exit with 1 where a row was rejected.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object, no tables.")] = False,
) -> None:
    """Check every row of a data set; broken ones land in rejected/ with the reason."""
    from jobs.spark import session

    settings = load_config(config)
    spark = session(settings.build.master, settings.build.driver_memory)
    say = Console(stderr=True)
    report = validate(spark, data, say.print, settings.all_actions, now)
    if as_json:
        print(json.dumps(asdict(report)))
    else:
        Console().print(report)
    if strict and report.rejected:
        raise typer.Exit(1)


if __name__ == "__main__":
    try:
        typer.run(main)
    except FunnelError as error:
        sys.exit(f"error: {error}")
