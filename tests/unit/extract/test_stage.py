"""The extract stage: the store of valid features, clean ends, and real features in and out of the embedder."""

import glob
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from framefeat import cli, identity
from framefeat.environment import DEVICES, EMBEDDER_TIMEOUT, OWNER
from framefeat.errors import UserError
from framefeat.extract import client, devices
from framefeat.extract import stage as extract_stage
from framefeat.files import read_json, write_json

from tests import models
from tests.unit.extract.test_client import Run, runtime, wait_for

__all__ = ["runtime"]  # a fixture

ROWS, BAD, AGAIN = 5, 2, [1, 4]


class Job:
    """One video's sampled frames, and its extraction through the command line."""

    def __init__(self, results: Path, video: str = "v", spec: Mapping[str, Any] | None = None) -> None:
        frames = models.pictures(ROWS)
        frames[BAD] = 0
        self.inputs = {name: results / "frames" / f"{video}.{name}.npy" for name in ("frames", "recheck")}
        self.inputs["evidence"] = results / "evidence" / f"{video}.json"
        self.inputs["frames"].parent.mkdir(parents=True, exist_ok=True)
        np.save(self.inputs["frames"], frames)
        np.save(self.inputs["recheck"], frames[AGAIN])
        status = ["bad" if row == BAD else "ok" for row in range(ROWS)]
        self.evidence: dict[str, Any] = {
            "video_id": video,
            "key": {"fingerprint": "f"},
            "decoder": "pyav",
            "rows": {
                "timestamp_sec": [0.5 * row for row in range(ROWS)],
                "native_idx": [-1 if row == BAD else 10 * row for row in range(ROWS)],
                "pts_sec": [None if row == BAD else 0.5 * row for row in range(ROWS)],
                "status": status,
            },
            "recheck": {"reader": "decord", "rows": AGAIN, "mean_abs_diff": [0.0, 0.0], "agrees": True},
        }
        write_json(self.inputs["evidence"], self.evidence)
        self.features = results / "model" / "features" / f"{video}.npy"
        self.record = self.features.with_suffix(".json")
        self.store = results / "model" / "store"
        self.spec = spec or {"name": "model"}
        self.weights = results / "weights.pth"
        self.identity = "w1"
        self.precision = "float32"

    def arguments(self, *more: str) -> list[str]:
        return [
            "extract", "--spec", json.dumps(self.spec), "--weights", str(self.weights), "--weights-identity", self.identity,
            "--precision", self.precision, "--device", "cpu", "--gpus", "0",
            *(word for name, path in self.inputs.items() for word in (f"--{name}", str(path))),
            "--features", str(self.features), "--record", str(self.record), *more,
        ]  # fmt: skip

    def run(self, *more: str) -> int:
        return cli.main(self.arguments(*more))

    def again(self, *more: str) -> int:
        """As Snakemake does: the outputs go before the job runs again."""
        self.features.unlink()
        self.record.unlink()
        return self.run(*more)

    def bytes(self) -> tuple[bytes, bytes]:
        return self.features.read_bytes(), self.record.read_bytes()

    def left(self) -> list[str]:
        return [path.name for path in self.features.parent.iterdir() if path.name.startswith(".")]


@pytest.fixture
def computed(monkeypatch: pytest.MonkeyPatch) -> list[Mapping[str, Any]]:
    """What was computed, by something that takes no time and gives other bytes each time."""
    done: list[Mapping[str, Any]] = []

    def compute(message: Mapping[str, Any], device: str) -> dict[str, Any]:
        import hashlib

        done.append(message)
        Path(message["features"]).write_bytes(os.urandom(16))
        digest = hashlib.sha256(Path(message["features"]).read_bytes()).hexdigest()
        write_json(
            message["record"],
            {"key": message["key"], "file_sha256": digest, "versions": {"pytest": pytest.__version__}},
        )
        return {}

    monkeypatch.setattr(extract_stage, "_compute_here", compute)
    monkeypatch.delenv(OWNER, raising=False)
    return done


def test_a_lost_device_is_a_sentence_without_an_embedder_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from framefeat.extract import embed

    def lose(*_: Any) -> None:
        raise RuntimeError("CUDA error: an illegal memory access was encountered\nadvice")

    monkeypatch.delenv(OWNER, raising=False)
    monkeypatch.setattr(embed, "load_network", lose)
    assert Job(tmp_path).run() == 1
    assert capsys.readouterr().err.startswith(
        "framefeat extract: v: the device failed (device cpu, CUDA error: an illegal memory access was encountered)."
    )


@pytest.mark.parametrize("text", ["soon", "0", "nan"])
def test_a_time_limit_that_is_none_is_refused(monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    monkeypatch.setenv(EMBEDDER_TIMEOUT, text)
    with pytest.raises(UserError, match="no number of seconds"):
        client._silent_seconds()


# ----------------------------------------------------------------------------------------------------------- store


def test_valid_features_come_back_as_they_were(tmp_path: Path, computed: list[Any]) -> None:
    job = Job(tmp_path)
    assert job.run() == 0
    before = job.bytes()
    assert job.features.stat().st_ino == next(job.store.glob("*.npy")).stat().st_ino  # no second copy
    began = time.time()
    os.utime(next(job.store.glob("*.npy")), (1, 1))
    assert job.again() == 0
    assert job.bytes() == before
    assert len(computed) == 1
    assert job.features.stat().st_mtime >= began - 1  # or Snakemake would take it for older than its inputs


@pytest.mark.parametrize("change", ["weights", "precision", "spec", "frames"])
def test_what_decides_the_result_is_in_the_key(tmp_path: Path, computed: list[Any], change: str) -> None:
    job = Job(tmp_path)
    job.run()
    before = job.bytes()
    if change == "weights":
        job.identity = "w2"
    elif change == "precision":
        job.precision = "bf16"
    elif change == "spec":
        job.spec = {"name": "model", "mean": [0.5]}
    else:
        job.evidence["rows"]["native_idx"][0] = 1
        write_json(job.inputs["evidence"], job.evidence)
    assert job.again() == 0
    assert job.bytes() != before
    assert len(computed) == 2
    assert len(list(job.store.iterdir())) == 2  # the older ones are gone


def test_how_is_not_in_the_key(tmp_path: Path, computed: list[Any]) -> None:
    job = Job(tmp_path)
    job.run()
    assert job.again("--batch-size", "3", "--threads", "2") == 0
    assert len(computed) == 1


@pytest.mark.parametrize(
    "damage", ["features", "record", "no record", "a list", "other key", "versions", "no package"]
)
def test_what_is_damaged_is_computed_again(tmp_path: Path, computed: list[Any], damage: str) -> None:
    job = Job(tmp_path)
    job.run()
    (features,), (record,) = job.store.glob("*.npy"), job.store.glob("*.json")
    known = read_json(record)
    for path in (features, record):
        path.unlink()  # the results are the same files
    features.write_bytes(b"other" if damage == "features" else job.features.read_bytes())
    if damage == "record":
        record.write_text("{")
    elif damage == "a list":
        record.write_text("[]")
    elif damage != "no record":
        known["key"] = known["key"] | ({"algorithm": 0} if damage == "other key" else {})
        known["versions"] = {
            "versions": {"pytest": "0.1"},
            "no package": {"no-such-package": "1"},
        }.get(damage, known["versions"])
        write_json(record, known)
    assert job.again() == 0
    assert len(computed) == 2
    assert job.again() == 0
    assert len(computed) == 2


def test_only_the_half_precisions_have_another_algorithm() -> None:
    """Float32 results of before stay valid."""
    found = [
        identity.request_key("{}", "w", precision)["algorithm"] for precision in ("float32", "bf16", "fp16")
    ]
    assert found == [1, 2, 2]


def test_a_video_keeps_its_own(tmp_path: Path, computed: list[Any]) -> None:
    names = ["a", "a.b", "a.b.c", ".a", "b" * 180]
    jobs = [Job(tmp_path, name) for name in names]
    for job in jobs:
        assert job.run() == 0
    for job in jobs:
        assert job.again() == 0
    assert len(computed) == len(names)


def test_without_links_there_are_copies(
    tmp_path: Path, computed: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: Any) -> None:
        raise PermissionError("no links here")

    monkeypatch.setattr(os, "link", refuse)
    job = Job(tmp_path)
    job.run()
    before = job.bytes()
    assert job.again() == 0
    assert job.bytes() == before
    assert len(computed) == 1


def test_a_store_that_cannot_be_written_loses_no_result(tmp_path: Path, computed: list[Any]) -> None:
    job = Job(tmp_path)
    job.store.parent.mkdir(parents=True)
    job.store.write_text("in the way")
    assert job.run() == 0
    assert job.features.exists()
    assert job.again() == 0
    assert len(computed) == 2


# ------------------------------------------------------------------------------------------------------ clean ends


def test_a_failed_job_leaves_nothing(
    tmp_path: Path, computed: list[Any], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(message: Mapping[str, Any], device: str) -> None:
        Path(message["features"]).write_text("half")
        raise UserError("weights: no.")

    monkeypatch.setattr(extract_stage, "_compute_here", fail)
    job = Job(tmp_path)
    assert job.run() == 1
    assert capsys.readouterr().err == "framefeat extract: weights: no.\n"
    assert list(job.features.parent.iterdir()) == []


def test_what_a_killed_job_left_goes_with_the_next(tmp_path: Path, computed: list[Any]) -> None:
    job = Job(tmp_path)
    left = job.features.parent / ".v.part" / "tmp123"
    left.mkdir(parents=True)
    (left / "features.npy").write_text("half")
    assert job.run() == 0
    assert job.left() == []


STUB_COMMAND = (
    "import sys; from framefeat import cli; from framefeat.extract import client, stage; "
    "client.COMMAND = sys.argv[1].split('|'); ask = client.request; "
    "client.request = lambda message, *more: ask(dict(message) | {'do': sys.argv[2], 'seconds': 60}, *more); "
    "sys.exit(cli.main(sys.argv[3:]))"
)


@pytest.fixture
def run(runtime: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Run]:
    run = Run(tmp_path)
    monkeypatch.setenv(OWNER, run.owner)
    yield run
    run.end()
    wait_for(lambda: not any(runtime.iterdir()), 5)


def start(job: Job, do: str, logs: Path) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", STUB_COMMAND, "|".join(client.COMMAND), do, *job.arguments("--embedder-logs", str(logs))],
        stderr=subprocess.PIPE, text=True,
        # A suite that a shell runs in the background ignores Ctrl-C, and so would the job.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )  # fmt: skip


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_a_job_that_is_ended_leaves_nothing(run: Run, tmp_path: Path, number: signal.Signals) -> None:
    job = Job(tmp_path / "results")
    process = start(job, "sleep", tmp_path / "logs")
    half = f"{job.features.parent}/.v.part/*/half"
    wait_for(lambda: glob.glob(half), 20)
    process.send_signal(number)
    assert process.wait(10) == (-number if number == signal.SIGKILL else 128 + number)
    if number == signal.SIGKILL:  # then it is the embedder that cleans up, at the latest when it ends
        run.end()
    wait_for(
        lambda: not glob.glob(half)
    )  # not Path.glob: a folder that goes while it lists is an error there
    assert not job.features.exists()
    assert not job.record.exists()


def test_an_embedder_that_is_killed_leaves_nothing(run: Run, tmp_path: Path) -> None:
    job = Job(tmp_path / "results")
    process = start(job, "kill", tmp_path / "logs")
    _, err = process.communicate(timeout=20)
    assert process.returncode == 1
    assert err.startswith("framefeat extract: the embedder ended (signal 9")
    assert "while it worked on v;" in err
    assert list(job.features.parent.iterdir()) == []
    process = start(job, "answer", tmp_path / "logs")
    assert process.wait(20) == 0
    assert job.features.exists()


def test_an_owner_that_has_ended_is_no_owner(
    run: Run, computed: list[Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(OWNER, run.owner)
    run.end()
    assert Job(tmp_path / "results").run() == 0
    assert len(computed) == 1


def test_embedder_off_still_holds_its_device(
    run: Run, computed: list[Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(OWNER, run.owner)
    monkeypatch.setenv(DEVICES, "fake0,fake1")
    job = Job(tmp_path / "results")
    with devices.hold(run.folder, ["fake0"]):
        seen: list[str] = []
        inner = extract_stage._compute_here

        def look(message: Mapping[str, Any], device: str) -> dict[str, Any]:
            seen.append(device)
            return inner(message, device)

        monkeypatch.setattr(extract_stage, "_compute_here", look)
        assert job.run("--embedder", "off", "--device", "auto", "--gpus", "1") == 0
    assert seen == ["fake1"]
    for path in run.folder.iterdir():
        path.unlink()
    run.folder.rmdir()


@pytest.mark.parametrize("fault", ["no owner", "no device", "no folder"])
def test_prewarming_never_fails(
    run: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, fault: str
) -> None:
    described = {"device": "cpu", "gpus": 0, "logs": str(tmp_path / "logs")}
    if fault == "no owner":
        monkeypatch.delenv(OWNER)
    elif fault == "no device":
        monkeypatch.setenv(DEVICES, "")
        described |= {"device": "cuda:3", "gpus": 1}
    else:
        (tmp_path / "logs").write_text("in the way")
    extract_stage.prewarm(described)
    if run.folder.exists():
        for path in run.folder.iterdir():
            path.unlink()
        run.folder.rmdir()


# --------------------------------------------------------------------------------------------------- real features


@pytest.fixture(scope="module")
def networks(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("weights")
    return [models.live_model("mobilenet_v3_small", folder / f"{seed}.pth", seed) for seed in (1, 2)]


@pytest.fixture(scope="module")
def real_spec(networks: list[Path]) -> Callable[[Path], dict[str, Any]]:
    from framefeat.backbone import resolve

    return lambda weights: resolve.resolve("mobilenet_v3_small", str(weights), "squash224").to_json()


def test_real_features_are_the_same_with_and_without_embedder(
    run: Run,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    networks: list[Path],
    real_spec: Callable[..., Any],
) -> None:
    from framefeat.files import file_sha256

    monkeypatch.setattr(client, "COMMAND", [sys.executable, "-P", "-m", "framefeat.extract.server"])
    found: dict[str, tuple[bytes, bytes]] = {}
    for where in ("warm", "off"):
        for number, weights in enumerate(networks):
            job = Job(tmp_path / where / str(number), spec=real_spec(weights))
            job.weights, job.identity = weights, file_sha256(weights)
            more = (
                ("--embedder-logs", str(tmp_path / "logs"), "--threads", "2")
                if where == "warm"
                else ("--embedder", "off")
            )
            assert job.run(*more) == 0
            found[f"{where} {number}"] = job.bytes()
    assert found["warm 0"] == found["off 0"]
    assert found["warm 1"] == found["off 1"]
    log = (tmp_path / "logs" / "cpu.log").read_text()
    assert log.count("ready for") == 1
    assert log.count("loaded mobilenet_v3_small on cpu") == 2  # another file of weights, another model
    first, second = (np.load(tmp_path / "warm" / str(n) / "model" / "features" / "v.npy") for n in (0, 1))
    assert first.dtype == np.float32
    assert first.shape == (ROWS, 576)
    assert first.flags["C_CONTIGUOUS"]
    good = [row for row in range(ROWS) if row != BAD]
    assert np.isnan(first[BAD]).all()
    assert np.isfinite(first[good]).all()
    assert np.abs(first[good] - second[good]).max() > 0.01
    record = read_json(tmp_path / "warm" / "0" / "model" / "features" / "v.json")
    assert record["verified"] is False  # a bad row
    assert record["recheck"]["agrees"] is True
    assert record["device"] == "cpu"
    assert record["weights_sha256"] == file_sha256(networks[0])


def test_frames_that_are_not_those_of_the_second_decode_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, networks: list[Path], real_spec: Callable[..., Any],
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    monkeypatch.delenv(OWNER, raising=False)
    job = Job(tmp_path, spec=real_spec(networks[0]))
    job.weights, job.identity = networks[0], ""
    frames = np.load(job.inputs["frames"])
    np.save(job.inputs["recheck"], frames[[0, 3]])
    assert job.run() == 1
    assert "decoded and embedded a second time give other features" in capsys.readouterr().err
    assert not job.features.exists()
    assert job.left() == []


@pytest.mark.parametrize(("noise", "agrees"), [(1, True), (120, False)])
def test_near_pixels_are_judged_and_not_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, networks: list[Path], real_spec: Callable[..., Any],
    noise: int, agrees: bool,
) -> None:  # fmt: skip
    """Decoders may differ by rounding, and how far that moves a network's features is the network's affair."""
    monkeypatch.delenv(OWNER, raising=False)
    job = Job(tmp_path, spec=real_spec(networks[0]))
    job.weights, job.identity = networks[0], ""
    again = np.load(job.inputs["recheck"]).astype(int)
    moved = again + np.random.default_rng(0).integers(-noise, noise + 1, again.shape)
    np.save(job.inputs["recheck"], moved.clip(0, 255).astype(np.uint8))
    job.evidence["recheck"]["mean_abs_diff"] = [0.5, 0.5]
    write_json(job.inputs["evidence"], job.evidence)
    assert job.run() == 0
    record = read_json(job.record)
    assert record["recheck"]["agrees"] is agrees
    assert any("a second time" in warning for warning in record["warnings"]) is not agrees


@pytest.mark.parametrize(
    "what", ["not finite", "second look not finite", "unforeseen", "device lost", "no memory"]
)
def test_what_goes_wrong_with_one_video_is_its_finding(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, networks: list[Path], real_spec: Callable[..., Any],
    capfd: pytest.CaptureFixture[str], what: str,
) -> None:  # fmt: skip
    """And what would go wrong with any other video too is not: the job fails."""
    from framefeat.backbone import network
    from framefeat.extract import embed

    monkeypatch.delenv(OWNER, raising=False)
    job = Job(tmp_path, spec=real_spec(networks[0]))
    job.weights, job.identity = networks[0], ""
    taken, features_of = network.embed, embed._features

    def features(*arguments: Any) -> Any:
        found, second, used = features_of(*arguments)
        if what == "not finite":
            found[1] = np.inf
        elif what == "second look not finite":
            second[0, 0] = np.nan
        return found, second, used

    def embed_strangely(used: Any, frames: Any, *more: Any, **named: Any) -> Any:
        if what == "device lost" or (what == "unforeseen" and len(frames) > 1):
            raise RuntimeError("a strange frame, or a strange device")
        if what == "no memory":
            raise MemoryError
        return taken(used, frames, *more, **named)

    monkeypatch.setattr(embed, "_features", features)
    monkeypatch.setattr(network, "embed", embed_strangely)
    status = job.run()
    said = capfd.readouterr()
    if what in ("device lost", "no memory"):
        assert status == 1
        assert not job.record.exists()
        return
    assert status == 0, said.err
    record, written = read_json(job.record), np.load(job.features)
    good = [row for row in range(ROWS) if row != BAD]
    looked_at = job.evidence["recheck"]["rows"]
    lost = {"not finite": [1], "second look not finite": looked_at[:1], "unforeseen": good}[what]
    assert record["bad_rows"] == lost
    assert np.isnan(written[lost]).all()
    assert np.isfinite(written[[row for row in good if row not in lost]]).all()
    assert record["recheck"]["rows"] == [row for row in looked_at if row not in lost]
    assert record["verified"] is False
    assert f"{len(lost)} of {ROWS} rows are bad: {record['problems'][0]}" in said.out
    assert ("a strange frame" in record["problems"][0]) == (what == "unforeseen")
    assert ("Traceback" in said.err) == (what == "unforeseen")
    assert not job.store.exists(), "what was deleted is tried again"
