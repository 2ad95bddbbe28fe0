"""Devices that are there, are not usable, or are not to be touched, in whole runs."""

from collections.abc import Callable
from pathlib import Path

from framefeat.files import read_json

from tests.workflow.project import Project


def embedders(project: Project) -> list[str]:
    return sorted(log.stem for log in (project.folder / "logs" / "toy" / "embedder").glob("*.log"))


def pretended(folder: Path, answer: str) -> dict[str, str]:
    """The environment of a machine that has a GPU; ``answer`` is the program that answers for torch."""
    driver = folder / "driver"
    (driver / "gpu0").mkdir(parents=True)
    (folder / "sitecustomize.py").write_text(
        "import pathlib, framefeat.backbone.driver as g, framefeat.extract.devices as d\n"
        f"g._GPUS = pathlib.Path({str(driver)!r})\n"
        f"d._QUESTION = [d._QUESTION[0], '-c', {answer!r}]\n"
    )
    return {"PYTHONPATH": f"{folder}:{Path(__file__).parents[2] / 'workflow'}", "CUDA_VISIBLE_DEVICES": "0"}


def test_no_gpu_means_no_model_on_it_either(new_project: Callable[..., Project]) -> None:
    project = new_project(("a",), "none")
    project.config["device"] = "auto"
    project.run("--resources", "gpu=0", env={"FRAMEFEAT_DEVICES": "fake0"})
    assert embedders(project) == ["cpu"]


def test_no_gpu_means_that_none_is_asked(new_project: Callable[..., Project], tmp_path: Path) -> None:
    """The question alone would make a context on it."""
    asked = tmp_path / "asked"
    project = new_project(("a",), "unasked")
    project.config["device"] = "auto"
    env = pretended(tmp_path, f"open({str(asked)!r}, 'a').write('x'); print('[\"\"]')")
    project.run("--dry-run", "--resources", "gpu=0", env=env)
    assert not asked.exists()
    project.run("--dry-run", env=env)
    assert asked.read_text() == "x"


def test_a_gpu_that_torch_cannot_use(new_project: Callable[..., Project], tmp_path: Path) -> None:
    """auto: on the CPU, and said once; cuda: refused before anything is decoded."""
    env = pretended(tmp_path, "import json; print(json.dumps('CUDA unknown error'))")
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
