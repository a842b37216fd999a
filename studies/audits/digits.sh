#!/usr/bin/env bash
# Nine defenses of digits, audited against the same undefended twin. Audits share the twin's cells; an interrupted script goes on.
set -euo pipefail
normal=runs/demo/teachers/normal-s0
audit() {
  name=$1
  shift
  undistill audit "$@" --suite standard@1 --seeds 8 --questions 50,100 --cells runs/audits/digits/cells -o "runs/audits/digits/$name" -q
}

undistill demo -o runs/demo --resume -q # the teachers
undistill protect $normal --with nasty-head -o runs/nasty-head --resume -q
audit nasty runs/demo/teachers/nasty-s0 --control $normal
audit nasty-head runs/nasty-head --control $normal
for defense in stingy top1 reverse-sigmoid noise rounding top-k answer-top1; do
  audit "$defense" $normal --behind "$defense"
done
undistill compare runs/audits/digits/{nasty,nasty-head,stingy,top1,reverse-sigmoid,noise,rounding,top-k,answer-top1} \
  -o runs/audits/digits/comparison
