"""
What the data says about settings: builds as far as it takes, and shows what was fitted there.

`fusion`: how much each recall channel counts. The drafts keep what was fitted, and the next
`funnel build` publishes it.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from funnel.config import Config
from jobs.build import STEPS, Tell, run
from jobs.work import Work
from recall.fit import SHARES

BARS = " ▁▂▃▄▅▆▇█"

Found = dict[str, Mapping[str, Any] | str]  # by scene: fusion/<scene>.json, or why there is none


def fusion(
    data: Path,
    config: Config,
    scene: str = "",
    progress: Callable[[str], None] = lambda text: None,
    tell: Tell | None = None,
) -> Found:
    """What is fitted for every scene, or for one. Raises what a build raises."""
    if scene:
        config.scene(scene)
    names = [step.name for step in STEPS]
    work = Work.open(data, config, progress=progress)
    said = run(work, tell=tell, steps=STEPS[: names.index("fusion") + 1])
    found: Found = {}
    for name in [scene] if scene else config.scenes:
        file = work.draft / f"fusion/{name}.json"
        found[name] = json.loads(file.read_text()) if file.exists() else str(said.get(name, "-"))
    return found


def shown(found: Found) -> RenderableType:
    return Group(*(_scene(name, fitted) for name, fitted in found.items()))


def _scene(name: str, fitted: Mapping[str, Any] | str) -> RenderableType:
    if isinstance(fitted, str):
        return Text(f"{name}: the config's weights stay: {fitted}\n")
    how = "refused" if fitted["refused"] else f"{fitted['method']}, {fitted['norm']}"
    title = f"{name}: {how} · {fitted['requests']:,} requests"
    table = Table(title=title, title_justify="left", header_style="bold")
    for column in (
        "channel",
        "weight",
        "nDCG@10 alone",
        f"by share, {SHARES[0]:g} to {SHARES[-1]:g}",
    ):
        table.add_column(column, justify="right" if column == "weight" else "left")
    metrics, curves = fitted["metrics"], fitted["curves"]
    top = max((max(curve) for curve in curves.values()), default=0.0)
    for channel, weight in fitted["weights"].items():
        bars = "".join(bar(value, top) for value in curves[channel])
        table.add_row(channel, f"{weight:.2f}", figure(metrics[channel]), bars)
    table.add_section()
    table.add_row("fusion", "", figure(metrics["fusion"]))
    table.add_row("config's weights", "", figure(metrics["before"]))
    table.add_row("gain over the best", "", figure(fitted["gain"], "+"))
    return Group(table, Text())


def bar(value: float, top: float) -> str:
    """An eighth of a block for an eighth of the highest value."""
    return BARS[round((len(BARS) - 1) * value / top)] if top > 0 else BARS[0]


def figure(value: tuple[float, float, float], sign: str = "") -> str:
    mean, low, high = value
    return f"{mean:{sign}.4f} [{low:{sign}.4f}, {high:{sign}.4f}]"
