#!/usr/bin/env bash
# Builds the release before this one, from its commit, in target/before, and prints where its program is. A rolling
# upgrade begins with it (docs/design/versions.md).
set -euo pipefail
cd "$(dirname "$0")/.."

# The last `## X.Y.Z` of the changelog, and the commit that made it one.
release=$(sed -n 's/^## \([0-9][0-9.]*\)$/\1/p' CHANGELOG.md | head -1)
commit=$(git log --format=%H --grep "^release: ${release//./\\.}\$" -1)
if [[ -z $commit ]]; then
    echo "error: the history has no commit \`release: $release\`" >&2
    echo "hint: git fetch --unshallow" >&2
    exit 1
fi
# A tree without a history of its own: nothing in .git remembers it.
tree=target/before/$commit
if [[ ! -f $tree/Cargo.toml ]]; then
    rm -rf "$tree.part"
    mkdir -p "$tree.part"
    git archive "$commit" | tar -x -C "$tree.part"
    mv "$tree.part" "$tree"
fi
cargo build --quiet --locked -p transhume --manifest-path "$tree/Cargo.toml" --target-dir target/before/build >&2
echo "$PWD/target/before/build/debug/transhume"
