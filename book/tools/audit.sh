#!/bin/sh
# usage: audit.sh PIP_AUDIT
# Look every pinned package up in the public lists of known vulnerabilities. What is found, and a look-up that fails,
# both end in status 1, and one sentence says which of the two it was.
set -eu
said=$(mktemp)
trap 'rm -f "$said"' EXIT
if "$1" --strict --no-deps --disable-pip -r constraints.txt >"$said" 2>&1; then
    echo "no known vulnerability in what constraints.txt pins"
elif grep -q '^Found [0-9]* known vulnerabilit' "$said"; then
    grep -v '^WARNING' "$said" >&2
    echo "make audit: raise these pins in constraints.txt (and requirements.txt) to the versions with the fix" >&2
    exit 1
else
    echo "make audit has found out nothing: it needs a network with the public lists of known vulnerabilities" \
        "($(tail -n 1 "$said"))" >&2
    exit 1
fi
