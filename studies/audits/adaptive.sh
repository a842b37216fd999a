#!/usr/bin/env bash
# Defenses of digits that meet the attack which knows them: standard@2 plays `inverse` with the form and settings of each, beside all other
# attacks. One budget, eight seeds, the twin's cells shared; about 10 minutes an audit on one core. An interrupted script goes on.
set -euo pipefail
home=runs/adaptive
normal=runs/demo/teachers/normal-s0
audit() {
  name=$1
  shift
  undistill audit "$@" --suite standard@2 --seeds 8 --access probs --queries 100 --jobs "${JOBS:-2}" --cells $home/cells -o $home/"$name" -q
}

undistill demo -o runs/demo -q # the teachers
for defense in reverse-sigmoid stingy noise rounding modelguard-s l1-ball; do
  audit "$defense" $normal --output-defense "$defense"
done
undistill compare $home/{reverse-sigmoid,stingy,noise,rounding,modelguard-s,l1-ball} -o $home/comparison
