#!/usr/bin/env bash
# From a folder of photos to a page: train, import, protect, attack through a function. Run it again to continue.
#   examples/photos/run.sh OUT [arguments of make.py …]
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
out=$1; shift
photos=$out/photos
data=(--data "$photos" --size "${SIZE:-224}" --pool 0.3 --skip-corrupt -s "data.stored=$((${SIZE:-224} * 8 / 7))")
short=(-s "training.epochs=${EPOCHS:-8}" -s training.batch=16)
threat_model=probs/unlabelled/fresh/random/${QUERIES:-60}

test -d "$photos" || python "$here/make.py" "$photos" "$@"
undistill train "${data[@]}" --model resnet18 -s model.stem=7x7 -s model.width=0.25 "${short[@]}" -o "$out/teacher"
test -d "$out/imported" || undistill import "$out/teacher/model" -o "$out/imported"
undistill protect "$out/imported" "${data[@]}" --defense nasty-head -o "$out/nasty"
for victim in imported nasty; do
  model=$out/$victim; test -d "$model/model" && model=$model/model
  export PHOTOS_MODEL=$model
  for arm in ${ARMS:-kd label-only scratch}; do
    undistill attack "$here/api.py:predict" --outputs probs --attack "$arm" --threat-model "$threat_model" --name "$victim" --query-test --query-log "$out/$victim.parquet" --assume-fresh "${data[@]}" \
      --student resnet18 -s student.settings.stem=7x7 -s student.width=0.125 "${short[@]}" -o "$out/students/$victim-$arm"
  done
done
undistill report "$out" -o "$out/report"
