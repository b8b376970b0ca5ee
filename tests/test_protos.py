"""The code generated from the protos is the one that was committed."""

from pathlib import Path

import pytest
from grpc_tools import protoc

ROOT = Path(__file__).parents[1]
PROTOS = sorted(ROOT.glob("protos/*.proto")) + sorted(ROOT.glob("benchmarks/*.proto"))


@pytest.mark.parametrize("proto", PROTOS, ids=lambda path: path.name)
def test_generated_code_is_up_to_date(proto: Path, tmp_path: Path) -> None:
    outs = [f"--{kind}_out={tmp_path}" for kind in ("python", "grpc_python", "pyi")]
    name = str(proto.relative_to(ROOT))
    assert protoc.main(["protoc", f"-I{ROOT}", *outs, name]) == 0
    made = sorted(path for path in tmp_path.rglob("*") if path.is_file())
    assert len(made) == 3
    for path in made:
        committed = ROOT / path.relative_to(tmp_path)
        assert path.read_text() == committed.read_text(), f"{committed.name}: run `make protos`"


def test_everything_generated_has_its_proto() -> None:
    for path in [*ROOT.glob("protos/*_pb2*"), *ROOT.glob("benchmarks/*_pb2*")]:
        assert path.with_name(path.name.split("_pb2")[0] + ".proto") in PROTOS
