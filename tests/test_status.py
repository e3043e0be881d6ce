"""status and clean: what a work folder tells, and what is removed from it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time

import numpy as np
import pytest
from blocks_job import Job

from segflow.blocks import claims
from segflow.blocks.ledger import Stage, WorkFolder
from segflow.blocks.status import COLOURS, Map, survey
from segflow.errors import SegflowError
from segflow.geometry import Box, Grid


@pytest.fixture
def make(data, tmp_path):
    """Make the job on the real image, in 8 blocks."""

    def job(**options) -> Job:
        return Job(data / "ac4_image.tif", tmp_path / "out.npy", **{"size": (20, 128, 256), **options})

    return job


@pytest.fixture
def half(make) -> Job:
    """A job of whose 8 first blocks 5 are done, 1 runs, 1 failed and 1 is missing."""
    job = make(fail=[6]).begin()
    for block in range(5):
        job.folder.publish("smooth", block, job.smooth(block))
    job.folder.claim("smooth", 5)
    job.folder.fail("smooth", 6, "the voxels of smooth block 6 are bad")
    return job


def rows(out: str) -> dict[str, list[str]]:
    return {line.split()[0]: line.split()[1:] for line in out.splitlines() if line and line[0] != " "}


def test_table_tells_every_state(segflow, half):
    out = segflow("status", half.folder.path).out
    assert rows(out)["stage"] == ["done", "running", "failed", "missing", "total"]
    assert rows(out)["smooth"] == ["5", "1", "1", "1", "8"]
    assert rows(out)["write"] == ["0", "0", "0", "8", "8"]
    running = next(line for line in out.splitlines() if "heartbeat" in line)
    assert running.startswith("  0-20_256-384_256-512  ")
    assert "running, stage smooth:" in out
    failed = next(line for line in out.splitlines() if "are bad" in line)
    assert failed.startswith("  0-20_384-512_0-256  the voxels of smooth block 6 are bad (")
    assert "attempt 1" in failed
    assert out.splitlines()[-1] == "equalise: 5 of 17 blocks done (29 %), 1 running, 1 failed"


def test_json_holds_every_block(segflow, half):
    told = json.loads(segflow("status", half.folder.path, "--json").out)
    assert (told["job"], told["complete"]) == ("equalise", False)
    first = told["stages"][0]
    assert (first["name"], first["total"], first["stale"]) == ("smooth", 8, False)
    assert (first["done"], first["missing"]) == ([0, 1, 2, 3, 4], [7])
    (running,), (failed,) = first["running"], first["failed"]
    assert (running["block"], running["box"]) == (5, "0-20_256-384_256-512")
    assert running["heartbeat_age"] < 60
    assert (failed["block"], failed["attempt"]) == (6, 1)
    assert failed["error"] == "the voxels of smooth block 6 are bad"


def test_exit_code_tells_of_failures(segflow, half):
    half.folder.release("smooth", 5)
    result = segflow("status", half.folder.path, code=1)
    assert "1 failed" in result.out
    assert result.err == ""
    half.fail.clear()
    half.run()
    out = segflow("status", half.folder.path).out
    assert out.splitlines()[-1] == "equalise: all 17 blocks are done"


def test_dead_claims_are_missing_blocks(segflow, half):
    path = half.folder.path / "smooth" / "running" / "00000005"
    path.write_text(json.dumps({"worker": "deadbeef1-2-3", "host": "other", "since": 1.0}))
    assert rows(segflow("status", half.folder.path).out)["smooth"] == ["5", "1", "1", "1", "8"]
    os.utime(path, (time.time() - claims.DEAD - 1,) * 2)
    assert rows(segflow("status", half.folder.path, code=1).out)["smooth"] == ["5", "0", "1", "2", "8"]


def test_the_output_names_the_work_folder(segflow, half):
    assert segflow("status", half.output).out.splitlines()[-1].startswith("equalise: 5 of 17")
    result = segflow("status", half.output.parent / "other", code=1)
    assert "is no work folder (it has no plan.json), nor is there one at" in result.last
    assert "in a bucket" in segflow("status", "s3://bucket/seg", code=1).last


def test_stale_and_kept_results_are_marked(segflow, make):
    make().begin().run()
    job = make(width=2)
    job.folder.begin("equalise", {}, job.stages[:2], grid=job.grid, bounds=job.bounds, stale="keep")
    lines = {line.split()[0]: line for line in segflow("status", job.folder.path).out.splitlines()}
    assert lines["smooth"].endswith("kept from before width 1 → 2")
    assert lines["write"].endswith("stale: earlier stages were redone")


def test_long_lists_are_cut(segflow, make):
    job = make(size=(20, 64, 64), fail=range(30)).begin()
    with pytest.raises(SegflowError, match="30 of 64"):
        job.run()
    out = segflow("status", job.folder.path, code=1).out
    assert out.count("are bad") == 20
    assert "and 10 more; --json lists all" in out


# -- the map ------------------------------------------------------------------------------------


def picture_of(path) -> np.ndarray:
    from PIL import Image

    return np.asarray(Image.open(path).convert("RGB"))


def test_map_has_the_right_colours_in_the_right_cells(segflow, half, tmp_path):
    segflow("status", half.folder.path, "--map", tmp_path / "map.png")
    picture, drawn = picture_of(tmp_path / "map.png"), Map(survey(half.folder))
    assert [s.name for s in drawn.stages] == ["smooth", "write"]
    states = ["done"] * 5 + ["running", "failed", "missing"]
    for block, state in enumerate(states):
        assert tuple(picture[drawn.centre(0, block)]) == COLOURS[state], block
        assert tuple(picture[drawn.centre(1, block)]) == COLOURS["missing"]
    (top, left), cell = drawn.corner(0, 0), drawn.cell
    assert drawn.centre(0, 1) == (top + cell // 2, left + cell + cell // 2)  # x runs to the right
    assert drawn.centre(0, 2) == (top + cell + cell // 2, left + cell // 2)  # y runs down
    for number, colour in enumerate(COLOURS.values()):
        assert tuple(picture[9, drawn.GAP + 80 * number + 4]) == colour  # the legend


@pytest.mark.parametrize("counts", [(3, 2, 4), (40, 30, 50), (2, 900, 3), (1, 1, 1)])
def test_map_puts_sections_side_by_side(tmp_path, counts):
    box = Box((0, 0, 0), counts)
    grid = Grid.over(box, (1, 1, 1))
    folder = WorkFolder(tmp_path / "work")
    folder.begin("job", {}, [Stage("s", len(grid), lambda i: None)], grid=grid, bounds=box)
    chosen = sorted({0, len(grid) - 1, len(grid) // 2, len(grid) // 3})
    for block in chosen:
        folder.publish("s", block)
    drawn = Map(survey(folder))
    picture = drawn.draw()
    assert max(picture.shape[0] / 10, picture.shape[1]) < 2000
    centres = [drawn.centre(0, block) for block in range(len(grid))]
    assert len(set(centres)) == len(grid)
    green = [i for i, place in enumerate(centres) if tuple(picture[place]) == COLOURS["done"]]
    assert green == chosen
    assert np.all(picture == COLOURS["done"], axis=2).sum() > 0


def test_map_without_a_grid(segflow, tmp_path):
    folder = WorkFolder(tmp_path / "work")
    folder.begin("job", {}, [Stage("s", 3, lambda i: None)])
    assert "has none" in segflow("status", folder.path, "--map", tmp_path / "m.png", code=2).last
    assert not (tmp_path / "m.png").exists()


# -- watching -----------------------------------------------------------------------------------


def test_watch_ends_when_all_is_done(process, make):
    job = make(slow=0.1).begin()
    thread = threading.Thread(target=job.run)
    thread.start()
    result = process("status", job.folder.path, "--watch", "0.2")
    thread.join()
    assert result.out.splitlines()[-1] == "equalise: all 17 blocks are done"
    looks = [line for line in result.out.splitlines() if line.startswith("equalise: ")]
    assert len(looks) > 1
    assert looks[0] != looks[-1]


def test_watch_ends_with_control_c(make):
    job = make().begin()
    words = [sys.executable, "-m", "segflow", "status", str(job.folder.path), "--json", "--watch"]
    watching = subprocess.Popen(words, stdout=subprocess.PIPE, text=True)
    first = json.loads(watching.stdout.readline())
    assert first["stages"][0]["missing"] == list(range(8))
    watching.send_signal(2)
    watching.communicate(timeout=20)
    assert watching.returncode == 0


def test_watch_takes_seconds(segflow, make):
    assert "is not a valid float" in segflow("status", "--watch", make().folder.path, code=2).last


# -- clean --------------------------------------------------------------------------------------


def test_clean_a_stage_and_what_comes_after(segflow, make):
    job = make().begin()
    job.run()
    out = segflow("clean", job.folder.path, "--stage", "histogram", "--yes").out
    assert out.splitlines()[-1].endswith("of histogram, write")
    assert "smooth" not in out
    assert out.splitlines()[0].split()[:3] == ["histogram", "2", "files"]  # its result and its table
    assert job.folder.done("smooth") == set(range(8))
    assert not (job.folder.path / "histogram").exists()
    assert make().begin().run() == {"histogram": 1, "write": 8}


def test_clean_all_keeps_the_output_and_the_plan(segflow, make):
    job = make().begin()
    job.run()
    before = job.output.read_bytes()
    out = segflow("clean", job.output, "--yes").out
    assert out.splitlines()[-1].startswith("removed 18 files, ")
    assert job.output.read_bytes() == before
    assert [p.name for p in job.folder.path.iterdir()] == ["plan.json"]
    assert segflow("clean", job.folder.path, "--yes").out == "nothing to remove\n"
    assert make(width=2).begin().run().total == 17  # other parameters are free now


def test_clean_removes_failures_and_claims_of_the_dead(segflow, half):
    half.folder.release("smooth", 5)
    half.folder.claim("smooth", 5)
    path = half.folder.path / "smooth" / "running" / "00000005"
    path.write_text(json.dumps({"worker": "deadbeef1-2-3", "host": "other", "since": 1.0}))
    os.utime(path, (1, 1))
    segflow("clean", half.folder.path, "--yes")
    assert not (half.folder.path / "smooth").exists()


def answer(folder, text: str) -> subprocess.CompletedProcess[str]:
    words = [sys.executable, "-m", "segflow", "clean", str(folder)]
    return subprocess.run(words, input=text, capture_output=True, text=True)


def test_clean_asks_first(make):
    job = make().begin()
    job.run()
    no = answer(job.folder.path, "n\n")
    assert f"remove this from {job.folder.path}?" in no.stdout
    assert no.stdout.endswith("nothing was removed\n")
    nobody = answer(job.folder.path, "")
    assert nobody.returncode == 2
    assert "--yes removes without asking" in nobody.stderr
    assert job.folder.complete("write")
    yes = answer(job.folder.path, "y\n")
    assert yes.returncode == 0
    assert job.folder.done("smooth") == set()


def test_clean_refuses_while_blocks_are_computed(segflow, half):
    result = segflow("clean", half.folder.path, "--yes", code=2)
    assert "blocks of stage smooth are being computed" in result.last
    assert half.folder.done("smooth") == set(range(5))
    segflow("clean", half.folder.path, "--stage", "histogram", "--yes")
    segflow("clean", half.folder.path, "--yes", "--force")
    assert half.folder.done("smooth") == set()


def test_clean_refuses_what_is_no_work_folder(segflow, tmp_path):
    (tmp_path / "thesis.tex").write_text("years")
    assert "is no work folder" in segflow("clean", tmp_path, "--yes", code=1).last
    assert (tmp_path / "thesis.tex").exists()


def test_clean_names_the_stages_there_are(segflow, make):
    job = make().begin()
    result = segflow("clean", job.folder.path, "--stage", "smoth", code=2)
    assert "no stage 'smoth' (did you mean 'smooth'?); there are smooth, histogram, write" in result.last
