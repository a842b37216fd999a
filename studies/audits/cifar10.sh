#!/usr/bin/env bash
# Three defenses of the reproduction's small CIFAR-10 teachers, quickly audited with five seeds; $1 is a folder that holds cifar10 in the
# hub's format. Audits share the twin's cells; an interrupted script goes on.
set -euo pipefail
data=$1
small=runs/reproduction/small
teacher() { echo "$small"/teachers/"$1"-resnet18-s0-*; }
audit() {
  name=$1
  shift
  undistill audit "$@" --suite quick --seeds 5 --serve probs,labels --questions 500 --steps 200 --students cnn:0.5 \
    -s 'data.views=["crop","flip"]' --data-dir "$data/cifar10" --cells runs/audits/cifar10/cells -o "runs/audits/cifar10/$name" -q
}

undistill reproduce logits --scale small -o $small --data-dir "$data" -q # a normal and a nasty teacher
audit nasty "$(teacher nasty)" --control "$(teacher normal)"
for defense in stingy top1; do
  audit "$defense" "$(teacher normal)" --behind "$defense"
done
undistill compare runs/audits/cifar10/{nasty,stingy,top1} -o runs/audits/cifar10/comparison
