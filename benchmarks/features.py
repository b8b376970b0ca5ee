"""
Features: the live store, the assembler and the replica, one after the other.

`features_store` and `features_assemble` say what they measure and can be run alone; the jobs are
measured by `features_jobs`. Each part runs in a process of its own.
"""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Annotated, Any

import typer

from benchmarks import harness
from benchmarks.recall_speed import together

PARTS = ("store", "assemble")


def part(name: str) -> list[dict[str, Any]]:
    """The rows of one part; its progress goes to our own standard error."""
    command = [sys.executable, "-m", f"benchmarks.features_{name}", "--json"]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    rows = json.loads(done.stdout.splitlines()[-1])["rows"]
    return [{**row, "method": f"{name}: {row['method']}"} for row in rows]


def main(
    only: Annotated[str, typer.Option(help=f"parts, with commas: {', '.join(PARTS)}")] = "",
    as_json: Annotated[bool, typer.Option("--json", help="one JSON object")] = False,
) -> None:
    """The live store, the assembler and the replica."""
    wanted = only.split(",") if only else list(PARTS)
    unknown = [name for name in wanted if name not in PARTS]
    if unknown:
        raise typer.BadParameter(f"unknown part '{unknown[0]}'; known: {', '.join(PARTS)}")
    parts = {}
    for name in wanted:
        typer.echo(f"{name} …", err=True)
        parts[name] = part(name)
        if not as_json:  # one table a part: they measure different things
            harness.show(f"features, {name}", "simulated", parts[name], as_json=False)
    if as_json:
        rows = together([row for made in parts.values() for row in made])
        harness.show("features", "simulated", rows, as_json=True)


if __name__ == "__main__":
    harness.run(main)
