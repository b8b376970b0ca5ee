# Sourced after system.sh: finds Java 17 or newer, which Spark runs on.

# java_home_of PROGRAM: where the Java behind PROGRAM lives. Sets java_seen; fails when it is older than 17.
java_home_of() {
    local facts version
    facts=$("$1" -XshowSettings:properties -version 2>&1) || return 1
    version=$(printf '%s\n' "$facts" | sed -n 's/^ *java\.specification\.version = //p')
    java_seen="$1 is Java ${version:-of an unknown version}"
    version=${version#1.} # Java 8 calls itself 1.8
    [ "${version%%.*}" -ge 17 ] 2>/dev/null || return 1
    java_home=$(printf '%s\n' "$facts" | sed -n 's/^ *java\.home = //p')
    [ -x "$java_home/bin/java" ]
}

# Sets java_home. JAVA_HOME first, then PATH, then the places where packages put it.
find_java() {
    local program found=""
    for program in ${JAVA_HOME:+"$JAVA_HOME/bin/java"} "$(command -v java || true)" \
        ${FUNNEL_JVMS-/usr/lib/jvm/*/bin/java /opt/homebrew/opt/openjdk*/bin/java /usr/local/opt/openjdk*/bin/java /Library/Java/JavaVirtualMachines/*/Contents/Home/bin/java}; do
        [ -x "$program" ] || continue
        java_seen=""
        java_home_of "$program" && return
        found="$found${found:+, }${java_seen:-$program does not run}"
    done
    java_found=${found:-none found}
    return 1
}

need_java() {
    find_java && return
    need java "Spark needs Java 17 or newer ($java_found)"
    find_java || stop "Java was installed, but still no Java 17 or newer is found ($java_found)" \
        "set JAVA_HOME to its folder, then run the same command again"
}
