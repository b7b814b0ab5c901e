#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# The report in a real browser (Debian's chromium, headless): no console error, no request to anywhere, nothing wider
# than a telephone, readable text in light, dark and print, and the same content without JavaScript.
. "$(dirname "$0")/lib.sh"
BROWSER=$(command -v chromium || command -v chromium-browser || command -v google-chrome) || {
  echo "skipped: no browser here; make browser-deps installs chromium"
  exit 77
}
export OMP_NUM_THREADS=1
parts=$DINO_SOURCE/tests/cli/browser

# A curation of real images, and results, a run and a chain as the programs write them, of several models.
"$DINO_PYTHON" "$parts/store.py" || fail "the store was not made"
expect 0 "" dino-curate run --input pool --output curated --levels 12,4 --target 70 --min-size 8
expect 0 "" dino-eval report results --curation curated --run pretrain --chain chain --references true \
  --title 'Report <i>&</i> "friends"' --output report.html
"$DINO_PYTHON" "$parts/drive.py" "$BROWSER" report.html ${DINO_SHOTS:+"$DINO_SHOTS"} || fail "the report in $BROWSER"
# What the driver must find: each fault on a page of its own.
"$DINO_PYTHON" "$parts/drive.py" "$BROWSER" --self-test || fail "the driver does not see faults"
finish
