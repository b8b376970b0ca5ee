"""
How fast recall is on a simulated catalogue: words, vectors, and the stage as a whole.

`recall_speed_lexical`, `recall_speed_vectors` and `recall_speed_stage` say what they measure and
can be run alone; the live catalogue is measured by `recall_live`. Each part runs in a process of
its own, so that memory and caches are its own.
"""

from __future__ import annotations

import json as text
import subprocess
import sys
from typing import Annotated, Any

import typer

from benchmarks import harness

PARTS = ("lexical", "vectors", "stage")


def part(name: str, n: int, queries: int, seed: int) -> list[dict[str, Any]]:
    """The rows of one part; its progress goes to our own standard error."""
    sizes = ["--n", str(n), "--queries", str(queries), "--seed", str(seed)]
    command = [sys.executable, "-m", f"benchmarks.recall_speed_{name}", *sizes, "--json"]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    rows = text.loads(done.stdout.splitlines()[-1])["rows"]
    return [{**row, "method": f"{name}: {row['method']}"} for row in rows]


def together(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """With the same keys everywhere, the method first; empty where a part does not measure it."""
    names = list(dict.fromkeys(name for row in rows for name in row if name != "method"))
    blank = dict.fromkeys(names, "")
    return [{"method": row["method"], **blank, **row} for row in rows]


def main(
    n: Annotated[int, typer.Option(help="items")] = 1_000_000,
    queries: Annotated[int, typer.Option(help="that are timed, of each kind")] = 300,
    only: Annotated[str, typer.Option(help=f"parts, with commas: {', '.join(PARTS)}")] = "",
    seed: Annotated[int, typer.Option()] = 7,
    json: Annotated[bool, typer.Option("--json", help="one JSON object")] = False,
) -> None:
    wanted = only.split(",") if only else list(PARTS)
    unknown = [name for name in wanted if name not in PARTS]
    if unknown:
        raise typer.BadParameter(f"unknown part '{unknown[0]}'; known: {', '.join(PARTS)}")
    parts: dict[str, list[dict[str, Any]]] = {}
    for name in wanted:
        typer.echo(f"{name} …", err=True)
        parts[name] = part(name, n, queries, seed)
        if not json:  # one table a part: they measure different things
            harness.show(name, f"{n:,} items", parts[name], as_json=False)
    if json:
        rows = together([row for made in parts.values() for row in made])
        harness.show("recall_speed", f"{n:,} items", rows, as_json=True)


if __name__ == "__main__":
    main.__doc__ = __doc__
    harness.run(main)
