"""``python -m tests.slurm.measure``: what grouping costs and saves, on the one-node Slurm.

24 short clips; for each pair of group sizes the number of Slurm jobs, embedder loads, the wall time and the GPU's share
of it.
"""

import os
import sys
import tempfile
from datetime import datetime
from pathlib import Path

from tests.models import live_mobilenet
from tests.slurm.conftest import make_project
from tests.slurm.node import install, running_node

CLIPS = 24
SIZES = ((6, 12), (6, 1))


def main() -> int:
    if problem := install():
        print(problem, file=sys.stderr)
        return 1
    print(f"{CLIPS} clips, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f} before")
    print("sampling extraction | Slurm jobs  GPU jobs  embedder loads  wall s  GPU held s")
    with tempfile.TemporaryDirectory() as folder, running_node(cpus=2, memory_mb=64000, gpus=1) as node:
        weights = Path(folder) / "live.pth"
        live_mobilenet(weights)
        for sampling, extraction in SIZES:
            project = make_project(Path(folder) / f"{sampling}-{extraction}", node, weights, CLIPS)
            run = project.submit(
                "--cores", "2", "--resources", "gpu=1",
                "--group-components", f"sampling={sampling}", f"extraction={extraction}",
            )  # fmt: skip
            gpu_jobs = [job for job in run.jobs.values() if job.get("TresPerJob")]
            held = sum(
                (
                    datetime.fromisoformat(job["EndTime"]) - datetime.fromisoformat(job["StartTime"])
                ).total_seconds()
                for job in gpu_jobs
            )
            print(
                f"{sampling:8} {extraction:10} | {len(run.jobs):10} {len(gpu_jobs):9} {project.embedder_loads():15}"
                f" {run.seconds:7.0f} {held:11.0f}   (load {os.getloadavg()[0]:.1f})",
                flush=True,
            )
    return 0


if __name__ == "__main__":
    sys.exit(main())
