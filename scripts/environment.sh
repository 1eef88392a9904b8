# Sourced by the other scripts: makes .venv and installs the package with what $1 names ("." or ".[dev]").
# A stamp of what was installed makes the second call quick.

cd "$(dirname "$0")/.." || exit 1
PYTHON=${PYTHON:-python3}
"$PYTHON" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || {
    echo "error: $PYTHON is not Python 3.11 or newer: install one, or name it with PYTHON=/path/to/python3" >&2
    exit 2
}
stamp=".venv/installed-$(cat pyproject.toml constraints.txt | cksum | cut -d' ' -f1)-$(echo "$1" | tr -dc 'a-z')"
if [ ! -f "$stamp" ]; then
    echo "installing into .venv (a few minutes the first time) ..." >&2
    [ -x .venv/bin/python ] || "$PYTHON" -m venv .venv || {
        echo "error: cannot make a virtual environment: install your system's python3-venv package" >&2
        exit 2
    }
    # torch first and by its exact version, so that nothing else pulls in another build.
    install=".venv/bin/python -m pip install --quiet --disable-pip-version-check --no-compile -c constraints.txt"
    $install torch && $install -e "$1" || exit 1
    # Compiled here, on all cores, where pip takes one; not left to the first import, as where PYTHONDONTWRITEBYTECODE
    # is set every process would compile anew. A package may hold files that are not Python of this version.
    .venv/bin/python -m compileall -qq -j 0 .venv/lib || true
    touch "$stamp"
fi
