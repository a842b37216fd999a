#!/usr/bin/env bash
# What an owner asks, at real scale: a converged normal and a nasty classifier of CIFAR-10, trained on 40,000 images with 10,000 kept fresh,
# and what an attacker gets from 1,000 queries; $1 is a folder that holds cifar10 in the hub's format. On one core about two hours for the
# pair and an hour for the audit. With `all` as $2 the whole question: budgets, accesses, five seeds, nine defenses; about a minute a
# cell. An interrupted script goes on.
set -euo pipefail
data=$1
owner=runs/owner
audit() {
  name=$1
  shift
  undistill audit "$@" --suite quick --steps 400 --students cnn --data-dir "$data" --pool 10000 --cells $owner/audits/cells \
    -o $owner/audits/"$name" -q
}

export OMP_NUM_THREADS=1
undistill train -c speed-cifar10 --data-dir "$data" --pool 10000 --threads 1 -o $owner/normal -q
undistill protect $owner/normal --defense nasty --data-dir "$data" --pool 10000 --threads 1 -o $owner/nasty -q
audit nasty $owner/nasty --control $owner/normal --seeds 5 --access probs,label --queries 1000
[ "${2:-}" = all ] || exit 0

undistill protect $owner/normal --defense nasty-head --data-dir "$data" --pool 10000 --threads 1 -o $owner/nasty-head -q
whole="--seeds 5 --queries 250,1000,4000 --access probs,top5:2,top1,label"
for defense in nasty nasty-head; do
  audit whole-$defense $owner/$defense --control $owner/normal $whole,weights
done
for defense in stingy top1 reverse-sigmoid noise rounding top-k answer-top1; do
  audit whole-$defense $owner/normal --output-defense $defense $whole
done
undistill compare $owner/audits/whole-* -o $owner/comparison
