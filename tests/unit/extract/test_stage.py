"""The extract stage: what is stored stays, clean ends, and real features in and out of the embedder."""

import glob
import hashlib
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from framefeat import identity, stored
from framefeat.environment import DEVICES, EMBEDDER_TIMEOUT, OWNER
from framefeat.errors import UserError
from framefeat.extract import client, devices
from framefeat.extract import stage as extract_stage
from framefeat.files import file_sha256, read_json, write_json

from tests import models
from tests.unit.extract.shard import AGAIN, BAD, ROWS, Shard, real_spec
from tests.unit.extract.test_client import Run, runtime, wait_for

__all__ = ["runtime"]  # a fixture

ARCH = "mobilenet_v3_small"
SOME = {"a": 5, "b": 3, "c": 9}


@pytest.fixture
def computed(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The videos that were embedded, by something that takes no time and gives other bytes each time."""
    done: list[str] = []

    def compute(message: Mapping[str, Any], device: str, receive: Callable[[Any], None]) -> None:
        for video in message["videos"]:
            done.append(video["video"])
            record = {
                "video_id": video["video"], "key": video["key"], "rows": video["rows"], "device": "cpu",
                "made": os.urandom(8).hex(), "features_sha256": hashlib.sha256(bytes(8 * video["rows"])).hexdigest(),
            }  # fmt: skip
            stored.write(video["features"], record, {"features": np.zeros((video["rows"], 2), np.float32)})
            receive({"place": video["place"], "record": record})

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
    assert Shard(tmp_path).run() == 1
    assert capsys.readouterr().err.startswith(
        "framefeat extract: the device failed (device cpu, CUDA error: an illegal memory access was encountered)."
    )


@pytest.mark.parametrize("text", ["soon", "0", "nan"])
def test_a_time_limit_that_is_none_is_refused(monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    monkeypatch.setenv(EMBEDDER_TIMEOUT, text)
    with pytest.raises(UserError, match="no number of seconds"):
        client._silent_seconds()


# ------------------------------------------------------------------------------------------------- what is stored


def test_valid_features_stay_as_they_are(tmp_path: Path, computed: list[str]) -> None:
    shard = Shard(tmp_path, SOME)
    assert shard.run() == 0
    before = [shard.bytes(key) for key in shard.keys]
    assert shard.run() == 0
    assert [shard.bytes(key) for key in shard.keys] == before
    assert computed == ["a", "b", "c"]
    assert read_json(shard.extracted) == {
        "rows": 17,
        "videos": {key: identity.evidence_digest(shard.evidence[key]) for key in shard.keys},
    }


def test_only_what_is_missing_is_embedded(
    tmp_path: Path, computed: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    shard = Shard(tmp_path, SOME)
    shard.run()
    assert "worked on 3 of 3 videos, 17 rows\n" in capsys.readouterr().err
    kept = shard.bytes("a"), shard.bytes("c")
    shard.features("b").unlink()
    assert shard.run() == 0
    assert computed == ["a", "b", "c", "b"]
    assert (shard.bytes("a"), shard.bytes("c")) == kept
    assert "worked on 1 of 3 videos, 3 rows\n" in capsys.readouterr().err


def test_in_another_shard_they_are_the_same(tmp_path: Path, computed: list[str]) -> None:
    """The collection grew, or ``shard_rows`` changed: the videos are dealt anew."""
    shard = Shard(tmp_path, SOME)
    shard.run()
    before = shard.bytes("b")
    alone = Shard(tmp_path, {"b": 3})
    alone.evidence["b"] = shard.evidence["b"]
    alone.write_evidence("b")
    assert alone.run() == 0
    assert alone.bytes("b") == before
    assert computed == ["a", "b", "c"]


def renamed(shard: Shard, key: str, name: str) -> Shard:
    """The only video of ``shard`` under another name, of which nothing is stored; the merge has seen whose content it
    is."""
    entry = {**shard.slices[key], "video_id": name}
    other = Shard(shard.results.root, {name: shard.rows[key]})
    for path in (other.frames(name), other.recheck(name), other.results.evidence(other.geometry, name)):
        path.unlink()
    records = read_json(other.results.videos_of(other.name))
    write_json(other.results.shard(other.name), {"schema": 1, "videos": {name: entry}})
    write_json(other.results.videos_of(other.name), {name: records[name] | entry})
    digests = [identity.evidence_digest(shard.evidence[key]), shard.record(key)["features_sha256"]]
    write_json(other.results.former, {name: {key: digests}})
    return other


def test_a_renamed_video_is_taken_over(
    tmp_path: Path, computed: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    """Its evidence, too, where the sampling has not seen to it."""
    shard = Shard(tmp_path, {"a": 3})
    shard.run()
    other = renamed(shard, "a", "z")
    capsys.readouterr()
    assert other.run() == 0
    told = "z: as a, the same content: taken over\n"
    assert (
        capsys.readouterr().err
        == f"{told}worked on 0 of 1 videos, 0 rows\n{told}worked on 0 of 1 videos, 0 rows\n"
    )
    assert computed == ["a"]
    assert other.record("z") == shard.record("a") | {"video_id": "z"}
    assert np.array_equal(other.values("z"), shard.values("a"))
    assert read_json(other.extracted)["videos"] == {"z": identity.evidence_digest(shard.evidence["a"])}
    assert other.run() == 0
    assert capsys.readouterr().err == "worked on 0 of 1 videos, 0 rows\n"


@pytest.mark.parametrize("change", ["weights", "precision", "spec", "frames"])
def test_what_decides_the_result_is_in_the_key(tmp_path: Path, computed: list[str], change: str) -> None:
    shard = Shard(tmp_path, SOME)
    shard.run()
    before = {key: shard.bytes(key) for key in shard.keys}
    if change == "weights":
        shard.identity = "w2"
    elif change == "precision":
        shard.precision = "bf16"
    elif change == "spec":
        shard.spec = {"name": "model", "mean": [0.5]}
    else:
        shard.evidence["b"]["rows"]["native_idx"][0] = 1
        shard.write_evidence("b")
    assert shard.run() == 0
    changed = ["b"] if change == "frames" else ["a", "b", "c"]
    assert computed[3:] == changed
    assert [key for key in shard.keys if shard.bytes(key) != before[key]] == changed
    assert len(list(shard.features().parent.iterdir())) == 3  # the older ones are gone


def test_how_is_not_in_the_key(tmp_path: Path, computed: list[str]) -> None:
    shard = Shard(tmp_path)
    shard.run()
    assert shard.run("--batch-size", "3", "--threads", "2") == 0
    assert computed == ["v"]


@pytest.mark.parametrize("damage", ["empty", "cut short", "other", "no record", "other key"])
def test_what_is_damaged_is_computed_again(tmp_path: Path, computed: list[str], damage: str) -> None:
    shard = Shard(tmp_path, SOME)
    shard.run()
    path, known = shard.features("b"), shard.record("b")
    if damage == "other key":
        known["key"]["algorithm"] = 0
        stored.write(path, known, {"features": np.zeros((3, 2), np.float32)})
    elif damage == "no record":
        from safetensors.numpy import save_file

        save_file({"features": np.zeros((3, 2), np.float32)}, path)
    else:
        whole = path.read_bytes()
        path.write_bytes({"empty": b"", "cut short": whole[:-1], "other": b"x" * len(whole)}[damage])
    assert shard.run() == 0
    assert computed[3:] == ["b"]
    assert shard.run() == 0
    assert computed[3:] == ["b"]


def test_only_the_half_precisions_have_another_algorithm() -> None:
    """Float32 results of before stay valid."""
    found = [
        identity.request_key("{}", "w", precision)["algorithm"] for precision in ("float32", "bf16", "fp16")
    ]
    assert found == [1, 2, 2]


def test_a_video_keeps_its_own(tmp_path: Path, computed: list[str]) -> None:
    names = ["a", "a.b", "a.b.c", ".a", "b" * 180]
    shard = Shard(tmp_path, dict.fromkeys(names, 2))
    assert shard.run() == 0
    assert len({shard.bytes(name) for name in names}) == len(names)
    assert {shard.record(name)["video_id"] for name in names} == set(names)
    assert shard.run() == 0
    assert computed == names


# ------------------------------------------------------------------------------------------------------ clean ends


def test_a_failed_job_leaves_nothing(
    tmp_path: Path, computed: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(message: Mapping[str, Any], device: str, receive: Callable[[Any], None]) -> None:
        Path(message["videos"][0]["features"]).write_text("half")
        raise UserError("weights: no.")

    monkeypatch.setattr(extract_stage, "_compute_here", fail)
    shard = Shard(tmp_path)
    assert shard.run() == 1
    assert capsys.readouterr().err == "framefeat extract: weights: no.\n"
    assert list(shard.features().parent.iterdir()) == []
    assert not shard.extracted.exists()


def test_what_a_killed_job_left_goes_with_the_next(tmp_path: Path, computed: list[str]) -> None:
    shard = Shard(tmp_path)
    left = shard.features().parent / ".v.part" / "tmp123"
    left.mkdir(parents=True)
    (left / "0.safetensors").write_text("half")
    assert shard.run() == 0
    assert shard.left() == []


STUB_COMMAND = (
    "import json, sys; from framefeat import cli; from framefeat.extract import client, stage; "
    "client.COMMAND = sys.argv[1].split('|'); ask = client.request; more = json.loads(sys.argv[2]); "
    "client.request = lambda message, *others: ask({**message, **more}, *others); "
    "sys.exit(cli.main(sys.argv[3:]))"
)


@pytest.fixture
def run(runtime: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Run]:
    run = Run(tmp_path)
    monkeypatch.setenv(OWNER, run.owner)
    yield run
    run.end()
    wait_for(lambda: not any(runtime.iterdir()))


def start(shard: Shard, do: str | Mapping[str, str], logs: Path, **more: Any) -> subprocess.Popen[str]:
    import json

    told = json.dumps({"do": do, "seconds": 60, **more})
    shard.extracted.unlink(missing_ok=True)
    return subprocess.Popen(
        [sys.executable, "-c", STUB_COMMAND, "|".join(client.COMMAND), told, *shard.arguments("--embedder-logs", str(logs))],
        stderr=subprocess.PIPE, text=True,
        # A suite that a shell runs in the background ignores Ctrl-C, and so would the job.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )  # fmt: skip


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_a_job_that_is_ended_leaves_nothing_half_made(
    run: Run, tmp_path: Path, number: signal.Signals
) -> None:
    """And keeps the features of the videos that were done."""
    shard = Shard(tmp_path / "results", SOME)
    process = start(shard, {"b": "sleep"}, tmp_path / "logs")
    half = f"{shard.features().parent}/.{shard.name}.part/*/half"
    wait_for(lambda: glob.glob(half) and shard.there(), 20)
    process.send_signal(number)
    assert process.wait(10) == (-number if number == signal.SIGKILL else 128 + number)
    if number == signal.SIGKILL:  # then it is the embedder that cleans up, at the latest when it ends
        run.end()
    wait_for(
        lambda: not glob.glob(half)
    )  # not Path.glob: a folder that goes while it lists is an error there
    assert shard.there() == ["a"]
    assert not shard.extracted.exists()


def test_an_embedder_that_is_killed_leaves_nothing(run: Run, tmp_path: Path) -> None:
    shard = Shard(tmp_path / "results")
    process = start(shard, "kill", tmp_path / "logs")
    _, err = process.communicate(timeout=20)
    assert process.returncode == 1
    assert err.startswith("framefeat extract: the embedder ended (signal 9")
    assert "while it worked on v;" in err
    assert list(shard.features().parent.iterdir()) == []
    process = start(shard, "answer", tmp_path / "logs")
    assert process.wait(20) == 0
    assert shard.features().exists()


def test_an_embedder_that_is_killed_in_the_middle_of_a_shard_keeps_what_is_done(
    run: Run, tmp_path: Path
) -> None:
    shard = Shard(tmp_path / "results", {**SOME, "d": 2})
    process = start(shard, {"c": "kill"}, tmp_path / "logs")
    _, err = process.communicate(timeout=20)
    assert process.returncode == 1
    assert "framefeat extract: the embedder ended (signal 9" in err
    assert "while it worked on c;" in err
    assert err.endswith("The features of 2 of the 4 videos of this job are kept.\n")
    assert shard.there() == ["a", "b"]
    assert shard.left() == []
    assert not shard.extracted.exists()
    before = shard.bytes("a"), shard.bytes("b")
    note = tmp_path / "note"
    process = start(shard, "answer", tmp_path / "logs", note=str(note))
    assert process.wait(20) == 0
    assert [line.split()[-1] for line in note.read_text().splitlines() if "begin" in line] == ["c", "d"]
    assert (shard.bytes("a"), shard.bytes("b")) == before
    assert shard.there() == ["a", "b", "c", "d"]
    assert set(read_json(shard.extracted)["videos"]) == {"a", "b", "c", "d"}


def test_features_of_before_are_not_counted_as_kept(run: Run, tmp_path: Path) -> None:
    shard = Shard(tmp_path / "results", SOME)
    assert start(shard, "answer", tmp_path / "logs").wait(20) == 0
    shard.identity = "w2"
    _, err = start(shard, {"b": "kill"}, tmp_path / "logs").communicate(timeout=20)
    assert err.endswith("The features of 1 of the 3 videos of this job are kept.\n")

    def is_swept() -> bool:
        # What a killed embedder leaves goes with it only where nobody looks at it just then; else the next run sweeps.
        client.remove_folder(run.folder)
        return not run.folder.exists()

    wait_for(is_swept)


def test_a_video_that_fails_fails_the_job_when_the_others_are_done(run: Run, tmp_path: Path) -> None:
    shard = Shard(tmp_path / "results", SOME)
    _, err = start(shard, "mention", tmp_path / "logs").communicate(timeout=20)
    assert "3 of the 3 videos of this job could not be embedded" in err
    assert all(f"  - {key}: cannot be read\n" in err for key in shard.keys)
    assert not shard.extracted.exists()
    alone = Shard(tmp_path / "alone")
    _, err = start(alone, "mention", tmp_path / "logs").communicate(timeout=20)
    assert err.endswith("\nframefeat extract: v: cannot be read\n")


def test_a_device_lost_under_a_shard_costs_the_one_video(run: Run, tmp_path: Path) -> None:
    shard = Shard(tmp_path / "results", {**SOME, "d": 2})
    process = start(shard, {"b": "lose"}, tmp_path / "logs")
    _, err = process.communicate(timeout=30)
    assert process.returncode == 1
    assert "1 of the 4 videos of this job could not be embedded; the others are done and kept:\n" in err
    assert (
        "  - b: the device failed twice, each time in a new process (device cpu, CUDA error: an illegal"
        in err
    )
    assert shard.there() == ["a", "c", "d"]
    assert not shard.extracted.exists()
    assert start(shard, "answer", tmp_path / "logs").wait(20) == 0
    assert shard.there() == ["a", "b", "c", "d"]


def test_two_videos_that_lose_the_device_end_the_job(run: Run, tmp_path: Path) -> None:
    """Then it is hardly the videos: the others would cost three processes each."""
    shard = Shard(tmp_path / "results", {**SOME, "d": 2})
    process = start(shard, {"b": "lose", "c": "lose", "d": "lose"}, tmp_path / "logs")
    _, err = process.communicate(timeout=40)
    assert process.returncode == 1
    assert "framefeat extract: c: the device failed twice" in err
    assert err.endswith("The features of 1 of the 4 videos of this job are kept.\n")
    assert shard.there() == ["a"]
    log = (tmp_path / "logs" / "cpu.log").read_text()
    assert log.count("ready for") == 5  # all together; b twice; c twice


def test_an_owner_that_has_ended_is_no_owner(
    run: Run, computed: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(OWNER, run.owner)
    run.end()
    assert Shard(tmp_path / "results").run() == 0
    assert computed == ["v"]


def test_embedder_off_still_holds_its_device(
    run: Run, computed: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(OWNER, run.owner)
    monkeypatch.setenv(DEVICES, "fake0,fake1")
    shard = Shard(tmp_path / "results")
    with devices.hold(lambda: client.runtime_folder(run.owner), ["fake0"]):
        seen: list[str] = []
        inner = extract_stage._compute_here

        def look(message: Any, device: str, receive: Callable[[Any], None]) -> None:
            seen.append(device)
            inner(message, device, receive)

        monkeypatch.setattr(extract_stage, "_compute_here", look)
        assert shard.run("--embedder", "off", "--device", "auto", "--gpus", "1") == 0
    assert seen == ["fake1"]
    for path in run.folder.iterdir():
        path.unlink()
    run.folder.rmdir()


def test_a_device_that_has_an_embedder_takes_two_jobs(
    run: Run, computed: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One reads and writes while the other computes; without an embedder each would load a model of its own."""
    held: list[int] = []
    hold = devices.hold

    def note(folder: Path, names: Any, clients: int = 1) -> Any:
        held.append(clients)
        return hold(folder, names, clients)

    monkeypatch.setenv(OWNER, run.owner)
    monkeypatch.setenv(DEVICES, "fake0")
    monkeypatch.setattr(devices, "hold", note)
    monkeypatch.setattr(client, "request", lambda message, *_: None)
    shard = Shard(tmp_path / "results")
    for embedder in ("auto", "off"):
        shard.run("--embedder", embedder, "--device", "auto", "--gpus", "1")
    assert held == [2, 1]
    shutil.rmtree(run.folder)


def test_what_a_job_finds_out_about_its_devices_is_said_and_recorded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """On a cluster the run cannot know it."""
    told: list[Any] = []
    monkeypatch.delenv(OWNER, raising=False)
    monkeypatch.setenv(DEVICES, "")
    monkeypatch.setattr(devices, "settle", lambda device: "a GPU is here that torch cannot use")
    monkeypatch.setattr(extract_stage, "_compute_here", lambda message, *_: told.append(message["warnings"]))
    Shard(tmp_path).run("--device", "auto", "--gpus", "1")
    assert told == [["a GPU is here that torch cannot use"]]
    assert "a GPU is here that torch cannot use\n" in capsys.readouterr().err


def test_without_gpus_nothing_is_asked_of_one(
    run: Run, computed: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def ask(*_: Any) -> str:
        raise AssertionError("a GPU was asked")

    devices_used: list[str] = []
    compute = extract_stage._compute_here

    def look(message: Any, device: str, receive: Callable[[Any], None]) -> None:
        devices_used.append(device)
        compute(message, device, receive)

    monkeypatch.setenv(OWNER, run.owner)
    monkeypatch.setenv(DEVICES, "fake0")
    monkeypatch.setattr(devices, "settle", ask)
    monkeypatch.setattr(extract_stage, "_compute_here", look)
    for device in ("auto", "cuda"):
        shard = Shard(tmp_path / device)
        assert shard.run("--embedder", "off", "--device", device, "--gpus", "0") == 0
    assert devices_used == ["cpu", "cpu"]
    begun: list[str] = []
    monkeypatch.setattr(client, "prewarm", lambda described, owner, device, log: begun.append(device))
    for gpus in (0, 1):
        extract_stage.prewarm({"device": "auto", "gpus": gpus, "logs": str(tmp_path / "logs")})
    assert begun == ["cpu", "fake0"]
    if run.folder.exists():
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
    return [models.live_model(ARCH, folder / f"{seed}.pth", seed) for seed in (1, 2)]


def real(results: Path, weights: Path, rows: Mapping[str, int] | None = None) -> Shard:
    """A shard to embed with a real network."""
    shard = Shard(results, rows, spec=real_spec(ARCH, weights))
    shard.weights, shard.identity = weights, file_sha256(weights)
    return shard


def test_real_features_are_the_same_with_and_without_embedder(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, networks: list[Path]
) -> None:
    monkeypatch.setattr(client, "COMMAND", [sys.executable, "-P", "-m", "framefeat.extract.server"])
    found: dict[str, Shard] = {}
    for where in ("warm", "off"):
        for number, weights in enumerate(networks):
            shard = real(tmp_path / where / str(number), weights)
            more = (
                ("--embedder-logs", str(tmp_path / "logs"), "--threads", "2")
                if where == "warm"
                else ("--embedder", "off")
            )
            assert shard.run(*more) == 0
            found[f"{where} {number}"] = shard
    assert found["warm 0"].bytes() == found["off 0"].bytes()
    assert found["warm 1"].bytes() == found["off 1"].bytes()
    log = (tmp_path / "logs" / "cpu.log").read_text()
    assert log.count("ready for") == 1
    assert log.count("loaded mobilenet_v3_small on cpu") == 2  # another file of weights, another model
    first, second = (found[f"warm {number}"].values() for number in (0, 1))
    assert first.dtype == np.float32
    assert first.shape == (ROWS, 576)
    assert first.flags["C_CONTIGUOUS"]
    good = [row for row in range(ROWS) if row != BAD]
    assert np.isnan(first[BAD]).all()
    assert np.isfinite(first[good]).all()
    assert np.abs(first[good] - second[good]).max() > 0.01
    record = found["warm 0"].record()
    assert record["verified"] is False  # a bad row
    assert record["recheck"]["agrees"] is True
    assert record["device"] == "cpu"
    assert record["weights_sha256"] == file_sha256(networks[0])


def test_frames_that_are_not_those_of_the_second_decode_are_refused(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    networks: list[Path],
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.delenv(OWNER, raising=False)
    shard = real(tmp_path, networks[0], SOME)
    np.save(shard.recheck("a"), np.load(shard.frames("a"))[[0, 3]])
    assert shard.run() == 1
    said = capsys.readouterr().err
    assert "a: frames decoded and embedded a second time give other features" in said
    assert shard.there() == ["b", "c"]
    assert shard.left() == []


@pytest.mark.parametrize(("noise", "agrees"), [(1, True), (120, False)])
def test_near_pixels_are_judged_and_not_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, networks: list[Path], noise: int, agrees: bool
) -> None:
    """Decoders may differ by rounding, and how far that moves a network's features is the network's affair."""
    monkeypatch.delenv(OWNER, raising=False)
    shard = real(tmp_path, networks[0])
    again = np.load(shard.recheck()).astype(int)
    moved = again + np.random.default_rng(0).integers(-noise, noise + 1, again.shape)
    np.save(shard.recheck(), moved.clip(0, 255).astype(np.uint8))
    shard.evidence["v"]["recheck"]["mean_abs_diff"] = [0.5, 0.5]
    shard.write_evidence("v")
    assert shard.run() == 0
    record = shard.record()
    assert record["recheck"]["agrees"] is agrees
    assert any("a second time" in warning for warning in record["warnings"]) is not agrees


@pytest.mark.parametrize(
    "what", ["not finite", "second look not finite", "unforeseen", "device lost", "no memory"]
)
def test_what_goes_wrong_with_one_video_is_its_finding(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, networks: list[Path],
    capfd: pytest.CaptureFixture[str], what: str,
) -> None:  # fmt: skip
    """And what would go wrong with any other video too is not: the job fails."""
    from framefeat.backbone import network

    monkeypatch.delenv(OWNER, raising=False)
    shard = real(tmp_path, networks[0], {"a": 4, "v": ROWS, "z": 3})
    strange = np.load(shard.frames())[0].tobytes()
    second_strange = np.load(shard.recheck())[0].tobytes()
    taken = network.embed

    def embed_strangely(used: Any, frames: Any, *more: Any, **named: Any) -> Any:
        images = [frames[row : row + 1].tobytes() for row in range(len(frames))]
        if what == "device lost" or (what == "unforeseen" and strange in images):
            raise RuntimeError("a strange frame, or a strange device")
        if what == "no memory":
            raise MemoryError
        found, batch = taken(used, frames, *more, **named)
        if what == "not finite" and strange in images:
            found[images.index(strange) + 1] = np.inf
        if what == "second look not finite":
            # the last of its kind: the second look's, the first is the video's own row
            found[len(images) - 1 - images[::-1].index(second_strange), 0] = np.nan
        return found, batch

    monkeypatch.setattr(network, "embed", embed_strangely)
    status = shard.run()
    said = capfd.readouterr()
    if what in ("device lost", "no memory"):
        assert status == 1
        assert shard.there() == []
        return
    assert status == 0, said.err
    record, written = shard.record(), shard.values()
    good = [row for row in range(ROWS) if row != BAD]
    lost = {"not finite": [1], "second look not finite": AGAIN[:1], "unforeseen": good}[what]
    assert record["bad_rows"] == lost
    assert np.isnan(written[lost]).all()
    assert np.isfinite(written[[row for row in good if row not in lost]]).all()
    assert record["recheck"]["rows"] == [row for row in AGAIN if row not in lost]
    assert record["verified"] is False
    assert f"v: {len(lost)} of {ROWS} rows are bad: {record['problems'][0]}" in said.out
    assert ("a strange frame" in record["problems"][0]) == (what == "unforeseen")
    assert ("Traceback" in said.err) == (what == "unforeseen")
    for key in ("a", "z"):  # the neighbours in its batch
        assert np.isfinite(shard.values(key)).all()
        assert shard.record(key)["problems"] == []


@pytest.mark.parametrize("damage", ["gone", "cut short", "too few", "no array", "other evidence"])
def test_frames_that_cannot_be_read_fail_their_video_alone(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    networks: list[Path],
    capsys: pytest.CaptureFixture[str],
    damage: str,
) -> None:
    monkeypatch.delenv(OWNER, raising=False)
    shard = real(tmp_path, networks[0], {"a": 4, "v": ROWS, "z": 3})
    path = shard.frames()
    if damage == "gone":
        compute = extract_stage._compute_here

        def remove(*arguments: Any) -> None:
            path.unlink()
            compute(*arguments)

        monkeypatch.setattr(extract_stage, "_compute_here", remove)
    elif damage == "cut short":
        path.write_bytes(path.read_bytes()[:-1000])
    elif damage == "too few":
        np.save(path, np.load(path)[:-1])
    elif damage == "no array":
        path.write_bytes(b"")
    else:  # what the second look's rows say cannot be
        shard.evidence["v"]["recheck"]["rows"] = [1, 99]
        shard.write_evidence("v")
    assert shard.run() == 1
    said = capsys.readouterr().err
    assert (
        "1 of the 3 videos of this job could not be embedded; the others are done and kept:\n  - v: " in said
    )
    assert said.rstrip().endswith("Run again when this is mended.")
    assert shard.there() == ["a", "z"]
    assert not shard.extracted.exists()


def test_a_full_disk_is_no_videos_fault(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    networks: list[Path],
    capsys: pytest.CaptureFixture[str],
) -> None:
    """It ends the job; what was written before stays."""
    import errno

    monkeypatch.delenv(OWNER, raising=False)
    shard = real(tmp_path, networks[0], SOME)
    write = stored.write

    def fill(path: Any, record: Any, arrays: Any) -> None:
        if record["video_id"] == "b":
            from framefeat.errors import writing

            with writing(str(path)):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))
        write(path, record, arrays)

    monkeypatch.setattr(stored, "write", fill)
    assert shard.run() == 1
    assert "No space left on device" in (said := capsys.readouterr().err)
    assert said.endswith("The features of 1 of the 3 videos of this job are kept.\n")
    assert shard.there() == ["a"]
    monkeypatch.setattr(stored, "write", write)
    before = shard.bytes("a")
    assert shard.run() == 0
    assert shard.bytes("a") == before
    assert shard.there() == ["a", "b", "c"]
