"""Jobs in processes of their own."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from simulations.in_parallel import share_of_gpus

JOBS = """
import json, os
from simulations.in_parallel import run_in_parallel

def job(number):
    if number == 2:
        os._exit(1)
    return 10 * number

print(json.dumps(sorted(run_in_parallel(job, [1, 2, 3], 2))))
"""


@pytest.mark.timeout(300)
def test_a_job_whose_process_dies_takes_no_other_with_it() -> None:
    # Ray leaves its own processes to its own end, which pytest would report as warnings.
    done = subprocess.run(
        [sys.executable, "-c", JOBS],
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parent.parent.parent)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    one, two, three = json.loads(done.stdout.splitlines()[-1])
    assert (one, three) == ([1, 10], [3, 30])
    assert two[0] == 2
    assert "died" in two[1]


@pytest.mark.parametrize(
    ("gpus", "at_once", "share"), [(0, 4, 0.0), (1, 4, 0.25), (4, 4, 1.0), (8, 4, 1.0), (3, 4, 0.5)]
)
def test_all_that_run_at_once_find_a_gpu_if_there_is_one(
    gpus: int, at_once: int, share: float
) -> None:
    assert share_of_gpus(gpus, at_once) == share
