#!/usr/bin/env bash
# Types of the pages' scripts (TypeScript reads their JSDoc; nothing is compiled). Without node it says so and passes:
# the pages themselves need none of it.
set -euo pipefail
cd "$(dirname "$0")/../tests/web"
if ! command -v npm >/dev/null; then
  echo "firmline: npm is not here, so the pages' types are NOT checked; install it with: apt-get install nodejs npm" >&2
  exit 0
fi
if [ ! -e node_modules/.package-lock.json ] || [ package-lock.json -nt node_modules/.package-lock.json ]; then
  npm ci --no-audit --no-fund --loglevel=error
  touch node_modules/.package-lock.json
fi
[ "${1:-}" = install-only ] || node_modules/.bin/tsc -p .
