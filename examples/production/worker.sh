#!/bin/sh
# Affinities of every task in the queue; start as many as there are machines. A task without tissue is not
# computed: zeros are saved. The mask has larger voxels at its mip 0, so it stands after the image, whose
# voxel size is known then. Ends with 0 when the queue is empty.
set -eu
BUCKET=${BUCKET:-s3://segflow-demo}
QUEUE=${QUEUE:-segflow-affs}
PROCESSES=${PROCESSES:-1}

segflow --mip 0 worker --processes "$PROCESSES" -- \
  fetch-task -q "$QUEUE" --visibility-timeout 600 -r 2 \
  cutout -v "$BUCKET/em" --expand-margin-size 0 32 32 --fill-missing \
  mask --name check-tissue --check-all-zero -v "$BUCKET/tissue" --mip 0 --skip-to save --fill-missing \
  normalize-section-contrast -p "$BUCKET/em/levels/0" -l 0.0023 -u 0.01 \
  inference --model affinity-snemi3d --input-patch-size 20 128 128 --output-patch-size 20 128 128 \
    --output-patch-overlap 4 32 32 --output-crop-margin 0 32 32 --num-output-channels 3 \
    --framework pytorch --batch-size 1 --patch-num 1 2 2 \
  mask --name mask-affs -v "$BUCKET/tissue" --mip 0 --fill-missing \
  save -v "$BUCKET/affs" --upload-log --nproc 0 --create-thumbnail \
  cloud-watch delete-task-in-queue
