# Sourced: messages, timed steps, and the system's package manager.
# Written for bash 3.2 (macOS) and up.

log=${log:-var/setup.log}

say() { printf '%s\n' "$*"; }

# stop WHAT REMEDY...: end with an error that says what to do, one remedy a line.
stop() {
    printf '\nset-up stopped: %s\n' "$1" >&2
    shift
    [ $# -eq 0 ] || printf '  %s\n' "$@" >&2
    exit 1
}

# try TEXT COMMAND...: run quietly into the log, showing TEXT and the seconds it takes. The status is the command's.
try() {
    local text=$1 start=$SECONDS pid status=0
    shift
    mkdir -p "$(dirname "$log")"
    printf '\n$ %s\n' "$*" >>"$log"
    set -m # a process group of its own, so that Ctrl-C can end the whole of it
    "$@" >>"$log" 2>&1 </dev/null &
    pid=$!
    set +m
    trap 'kill -- "-$pid" 2>/dev/null || true; stop "interrupted" "run the same command again: it goes on from here"' INT TERM
    if [ -t 1 ]; then
        while kill -0 "$pid" 2>/dev/null; do
            printf '\r  %s … %d s ' "$text" $((SECONDS - start))
            sleep 0.5
        done
    else
        printf '  %s … ' "$text"
    fi
    wait "$pid" || status=$?
    trap - INT TERM
    [ ! -t 1 ] || printf '\r  %s … ' "$text"
    if [ "$status" -eq 0 ]; then say "done ($((SECONDS - start)) s)"; else say "failed ($((SECONDS - start)) s)"; fi
    return "$status"
}

# step TEXT REMEDY COMMAND...: `try`, and stop with the end of the log and REMEDY when it fails.
step() {
    local text=$1 remedy=$2
    shift 2
    try "$text" "$@" && return
    printf '\n' >&2
    tail -n 15 "$log" >&2
    stop "$text failed (the whole output: $log)" "$remedy"
}

manager() {
    local name
    for name in apt-get dnf yum apk pacman brew; do
        if command -v "$name" >/dev/null 2>&1; then
            say "$name"
            return
        fi
    done
    return 1
}

# The packages that bring a need, best first: releases of a system differ in which of them they have.
packages() {
    case "$1 $2" in
        "java apt-get") say "openjdk-17-jre-headless openjdk-21-jre-headless default-jre-headless" ;;
        "java dnf" | "java yum") say "java-17-openjdk-headless java-21-openjdk-headless java-latest-openjdk-headless" ;;
        "java apk") say "openjdk17-jre-headless openjdk21-jre-headless" ;;
        "java pacman") say "jre17-openjdk-headless jre21-openjdk-headless" ;;
        "java brew") say "openjdk@17 openjdk" ;;
        "openmp apt-get") say "libgomp1" ;;
        "openmp dnf" | "openmp yum" | "openmp apk") say "libgomp" ;;
        "openmp pacman") say "gcc-libs" ;;
        "openmp brew") say "libomp" ;;
        venv-*" apt-get") say "python${1#venv-}-venv" ;;
        "make "*) say "make" ;;
        *) return 1 ;;
    esac
}

install_command() {
    case "$1" in
        apt-get) say "apt-get install -y --no-install-recommends" ;;
        dnf | yum) say "$1 install -y" ;;
        apk) say "apk add" ;;
        pacman) say "pacman -Sy --noconfirm" ;;
        brew) say "brew install" ;;
    esac
}

# What to put before a command that needs root (nothing, or sudo); fails when this user may not.
as_root() {
    [ "${FUNNEL_SYSTEM:-yes}" != no ] || return 1
    if [ "$1" = brew ] || [ "$(id -u)" = 0 ]; then return 0; fi
    sudo -n true 2>/dev/null || return 1
    say "sudo -n"
}

# need NAME WHY: bring NAME through the package manager, or say exactly what to install and stop.
need() {
    local name=$1 why=$2 tool choices root="" command package sudo="sudo "
    tool=$(manager) || stop "$why" "no package manager known here: install $name by hand, then run the same command again"
    choices=$(packages "$name" "$tool") || stop "$why" "install $name by hand ($tool has no package for it), then run the same command again"
    command=$(install_command "$tool")
    [ "$tool" != brew ] || sudo=""
    root=$(as_root "$tool") || stop "$why" "this user may not install it. Run" \
        "    $sudo$command ${choices%% *}" "and then the same command again."
    say "$why; installing it with $tool"
    if [ "$tool" = apt-get ]; then
        # another install may be running; what is there already is left as it is
        command="$command --no-upgrade -o DPkg::Lock::Timeout=120"
        # shellcheck disable=SC2086
        try "package lists" $root apt-get update -q -o DPkg::Lock::Timeout=120 || say "  (going on with the package lists of last time)"
    fi
    for package in $choices; do
        # shellcheck disable=SC2086
        if try "$package" $root env DEBIAN_FRONTEND=noninteractive $command $package; then return; fi
    done
    tail -n 10 "$log" >&2
    stop "$tool could not install any of: $choices" "install $name by hand, then run the same command again (the whole output: $log)"
}
