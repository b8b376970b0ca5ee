"""A job on the command line: `python -m jobs.<name> DATA`, or the same file under spark-submit."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape

from funnel.config import load, merged
from funnel.errors import BadConfig, FunnelError
from jobs.work import Work

Run = Callable[[Work], Mapping[str, Any]]


def command(run: Run, meaning: str | None, from_log: bool = False) -> None:
    """Parses the command line, runs the job over the work directory of the data set, and prints
    its metrics as one JSON object. `meaning` is the job's docstring. With `from_log` it also takes
    that option, over the config's."""
    app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
    # Annotations are read where this function's own variables are not known.
    option = typer.Option("", "--from-log", help="A log's directory.", hidden=not from_log)

    @app.command(help=meaning)
    def main(
        data: Annotated[Path, typer.Argument(help="Data set: a directory of Parquet tables.")],
        config: Annotated[Path | None, typer.Option("--config", "-c", help="TOML file.")] = None,
        until: Annotated[int, typer.Option(help="Cut (epoch ms); 0: by build.holdout.")] = 0,
        master: Annotated[str, typer.Option(help="Spark master, over the config's.")] = "",
        log: str = option,
    ) -> None:
        console = Console(stderr=True, highlight=False)
        try:
            if log and not from_log:
                raise BadConfig("--from-log is for the job samples: leave it out")
            asked = {"master": master, "from_log": log}
            given = {name: value for name, value in asked.items() if value}
            settings = load(config, merged({}, {"build": given} if given else {}))
            work = Work.open(data, settings, until or None, console.print)
            print(json.dumps(dict(run(work))))
        except FunnelError as error:
            console.print(f"[bold red]error:[/] {escape(str(error))}")
            sys.exit(2)

    app()
