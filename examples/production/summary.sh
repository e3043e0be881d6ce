#!/bin/sh
# Where the time went, what is left in the queue, and how a task's output voxels a second came out.
set -eu
BUCKET=${BUCKET:-s3://segflow-demo}
QUEUE=${QUEUE:-segflow-affs}
TASK=${TASK:-20 160 160}

# shellcheck disable=SC2086
segflow log-summary --log-dir "$BUCKET/affs/log" --output-size $TASK

segflow queue "$QUEUE"
