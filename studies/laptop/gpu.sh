#!/usr/bin/env bash
# The scale `laptop` and the paper's ResNet18 on one GPU, within ten minutes a call.   gpu.sh search|study DATA OUT
# Several processes share the GPU through CUDA's multi-process service where it is there.
set -u
what=$1 data=$2 out=$3
export OMP_NUM_THREADS=1 CUDA_MPS_PIPE_DIRECTORY=/tmp/mps CUDA_MPS_LOG_DIRECTORY=/tmp/mps
mkdir -p /tmp/mps
nvidia-cuda-mps-control -d || unset CUDA_MPS_PIPE_DIRECTORY
run() { python3 -m undistill reproduce "$@" --data-dir "$data" --device cuda -o "$out/$name"; }
case $what in
search)
  python3 studies/laptop/search.py "$out/search.csv" --data-dir "$data/cifar10" --jobs 14
  ;;
study)
  name=laptop run table1 omega logits embedding adversary --scale laptop --seeds 3 --jobs 14
  ;;
esac
echo quit | nvidia-cuda-mps-control 2>/dev/null
