"""What is wrong with a benchmark's input is one line that names the file and the remedy."""

import subprocess
import sys

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from benchmarks import harness
from funnel.errors import BadData


def test_a_file_is_read_where_it_has_the_columns(tmp_path):
    path = tmp_path / "train.parquet"
    with pytest.raises(BadData, match=r"train.parquet is missing.*--help"):
        harness.read(path)
    path.write_text("not a table")
    with pytest.raises(BadData, match=r"train.parquet is not a Parquet file"):
        harness.read(path)
    pq.write_table(pa.table({"user": [1]}), path)
    with pytest.raises(BadData, match=r"no column item; it has \['user'\]"):
        harness.read(path, ["user", "item"])
    assert harness.read(path, ["user"]).num_rows == 1


def test_the_command_line_ends_without_a_traceback(tmp_path):
    command = [sys.executable, "-m", "benchmarks.sequence", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr.startswith("error: ")
    assert done.stderr.count("\n") == 1
