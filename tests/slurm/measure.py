"""``python -m tests.slurm.measure``: what a run of short clips costs on the one-node Slurm.

24 clips in one shard (``shard_rows: 5000``), and 65 clips in four: Slurm jobs, embedder loads, the wall time and for
how long a GPU was held.
"""

import os
import sys
import tempfile
from datetime import datetime
from pathlib import Path

from tests.models import live_mobilenet
from tests.slurm.conftest import make_project, numbered
from tests.slurm.node import install, running_node
from tests.workflow.collection import FEW

CLIPS = 24


def main() -> int:
    if problem := install():
        print(problem, file=sys.stderr)
        return 1
    print(f"{os.cpu_count()} cores, load {os.getloadavg()[0]:.1f} before")
    print("clips | Slurm jobs  GPU jobs  embedder loads  wall s  GPU held s")
    with tempfile.TemporaryDirectory() as folder, running_node(cpus=2, memory_mb=64000, gpus=1) as node:
        weights = Path(folder) / "live.pth"
        live_mobilenet(weights)
        for ids, shard_rows in ((numbered(CLIPS), 5000), (FEW, "auto")):
            project = make_project(Path(folder) / str(len(ids)), node, weights, ids)
            project.config["shard_rows"] = shard_rows
            run = project.submit("--cores", "2", "--resources", "gpu=1")
            gpu_jobs = [job for job in run.jobs.values() if job.get("TresPerJob")]
            held = sum(
                (
                    datetime.fromisoformat(job["EndTime"]) - datetime.fromisoformat(job["StartTime"])
                ).total_seconds()
                for job in gpu_jobs
            )
            print(
                f"{len(ids):5} | {len(run.jobs):10} {len(gpu_jobs):9} {project.embedder_loads():15}"
                f" {run.seconds:7.0f} {held:11.0f}   (load {os.getloadavg()[0]:.1f})",
                flush=True,
            )
    return 0


if __name__ == "__main__":
    sys.exit(main())
