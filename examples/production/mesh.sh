#!/bin/sh
# Meshes of the segmentation at mip 2, by tasks; then the list of every object's fragments.
# One manifest line for each first digit can run on a machine of its own: --prefix 1, 2, ... 9.
set -eu
BUCKET=${BUCKET:-s3://segflow-demo}
QUEUE=${QUEUE:-segflow-mesh}
TASK=${TASK:-20 64 64}

# shellcheck disable=SC2086
segflow generate-tasks -l "$BUCKET/seg" -m 2 -o 0 0 0 -c $TASK -q "$QUEUE"

segflow --mip 2 fetch-task -q "$QUEUE" -v 600 -r 2 cutout -v "$BUCKET/seg" --fill-missing \
  mesh --voxel-size 30 24 24 -o "$BUCKET/seg" --dust-threshold 100 delete-task-in-queue

segflow mesh-manifest --volume-path "$BUCKET/seg"
