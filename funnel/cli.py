"""The command line: what people type. Each command is a few lines around what does the work."""

from __future__ import annotations

import dataclasses
import json
import logging
import math
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from funnel.config import load, settings
from funnel.errors import BadQuery, FunnelError, ServiceError, Unavailable
from funnel.types import Filter

if TYPE_CHECKING:
    from funnel.remote import RemoteCatalog

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Search and recommendation through four stages: recall, prerank, rank, rerank.",
)
errors = Console(stderr=True, highlight=False)

ConfigFile = Annotated[
    Path | None, typer.Option("--config", "-c", help="TOML file; `funnel config` lists its keys.")
]
Json = Annotated[bool, typer.Option("--json", help="One JSON object instead of tables.")]
Trace = Annotated[bool, typer.Option(help="Show what each channel and stage saw and kept.")]
Limit = Annotated[int, typer.Option(help="Items on the page; 0: the scene's default.")]
Where = Annotated[
    list[str] | None,
    typer.Option(
        "--filter", "-f", help="attribute=a,b · attribute!=a · price=10..50 (repeat to add)."
    ),
]
Expression = Annotated[
    str,
    typer.Option(
        "--where", "-w", help='Conditions: brand in ("Acme", "Bolt") and not price 10..50.'
    ),
]
Sort = Annotated[str, typer.Option(help="Attribute to sort by; -price: the highest first.")]
Cursor = Annotated[str, typer.Option(help="Cursor of the page before.")]
User = Annotated[str, typer.Option("--user", "-u", help="User id.")]
DataSet = Annotated[Path, typer.Argument(help="Data set: a directory of Parquet tables.")]


def main() -> None:
    """The entry point: errors of ours become one line and an exit code, never a traceback."""
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s %(name)s: %(message)s")
    try:
        app()
    except FunnelError as error:
        errors.print(f"[bold red]error:[/] {_escaped(str(error))}")
        sys.exit(1 if isinstance(error, ServiceError) else 2)
    except KeyboardInterrupt:
        sys.exit(130)


def _escaped(text: str) -> str:
    from rich.markup import escape

    return escape(text)


def _print(value: Any, as_json: bool, shown: Any) -> None:
    from funnel.show import CONSOLE

    if as_json:
        print(json.dumps(plain(value), ensure_ascii=False))
    else:
        CONSOLE.print(shown)


def plain(value: Any) -> Any:
    """Dataclasses, arrays and paths as what JSON has."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = dataclasses.fields(value)
        return {f.name: plain(getattr(value, f.name)) for f in fields if f.repr}
    if isinstance(value, dict):
        return {str(key): plain(part) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [plain(part) for part in value]
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, float) and not math.isfinite(value):
        return None  # JSON knows no other
    return value.tolist() if hasattr(value, "tolist") else value


def filters(conditions: list[str] | None) -> tuple[Filter, ...]:
    """`brand=a,b`, `brand!=a`, `price=10..50`, `price=..50` as conditions."""
    return tuple(_filter(condition) for condition in conditions or [])


def _filter(condition: str) -> Filter:
    name, equals, value = condition.partition("=")
    exclude = name.endswith("!")
    name = name.removesuffix("!").strip()
    if not equals or not name or not value:
        raise BadQuery(f"cannot read the filter '{condition}'; write name=a,b or name=10..50")
    if ".." in value:
        low, _, high = value.partition("..")
        try:
            bounds = [float(part) if part else None for part in (low, high)]
        except ValueError as error:
            raise BadQuery(f"the bounds of '{condition}' are not numbers") from error
        return Filter(name, low=bounds[0], high=bounds[1], exclude=exclude)
    return Filter(name, tuple(part.strip() for part in value.split(",")), exclude=exclude)


@contextmanager
def _progress(label: str, unit: str = "") -> Iterator[Any]:
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=errors, transient=True) as bar:
        task = bar.add_task(label, total=None)

        def tell(text: str = label, done: float | None = None, total: float | None = None) -> None:
            bar.update(task, description=text, completed=done, total=total)

        yield tell


@app.command("import")
def import_(
    form: Annotated[str, typer.Argument(metavar="FORMAT", help="Form of the source: parquet.")],
    source: Annotated[Path, typer.Argument(help="Directory or file of the source.")],
    data: Annotated[Path, typer.Argument(help="Data set to write.")],
    mapping: Annotated[Path, typer.Option("--map", help="TOML file that maps the columns.")],
    config: ConfigFile = None,
    as_json: Json = False,
) -> None:
    """Make a data set out of any tables, by a column mapping."""
    from funnel.show import CONSOLE
    from jobs.import_tables import import_tables
    from jobs.spark import session

    if form != "parquet":
        raise BadQuery(f"unknown format '{form}'; known: parquet (which reads csv and json too)")
    settings = load(config)
    with _progress("importing") as tell:
        spark = session(settings.build.master, settings.build.driver_memory)
        summary = import_tables(spark, source, data, mapping, tell)
    if as_json:
        print(json.dumps(plain(summary)))
    else:
        CONSOLE.print(summary)


@app.command()
def validate(
    data: DataSet,
    config: ConfigFile = None,
    now: Annotated[int, typer.Option(help="Later timestamps are errors (epoch ms).")] = 0,
    as_json: Json = False,
) -> None:
    """Check every row of a data set; broken ones land in rejected/ with the reason."""
    from funnel.show import CONSOLE
    from jobs.spark import session
    from jobs.validate import validate as check

    settings = load(config)
    with _progress("validating") as tell:
        spark = session(settings.build.master, settings.build.driver_memory)
        report = check(spark, data, tell, settings.all_actions, now or None)
    if as_json:
        print(json.dumps(plain(report)))
    else:
        CONSOLE.print(report)


@app.command()
def split(
    data: DataSet,
    target: Annotated[Path, typer.Argument(metavar="OUT", help="Data set to write.")],
    words: Annotated[int, typer.Option(help="Words of a passage, at most.")] = 120,
    overlap: Annotated[int, typer.Option(help="Words that a passage shares with the next.")] = 20,
    config: ConfigFile = None,
    as_json: Json = False,
) -> None:
    """Split long descriptions into passages, which are found and cited one by one."""
    from funnel.show import CONSOLE
    from jobs.spark import session
    from jobs.split import lines
    from jobs.split import split as made

    settings = load(config)
    with _progress("splitting"):
        spark = session(settings.build.master, settings.build.driver_memory)
        found = made(spark, data, target, words, overlap)
    if as_json:
        print(json.dumps(found))
    else:
        CONSOLE.print("\n".join(lines(found)))
        CONSOLE.print(f"next: funnel validate {target}")


@app.command("config")
def config_(config: ConfigFile = None, as_json: Json = False) -> None:
    """Every setting with its value and its meaning."""
    from funnel.show import settings as shown

    rows = list(settings(load(config)))
    _print({key: value for key, value, _ in rows}, as_json, shown(rows))


@app.command()
def generations(config: ConfigFile = None, as_json: Json = False) -> None:
    """What was published, and what is current."""
    from funnel.generation import Manifest, current
    from funnel.generation import generations as ids
    from funnel.show import table

    root = Path(load(config).build.root)
    known, now = ids(root), current(root)
    rows = []
    for name in known:
        manifest = Manifest.read(root / name)
        mark = "current" if name == now else ""
        size = sum(size for size, _ in manifest.files.values()) / 1e6
        rows.append([name, mark, _when(manifest.created_at), _when(manifest.until), round(size, 1)])
    columns = ["generation", "", "built", "knows events before", "MB"]
    _print(
        [{"id": row[0], "current": bool(row[1]), "mb": row[4]} for row in rows],
        as_json,
        table("", columns, rows),
    )


def _when(ms: int) -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S", time.gmtime(ms / 1000))


@app.command()
def rollback(config: ConfigFile = None) -> None:
    """Publish the generation before the current one again."""
    from funnel import generation

    print(f"current is now {generation.rollback(Path(load(config).build.root))}")


@app.command()
def build(
    data: DataSet,
    config: ConfigFile = None,
    force: Annotated[bool, typer.Option(help="Run finished steps again.")] = False,
    until: Annotated[int, typer.Option(help="Cut (epoch ms); 0: by build.holdout.")] = 0,
    as_json: Json = False,
) -> None:
    """Run every job and publish a generation; finished steps are skipped."""
    from jobs.build import build as run

    made = run(data, load(config), until=until or None, force=force, quiet=as_json)
    _print({"generation": made}, as_json, f"published generation {made}")


tune = typer.Typer(no_args_is_help=True, help="What the data says about settings.")
app.add_typer(tune, name="tune")


@tune.command("fusion")
def tune_fusion(
    data: DataSet,
    config: ConfigFile = None,
    scene: Annotated[str, typer.Option(help="Only this scene.")] = "",
    as_json: Json = False,
) -> None:
    """How much each recall channel counts: fitted, shown, and kept for the next build."""
    from jobs.build import line
    from jobs.tune import fusion, shown

    with _progress("starting Spark") as say:
        found = fusion(
            data,
            load(config),
            scene,
            say,
            lambda step, metrics, seconds: errors.print(
                _escaped(line(step, metrics, seconds)), soft_wrap=True
            ),
        )
    _print(found, as_json, shown(found))


features = typer.Typer(no_args_is_help=True, help="The live store of what users do.")
app.add_typer(features, name="features")


@features.command("snapshot")
def features_snapshot(
    generation: Annotated[str, typer.Argument(help="Its id; empty: the published one.")] = "",
    config: ConfigFile = None,
    as_json: Json = False,
) -> None:
    """Load what a generation knows of its users into the live store; what that has already wins."""
    from features.store import Store
    from funnel.generation import Generation
    from funnel.snapshot import published, snapshot

    settings = load(config)
    chosen = Path(settings.build.root) / generation
    found = Generation.open(chosen, check=False) if generation else published(settings)
    with Store.open(settings) as store:
        changed = snapshot(store, found)
    said = {"generation": found.id, "users": changed}
    _print(said, as_json, f"{changed:,} users from generation {found.id}")


@app.command()
def serve(
    stage: Annotated[
        str, typer.Argument(help="recall, prerank, rank, rerank, features, gateway; empty: all.")
    ] = "",
    config: ConfigFile = None,
) -> None:
    """Serve all stages in this process, or one of them."""
    from funnel.serve import run

    run(stage or "all", load(config))


def _nobody(who: str, address: str, config: Path | None) -> str:
    with_config = f" --config {config}" if config else ""
    return (
        f"{who} does not serve at {address}: start it with `funnel serve{with_config}`, "
        "or name the config file that it serves with"
    )


def _ask(config: Path | None, as_json: bool, trace: bool, **asked: Any) -> None:
    from funnel.page import Ask
    from funnel.remote import RemoteFunnel
    from funnel.show import page as shown

    settings = load(config)
    with RemoteFunnel(settings.serve.gateway) as remote:
        if not remote.line.serving():
            raise Unavailable(_nobody("the gateway", settings.serve.gateway, config))
        page = remote.page(Ask(trace=int(trace), **asked))
    _print(page, as_json, shown(page, trace))


@app.command()
def search(
    text: Annotated[str, typer.Argument(help="What to search for.")],
    user: User = "",
    limit: Limit = 0,
    where: Where = None,
    expression: Expression = "",
    sort: Sort = "",
    facet: Annotated[
        list[str] | None,
        typer.Option(help="Count the values of this attribute, or its range (repeat to add)."),
    ] = None,
    cursor: Cursor = "",
    scene: Annotated[str, typer.Option(help="Scene to ask.")] = "search",
    trace: Trace = False,
    config: ConfigFile = None,
    as_json: Json = False,
) -> None:
    """Search the running gateway."""
    _ask(
        config,
        as_json,
        trace,
        scene=scene,
        text=text,
        user_id=user,
        limit=limit,
        filters=filters(where),
        where=expression,
        sort=sort,
        facets=tuple(facet or ()),
        cursor=cursor,
    )


@app.command()
def suggest(
    prefix: Annotated[str, typer.Argument(help="What was typed so far.")],
    limit: Limit = 0,
    config: ConfigFile = None,
    as_json: Json = False,
) -> None:
    """What a user who typed this much may mean."""
    from funnel.remote import RemoteFunnel
    from funnel.show import suggestions as shown

    settings = load(config)
    with RemoteFunnel(settings.serve.gateway) as remote:
        if not remote.line.serving():
            raise Unavailable(_nobody("the gateway", settings.serve.gateway, config))
        found = remote.suggest(prefix, limit)
    _print(found, as_json, shown(found))


@app.command()
def recommend(
    user: Annotated[str, typer.Argument(help="User id; one that is not known gets a cold start.")],
    limit: Limit = 0,
    where: Where = None,
    expression: Expression = "",
    sort: Sort = "",
    cursor: Cursor = "",
    scene: Annotated[str, typer.Option(help="Scene to ask.")] = "home",
    trace: Trace = False,
    config: ConfigFile = None,
    as_json: Json = False,
) -> None:
    """Recommend items to a user from the running gateway."""
    _ask(
        config,
        as_json,
        trace,
        scene=scene,
        user_id=user,
        limit=limit,
        filters=filters(where),
        where=expression,
        sort=sort,
        cursor=cursor,
    )


@app.command()
def similar(
    item: Annotated[str, typer.Argument(help="Item id.")],
    user: User = "",
    limit: Limit = 0,
    where: Where = None,
    expression: Expression = "",
    sort: Sort = "",
    cursor: Cursor = "",
    scene: Annotated[str, typer.Option(help="Scene to ask.")] = "similar",
    trace: Trace = False,
    config: ConfigFile = None,
    as_json: Json = False,
) -> None:
    """Items like another one, from the running gateway."""
    _ask(
        config,
        as_json,
        trace,
        scene=scene,
        item_id=item,
        user_id=user,
        limit=limit,
        filters=filters(where),
        where=expression,
        sort=sort,
        cursor=cursor,
    )


@app.command()
def forget(config: ConfigFile = None, as_json: Json = False) -> None:
    """Rewrite the logs without what belongs to users who were deleted."""
    from funnel.forgotten import forget as rewritten
    from funnel.show import CONSOLE

    settings = load(config)
    if not settings.log.dir:
        raise BadQuery("log.dir is empty: there are no logs to forget anybody in")
    with _progress("forgetting") as tell:
        gone = rewritten(Path(settings.log.dir), tell)
    if as_json:
        print(json.dumps(gone))
    else:
        CONSOLE.print(", ".join(f"{count:,} {name} went" for name, count in gone.items()))


@app.command("dead-letters")
def dead_letters(
    limit: Annotated[int, typer.Option(help="Show so many, the newest first.")] = 20,
    config: ConfigFile = None,
    as_json: Json = False,
) -> None:
    """The events that the live store refused, and why."""
    from features.store import Store
    from funnel.show import refused as shown

    settings = load(config)
    with Store.open(settings, start=False) as store:
        found, total = store.dead_letters(limit), store.refused()
    _print(found, as_json, shown(found, total))


@app.command()
def rules(
    file: Annotated[Path, typer.Argument(help="File of rules: see docs/rerank.md.")],
    as_json: Json = False,
) -> None:
    """Check a file of rules and show them; running services read theirs again by themselves."""
    from funnel.rulebook import read_rules
    from funnel.show import rules as shown

    found = read_rules(file)
    _print([rule.model_dump(mode="json") for rule in found], as_json, shown(found))


@app.command()
def sponsors(
    put: Annotated[str, typer.Option(help="Set the budget of this sponsor.")] = "",
    budget: Annotated[float | None, typer.Option(help="With --put: money for clicks.")] = None,
    since: Annotated[str, typer.Option(help="With --put: from then, UTC; empty: now.")] = "",
    until: Annotated[
        str, typer.Option(help="With --put: until then, spent evenly; empty: until it is gone.")
    ] = "",
    remove: Annotated[str, typer.Option(help="Take this sponsor's budget away.")] = "",
    config: ConfigFile = None,
    as_json: Json = False,
) -> None:
    """Sponsors' budgets and what was spent of them. Who has none here is not limited."""
    from features.sponsors import Sponsor, Sponsors
    from features.store import Store
    from funnel.show import sponsors as shown

    if put and budget is None:
        raise BadQuery(f"--put {put} needs --budget")
    if not put and (budget is not None or since or until):
        raise BadQuery("--budget, --since and --until go with --put")
    now = time.time_ns() // 1_000_000
    with Store.open(load(config), start=False) as store:
        known = Sponsors(store)
        if put and budget is not None:
            begins = _moment("since", since) or now
            known.put(Sponsor(put, budget, since=begins, until=_moment("until", until)))
        if remove:
            known.remove(remove)
        found = known.all()
    _print(found, as_json, shown(found, now))


def _moment(name: str, text: str) -> int:
    """`2026-11-27` or `2026-11-27T18:00` in UTC as epoch ms; 0 for nothing."""
    if not text:
        return 0
    try:
        at = datetime.fromisoformat(text)
    except ValueError as error:
        raise BadQuery(f"--{name} {text} is no date; write 2026-11-27 or 2026-11-27T18:00") from (
            error
        )
    return round((at if at.tzinfo else at.replace(tzinfo=UTC)).timestamp() * 1000)


@app.command()
def track(
    user: Annotated[str, typer.Argument(help="User id.")],
    item: Annotated[str, typer.Argument(help="Item id.")],
    action: Annotated[str, typer.Argument(help="click, cart, purchase, like, ...")] = "click",
    config: ConfigFile = None,
) -> None:
    """Tell the running features service what a user did."""
    from features.event import Event
    from funnel.remote import RemoteFeatures

    settings = load(config)
    with RemoteFeatures(settings.serve.features) as remote:
        if not remote.line.serving():
            raise Unavailable(_nobody("the features service", settings.serve.features, config))
        told = remote.track([Event(user, item, action, timestamp=0)])
    for _, reason in told.refused:
        raise BadQuery(f"the event was refused: {reason}")
    print("accepted" if told.accepted else "already known")


@app.command()
def upsert(
    file: Annotated[Path, typer.Argument(help="Items: JSON lines (.jsonl), or Parquet.")],
    config: ConfigFile = None,
    as_json: Json = False,
) -> None:
    """Put items into the running catalogue, each in the place of what has its id."""
    from funnel.feed import items, sent
    from funnel.show import upserted as shown

    with _catalogue(config) as remote, _progress("upserting items") as tell:
        told = sent(remote, items(file), lambda done: tell("upserting items", done))
    _print(told, as_json, shown(told))
    if told.refusals:
        raise typer.Exit(1)


@app.command()
def delete(
    item: Annotated[list[str], typer.Argument(help="Item ids.")],
    config: ConfigFile = None,
    as_json: Json = False,
) -> None:
    """Take items out of the running catalogue."""
    with _catalogue(config) as remote:
        deleted = remote.delete(item)
    _print({"deleted": deleted}, as_json, f"{deleted:,} deleted")


@contextmanager
def _catalogue(config: Path | None) -> Iterator[RemoteCatalog]:
    from funnel.remote import RemoteCatalog

    settings = load(config)
    with RemoteCatalog(settings.serve.features) as remote:
        if not remote.line.serving():
            raise Unavailable(_nobody("the catalogue", settings.serve.features, config))
        yield remote


@app.command()
def evaluate(
    data: DataSet,
    config: ConfigFile = None,
    scene: Annotated[list[str] | None, typer.Option(help="Only this scene (repeat).")] = None,
    most: Annotated[int, typer.Option("--requests", min=1, help="Most requests a scene.")] = 1000,
    per_user: Annotated[
        int, typer.Option(min=1, help="Most requests of a user; figures are over users.")
    ] = 1,
    generation: Annotated[str, typer.Option(help="Generation; empty: the current one.")] = "",
    as_json: Json = False,
) -> None:
    """Measure the current generation on graded queries and held-out events."""
    from rich.console import Group

    from funnel.evaluate import evaluate as run
    from funnel.generation import Generation, current
    from funnel.pipeline import offline, ranked
    from funnel.show import evaluation

    settings = load(config)
    root = Path(settings.build.root)
    opened = Generation.open(root / (generation or current(root)))
    with _progress("evaluating") as tell:
        reports = run(
            opened,
            settings,
            data,
            lambda counters: offline(opened, settings, counters),
            lambda counters: ranked(opened, settings, counters),
            scene or list(settings.scenes),
            most,
            lambda name, done, total: tell(f"evaluating {name}", done, total),
            per_user,
        )
    _print({r.scene: r for r in reports}, as_json, Group(*map(evaluation, reports)))


@app.command()
def replay(
    config_a: Annotated[Path, typer.Argument(help="Config of variant A.")],
    config_b: Annotated[Path, typer.Argument(help="Config of variant B.")],
    log: Annotated[Path | None, typer.Option(help="Request log; empty: A's log.dir.")] = None,
    scene: Annotated[str, typer.Option(help="Only this scene.")] = "",
    generation_a: Annotated[str, typer.Option(help="Generation of A; empty: as logged.")] = "",
    generation_b: Annotated[str, typer.Option(help="Generation of B; empty: as logged.")] = "",
    as_json: Json = False,
) -> None:
    """Run logged requests through two configs and compare their pages."""
    from funnel.replay import Side
    from funnel.replay import replay as run
    from funnel.show import comparison

    a, b = load(config_a), load(config_b)
    place = log or Path(a.log.dir)
    with _progress("replaying") as tell:
        found = run(
            place,
            Side("A", a, place, generation_a),
            Side("B", b, place, generation_b),
            scene or None,
            lambda done: tell("replaying", done),
        )
    _print(found, as_json, comparison(found))


@app.command()
def parity(
    log: Annotated[Path | None, typer.Argument(help="Request log; empty: log.dir.")] = None,
    scene: Annotated[str, typer.Option(help="Only this scene.")] = "",
    most: Annotated[int, typer.Option("--requests", help="At most so many; 0: all.")] = 0,
    config: ConfigFile = None,
    as_json: Json = False,
) -> None:
    """Recompute logged requests; fails where a counter or a score comes out otherwise."""
    from funnel.parity import parity as run
    from funnel.show import parity as shown

    settings = load(config)
    place = log or Path(settings.log.dir)
    with _progress("recomputing") as tell:
        found = run(place, settings, scene or None, most, lambda done: tell("recomputing", done))
    _print(found, as_json, shown(found))
    if not found.holds:
        sys.exit(1)


@app.command()
def demo(
    data: Annotated[Path | None, typer.Option(help="Data set; empty: the simulated shop.")] = None,
    size: Annotated[str, typer.Option(help="Size of the simulated shop: small or demo.")] = "demo",
    config: ConfigFile = None,
) -> None:
    """Simulate, validate, build, serve, ask, click and evaluate: the whole of Funnel at once."""
    from funnel.demo import QUICK, run

    run(load(config, None if data or config else QUICK), data, size)


if __name__ == "__main__":
    main()
