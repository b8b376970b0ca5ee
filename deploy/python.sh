# Sourced after system.sh: finds a Python from 3.11 to 3.13 that can make virtual environments.

python_version() { "$1" -c 'import sys; print("%d.%d.%d" % sys.version_info[:3])' 2>/dev/null; }

supported() { case "$1" in 3.11.* | 3.12.* | 3.13.*) ;; *) return 1 ;; esac; }

# Sets python. PYTHON (the variable) alone when it is given.
find_python() {
    local name version found="" bare=""
    for name in ${PYTHON:-python3 python3.12 python3.11 python3.13 python}; do
        command -v "$name" >/dev/null 2>&1 || continue
        version=$(python_version "$name") || continue # a shim without a Python behind it
        found="$found${found:+, }$name is $version"
        supported "$version" || continue
        if "$name" -c 'import ensurepip, venv' 2>/dev/null; then
            python=$name
            return
        fi
        bare=${bare:-$name $version}
    done
    [ -n "$bare" ] || stop "Funnel needs Python 3.11, 3.12 or 3.13; found: ${found:-${PYTHON:-none}${PYTHON:+, which does not run}}" \
        "install one of them, or name one: make PYTHON=/path/to/python3.12 ..."
    python=${bare% *}
    version=${bare#* }
    need "venv-${version%.*}" "$python ($version) cannot make virtual environments (its venv package is missing)"
    "$python" -c 'import ensurepip, venv' 2>/dev/null ||
        stop "$python still cannot make virtual environments" "name another Python: make PYTHON=/path/to/python3.12 ..."
}
