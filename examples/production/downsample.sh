#!/bin/sh
# Coarser mips of the segmentation, by tasks: fill a queue, work on it.
set -eu
BUCKET=${BUCKET:-s3://segflow-demo}
QUEUE=${QUEUE:-segflow-downsample}
TASK=${TASK:-20 256 256}

# shellcheck disable=SC2086
segflow generate-tasks -l "$BUCKET/seg" -m 0 -o 0 0 0 -c $TASK -q "$QUEUE"

segflow --mip 0 fetch-task -q "$QUEUE" -r 2 cutout -v "$BUCKET/seg" -m 0 --fill-missing \
  downsample-upload -v "$BUCKET/seg" --start-mip 1 --stop-mip 3 delete-task-in-queue
