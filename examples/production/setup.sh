#!/bin/sh
# Lay out the affinities: sizes of tasks for a worker's memory, the info, its thumbnail's, a full queue.
# The last line it prints is the worker's; worker.sh is that line with a mask and section contrast.
set -eu
BUCKET=${BUCKET:-s3://segflow-demo}
QUEUE=${QUEUE:-segflow-affs}  # SQS; fq://FOLDER is a queue without a server
VOLUME_SIZE=${VOLUME_SIZE:-20 512 512}
MEMORY=${MEMORY:-0.02} # GB, of which half is for the answer; a few times 10 on a real machine

# shellcheck disable=SC2086
segflow setup-env -l "$BUCKET/affs" --volume-size $VOLUME_SIZE -v 30 6 6 -r "$MEMORY" \
  -z 20 128 128 -o 4 32 32 --crop-chunk-margin 0 32 32 -c 3 -m 0 --max-mip 5 --thumbnail -e raw \
  --overwrite-info -q "$QUEUE"
