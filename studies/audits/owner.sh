#!/usr/bin/env bash
# What an owner asks, at real scale: a converged normal and a nasty classifier of CIFAR-10, trained on 40,000 images with 10,000 kept fresh,
# audited by output access and query budget; $1 is a folder that holds cifar10 in the hub's format. Two hours of one core for the pair,
# then about a minute a cell; an interrupted script goes on.
set -euo pipefail
data=$1
owner=runs/owner
served=probs,top5:2,top1,label
audit() {
  name=$1
  shift
  undistill audit "$@" --suite quick --seeds 5 --queries 250,1000,4000 --steps 400 --students cnn \
    --data-dir "$data" --pool 10000 --cells $owner/cells -o $owner/audits/"$name" -q
}

export OMP_NUM_THREADS=1
undistill train -c speed-cifar10 --data-dir "$data" --pool 10000 --threads 1 -o $owner/normal -q
undistill protect $owner/normal --defense nasty --data-dir "$data" --pool 10000 --threads 1 -o $owner/nasty -q
undistill protect $owner/normal --defense nasty-head --data-dir "$data" --pool 10000 --threads 1 -o $owner/nasty-head -q
audit nasty $owner/nasty --control $owner/normal --access $served,weights
audit nasty-head $owner/nasty-head --control $owner/normal --access $served,weights
for defense in stingy top1 reverse-sigmoid noise rounding top-k answer-top1; do
  audit "$defense" $owner/normal --output-defense "$defense" --access $served
done
undistill compare $owner/audits/* -o $owner/comparison
