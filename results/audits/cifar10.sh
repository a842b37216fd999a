#!/usr/bin/env bash
# Three defenses of the reproduction's small CIFAR-10 teachers, quickly audited with five seeds. $1: folder with cifar10 in the hub's format.
set -euo pipefail
small=runs/reproduction/small
undistill reproduce table1 --scale small --seeds 1 --only 'table1/cifar10/ResNet18/*' -o $small --data-dir "$1" -q # the teachers
normal=$(echo $small/teachers/normal-resnet18-s0-*)
audit() {
  name=$1
  shift
  undistill audit "$@" --suite quick --seeds 5 --serve probs,labels --questions 500 --steps 200 --students cnn:0.5 \
    -s 'data.views=["crop","flip"]' --data-dir "$1" --cells runs/audits/cifar10/cells -o "runs/audits/cifar10/$name" -q
}
