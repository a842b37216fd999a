#!/usr/bin/env bash
# Five victims of which the right verdict is known, audited for real on digits. Cells of the twin are shared with studies/audits/digits.sh.
set -euo pipefail
plugin=studies/audits/planted.py
normal=runs/demo/teachers/normal-s0
twin=runs/demo/teachers/normal-s1
audit() {
  name=$1
  shift
  undistill audit "$@" --suite standard@1 --seeds 8 --plugin $plugin --cells runs/audits/digits/cells -o "runs/planted/$name" -q
}

audit decoy $normal --behind decoy --serve probs,labels --questions 50
audit undefended $twin --control $normal --serve probs,labels --questions 50
audit labels-only $normal --behind answer-top1 --serve probs,labels --questions 50
audit no-headroom $twin --control $normal --serve probs,labels --questions 400
audit crash $twin --control $normal --serve probs,labels --questions 50 --also crash
