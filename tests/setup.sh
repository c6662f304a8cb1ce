# Sourced by ./check and ./demo: what a fresh Debian machine needs first.

VENV=${KCRASH_VENV:-$PWD/.venv}

say() { printf '== %s (%ds)\n' "$*" "$SECONDS"; }

as_root() {
    if [ "$(id -u)" = 0 ]; then "$@"; else sudo "$@"; fi
}

# Installs the Debian packages named that are not there yet; asks for nothing if all are.
need_packages() {
    local missing=() package
    for package in "$@"; do
        dpkg-query -W -f '${Status}' "$package" 2>/dev/null | grep -q 'install ok installed' || missing+=("$package")
    done
    [ ${#missing[@]} = 0 ] && return
    echo "installing ${missing[*]}"
    as_root env DEBIAN_FRONTEND=noninteractive apt-get -qq update
    as_root env DEBIAN_FRONTEND=noninteractive apt-get -qq install -y --no-install-recommends "${missing[@]}" >/dev/null
}

# A virtual environment with kcrash itself and the packages named, made again when either list changes.
make_venv() {
    local stamp
    stamp=$(cat pyproject.toml; echo "$PWD $*")
    [ -x "$VENV/bin/python" ] || python3 -m venv "$VENV"
    if [ "$(cat "$VENV/.stamp" 2>/dev/null)" != "$stamp" ]; then
        "$VENV/bin/python" -m pip install -q --disable-pip-version-check -e "$@"
        printf '%s' "$stamp" > "$VENV/.stamp"
    fi
}
