from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from funnel.config import merged, parse
from funnel.errors import BadGeneration, Occupied
from jobs.build import STEPS, Step, key, line, locked, run, said
from jobs.fresh import removed
from jobs.work import STATE, Work

START = 1_700_000_000_000
SHORT = tuple(
    step
    for step in STEPS
    if step.name in ("items", "events", "users", "item_stats", "user_stats", "signatures")
)


@pytest.fixture(scope="module")
def data(data_set: Callable[..., Path], goods: object) -> Path:
    log = [
        {
            "user_id": f"u{n % 7}",
            "item_id": f"i{n % 5:02d}",
            "action": "click",
            "timestamp": START + n * 1000,
        }
        for n in range(100)
    ]
    return data_set(items=goods, events=log)


@pytest.fixture
def work(opened: Callable[..., Work], data: Path) -> Work:
    return opened(data)


def ran(work: Work, steps: tuple[Step, ...] = SHORT, force: bool = False) -> list[str]:
    """The steps that were not skipped."""
    told: list[str] = []

    def tell(step: Step, metrics: Mapping[str, Any] | None, seconds: float) -> None:
        if metrics is not None:
            told.append(step.name)

    run(work, force, tell, steps)
    return told


def changed(work: Work, config: dict[str, Any]) -> Work:
    table = merged(work.config.model_dump(mode="json"), config)
    return Work.open(work.data, parse(table))


def test_finished_steps_are_skipped_until_what_they_are_made_from_changes(work: Work) -> None:
    everything = [step.name for step in SHORT]
    assert ran(work) == everything
    assert ran(work) == []
    assert ran(changed(work, {"store": {"timeout_ms": 7}, "build": {"partitions": 3}})) == []
    other = changed(work, {"features": {"history": 3}})
    assert ran(other) == ["item_stats", "user_stats"]
    assert ran(work) == ["item_stats", "user_stats"]
    assert ran(work, force=True) == everything


def test_a_step_whose_output_is_gone_runs_again(work: Work) -> None:
    ran(work)
    removed(work.draft / "popular")
    assert ran(work) == ["item_stats"]
    assert (work.draft / "popular/rows.npy").exists()


def test_a_build_that_fails_goes_on_where_it_was(work: Work) -> None:
    failing = Step("publish", after=("items",))  # there are no golden requests yet
    with pytest.raises(BadGeneration, match="golden"):
        ran(work, (*SHORT[:3], failing))
    assert sorted(json.loads((work.root / STATE).read_text())["steps"]) == [
        "events",
        "items",
        "users",
    ]
    assert ran(work) == [step.name for step in SHORT[3:]]


def test_the_drafts_say_what_the_config_says_now(work: Work) -> None:
    ran(work)
    other = changed(work, {"store": {"timeout_ms": 7}})
    ran(other)
    manifest = json.loads((other.draft / "manifest.json").read_text())
    assert manifest["config"]["store"]["timeout_ms"] == 7


def test_another_build_of_the_same_data_set_is_refused(work: Work) -> None:
    with locked(work), pytest.raises(Occupied, match="building"):
        ran(work)


def test_the_key_of_a_step_depends_on_the_steps_before_it(work: Work) -> None:
    events = next(step for step in STEPS if step.name == "events")
    assert key(events, work, {"items": "a"}) == key(events, work, {"items": "a"})
    assert key(events, work, {"items": "a"}) != key(events, work, {"items": "b"})


def test_steps_come_after_those_that_they_need_and_have_a_job(work: Work) -> None:
    seen: set[str] = set()
    for step in STEPS:
        assert set(step.after) <= seen
        assert (Path(__file__).parents[2] / f"jobs/{step.name}.py").exists()
        assert set(step.sections) <= set(type(work.config).model_fields)
        seen.add(step.name)


def test_what_is_made_from_a_file_that_changes_is_made_again(work: Work) -> None:
    """Every path that a step counts as its code is there."""
    root = Path(__file__).parents[2]
    for step in STEPS:
        for name in step.code:
            assert (root / name).exists(), f"{step.name}: {name}"


@pytest.mark.parametrize("asked", [[], ["no_such_job"]])
def test_a_job_that_is_not_there_is_an_error_that_names_those_that_are(asked: list[str]) -> None:
    done = by_file(asked)
    assert done.returncode == 1
    assert "item_stats" in done.stderr


def test_a_job_runs_from_any_directory_by_the_path_of_the_folder() -> None:
    """As spark-submit runs it, which puts jobs/ itself on the path."""
    done = by_file(["item_stats", "--help"])
    assert done.returncode == 0, done.stderr
    assert "Counters of items" in done.stdout


def by_file(words: list[str]) -> subprocess.CompletedProcess[str]:
    file = Path(__file__).parents[2] / "jobs/__main__.py"
    return subprocess.run(
        [sys.executable, str(file), *words], capture_output=True, text=True, cwd="/", timeout=120
    )


def test_a_line_of_progress_says_what_came_out() -> None:
    assert said({"items": 1200, "home": {"recall": 0.5}, "on": True}) == (
        "items 1,200 · home: recall 0.5 · on yes"
    )
    step = next(step for step in STEPS if step.name == "events")
    assert "unchanged" in line(step, None, 0.0)
    assert "no events" in line(step, {}, 0.1)
