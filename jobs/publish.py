"""
The draft becomes a generation: opened anew it must give the golden pages, then it is sealed, named
and pointed at, in one rename each.
"""

from __future__ import annotations

import json
import time
from datetime import UTC, datetime
from hashlib import blake2b
from pathlib import Path
from typing import Any

from features.spec import Spec
from funnel import __version__
from funnel import generation as generations
from funnel.dataset import TABLES, digest
from funnel.errors import BadGeneration
from funnel.generation import Generation, Manifest
from jobs.command import command
from jobs.golden import path, verified
from jobs.items import position
from jobs.work import Work, read_state


def run(work: Work, now: int | None = None) -> dict[str, Any]:
    """Publishes the draft as of `now` (epoch ms; this moment where it is not given)."""
    golden_file = path(work)
    if not golden_file.exists():
        raise BadGeneration(f"{golden_file} is missing: run `python -m jobs.golden` first")
    golden = json.loads(golden_file.read_text())
    made = int(time.time() * 1000) if now is None else now
    steps = read_state(work.root).get("steps", {})
    draft = Generation.open(work.draft, check=False)
    data = blake2b(digest_size=8)
    for name in TABLES:
        data.update(digest(work.data, name).encode())
    manifest = Manifest(
        id=identity(made, data.hexdigest(), draft.manifest.config),
        until=work.until,
        past=work.past,
        actions=work.config.all_actions,
        config=work.config.model_dump(mode="json"),
        data=data.hexdigest(),
        spec=Spec.of(work.config).hash,
        code=__version__,
        created_at=made,
        catalog_position=position(work),
        metrics={name: step.get("metrics", {}) for name, step in steps.items()},
        golden=tuple(golden),
    )
    (work.draft / "manifest.json").unlink(missing_ok=True)
    sealed = generations.seal(work.draft, manifest)
    asked = verified(Generation.open(work.draft), golden)
    target = generations.publish(work.draft, Path(work.config.build.root), manifest)
    size = sum(size for size, _ in sealed.files.values())
    return {"generation": target.name, "golden": asked, "mb": round(size / 1e6, 1)}


def identity(made: int, data: str, config: Any) -> str:
    """`20251231T235959Z-1a2b3c`: when it was made, and out of what."""
    stamp = datetime.fromtimestamp(made / 1000, UTC).strftime("%Y%m%dT%H%M%S%fZ")
    text = json.dumps([data, made, config], sort_keys=True, default=list)
    return f"{stamp[:15]}Z-{blake2b(text.encode(), digest_size=3).hexdigest()}"


if __name__ == "__main__":
    command(run, __doc__)
