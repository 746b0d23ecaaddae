#!/bin/sh
# The top of a page, or of a run's report.html, as a picture: docs/img/screenshot.sh PAGE|RUN OUTPUT.png [WIDTH,HEIGHT]
set -eu
if [ $# -lt 2 ]; then
  echo "usage: $0 PAGE|RUN OUTPUT.png [WIDTH,HEIGHT]" >&2
  exit 2
fi
if [ -f "$1" ]; then page=$(cd "$(dirname "$1")" && pwd)/$(basename "$1"); else page=$(cd "$1" && pwd)/report.html; fi
[ -f "$page" ] || { echo "$page: not there; make it with \`loadgen report $1\`" >&2; exit 2; }
browser=$(command -v chromium || command -v chromium-browser || command -v google-chrome) ||
  { echo "no browser: install chromium" >&2; exit 2; }
profile=$(mktemp -d)
trap 'rm -rf "$profile"' EXIT
"$browser" --headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking \
  --disable-component-update --disable-sync --hide-scrollbars --blink-settings=preferredColorScheme=1 \
  --user-data-dir="$profile" --screenshot="$2" --window-size="${3:-1280,985}" --virtual-time-budget=5000 \
  "file://$page" 2>/dev/null
[ -s "$2" ] || { echo "$2: the browser made no picture" >&2; exit 1; }
