"""
Runs a benchmark, keeps what it said, and writes docs/benchmarks.md from all that was kept.

    python -m benchmarks.record wire
    python -m benchmarks.record text data/vaswani
    python -m benchmarks.record evaluate data/shop --config shop.toml     # `funnel evaluate`
    python -m benchmarks.record                                           # writes the page again

One JSON file a command in benchmarks/results/, so that nothing on the page was typed by hand.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks import harness

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "benchmarks" / "results"
PAGE = ROOT / "docs" / "benchmarks.md"
HEAD = """# Benchmarks

The last results of every benchmark, with the command and the machine.
`python -m benchmarks.record TASK ARGS…` runs one
and writes this page. Intervals are 95 % bootstrap intervals.
"""


def command(task: str, args: Sequence[str]) -> list[str]:
    """What runs the task and prints JSON."""
    if task == "evaluate":
        return [sys.executable, "-m", "funnel.cli", "evaluate", *args, "--json"]
    return [sys.executable, "-m", f"benchmarks.{task}", *args, "--json"]


def told(task: str, args: Sequence[str]) -> str:
    """The command as a reader would type it: paths without where this machine keeps them."""
    short = [Path(arg).name if arg.startswith(("/", "..")) else arg for arg in args]
    head = "funnel evaluate" if task == "evaluate" else f"python -m benchmarks.{task}"
    return " ".join([head, *short])


def flat(found: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Rows out of what `funnel evaluate --json` prints: one an order of a scene."""
    return [
        {"scene": scene, "requests": one["requests"], "order": order}
        | {name: interval(value) for name, value in figures.items()}
        for scene, one in found.items()
        for order, figures in one["orders"].items()
    ]


def interval(value: Mapping[str, float | None]) -> str:
    if value["mean"] is None:  # nothing to measure it on
        return ""
    return f"{value['mean']:.4f} [{value['low']:.4f}, {value['high']:.4f}]"


def kept(task: str, args: Sequence[str], seconds: float, said: str) -> dict[str, Any]:
    """What is written to the file. Raises `ValueError` where the task printed no JSON object."""
    found = json.loads(said[said.index("{") :])
    if task == "evaluate":
        found = {"rows": flat(found), "machine": harness.machine(), "data": ""}
    return {
        "command": told(task, args),
        "machine": found["machine"],
        "date": time.strftime("%Y-%m-%d", time.gmtime()),
        "seconds": round(seconds, 1),
        "data": re.sub(r"(\.\.)?/[\w./-]*/", "", str(found["data"])),
        "rows": found["rows"],
    }


def page(results: Sequence[Mapping[str, Any]]) -> str:
    parts = [HEAD]
    for one in results:
        parts.append(f"\n## `{one['command']}`\n")
        about = [one["data"], one["machine"], one["date"], f"{one['seconds']:g} s in all"]
        parts.append(" · ".join(str(part) for part in about if part) + "\n")
        names = list(dict.fromkeys(name for row in one["rows"] for name in row))
        parts.append("| " + " | ".join(names) + " |")
        parts.append("| " + " | ".join("---" for _ in names) + " |")
        for row in one["rows"]:
            parts.append("| " + " | ".join(cell(row.get(name)) for name in names) + " |")
    return "\n".join(parts) + "\n"


def cell(value: Any) -> str:
    return "" if value is None else harness.shown(value).replace("|", "\\|")


def main(argv: Sequence[str]) -> int:
    RESULTS.mkdir(exist_ok=True)
    if argv:
        task, *args = argv
        start = time.perf_counter()
        done = subprocess.run(command(task, args), stdout=subprocess.PIPE, text=True, cwd=ROOT)
        if done.returncode:
            return done.returncode
        result = kept(task, args, time.perf_counter() - start, done.stdout)
        name = re.sub(r"[^\w.-]+", "-", result["command"].removeprefix("python -m benchmarks."))
        (RESULTS / f"{name}.json").write_text(json.dumps(result, indent=1) + "\n")
    files = sorted(RESULTS.glob("*.json"))
    PAGE.write_text(page([json.loads(file.read_text()) for file in files]))
    print(f"{PAGE.relative_to(ROOT)}: {len(files)} benchmarks")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
