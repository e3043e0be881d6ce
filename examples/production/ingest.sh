#!/bin/sh
# Put an image into a bucket: the volume with its mips, a mask of tissue, the grey levels of each section.
set -eu
IMAGE=${IMAGE:-tests/data/ac4_image.tif}
BUCKET=${BUCKET:-s3://segflow-demo}
VOXEL_SIZE=${VOXEL_SIZE:-30 6 6} # z y x, nm

# shellcheck disable=SC2086  # three words
segflow read-tif -f "$IMAGE" --voxel-size $VOXEL_SIZE \
  save -v "$BUCKET/em" --block-size 20 64 64 \
  downsample -v "$BUCKET/em" --mips 4 --factor 1 2 2

# what is black at mip 3 is no tissue
segflow read-precomputed -v "$BUCKET/em" -m 3 threshold -t 0 save -v "$BUCKET/tissue" --block-size 20 32 32

segflow section-histogram -v "$BUCKET/em" -m 0 -p "$BUCKET/em/levels/0"
