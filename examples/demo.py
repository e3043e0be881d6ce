"""The main job on the bundled crop of real EM; everything it makes is in demo/.

image -> affinities -> segmentation -> precomputed volumes with three mips -> scores -> a picture.
"""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
NEUROGLANCER = (
    "segflow read-precomputed -v file://{out}/image -o image read-precomputed -v file://{out}/seg -o seg"
    " neuroglancer -c image,seg -p 33333 -v 30 6 6"
)
LINE = """
read-tif -f tests/data/ac4_image.tif --voxel-size 30 6 6 -o image
inference --model affinity-snemi3d --patch-size 20 256 256 --patch-overlap 4 64 64 --batch-size 1
  --mask-output-chunk -i image -o affs
agglomerate --threshold 0.7 --aff-threshold-low 0.001 --aff-threshold-high 0.9999 -i affs -o seg
write-precomputed -i image -v file://{out}/image downsample -v file://{out}/image --mips 3
write-precomputed -i seg -v file://{out}/seg downsample -v file://{out}/seg --mips 3
read-tif -f tests/data/ac4_labels.tif --voxel-size 30 6 6 --layer-type segmentation -o groundtruth
evaluate-segmentation -s seg -g groundtruth --all --json {out}/scores.json
overlay -i image --affinities affs --segmentation seg --dust-threshold 50 -f {out}/overlay.png
"""


def main() -> int:
    """Run the line and say where things are."""
    out = ROOT / "demo"
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir()
    words = shlex.split(LINE.format(out=out))
    print("segflow " + LINE.format(out=out).strip().replace("\n", " \\\n  "), flush=True)
    environment = {**os.environ, "XDG_CACHE_HOME": str(out / "cache")}
    code = subprocess.run([sys.executable, "-m", "segflow", *words], cwd=ROOT, env=environment).returncode
    if code == 0:
        print(f"\nthe picture: {out}/overlay.png\nin neuroglancer: {NEUROGLANCER.format(out=out)}")
    return code


if __name__ == "__main__":
    sys.exit(main())
