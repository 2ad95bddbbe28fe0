"""The list of devices without torch, processes by their identity, and locks."""

import os
import subprocess
import sys
import threading
import time
from contextlib import ExitStack
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from framefeat.backbone import driver
from framefeat.environment import DEVICES
from framefeat.errors import UserError
from framefeat.extract import devices

UUIDS = ["GPU-8932f937-d72c-4106-c12f-20bd9faed9f6", "MIG-9a6c1a0c-6f1c-5f0e-8a1d-0c9ad1c1f7aa"]


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A machine with four GPUs, no variable set."""
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.delenv(DEVICES, raising=False)
    folder = tmp_path / "gpus"
    for number in range(4):
        (folder / f"0000:0{number}:00.0").mkdir(parents=True)
    monkeypatch.setattr(driver, "_GPUS", folder)
    return folder


def test_all_devices_of_the_machine(machine: Path) -> None:
    assert devices.cuda_devices() == ["0", "1", "2", "3"]
    assert devices.wanted("auto") == devices.wanted("cuda") == ["0", "1", "2", "3"]
    assert devices.wanted("cuda:2") == ["2"]
    assert devices.wanted("cpu") == []


@pytest.mark.parametrize(
    ("visible", "expected"),
    [
        ("", []),
        ("-1", []),
        ("2", ["2"]),
        ("3,0", ["3", "0"]),
        (" 1 , 2 ", ["1", "2"]),
        ("1,1", ["1"]),
        ("0,-1,2", ["0"]),
        ("0,9,1", ["0"]),
        ("NoDevFiles", []),
        (",".join(UUIDS), UUIDS),
    ],
)
def test_cuda_visible_devices(
    machine: Path, monkeypatch: pytest.MonkeyPatch, visible: str, expected: list[str]
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    assert devices.cuda_devices() == expected


def test_numbers_are_counted_among_the_visible(machine: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3,1")
    assert devices.wanted("cuda:1") == ["1"]
    with pytest.raises(UserError, match="'cuda:2' was asked for, but only 2"):
        devices.wanted("cuda:2")
    with pytest.raises(UserError, match="'cuda:x' is no device"):
        devices.wanted("cuda:x")


def test_no_gpu(machine: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(driver, "_GPUS", machine / "absent")
    monkeypatch.setattr(driver, "_NODES", ())
    assert devices.wanted("auto") == []
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0")
    assert devices.wanted("auto") == []
    with pytest.raises(UserError, match="no CUDA device is visible here"):
        devices.wanted("cuda")


def test_nvidia_smi_where_there_is_no_driver_folder(
    machine: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(driver, "_GPUS", machine / "absent")
    monkeypatch.setattr(driver, "_NODES", (tmp_path,))
    tool = tmp_path / "nvidia-smi"
    tool.write_text(
        "#!/bin/sh\necho 'GPU 0: A (UUID: GPU-1)'\necho '  MIG 1g'\necho 'GPU 1: B (UUID: GPU-2)'\n"
    )
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    assert devices.cuda_devices() == ["0", "1"]
    tool.unlink()
    monkeypatch.setenv("PATH", str(tmp_path))
    assert devices.cuda_devices() == []


def test_stand_ins_win_and_compute_on_the_cpu(machine: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0")
    monkeypatch.setenv(DEVICES, "fake0, cpu:1,2")
    assert devices.wanted("auto") == ["fake0", "cpu:1", "2"]
    assert [devices.torch_device(name) for name in ("fake0", "cpu:1", "2", "cpu")] == [
        "cpu",
        "cpu",
        "cuda",
        "cpu",
    ]
    monkeypatch.delenv(DEVICES)
    assert devices.torch_device(UUIDS[0]) == "cuda"


# ------------------------------------------------------------------------------------------------ what torch can use


class Answers:
    """Stands for the process that asks torch; ``asked`` counts."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
        self.count = folder / "asked"
        self.program = folder / "torch.py"
        monkeypatch.setattr(devices, "_QUESTION", [sys.executable, str(self.program)])

    def are(self, answer: object, then: str = "") -> None:
        self.program.write_text(
            f"import json, pathlib, sys, time; pathlib.Path({str(self.count)!r}).open('a').write('x'); {then}\n"
            f"print('a warning of torch'); print(json.dumps({answer!r}))"
        )

    @property
    def asked(self) -> int:
        return len(self.count.read_text()) if self.count.exists() else 0


@pytest.fixture
def torch_answers(machine: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Answers:
    # What ``settle`` leaves behind goes with the test.
    monkeypatch.setattr(os, "environ", os.environ.copy())
    return Answers(monkeypatch, tmp_path)


TOO_OLD = "The NVIDIA driver on your system is too old (found version 11040)"


def test_devices_that_torch_can_use_are_asked_for_once(torch_answers: Answers) -> None:
    torch_answers.are(["", "", "", ""])
    assert [devices.settle(device) for device in ("auto", "auto", "cuda:3", "cpu")] == [""] * 4
    assert devices.wanted("auto") == ["0", "1", "2", "3"]
    assert torch_answers.asked == 1


@pytest.mark.parametrize(
    ("reason", "cure"),
    [
        (TOO_OLD, "update the NVIDIA driver, or install a torch that is built for an older CUDA"),
        ("torch 2.15.0+cpu is built without CUDA", "install torch's build for CUDA"),
        ("No CUDA GPUs are available", "whether it has an instance"),
        ("CUDA error: no kernel image is available for execution on the device", "compute capability"),
        ("CUDA driver version is insufficient for CUDA runtime version", "update the NVIDIA driver, or"),
        ("CUDA error: out of memory", "end what else uses its memory"),
        ("CUDA error: CUDA-capable device(s) is/are busy or unavailable", "end what else holds it"),
        ("CUDA unknown error", "look at 'nvidia-smi'"),
    ],
)
def test_auto_goes_on_without_a_gpu_that_torch_cannot_use_and_says_why(
    torch_answers: Answers, reason: str, cure: str
) -> None:
    torch_answers.are(reason)
    told = devices.settle("auto")
    assert told.startswith("device: auto, and a GPU is here that torch cannot use (")
    assert f"device 0: {reason}" in told
    assert cure in told
    assert devices.wanted("auto") == []
    assert devices.settle("auto") == ""  # said once
    assert torch_answers.asked == 1


def test_cuda_is_refused_where_torch_cannot_use_it(torch_answers: Answers) -> None:
    torch_answers.are(TOO_OLD)
    with pytest.raises(
        UserError, match=r"'cuda' was asked for, but torch cannot use it .*too old.* Update the NVIDIA driver"
    ):
        devices.settle("cuda")
    torch_answers.are(["", "CUDA error: unknown error", "", ""])
    with pytest.raises(UserError, match=r"'cuda:1' was asked for"):
        devices.settle("cuda:1")


def test_the_usable_ones_of_several_are_used(torch_answers: Answers) -> None:
    torch_answers.are(
        ["", "CUDA error: uncorrectable ECC error encountered", ""]
    )  # of the fourth it knows nothing
    told = devices.settle("auto")
    assert (
        "device 1: CUDA error: uncorrectable ECC error encountered; device 3: torch does not see it" in told
    )
    assert devices.wanted("auto") == ["0", "2"]


def test_a_device_by_its_number_is_counted_as_before(torch_answers: Answers) -> None:
    torch_answers.are(["no", "", "", ""])
    assert devices.settle("cuda:2") == ""
    assert devices.wanted("cuda:2") == ["2"]


@pytest.mark.parametrize(
    ("then", "words"),
    [
        ("sys.exit('libcudart.so: cannot open')", "torch ended with status 1 when it was asked: libcudart.so: cannot open"),
        ("import os; os.abort()", "torch ended with status -6 when it was asked"),
        ("time.sleep(60)", "no answer from the driver in 0.5 s"),
    ],
)  # fmt: skip
def test_a_driver_that_crashes_or_hangs_takes_only_the_question_with_it(
    torch_answers: Answers, monkeypatch: pytest.MonkeyPatch, then: str, words: str
) -> None:
    monkeypatch.setattr(devices, "_ANSWER_SECONDS", 0.5 if "sleep" in then else 30)
    torch_answers.are([], then)
    assert words in devices.settle("auto")
    assert devices.wanted("auto") == []


def test_torch_itself_is_asked(torch_answers: Answers, monkeypatch: pytest.MonkeyPatch) -> None:
    """The real question, on this machine: with a driver an empty reason or torch's own words, without one the
    latter."""
    import json

    question = [sys.executable, "-P", "-m", "framefeat.extract.devices"]
    answer = json.loads(subprocess.run(question, capture_output=True, text=True, check=True).stdout)
    assert isinstance(answer, str) or all(isinstance(reason, str) for reason in answer)
    if not Path("/proc/driver/nvidia").exists():
        assert answer.startswith(("Found no NVIDIA driver", "torch ", "No CUDA GPUs"))


def test_several_instances_of_one_gpu_are_one_for_a_process(torch_answers: Answers) -> None:
    torch_answers.are([""])
    told = devices.settle("auto")
    assert "device 3: torch does not see it" in told
    assert "of a GPU with MIG one process sees one instance ('nvidia-smi -L')" in told
    assert devices.wanted("auto") == ["0"]


class Works:
    """``torch.nn.functional.conv2d`` of a device on which it gives ``total``, or raises."""

    def __init__(self, outcome: float | Exception) -> None:
        self.outcome = outcome

    def __call__(self, image: Any, kernel: Any) -> Any:
        if isinstance(self.outcome, Exception):
            raise self.outcome
        return SimpleNamespace(sum=lambda: self.outcome)


@pytest.mark.parametrize(
    ("outcome", "reason"),
    [
        (14 * 14 * 8 * 8 * 9.0, ""),
        (0.0, "it computes wrongly"),
        (RuntimeError("CUDA error: no kernel image is available. Advice.\nMore"), "CUDA error: no kernel image is available"),
    ],
)  # fmt: skip
def test_each_device_has_to_compute_something(
    monkeypatch: pytest.MonkeyPatch, outcome: float | Exception, reason: str
) -> None:
    import torch

    where: list[str] = []
    monkeypatch.setattr(torch, "ones", lambda shape, device: where.append(device))
    monkeypatch.setattr(torch.nn.functional, "conv2d", Works(outcome))
    monkeypatch.setattr(torch.cuda, "init", lambda: None)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.version, "cuda", "13.2")
    assert devices._answer() == [reason] * 2
    assert where == ["cuda:0", "cuda:0", "cuda:1", "cuda:1"]


def test_a_torch_without_cuda_and_one_that_cannot_start_say_so(monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    def fail() -> None:
        raise RuntimeError(f"{TOO_OLD}. Please update your GPU driver.\nmore")

    monkeypatch.setattr(torch.cuda, "init", fail)
    monkeypatch.setattr(torch.version, "cuda", "13.2")
    assert devices._answer() == TOO_OLD
    monkeypatch.setattr(torch.version, "cuda", None)
    assert devices._answer() == f"torch {torch.__version__} is built without CUDA"
    monkeypatch.setitem(sys.modules, "torch", None)
    assert str(devices._answer()).startswith("torch cannot be imported")


def test_nobody_is_asked_where_there_is_no_gpu_or_the_cpu_is_wanted(
    torch_answers: Answers, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert devices.settle("cpu") == ""
    monkeypatch.setattr(devices, "present_devices", lambda: 0)
    assert devices.settle("auto") == ""
    assert torch_answers.asked == 0


def test_the_version_of_the_driver(machine: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(driver, "_nvidia_smi", lambda *_: ["570.86.16"])
    assert driver.version() == "570.86.16"
    monkeypatch.setattr(driver, "_nvidia_smi", lambda *_: [])
    assert driver.version() == ""
    (machine.parent / "version").write_text(
        "NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  570.86.15  Release Build\nGCC version: gcc 12.2.0\n"
    )
    assert driver.version() == "570.86.15"


# ------------------------------------------------------------------------------------------------ names, locks, slots


def test_file_names_are_one_to_one_and_short() -> None:
    names = ["cpu", "0", "cpu:0", "cpu_0", *UUIDS, "MIG-GPU-8932f937-d72c-4106-c12f-20bd9faed9f6/1/0",
             "MIG-GPU-8932f937-d72c-4106-c12f-20bd9faed9f6/2/0"]  # fmt: skip
    files = [devices.file_name(name) for name in names]
    assert len(set(files)) == len(names)
    assert max(map(len, files)) <= 32
    assert not any("/" in file or ":" in file for file in files)
    assert devices.file_name("cpu") == "cpu"


def test_a_process_is_known_by_number_and_start() -> None:
    process = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    identity = devices.process_identity(process.pid)
    assert devices.is_running(identity)
    assert not devices.is_running(f"{process.pid}:1")
    assert devices.is_running(f"{process.pid}:")  # a system without /proc
    process.kill()
    while devices.is_running(identity):  # it ends without being waited for: a zombie has ended
        time.sleep(0.01)
    process.communicate()
    assert not devices.is_running(identity)


@pytest.mark.parametrize("text", ["", ":", "x", "-1:5", "0:", "99999999999999999999:1", "²:1"])
def test_what_names_no_process_does_not_run(text: str) -> None:
    assert not devices.is_running(text)


def test_a_lock_is_of_the_file_that_is_there(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    order: list[str] = []

    def wait() -> None:
        with devices.locked(path):
            order.append("got it")
            assert path.exists()

    with devices.locked(path) as held:
        assert held is not None
        with devices.locked(path, wait=False) as second:
            assert second is None
        thread = threading.Thread(target=wait)
        thread.start()
        time.sleep(0.1)
        path.unlink()
        order.append("removed")
    thread.join(5)
    assert order == ["removed", "got it"]


def test_each_device_is_held_by_one(tmp_path: Path) -> None:
    held: dict[str, int] = {"a": 0, "b": 0}
    most: list[int] = []
    guard = threading.Lock()

    def folder() -> Path:
        (tmp_path / "run").mkdir(exist_ok=True)
        return tmp_path / "run"

    def job() -> None:
        with devices.hold(folder, ["a", "b"]) as name:
            with guard:
                held[name] += 1
                most.append(max(held.values()))
            time.sleep(0.05)
            with guard:
                held[name] -= 1

    threads = [threading.Thread(target=job) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    assert most == [1] * 6
    assert {path.name for path in (tmp_path / "run").iterdir()} == {"a.slot", "b.slot"}


def test_a_device_has_a_second_place_where_all_have_their_first(tmp_path: Path) -> None:
    with ExitStack() as stack:
        held = [stack.enter_context(devices.hold(lambda: tmp_path, ["a", "b"], 2)) for _ in range(4)]
    assert held == ["a", "b", "a", "b"]


def test_a_runtime_folder_that_vanished_is_asked_for_again(tmp_path: Path) -> None:
    """As at the end of a login session: what waits for a device goes on elsewhere."""
    places = iter([tmp_path / "gone" / "run", tmp_path])
    with devices.hold(lambda: next(places), ["a"]) as name:
        assert name == "a"
    assert [path.name for path in tmp_path.iterdir()] == ["a.slot"]
