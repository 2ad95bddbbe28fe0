"""The list of devices without torch, processes by their identity, and locks."""

import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from framefeat import devices
from framefeat.errors import UserError

UUIDS = ["GPU-8932f937-d72c-4106-c12f-20bd9faed9f6", "MIG-9a6c1a0c-6f1c-5f0e-8a1d-0c9ad1c1f7aa"]


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A machine with four GPUs, no variable set."""
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.delenv(devices.STAND_IN, raising=False)
    folder = tmp_path / "gpus"
    for number in range(4):
        (folder / f"0000:0{number}:00.0").mkdir(parents=True)
    monkeypatch.setattr(devices, "_DRIVER", folder)
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
    monkeypatch.setattr(devices, "_DRIVER", machine / "absent")
    monkeypatch.setattr(devices, "_NODES", ())
    assert devices.wanted("auto") == []
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0")
    assert devices.wanted("auto") == []
    with pytest.raises(UserError, match="no CUDA device is visible here"):
        devices.wanted("cuda")


def test_nvidia_smi_where_there_is_no_driver_folder(
    machine: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(devices, "_DRIVER", machine / "absent")
    monkeypatch.setattr(devices, "_NODES", (tmp_path,))
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
    monkeypatch.setenv(devices.STAND_IN, "fake0, cpu:1,2")
    assert devices.wanted("auto") == ["fake0", "cpu:1", "2"]
    assert [devices.torch_device(name) for name in ("fake0", "cpu:1", "2", "cpu")] == [
        "cpu",
        "cpu",
        "cuda",
        "cpu",
    ]
    monkeypatch.delenv(devices.STAND_IN)
    assert devices.torch_device(UUIDS[0]) == "cuda"


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

    def job() -> None:
        with devices.hold(tmp_path / "run", ["a", "b"]) as name:
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
