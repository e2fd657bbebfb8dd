#!/usr/bin/env bash
# Makes sure that the programs the tests drive are there: sipp (a SIP peer), espeak-ng and flite (voices),
# Chromium and npm (the pages; axe-core comes by npm), Xvfb and xdotool (a desktop whose keys are pressed).
# Installs them when run as root on Debian or Ubuntu; else says what to install and fails. Quick when all is there.
set -euo pipefail
declare -A package=([sipp]=sip-tester [espeak-ng]=espeak-ng [flite]=flite [chromium]=chromium [npm]=npm
  [Xvfb]=xvfb [xdotool]=xdotool)
missing=()
for tool in "${!package[@]}"; do
  command -v "$tool" >/dev/null || missing+=("${package[$tool]}")
done
pages() { "$(dirname "$0")/check-web.sh" install-only; }
[ ${#missing[@]} -eq 0 ] && { pages; exit 0; }
if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
  echo "firmline: installing ${missing[*]} (programs the tests drive)"
  export DEBIAN_FRONTEND=noninteractive
  apt-get update -qq && apt-get install -y -qq --no-install-recommends "${missing[@]}" >/dev/null
  pages
else
  echo "firmline: the tests drive programs that are not here; install them with:" >&2
  echo "  sudo apt-get install ${missing[*]}" >&2
  exit 1
fi
