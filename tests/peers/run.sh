#!/usr/bin/env bash
# Checks the built programs and the golden tests against PyTorch, transformers, OpenCLIP, timm, webdataset, datasets, scikit-learn, FAISS and Pillow (make peers). Installs these once, with pip, into
# build/peers-venv (6 GB: the PyTorch of PyPI brings CUDA libraries that are not used here). A smaller one:
#   PEERS_TORCH_INDEX=https://download.pytorch.org/whl/cpu make peers
# tests/peers/run.sh --install only installs; with names of checks, runs only those.
set -uo pipefail
cd "$(dirname "$0")/../.." || exit 1
VENV=build/peers-venv
PYTHON=$VENV/bin/python
export DINO_BIN=${DINO_BIN:-$PWD/build/release/bin} DINO_SHARE=${DINO_SHARE:-$PWD/share}
# No check may depend on a download of weights.
export HF_HUB_OFFLINE=1 TRANSFORMERS_VERBOSITY=error TQDM_DISABLE=1 HF_HUB_DISABLE_PROGRESS_BARS=1 PYTHONDONTWRITEBYTECODE=1
IMPORTS='import torch, torchvision, PIL, transformers, open_clip, safetensors, h5py, numpy, sklearn, faiss, timm, webdataset, datasets; assert PIL.__version__ == "12.3.0"; assert (torch.ones(2, 2) @ torch.ones(2, 2)).sum() == 8'

install() {
  [ -x "$PYTHON" ] && "$PYTHON" -c "$IMPORTS" 2>/dev/null && return 0
  local candidate
  for candidate in python3 python3.13 python3.12 python3.11 /usr/bin/python3 ''; do
    [ -n "$candidate" ] || { echo "peers: no Python >= 3.11 with the modules venv and ensurepip; install python3-venv" >&2; return 1; }
    "$candidate" -c 'import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && break
  done
  echo "installing PyTorch, transformers, OpenCLIP, timm, webdataset, datasets and FAISS into $VENV (once; minutes)"
  rm -rf "$VENV" && mkdir -p build && "$candidate" -m venv "$VENV" || return 1
  # Pillow 13 resizes tall crops another way than the version that made the stored pictures.
  local pip=("$PYTHON" -m pip install --quiet --disable-pip-version-check)
  "${pip[@]}" ${PEERS_TORCH_INDEX:+--index-url "$PEERS_TORCH_INDEX"} torch torchvision &&
    "${pip[@]}" transformers safetensors h5py numpy scikit-learn faiss-cpu timm open_clip_torch webdataset datasets Pillow==12.3.0 &&
    "$PYTHON" -c "$IMPORTS" || { echo "peers: the installation into $VENV failed; see above, then run this again" >&2; return 1; }
}

install || exit 1
[ "${1:-}" = --install ] && exit 0
[ -x "$DINO_BIN/dino-curate" ] || { echo "peers: no programs in $DINO_BIN; run make build first" >&2; exit 1; }
[ $# -gt 0 ] || set -- clip hf_import hf_export hf_pipeline timm_export weights_wrapped tar_readers join_faiss kmeans_faiss ranking_sklearn pillow_decode golden_oracle dense_oracle
log=$(mktemp) && trap 'rm -f "$log"' EXIT
passed=0 failed=0
for check in "$@"; do
  if "$PYTHON" "tests/peers/$check.py" >"$log" 2>&1; then
    passed=$((passed + 1)); printf 'ok    %-13s %s\n' "$check" "$(tail -n 1 "$log")"
  else
    failed=$((failed + 1)); printf 'FAIL  %-13s %s\n' "$check" "$(tail -n 1 "$log")"; head -n -1 "$log" | tail -n 20 | sed 's/^/      /'
  fi
done
echo "$passed passed, $failed failed"
[ "$failed" = 0 ]
