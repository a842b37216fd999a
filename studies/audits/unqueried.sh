#!/usr/bin/env bash
# The nasty teacher of digits before an attacker who holds twice as many images as it may query, and before one who holds no more:
# standard@2, eight seeds. About 20 minutes an audit on one core. An interrupted script goes on.
set -euo pipefail
home=runs/unqueried
audit() {
  undistill audit runs/demo/teachers/nasty-s0 --control runs/demo/teachers/normal-s0 --suite standard@2 --seeds 8 \
    --access probs,label --queries 100 --unqueried "$1" --jobs "${JOBS:-2}" --cells $home/cells -o $home/"more-$1" -q
}

undistill demo -o runs/demo -q # the teachers
audit 200
audit 0
