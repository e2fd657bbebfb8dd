#!/usr/bin/env bash
# Builds a real Asterisk in a folder of its own, once, so that Firmline can be tried beside a PBX without touching the
# system: a minimal Debian tree holding the asterisk package. Run it with:
#   chroot "$DIR" asterisk -f
# PBX                 22 (the default) or 16: which Asterisk, by the Debian suite that has it
# FIRMLINE_PBX_DIR    where (default ~/.cache/firmline/asterisk, asterisk16 for 16)
# FIRMLINE_PBX_SUITE  another Debian suite
set -euo pipefail
case ${PBX:-22} in
  22) folder=asterisk suite=sid ;;
  16) folder=asterisk16 suite=bullseye ;;
  *) echo "firmline: PBX=$PBX: known are 22 (the default) and 16" >&2; exit 2 ;;
esac
dir=${FIRMLINE_PBX_DIR:-${XDG_CACHE_HOME:-$HOME/.cache}/firmline/$folder}
suite=${FIRMLINE_PBX_SUITE:-$suite}
if [ -e "$dir/.complete" ]; then
  echo "firmline: Asterisk is there already: $dir ($(cat "$dir/.complete"))"
  exit 0
fi
if [ "$(id -u)" != 0 ]; then
  echo "firmline: building the PBX folder needs root (debootstrap, chroot): sudo make pbx" >&2
  exit 1
fi
if ! command -v debootstrap >/dev/null; then
  echo "firmline: installing debootstrap"
  apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq debootstrap >/dev/null
fi
mkdir -p "$(dirname "$dir")"
work=$(mktemp -d "$dir.building.XXXXXX")
trap 'rm -rf "$work"' EXIT
log="$dir.log"
echo "firmline: building Asterisk ($suite) in $dir: a minute or two; details in $log"
if ! debootstrap --variant=minbase --include=asterisk "$suite" "$work" >"$log" 2>&1; then
  echo "firmline: debootstrap failed; its last lines:" >&2
  tail -n 5 "$log" >&2
  exit 1
fi
chroot "$work" asterisk -V >"$work/.complete"
chmod 755 "$work"
rm -rf "$dir"
mv "$work" "$dir"
trap - EXIT
echo "firmline: $(cat "$dir/.complete") is ready in $dir"
