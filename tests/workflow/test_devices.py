"""Devices that are there, are not usable, or are not to be touched, in whole runs."""

from collections.abc import Callable
from pathlib import Path

from framefeat.files import read_json

from tests.workflow.project import Project


def embedders(project: Project) -> list[str]:
    return sorted(log.stem for log in (project.folder / "logs" / "toy" / "embedder").glob("*.log"))


def test_no_gpu_means_no_model_on_it_either(new_project: Callable[..., Project]) -> None:
    project = new_project(("a",), "none")
    project.config["device"] = "auto"
    project.run("--resources", "gpu=0", env={"FRAMEFEAT_DEVICES": "fake0"})
    assert embedders(project) == ["cpu"]


def test_a_gpu_that_torch_cannot_use(new_project: Callable[..., Project], tmp_path: Path) -> None:
    """auto: on the CPU, and said once; cuda: refused before anything is decoded."""
    driver = tmp_path / "driver"
    (driver / "gpu0").mkdir(parents=True)
    (tmp_path / "sitecustomize.py").write_text(
        "import pathlib, framefeat.backbone.driver as g, framefeat.extract.devices as d\n"
        f"g._GPUS = pathlib.Path({str(driver)!r})\n"
        "d._QUESTION = [d._QUESTION[0], '-c', 'import json; print(json.dumps(\"CUDA unknown error\"))']\n"
    )
    env = {"PYTHONPATH": f"{tmp_path}:{Path(__file__).parents[2] / 'workflow'}", "CUDA_VISIBLE_DEVICES": "0"}
    project = new_project(("a",), "unusable")
    project.config["device"] = "cuda"
    refused = project.run(check=False, env=env)
    assert refused.status != 0
    assert "'cuda' was asked for, but torch cannot use it (device 0: CUDA unknown error)" in refused.output
    assert not refused.jobs
    project.config["device"] = "auto"
    done = project.run(env=env)
    assert done.output.count("a GPU is here that torch cannot use (device 0: CUDA unknown error)") == 1
    assert embedders(project) == ["cpu"]
    manifest = read_json(project.results / "mobilenet_v3_large" / "feature_manifest.json")
    assert [known["device"] for known in manifest["computed_by"]] == ["cpu"]
    assert manifest["computed_by"][0]["folding"].startswith("folded")
