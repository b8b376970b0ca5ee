"""
One job by its name: `python -m jobs item_stats DATA`, or on a cluster
`spark-submit jobs/__main__.py item_stats DATA`.
"""

from __future__ import annotations

import runpy
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent


def main() -> None:
    if Path(sys.path[0]).resolve() == HERE:  # run as a file: then jobs/ would hide other packages
        sys.path[0] = str(HERE.parent)
    known = sorted(
        path.stem for path in HERE.glob("*.py") if "\n    command(run" in path.read_text()
    )
    if len(sys.argv) < 2 or sys.argv[1] not in known:
        named = f"unknown job '{sys.argv[1]}'" if len(sys.argv) > 1 else "which job?"
        sys.exit(f"{named}; known: {', '.join(known)}")
    sys.argv = [f"{sys.argv[1]}.py", *sys.argv[2:]]  # which `--help` shows as the program's name
    runpy.run_module(f"jobs.{sys.argv[0].removesuffix('.py')}", run_name="__main__")


if __name__ == "__main__":
    main()
