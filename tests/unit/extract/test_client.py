"""The embedder as a process: started once, ended with its owner, and never in the way; its backend is a stub."""

import json
import os
import shutil
import signal
import socket
import stat
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from multiprocessing import AuthenticationError
from multiprocessing.connection import Client
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from framefeat.backbone.device_errors import DeviceLost
from framefeat.environment import DEVICES, EMBEDDER_TIMEOUT, IDLE_S
from framefeat.errors import UserError
from framefeat.extract import client, devices, embed
from framefeat.extract.client import Place
from framefeat.extract.server import TorchBackend

from tests.unit.extract.stub_embedder import torch_says

STUB = Path(__file__).with_name("stub_embedder.py")


def wait_for(condition: Callable[[], Any], seconds: float = 30.0) -> None:
    """``seconds`` are for a busy machine, and far below what an embedder lives for when nobody ends it."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not happen"
        time.sleep(0.01)


def request_for(videos: list[str]) -> dict[str, Any]:
    """What of a request the client itself looks at."""
    named = [{"place": place, "video": video, "rows": 1} for place, video in enumerate(videos)]
    return {"videos": named, "together": True}


class Run:
    """A run of a workflow: its owner, the folder of its embedders and their log."""

    def __init__(self, folder: Path) -> None:
        self.process = subprocess.Popen(["sleep", "600"])
        self.owner = devices.process_identity(self.process.pid)
        self.folder = client.runtime_folder(self.owner)
        self.folder.rmdir()
        self.log = folder / "logs" / "embedder.log"
        self.note = folder / "note"

    def place(self, device: str = "cpu") -> Place:
        return Place(self.folder, device)

    def ask(self, do: str = "answer", device: str = "cpu", **more: Any) -> dict[str, Any]:
        """The record of one video."""
        (answer,) = self.ask_for(["a video"], do, device, **more)
        if "failure" in answer:
            raise UserError(answer["failure"])
        return answer["record"]

    def ask_for(
        self, videos: list[str], do: str | dict[str, str] = "answer", device: str = "cpu", **more: Any
    ) -> list[dict[str, Any]]:
        """The answers about several videos, in the order in which they come."""
        answers: list[dict[str, Any]] = []
        message: Any = {"do": do, "note": str(self.note), **request_for(videos), **more}
        client.request(message, self.owner, device, self.log, answers.append)
        return answers

    def started(self) -> int:
        return self.log.read_text().count("ready for") if self.log.exists() else 0

    def begun(self) -> int:
        return self.note.read_text().count("begin") if self.note.exists() else 0

    def alive(self) -> bool:
        """Whether an embedder runs on the CPU."""
        if not self.place().alive.exists():
            return False
        with devices.locked(self.place().alive, wait=False) as alive:
            return alive is None

    def end(self) -> None:
        self.process.kill()
        self.process.wait()


@pytest.fixture
def runtime(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    folder = Path(tempfile.mkdtemp(prefix="ff", dir="/tmp"))  # short: sockets lie in it
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(folder))
    monkeypatch.setattr(client, "COMMAND", [sys.executable, str(STUB)])
    monkeypatch.delenv(DEVICES, raising=False)
    yield folder
    shutil.rmtree(folder)


@pytest.fixture
def run(runtime: Path, tmp_path: Path) -> Iterator[Run]:
    run = Run(tmp_path)
    yield run
    run.end()
    wait_for(lambda: not any(runtime.iterdir()))  # whatever a test did: nothing is left


def job_of(run: Run, do: str, **more: Any) -> subprocess.Popen[str]:
    """A job: a process of its own that makes one request."""
    message = {"do": do, "note": str(run.note), **request_for(["a video"]), **more}
    code = (
        "import json, sys; from pathlib import Path; from framefeat.extract import client as c; "
        f"c.COMMAND = {client.COMMAND!r}; receive = lambda answer: print(answer['record']['pid']); "
        f"c.request({message!r}, {run.owner!r}, 'cpu', Path({str(run.log)!r}), receive)"
    )
    return subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


# ----------------------------------------------------------------------------------------------------------- start


def test_jobs_at_once_start_one_embedder(run: Run) -> None:
    jobs = [job_of(run, "sleep", seconds=0.2) for _ in range(4)]
    answers = [job.communicate(timeout=60) for job in jobs]
    assert len({out for out, _ in answers}) == 1, answers
    with ThreadPoolExecutor(16) as pool:
        pids = set(pool.map(lambda _: run.ask()["pid"], range(64)))
    assert pids == {int(answers[0][0])}
    assert run.started() == 1


def test_only_the_user_can_enter(run: Run) -> None:
    run.ask()
    assert stat.S_IMODE(run.folder.stat().st_mode) == 0o700
    assert stat.S_IMODE(run.place().key.stat().st_mode) == 0o600
    assert stat.S_ISSOCK(run.place().socket.stat().st_mode)


def test_a_loose_folder_is_refused(run: Run) -> None:
    run.folder.mkdir()
    run.folder.chmod(0o750)
    with pytest.raises(UserError, match="mode 700"):
        run.ask()
    run.folder.rmdir()


def test_a_link_is_refused(run: Run, tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir(mode=0o700)
    run.folder.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(UserError, match="mode 700"):
        run.ask()
    run.folder.unlink()


@pytest.mark.skipif(os.getuid() != 0, reason="only root can give a folder away")
def test_somebody_elses_folder_is_refused(run: Run) -> None:
    run.folder.mkdir(mode=0o700)
    os.chown(run.folder, 12345, -1)
    with pytest.raises(UserError, match="this user's own"):
        run.ask()
    run.folder.rmdir()


def test_a_wrong_key_is_refused_and_nobody_waits_for_a_silent_one(run: Run) -> None:
    pid = run.ask()["pid"]
    with pytest.raises(AuthenticationError):
        Client(str(run.place().socket), "AF_UNIX", authkey=b"0" * 32)
    silent = socket.socket(socket.AF_UNIX)
    silent.connect(str(run.place().socket))
    assert run.ask()["pid"] == pid
    silent.close()
    wait_for(lambda: "AuthenticationError" in run.log.read_text())


def test_a_long_or_missing_runtime_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for base in (tmp_path / ("x" * 80), tmp_path / "absent"):
        if base.name != "absent":
            base.mkdir()
        monkeypatch.setenv("XDG_RUNTIME_DIR", str(base))
        folder = client.runtime_folder(f"{os.getpid()}:{base.name[:6]}")
        folder.rmdir()
        place = Place(folder, "MIG-GPU-8932f937-d72c-4106-c12f-20bd9faed9f6/1/0")
        assert len(os.fsencode(place.socket)) <= 103


def test_a_folder_that_goes_while_it_is_looked_at_is_made_again(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An embedder that ends takes it with it at any moment."""
    make = os.mkdir

    def make_late(path: Any, mode: int = 0o777) -> None:
        try:
            make(path, mode)
        except FileExistsError:
            if Path(path) == run.folder:
                os.rmdir(path)
            raise

    monkeypatch.setattr(os, "mkdir", make_late)
    make(run.folder, 0o700)
    assert client.runtime_folder(run.owner).is_dir()
    with devices.hold(lambda: client.runtime_folder(run.owner), ["a"]) as name:
        assert name == "a"
    shutil.rmtree(run.folder)


def test_one_that_cannot_start_says_why(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client, "COMMAND", [sys.executable, "-c", "raise SystemExit('no room')"])
    with pytest.raises(UserError, match=r"could not be started \(no room\); its log: .*embedder\.log"):
        run.ask()
    shutil.rmtree(run.folder)


def test_loading_begins_before_the_first_request(run: Run, tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    message = {"note": str(run.note), "do": "hold", "gate": str(gate)}
    for _ in range(3):
        client.prewarm(message, run.owner, "cpu", run.log)
    assert not run.note.exists()  # nobody has waited for the model
    gate.touch()
    pid = run.ask()["pid"]
    wait_for(lambda: "loaded" in run.note.read_text())
    client.prewarm({"note": str(run.note)}, run.owner, "cpu", run.log)
    assert run.started() == 1
    assert run.note.read_text().count("loaded") == 1
    assert f"loaded {pid}" in run.note.read_text()


def test_many_prewarm_at_once_and_a_failing_load_is_no_end(run: Run) -> None:
    message = {"note": str(run.note), "do": "refuse"}
    threads = [
        threading.Thread(target=client.prewarm, args=(message, run.owner, "cpu", run.log)) for _ in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    run.ask()
    wait_for(lambda: "no such model" in run.log.read_text())
    assert run.started() == 1


# -------------------------------------------------------------------------------------------------------- requests


def test_errors_reach_the_job(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(UserError, match=r"^weights.pth: cannot be read\.$"):
        run.ask("refuse")
    assert capsys.readouterr().err == ""
    with pytest.raises(UserError, match="embedding failed: ZeroDivisionError: of all things"):
        run.ask("fail")
    assert "in _do\n" in capsys.readouterr().err
    run.ask()
    assert run.started() == 1


def test_nobody_waits_for_the_embedders_streams(run: Run) -> None:
    job = job_of(run, "print")
    out, err = job.communicate(
        timeout=60
    )  # to the end of both streams, of which the embedder must have no copy
    assert job.returncode == 0, err
    assert "x" not in out + err
    assert "x" * 100 in run.log.read_text()
    inherited = {os.readlink(path) for path in Path(f"/proc/{int(out)}/fd").iterdir()}
    assert not [name for name in inherited if name.startswith("/dev/pts")]
    assert os.readlink(f"/proc/{int(out)}/fd/0") == "/dev/null"
    assert os.getsid(int(out)) == int(out)


def test_a_killed_embedder_fails_its_job_and_no_other(run: Run) -> None:
    first = run.ask()["pid"]
    with pytest.raises(UserError) as caught:
        run.ask("kill")
    assert "the embedder ended (signal 9" in str(caught.value)
    assert "while it worked on a video" in str(caught.value)
    assert str(run.log) in str(caught.value)
    assert not run.folder.exists()  # it could not tidy up, so its job did
    second = run.ask()["pid"]
    assert second != first
    assert run.started() == 2


def test_a_crash_is_told(run: Run) -> None:
    with pytest.raises(UserError, match=r"the embedder ended \(Fatal Python error: Aborted\) while"):
        run.ask("abort")
    run.ask()


def test_an_ended_job_leaves_nothing_half_made(run: Run, tmp_path: Path) -> None:
    pid = run.ask()["pid"]
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    job = job_of(run, "sleep", seconds=0.5, scratch=str(scratch))
    wait_for(lambda: run.begun() == 2)
    job.kill()
    job.communicate()
    wait_for(lambda: not scratch.exists())
    assert "nobody waits for the answer any more" in run.log.read_text()
    assert run.ask()["pid"] == pid


# ------------------------------------------------------------------------------------------------------------- end


def test_it_ends_with_its_owner(run: Run, runtime: Path, tmp_path: Path) -> None:
    pid = run.ask()["pid"]
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    job = job_of(run, "sleep", seconds=60, scratch=str(scratch))
    wait_for(lambda: run.begun() == 2)
    run.end()
    wait_for(lambda: not Path(f"/proc/{pid}").exists() or not devices.is_running(f"{pid}:"))
    wait_for(lambda: not any(runtime.iterdir()))
    assert "its owner has ended" in run.log.read_text()
    _, err = job.communicate(timeout=30)
    assert "the embedder ended (its owner has ended)" in err
    assert not scratch.exists()
    with pytest.raises(UserError, match="has ended"):
        run.ask()
    assert not any(runtime.iterdir())


def test_it_ends_with_its_owner_though_a_job_holds_the_device(
    run: Run, runtime: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(DEVICES, "fake0,fake1")
    with devices.hold(lambda: client.runtime_folder(run.owner), ["fake0"]):
        for device in ("fake0", "fake1"):
            run.ask(device=device)
        run.end()
        wait_for(lambda: not any(runtime.iterdir()))


def test_it_ends_when_idle(run: Run, runtime: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(IDLE_S, "0.3")
    first = run.ask("sleep", seconds=1)["pid"]  # at work is not idle
    wait_for(lambda: not any(runtime.iterdir()))
    wait_for(lambda: not devices.is_running(f"{first}:"))
    assert "nothing was asked of it" in run.log.read_text()
    assert run.ask()["pid"] != first


def test_requests_while_it_ends_are_served(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(IDLE_S, "0.02")

    def ask(number: int) -> None:
        for _ in range(8):
            run.ask()
            time.sleep(0.03 * (number % 3))

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(ask, range(4)))
    assert run.started() > 1


def test_it_ends_when_told(run: Run) -> None:
    pid = run.ask()["pid"]
    os.kill(pid, signal.SIGINT)  # Ctrl-C is not for it
    assert run.ask()["pid"] == pid
    os.kill(pid, signal.SIGTERM)
    wait_for(lambda: not run.alive())
    assert "it was told to" in run.log.read_text()
    assert run.ask()["pid"] != pid


def test_what_dead_runs_left_is_swept(run: Run, runtime: Path, tmp_path: Path) -> None:
    gone = Run(tmp_path / "gone")
    pid = gone.ask()["pid"]
    os.kill(pid, signal.SIGKILL)
    wait_for(lambda: not gone.alive())
    gone.end()
    other_host = runtime / f"framefeat-{os.getuid()}-0123456789ab"
    other_host.mkdir()
    (other_host / "owner").write_text(json.dumps(["another", gone.owner]))
    (runtime / f"framefeat-{os.getuid()}-empty").mkdir()
    assert len(list(runtime.iterdir())) == 3
    run.ask()
    assert set(runtime.iterdir()) == {run.folder, other_host}
    shutil.rmtree(other_host)


# --------------------------------------------------------------------------------------------------------- devices


def test_each_device_has_one_embedder_and_one_job_at_a_time(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(DEVICES, "fake0,fake1,fake2")

    def job(_: int) -> int:
        with devices.hold(lambda: client.runtime_folder(run.owner), devices.wanted("auto")) as device:
            return run.ask("sleep", device=device, seconds=0.15)["pid"]

    with ThreadPoolExecutor(9) as pool:
        pids = list(pool.map(job, range(9)))
    assert len(set(pids)) == 3
    depth: dict[str, int] = {}
    for line in sorted(run.note.read_text().splitlines(), key=lambda line: float(line.split()[2])):
        what, pid, _, _ = line.split()
        depth[pid] = depth.get(pid, 0) + (1 if what == "begin" else -1)
        assert depth[pid] in (0, 1), "two jobs on one device"


class Overlaps:
    """Stands for the models and for embedding with them; notes what happened at the same time."""

    def __init__(self) -> None:
        self.now: list[str] = []
        self.seen: set[tuple[str, ...]] = set()
        self.spec = SimpleNamespace(name="model")
        self.about = {"device": "NVIDIA Test"}
        self.error: BaseException | None = None

    def work(self, what: str) -> None:
        self.now.append(what)
        for _ in range(10):
            self.seen.add(tuple(sorted(self.now)))
            time.sleep(0.005)
        self.now.remove(what)

    def load(self, message: Any, path: Path, device: str) -> Any:
        self.work("load")
        return self, "sha256"

    def embed(self, message: Any, network: Any, weights_sha256: str, tell: Any, turn: Any, beat: Any) -> None:
        assert (network, weights_sha256) == (self, "sha256")
        self.work("read")
        with turn():
            self.work("embed")
            if self.error:
                raise self.error
        self.work("write")


MESSAGE: Any = {"spec": "{}", "precision": "float32", "weights": __file__, "weights_identity": "1"}


def nothing(*_: Any) -> None:
    """No beat, and nobody who is told."""


@pytest.fixture
def overlaps(monkeypatch: pytest.MonkeyPatch) -> Overlaps:
    overlaps = Overlaps()
    monkeypatch.setattr(embed, "load_network", overlaps.load)
    monkeypatch.setattr(embed, "embed_videos", overlaps.embed)
    return overlaps


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_nothing_computes_while_a_model_is_loaded_and_reading_and_writing_wait_for_nobody(
    overlaps: Overlaps, device: str
) -> None:
    backend = TorchBackend(device)
    messages = [MESSAGE | {"weights_identity": str(number // 4)} for number in range(16)]
    with ThreadPoolExecutor(16) as pool:
        list(pool.map(lambda message: backend.embed(message, nothing, nothing), messages))
    computing = {tuple(what for what in seen if what not in ("read", "write")) for seen in overlaps.seen} - {
        ()
    }
    assert ("load",) in computing
    assert all("load" not in one for one in computing - {("load",)})
    assert (("embed", "embed") in computing) is (device == "cpu")
    for what in ("read", "write"):
        assert any({what, "embed"} <= set(seen) for seen in overlaps.seen)
        assert any({what, "load"} <= set(seen) for seen in overlaps.seen)


def test_one_video_is_to_blame_for_a_lost_device(overlaps: Overlaps) -> None:
    """Those that wait for their turn meet the same broken device and have done nothing."""
    backend = TorchBackend("cuda")
    backend.load(MESSAGE, nothing)
    overlaps.error = torch_says("CUDA error: an illegal memory access was encountered")
    blamed: list[bool] = []

    def embed(_: int) -> None:
        with pytest.raises(
            DeviceLost, match=r"^NVIDIA Test: CUDA error: an illegal memory access was encountered$"
        ) as caught:
            backend.embed(MESSAGE, nothing, nothing)
        blamed.append(caught.value.blame)

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(embed, range(4)))
    assert sorted(blamed) == [False, False, False, True]


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_an_error_of_the_frames_loses_no_device(overlaps: Overlaps, device: str) -> None:
    backend = TorchBackend(device)
    overlaps.error = UserError("weights.pth: no.")
    for _ in range(2):
        with pytest.raises(UserError):
            backend.embed(MESSAGE, nothing, nothing)


def test_a_device_that_fails_later_is_lost_too(overlaps: Overlaps, monkeypatch: pytest.MonkeyPatch) -> None:
    """An error without the device's name may be its consequence: the device is asked."""
    import torch

    def fail() -> None:
        raise torch_says("CUDA error: uncorrectable ECC error encountered")

    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.cuda, "synchronize", fail)
    overlaps.error = ValueError("nonsense came back")
    with pytest.raises(DeviceLost, match="ECC"):
        TorchBackend("cuda").embed(MESSAGE, nothing, nothing)


# ------------------------------------------------------------------------------------------------ devices that fail


def test_a_lost_device_ends_its_process_and_the_video_is_done_by_another(run: Run, tmp_path: Path) -> None:
    first = run.ask()["pid"]
    second = run.ask("lose once", once=str(tmp_path / "once"))["pid"]
    assert second != first
    wait_for(lambda: not devices.is_running(f"{first}:"))
    log = run.log.read_text()
    assert f"embedder {first}: ends: the device was lost (cuDNN error: CUDNN_STATUS_EXECUTION_FAILED)" in log
    assert run.ask()["pid"] == second


def test_a_video_that_loses_the_device_twice_fails_and_names_it(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(DEVICES, "fake0")
    with pytest.raises(UserError) as caught:
        run.ask("lose", device="fake0")
    assert str(caught.value).startswith(
        "a video: the device failed twice, each time in a new process (device fake0, CUDA error: an illegal memory access was "
        "encountered)."
    )
    assert run.started() == 2
    run.ask(device="fake0")  # the others go on
    assert run.started() == 3


def test_the_device_is_lost_under_several_videos(run: Run) -> None:
    """What is left is done one by one; the culprit alone is given up, and it alone is tried twice by itself."""
    answers = run.ask_for(["a", "b", "c", "d"], {"b": "lose"})
    assert [answer["place"] for answer in answers] == [0, 1, 2, 3]
    assert [place for place, answer in enumerate(answers) if "failure" in answer] == [1]
    assert answers[1]["failure"].startswith(
        "b: the device failed twice, each time in a new process (device cpu, CUDA error: an illegal memory access was "
        "encountered)."
    )
    together = [answer["record"]["together"] for answer in answers if "record" in answer]
    assert together == [True, False, False]
    begun = [line.split()[-1] for line in run.note.read_text().splitlines() if line.startswith("begin")]
    assert begun == ["a", "b", "b", "b", "c", "d"]  # nothing that was answered is done again
    assert run.started() == 4
    assert len({answer["record"]["pid"] for answer in answers if "record" in answer}) == 2


def test_two_videos_that_lose_the_device_end_the_request(run: Run) -> None:
    answers: list[Any] = []
    message: Any = {"do": {"b": "lose", "c": "lose"}, **request_for(["a", "b", "c", "d"])}
    with pytest.raises(UserError, match=r"^c: the device failed twice"):
        client.request(message, run.owner, "cpu", run.log, answers.append)
    assert [(answer["place"], "failure" in answer) for answer in answers] == [(0, False), (1, True)]


def test_a_device_lost_once_under_several_videos_fails_none(run: Run, tmp_path: Path) -> None:
    answers = run.ask_for(["a", "b", "c"], "lose once", once=str(tmp_path / "once"))
    assert [answer["record"]["video_id"] for answer in answers] == ["a", "b", "c"]
    assert run.started() == 2


def test_an_embedder_killed_under_several_videos_names_the_one_at_work(run: Run) -> None:
    answers: list[Any] = []
    message: Any = {"do": {"b": "kill"}, **request_for(["a", "b", "c"])}
    with pytest.raises(UserError, match="while it worked on b;"):
        client.request(message, run.owner, "cpu", run.log, answers.append)
    assert [answer["place"] for answer in answers] == [0]


def test_a_video_is_answered_as_soon_as_it_is_done(run: Run, tmp_path: Path) -> None:
    """The second is done only when the first has arrived."""
    gate = tmp_path / "gate"
    arrived: list[str] = []

    def receive(answer: Any) -> None:
        arrived.append(answer["record"]["video_id"])
        gate.touch()

    message: Any = {"do": {"b": "hold"}, "gate": str(gate), **request_for(["a", "b"])}
    client.request(message, run.owner, "cpu", run.log, receive)
    assert arrived == ["a", "b"]


def test_another_videos_error_is_no_try(run: Run, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="failed twice"):
        run.ask("lose")
    run.ask("suffer, then lose once", once=str(tmp_path / "once"))
    assert run.started() == 5


def test_a_device_lost_while_a_model_is_loaded(run: Run) -> None:
    client.prewarm({"note": str(run.note), "do": "lose"}, run.owner, "cpu", run.log)
    wait_for(lambda: run.log.exists() and "ends: the device was lost" in run.log.read_text())
    run.ask()
    assert run.started() == 2


def test_no_answer_is_waited_for_for_ever(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    # On a busy machine a thread that sleeps 0.1 s may wake after one.
    monkeypatch.setenv(EMBEDDER_TIMEOUT, "2.5")
    first = run.ask("beat", beats=35)["pid"]  # slow is not silent
    for do in ("sleep", "stop", "beat, then stop getting on"):
        pid = run.ask()["pid"]
        with pytest.raises(UserError, match="while it worked on a video and was ended: cpu or its driver"):
            run.ask(do, seconds=60, beats=3)
        assert not devices.is_running(f"{pid}:")
    assert run.ask()["pid"] != first


def test_one_that_answers_nobody_is_ended_by_the_next_who_asks(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(EMBEDDER_TIMEOUT, "2.5")
    pid = run.ask()["pid"]
    os.kill(pid, signal.SIGSTOP)
    with pytest.raises(UserError, match="was ended"):
        run.ask()
    assert run.ask()["pid"] != pid


def test_one_that_cannot_be_ended_is_a_sentence_too(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """The kernel keeps a process that waits for a driver, whatever it is sent."""
    pid = run.ask()["pid"]
    with monkeypatch.context() as patched:
        patched.setenv(EMBEDDER_TIMEOUT, "0.6")
        patched.setattr(client, "_END_SECONDS", 0.2)
        patched.setattr(
            client.os, "kill", lambda number, what: None
        )  # devices has the same: it asks with signal 0
        with pytest.raises(
            UserError, match=r"and cannot be ended: the driver of cpu hangs. Restart the machine"
        ):
            run.ask("sleep", seconds=60)
    os.kill(pid, signal.SIGKILL)
    wait_for(lambda: not devices.is_running(f"{pid}:"))
    assert run.ask()["pid"] != pid


def test_the_embedder_of_the_cpu_sees_no_gpu(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1")
    pid = run.ask()["pid"]
    assert b"CUDA_VISIBLE_DEVICES=\0" in Path(f"/proc/{pid}/environ").read_bytes()


# ---------------------------------------------------------------------------------------------------------- weight


def test_the_client_is_light() -> None:
    code = (
        "import sys; import framefeat.cli, framefeat.settings, framefeat.extract.stage, framefeat.extract.client; "
        "print(sorted({name.partition('.')[0] for name in sys.modules} & "
        "{'numpy', 'torch', 'pandas', 'pyarrow', 'av', 'decord', 'PIL', 'yaml', 'pydantic', 'asyncio'}))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
