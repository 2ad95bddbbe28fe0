"""The workflow in other people's hands: as a module of another workflow, and started from other folders."""

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import framefeat
import numpy as np
import pandas as pd
import pytest
import yaml
from framefeat.words import many

from tests.workflow.project import ROOT, Run, environment, started_jobs

SNAKEFILE = ROOT / "Snakefile"
BACKBONE = "mobilenet_v3_large"
#: A workflow that makes the tables of one data set itself, reads the features of two, and has a pipe of its own.
OUTER = f"""
import json, os


configfile: "outer.yaml"


def state():
    return dict(
        path=os.environ["PATH"], resources=sorted(workflow.global_resources), report=workflow.report_text
    )


print("BEFORE", json.dumps(state()))


module tables:
    snakefile:
        {str(SNAKEFILE)!r}
    config:
        config["tables"]
    prefix:
        "sub"


use rule * from tables as tables_*


module folder:
    snakefile:
        {str(SNAKEFILE)!r}
    config:
        config["folder"]


use rule * from folder as folder_*


rule all:
    default_target: True
    input:
        "shapes.txt",


rule indexes:
    output:
        frames="frames.csv",
        videos="videos.csv",
    shell:
        "cp given/frames.csv {{output.frames}} && cp given/videos.csv {{output.videos}}"


rule stream:
    output:
        pipe("stream"),
    shell:
        "echo streamed > {{output}}"


rule shapes:
    input:
        "sub/results/one/{BACKBONE}/one_features.npy",
        "results/two/{BACKBONE}/two_features.npy",
        stream="stream",
    output:
        "shapes.txt",
    shell:
        "cat {{input.stream}} > {{output}}; "
        "python -c 'import sys, numpy; [print(numpy.load(path).shape) for path in sys.argv[1:3]]' {{input}} >> {{output}}"


print("AFTER", json.dumps(state()))


onsuccess:
    print("DONE", json.dumps(state()))
"""


def snakemake(
    folder: Path, *arguments: str, config: Mapping[str, Any] | None = None, path: str | None = None
) -> Run:
    for name, content in (config or {}).items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(yaml.safe_dump(content), encoding="utf-8")
    done = subprocess.run(
        [sys.executable, "-m", "snakemake", "--cores", "2", "--nocolor", *arguments], cwd=folder,
        env=environment() | ({"PATH": path} if path else {}), text=True, stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT, timeout=200, check=False,
    )  # fmt: skip
    return Run(done.returncode, done.stdout, started_jobs(done.stdout))


def outer_project(folder: Path, clips: Path, weights: str) -> dict[str, Any]:
    """The outer workflow's files in ``folder``, and its configuration."""
    (folder / "given").mkdir()
    (folder / "clips").mkdir()
    shutil.copy(clips / "a.mp4", folder / "clips")
    rows = pd.DataFrame({"video_id": "x", "timestamp_sec": [0.0, 0.5, 1.0]})
    rows.to_csv(folder / "given" / "frames.csv", index=False)
    videos = pd.DataFrame({"video_id": ["x"], "video_path": ["clips/a.mp4"], "fps": [25]})
    videos.to_csv(folder / "given" / "videos.csv", index=False)
    (folder / "Snakefile").write_text(OUTER, encoding="utf-8")
    given = {"frame_index": "frames.csv", "video_index": "videos.csv"}
    shared = {"weights": weights, "device": "cpu"}
    return {
        "tables": {"dataset": "one", **given, **shared},
        "folder": {"dataset": "two", "videos": "clips", "sample_fps": 1, **shared},
    }


def test_two_modules_one_with_a_prefix_and_rules_around_them(
    tmp_path: Path, clips: Path, weights: Path
) -> None:
    shutil.copy(weights, tmp_path / "live.pth")
    config = outer_project(tmp_path, clips, "./live.pth")
    done = snakemake(tmp_path, config={"outer.yaml": config})
    assert done.status == 0, done.output
    assert (tmp_path / "shapes.txt").read_text().split("\n") == ["streamed", "(3, 960)", "(3, 960)", ""]

    before, after, end = (
        json.loads(re.findall(rf"^{word} (.+)$", done.output, re.M)[0])
        for word in ("BEFORE", "AFTER", "DONE")
    )
    assert after == before, "importing changed the workflow around it"
    assert end == before, "its jobs changed the workflow around it"

    made = [tmp_path / "sub/results/one", tmp_path / "results/two"]
    one, two = (np.load(root / BACKBONE / f"{root.name}_features.npy") for root in made)
    assert np.array_equal(one[[0, 2]], two[:2])
    assert sorted(path.name for path in (tmp_path / "results").iterdir()) == ["two"]
    assert sorted(path.name for path in (tmp_path / "logs").iterdir()) == ["two"], (
        "logs outside of the prefix"
    )
    assert (tmp_path / "sub/logs/one/assemble").is_dir()

    again = snakemake(tmp_path, "-n", "shapes.txt")
    assert "Nothing to be done" in again.output
    again = snakemake(tmp_path, "-n", "-p", "--forcerun", "folder_sample_frames", "tables_sample_frames")
    again_of = re.findall(r"framefeat sample (\S+) .*--again ", again.output)
    assert sorted(again_of) == ["results/two", "sub/results/one"], again.output
    again = snakemake(tmp_path, "shapes.txt", "folder_report", "tables_report", "tables_verify")
    assert again.status == 0, again.output
    assert again.of("sample_frames", "extract_features", "folder_sample_frames", "tables_sample_frames") == []
    assert (made[0] / "report.html").is_file()
    assert (made[1] / "report.html").is_file()
    for part, prefix in (("tables", ["--prefix", "sub"]), ("folder", [])):
        told = subprocess.run(
            [sys.executable, "-m", "framefeat.cli", "plan", "--configfile", "outer.yaml", "--section", part, *prefix],
            cwd=tmp_path, env=environment(), text=True, capture_output=True, timeout=100, check=False,
        )  # fmt: skip
        assert f"{config[part]['dataset']}: Nothing to be done" in told.stdout, told.stdout + told.stderr


def test_two_modules_that_need_the_same_weights(tmp_path: Path, clips: Path) -> None:
    config = outer_project(tmp_path, clips, "IMAGENET1K_V1")
    text = OUTER.replace('    prefix:\n        "sub"\n', "").replace("sub/", "")
    (tmp_path / "Snakefile").write_text(text, encoding="utf-8")
    done = snakemake(tmp_path, "-n", config={"outer.yaml": config})
    assert done.status == 0, done.output
    fetched = re.findall(r"^(\w*fetch_weights) +(\d+)$", done.output, re.M)
    assert set(fetched) == {("tables_fetch_weights", "1")}


@pytest.mark.parametrize("others", ["*", "merge_index, sample_frames, extract_features"])
def test_a_rule_taken_by_itself(tmp_path: Path, clips: Path, weights: Path, others: str) -> None:
    """Snakemake reads the module once more for it, and shows it no other rule."""
    (tmp_path / "Snakefile").write_text(
        f"""
configfile: "outer.yaml"


module frames:
    snakefile:
        {str(SNAKEFILE)!r}
    config:
        config
    prefix:
        "sub"


use rule {others} from frames as frames_*


use rule assemble from frames as frames_assemble with:
    resources:
        mem_mb=1234,
""",
        encoding="utf-8",
    )
    config = {"dataset": "x", "videos": str(clips / "a.mp4"), "weights": str(weights), "device": "cpu"}
    matrix = f"sub/results/x/{BACKBONE}/x_features.npy"
    done = snakemake(tmp_path, matrix, config={"outer.yaml": config})
    assert done.status == 0, done.output
    assert (tmp_path / matrix).is_file()


def test_a_module_without_the_command_on_path(tmp_path: Path, clips: Path) -> None:
    config = outer_project(tmp_path, clips, "IMAGENET1K_V1")
    done = snakemake(tmp_path, "-n", config={"outer.yaml": config}, path="/usr/bin:/bin")
    assert done.status != 0
    assert "framefeat is not found on PATH: activate the environment" in done.output


def test_a_module_where_the_other_rules_use_conda(tmp_path: Path, clips: Path) -> None:
    """Its rules stay in the environment that Snakemake runs in."""
    config = outer_project(tmp_path, clips, "IMAGENET1K_V1")
    done = snakemake(tmp_path, "-n", "--sdm", "conda", config={"outer.yaml": config})
    assert done.status == 0, done.output
    assert "environment.yaml" not in done.output
    assert "fetch_weights" in done.output
    assert "Missing output files: sub/resources/weights/" in done.output, "the prefix holds for weights, too"


def blocks_of_the_readme(heading: str) -> list[str]:
    """The code blocks below a heading, with this folder for the address."""
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    part = re.split(r"^#+ ", text[text.index(f"# {heading}\n") + 2 :], maxsplit=1, flags=re.M)[0]
    blocks = re.findall(r"^```\w*\n(.+?)^```", part, re.M | re.S)
    return [block.replace("/path/to/framefeat", str(ROOT)) for block in blocks]


def test_as_the_readme_says(tmp_path: Path, clips: Path) -> None:
    (tmp_path / "clips").symlink_to(clips)
    snakefile, config = blocks_of_the_readme("Use it as a module")
    (tmp_path / "Snakefile").write_text(snakefile, encoding="utf-8")
    (tmp_path / "config.yaml").write_text(config, encoding="utf-8")
    as_module = snakemake(tmp_path, "-n")
    by_path = snakemake(tmp_path, "-n", "results/mine/mobilenet_v3_large/mine_features.npy")
    assert as_module.status == by_path.status == 0, as_module.output + by_path.output
    assert {"merge_index:mine", "report:mine"} <= set(as_module.jobs)
    assert "merge_index:mine" in by_path.jobs

    (command,) = blocks_of_the_readme("In another folder, or in another workflow")
    elsewhere = snakemake(tmp_path, "-n", *command.split()[1:])
    assert elsewhere.status == 0, elsewhere.output
    assert {"merge_index:mine", "report:mine"} <= set(elsewhere.jobs)


#: What `snakedeploy deploy-workflow` writes into workflow/Snakefile, with the address for {snakefile}.
DEPLOYED = """
from snakemake.utils import min_version


min_version("6.10.0")


configfile: "config/config.yaml"


module framefeat:
    snakefile:
        {snakefile}
    config:
        config


use rule * from framefeat
"""


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    """The workflow as it is here, committed and tagged in a repository of its own."""
    folder = tmp_path / "repository"
    for name in ("Snakefile", "workflow/Snakefile", "workflow/rules", "workflow/report", "envs"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copy
        copy(ROOT / name, folder / name)
    for command in ("init -q", "add .", "commit -q -m all", "tag v1"):
        name_of_the_author = ["-c", "user.name=a", "-c", "user.email=a@localhost"]
        subprocess.run(["git", *name_of_the_author, *command.split()], cwd=folder, check=True)
    return folder


@pytest.mark.parametrize("kind", ["git", "github"])
def test_by_address_as_snakedeploy_writes_it(
    tmp_path: Path, clips: Path, repository: Path, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    address = {
        "git": f'"git+file://{repository}/workflow/Snakefile@v1"',
        "github": 'github("someone/framefeat", path="workflow/Snakefile", tag="v1")',
    }[kind]
    # git finds the repository of that address here, and Snakemake keeps its copy here.
    monkeypatch.setenv("GIT_CONFIG_COUNT", "1")
    monkeypatch.setenv("GIT_CONFIG_KEY_0", f"url.file://{repository}.insteadOf")
    monkeypatch.setenv("GIT_CONFIG_VALUE_0", "https://github.com/someone/framefeat")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    (tmp_path / "clips").symlink_to(clips)
    (tmp_path / "workflow").mkdir()
    (tmp_path / "workflow/Snakefile").write_text(DEPLOYED.format(snakefile=address), encoding="utf-8")
    own = {"config/config.yaml": {"dataset": "own", "videos": "clips"}}
    everything = snakemake(tmp_path, "-n", config=own)
    assert everything.status == 0, everything.output
    assert {"merge_index:own", "report:own"} <= set(everything.jobs)
    assert re.search(r"^all +1$", everything.output, re.M), "the default target is that of the module"
    done = snakemake(tmp_path, "results/own/index.parquet")
    assert done.status == 0, done.output
    assert len(pd.read_parquet(tmp_path / "results/own/index.parquet")) > 0


@pytest.mark.parametrize(
    ("was", "now", "told"),
    [
        ('VERSION = "', 'VERSION = "9.', "The rules are those of framefeat 9."),
        (
            "import framefeat\n",
            "import framefeat.of_another_environment\n",
            "has no framefeat. Run Snakemake in",
        ),
    ],
)
def test_rules_without_their_commands(
    tmp_path: Path, clips: Path, repository: Path, was: str, now: str, told: str
) -> None:
    rules = repository / "workflow/rules/workflow.smk"
    text = rules.read_text(encoding="utf-8")
    assert text.count(was) == 1
    rules.write_text(text.replace(was, now), encoding="utf-8")
    done = snakemake(tmp_path, "-s", str(repository / "Snakefile"), "-n", "--config", f"videos={clips}")
    assert done.status != 0
    assert told in done.output
    assert "'make env' builds in a clone of framefeat" in done.output
    assert "Traceback" not in done.output


def test_both_snakefiles_are_one_workflow(tmp_path: Path, clips: Path) -> None:
    """`snakemake` takes the first of them, snakedeploy and the workflow catalog the second."""
    both = [
        snakemake(tmp_path, "-s", str(ROOT / name), "-n", "--config", f"videos={clips}")
        for name in ("Snakefile", "workflow/Snakefile")
    ]
    assert [done.status for done in both] == [0, 0], both[1].output
    assert both[0].jobs == both[1].jobs
    for done, folder in zip(both, (ROOT, ROOT / "workflow"), strict=True):
        assert f"profile {folder}/profiles/default" in done.output, "what triggers a job stands there"
    rules = [(ROOT / name).read_text("utf-8") for name in ("Snakefile", "workflow/Snakefile")]
    assert len({text[text.index("rule all:") :] for text in rules}) == 1


def test_what_the_workflow_catalog_asks_for() -> None:
    """For standardized usage: its Snakefile, the configuration's manual, and how software is deployed."""
    assert (ROOT / "workflow" / "Snakefile").is_file()
    assert (ROOT / "config" / "README.md").is_file()
    shown = yaml.safe_load((ROOT / ".snakemake-workflow-catalog.yml").read_text(encoding="utf-8"))["usage"]
    assert set(shown["software-stack-deployment"]) == {"conda", "apptainer", "apptainer+conda"}
    readme = (ROOT / "README.md").read_text(encoding="utf-8").lower()
    assert "snakemake" in readme
    assert "workflow" in readme


def test_one_version_everywhere() -> None:
    version = framefeat.__version__
    rules = (ROOT / "workflow/rules/workflow.smk").read_text(encoding="utf-8")
    assert f'\nVERSION = "{version}"\n' in rules
    assert f'\nversion = "{version}"\n' in (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    assert f"\n## {version}\n" in (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    assert f'tag="v{version}"' in (ROOT / "README.md").read_text(encoding="utf-8")


def test_the_citation_is_of_this_version() -> None:
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert {"cff-version", "message", "title", "authors"} <= set(citation)
    assert citation["version"] == framefeat.__version__
    for cited in citation["references"]:
        assert {"type", "title", "authors"} <= set(cited)


def test_from_another_folder_without_a_configuration(tmp_path: Path, clips: Path) -> None:
    nothing = snakemake(tmp_path, "-s", str(SNAKEFILE), "-n")
    assert nothing.status != 0
    assert f"names no input, and the example's folder 'resources/example' is not below {str(tmp_path)!r}" in (
        nothing.output
    )
    done = snakemake(tmp_path, "-s", str(SNAKEFILE), "-n", "--config", f"videos={clips}")
    assert done.status == 0, done.output
    assert "merge_index:example" in done.jobs
    assert f"profile {SNAKEFILE.parent}/profiles/default" in done.output


def test_from_another_folder_with_a_configuration_of_its_own(tmp_path: Path, clips: Path) -> None:
    own = {"config/config.yaml": {"dataset": "own", "videos": "videos"}}
    (tmp_path / "videos").symlink_to(clips)
    done = snakemake(tmp_path, "-s", str(SNAKEFILE), "results/own/index.parquet", config=own)
    assert done.status == 0, done.output
    assert len(pd.read_parquet(tmp_path / "results/own/index.parquet")) > 0


def test_the_plan_takes_the_options_that_snakemake_takes(tmp_path: Path, clips: Path) -> None:
    """The same data set and the same videos, however they are named and wherever the folder is."""
    work = tmp_path / "work"
    (work / "resources").mkdir(parents=True)
    (work / "resources" / "example").symlink_to(clips)
    (work / "few").mkdir()
    shutil.copy(clips / "a.mp4", work / "few")
    (tmp_path / "over.yaml").write_text("dataset: over\n", encoding="utf-8")
    cases: list[tuple[Path, list[str], str, int]] = [
        (work, [], "example", 4),
        (work, ["--config", "videos=few", "dataset=2024"], "2024", 1),
        (work, ["--configfile", "../over.yaml"], "over", 4),
        (tmp_path, ["--directory", "work", "--configfile", "over.yaml", "--config", "videos=few"], "over", 1),
        (tmp_path, ["-d", "work", "-C", "videos=few"], "example", 1),
    ]
    for folder, arguments, dataset, videos in cases:
        check_plan(folder, arguments, dataset, videos)
    (work / "config").mkdir()
    (work / "config" / "config.yaml").write_text("dataset: own\nvideos: few\n", encoding="utf-8")
    check_plan(work, [], "own", 1)
    check_plan(tmp_path, ["--directory", "work"], "own", 1)
    check_plan(work, ["--configfile", "../over.yaml"], "over", 1)


def test_what_is_named_at_the_end_lies_where_the_reader_finds_it(
    tmp_path: Path, clips: Path, weights: Path
) -> None:
    for file in ("a.mp4", "again/a.mp4"):  # two videos of one name
        (tmp_path / "clips" / file).parent.mkdir(parents=True)
        shutil.copy(clips / "a.mp4", tmp_path / "clips" / file)
    (tmp_path / "work").mkdir()
    given = ["--directory", "work", "--config", "videos=../clips", "dataset=none", f"weights={weights}"]
    done = snakemake(tmp_path, "-s", str(SNAKEFILE), *given)
    assert done.status != 0
    log = "work/logs/none/merge_index/merge_index.log"
    assert "1 job failed:\n" in done.output
    assert f"\n    log: {log}\n" in done.output
    assert (tmp_path / log).is_file()


def test_the_plan_of_a_module(tmp_path: Path, clips: Path) -> None:
    own = {"other": 1, "framefeat": {"dataset": "mine", "videos": str(clips)}}
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(own), encoding="utf-8")

    def plan(*section: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "framefeat.cli", "plan", "--configfile", "config.yaml", *section], cwd=tmp_path,
            env=environment(), text=True, capture_output=True, timeout=100, check=False,
        )  # fmt: skip

    assert plan("--section", "framefeat").stdout.startswith("mine:\n4 of 4 videos will be decoded:\n")
    weights = "resources/weights/mobilenet_v3_large-8738ca79.pth is not there"
    assert f"\n{weights}" in plan("--section", "framefeat").stdout
    assert f"\nsub/{weights}" in plan("--section", "framefeat", "--prefix", "sub").stdout
    assert "has no such part; name one of ['framefeat', 'other']" in plan("--section", "dataset").stderr
    assert "'framefeat plan --section framefeat' reads such a part" in plan().stderr


@pytest.mark.parametrize("option", ["--config", "--configfile"])
def test_an_option_given_twice_is_refused(tmp_path: Path, clips: Path, option: str) -> None:
    """Snakemake takes the last: a run of the data set that nobody named."""
    values = {"--config": (f"videos={clips}", "dataset=two"), "--configfile": ("a.yaml", "b.yaml")}[option]
    for name in ("a.yaml", "b.yaml"):
        (tmp_path / name).write_text(f"videos: {clips}\n", encoding="utf-8")
    twice = [option, values[0], option, values[1]]
    done = snakemake(tmp_path, "-s", str(SNAKEFILE), "-n", *twice)
    assert done.status != 0
    assert f"{option} is given twice, and Snakemake takes the last alone" in done.output
    told = subprocess.run(
        [sys.executable, "-m", "framefeat.cli", "plan", *twice], cwd=tmp_path, env=environment(), text=True,
        capture_output=True, timeout=100, check=False,
    )  # fmt: skip
    assert told.returncode == 2
    assert f"{option} is given twice" in told.stderr
    assert snakemake(tmp_path, "-s", str(SNAKEFILE), "-n", option, *values).status == 0


def check_plan(folder: Path, arguments: list[str], dataset: str, videos: int) -> None:
    snakefile = ["-s", str(SNAKEFILE), "-n"]
    done = snakemake(folder, *snakefile, *arguments)
    assert done.status == 0, done.output
    assert f"merge_index:{dataset}" in done.jobs
    told = subprocess.run(
        [sys.executable, "-m", "framefeat.cli", "plan", *arguments], cwd=folder, env=environment(), text=True,
        capture_output=True, timeout=100, check=False,
    )  # fmt: skip
    assert told.returncode == 0, told.stderr
    assert told.stdout.startswith(f"{dataset}:\n{videos} of {many(videos, 'video')} will be decoded:\n")


@pytest.mark.parametrize("place", ["inside", "outside"])
def test_another_working_directory(tmp_path: Path, clips: Path, place: str) -> None:
    """--directory: from the project's own folder, and from anywhere."""
    own = {"work/config/config.yaml": {"dataset": "own", "videos": os.path.relpath(clips, tmp_path / "work")}}
    arguments = ["--directory", str(tmp_path / "work"), "results/own/index.parquet"]
    snakefile = ["-s", str(SNAKEFILE)] if place == "outside" else []
    if not snakefile:
        for name in ("Snakefile", "workflow"):
            (tmp_path / name).symlink_to(ROOT / name)
    done = snakemake(tmp_path, *snakefile, *arguments, config=own)
    assert done.status == 0, done.output
    assert (tmp_path / "work/results/own/index.parquet").is_file()
    assert not (tmp_path / "results").exists()
