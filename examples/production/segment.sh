#!/bin/sh
# Neurons from the affinities: small volumes at once; segment-volume is for those larger than memory.
set -eu
BUCKET=${BUCKET:-s3://segflow-demo}

segflow cutout -v "$BUCKET/affs" agglomerate --threshold 0.7 --aff-threshold-low 0.001 --aff-threshold-high 0.9999 \
  save -v "$BUCKET/seg" --block-size 20 64 64 --mips 3 --factor 1 2 2
