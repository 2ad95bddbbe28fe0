import errno
import faulthandler
import io
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from framefeat import stored
from framefeat.errors import MachineError
from framefeat.identity import sample_key
from framefeat.proof import run as proof_run
from framefeat.proof.numbered import RECIPES, read_number
from framefeat.sample import attempt, child, video
from framefeat.sample.video import sample_video
from framefeat.video.decord import DecordReader
from framefeat.video.pyav import PyavReader
from framefeat.video.reader import Decoded, ReaderMistake
from PIL import Image

from tests import clips


def record_of(path, times, fps=25.0):
    return {
        "video_id": path.stem,
        "path": str(path),
        "timestamps": list(times),
        "fps": fps,
        "fingerprint": "f" * 64,
        "times_sha256": "t" * 64,
    }


def outputs_of(folder):
    return {
        "frames_path": folder / "a.npy",
        "recheck_path": folder / "a.recheck.npy",
        "evidence_path": folder / "a.safetensors",
    }


def sample(folder, path, times, fps=25.0, decoder="auto", alignment="index", **more):
    folder.mkdir(exist_ok=True)
    evidence = sample_video(
        record_of(path, times, fps),
        geometry=more.pop("geometry", "squash96"),
        alignment=alignment,
        decoder=decoder,
        **outputs_of(folder),
        **more,
    )
    assert sorted(p.name for p in folder.iterdir()) == ["a.npy", "a.recheck.npy", "a.safetensors"]
    assert stored.read_record(folder / "a.safetensors") == evidence
    return evidence, np.load(folder / "a.npy")


@pytest.mark.parametrize("decoder", ["auto", "pyav", "decord"])
def test_rows_carry_their_frame_and_their_evidence(tmp_path, decoder):
    clip = clips.made("cfr_25.mp4")
    times = [0.0, 0.5, 1.0, 1.001, 2.5, 3.96, 4.0]
    evidence, frames = sample(tmp_path / "out", clip.path, times, decoder=decoder)
    rows = evidence["rows"]
    assert rows["native_idx"] == [0, 12, 25, 25, 62, 99, 99]
    assert rows["status"] == ["ok"] * 6 + ["clamped"]
    assert [read_number(frame) for frame in frames] == rows["native_idx"]
    assert rows["pts_sec"] == pytest.approx([number / 25 for number in rows["native_idx"]])
    assert rows["timestamp_sec"] == times
    assert evidence["decoder"] == ("pyav" if decoder == "pyav" else "decord")
    assert evidence["frame_size"] == [96, 128]
    recheck = np.load(tmp_path / "out" / "a.recheck.npy")
    assert evidence["recheck"]["agrees"]
    assert evidence["recheck"]["reader"] == ("decord" if decoder == "pyav" else "pyav")
    assert len(recheck) == len(evidence["recheck"]["rows"]) == 2
    for row, frame in zip(evidence["recheck"]["rows"], recheck, strict=True):
        np.testing.assert_allclose(frame, frames[row], atol=2)
    assert rows["native_idx"][evidence["recheck"]["rows"][-1]] == 99
    assert evidence["problems"] == []
    assert set(evidence["versions"]) >= {"av", "pillow"}


def test_both_decoders_give_the_same_bytes(tmp_path):
    clip = clips.made("h264_pyramid.mp4")
    times = [k / 2 for k in range(8)]
    _, a = sample(tmp_path / "a", clip.path, times, decoder="decord")
    _, b = sample(tmp_path / "b", clip.path, times, decoder="pyav")
    np.testing.assert_array_equal(a, b)


def test_thumbnails_name_their_rows_and_keep_the_aspect(tmp_path):
    clip = clips.made("cfr_25.mp4")
    evidence, _ = sample(tmp_path / "out", clip.path, [k / 25 for k in range(100)])
    told = evidence["thumbnails"]
    assert len(told["rows"]) == 24
    assert (told["rows"][0], told["rows"][-1]) == (0, 99)
    assert (told["height"], told["width"]) == (72, 96)
    payload = stored.read_array(tmp_path / "out" / "a.safetensors", "thumbnails")
    assert payload.dtype == np.uint8
    with Image.open(io.BytesIO(payload.tobytes())) as strip:
        assert strip.size == (24 * 96, 72)
        cell = np.asarray(strip.crop((96 * 5, 0, 96 * 6, 72)))
    assert read_number(cell) == told["rows"][5]


def test_times_past_the_end_are_bad_rows(tmp_path, capfd):
    clip = clips.made("cfr_25.mp4")
    evidence, frames = sample(tmp_path / "out", clip.path, [0.0, 4.04, 9.0])
    assert evidence["rows"]["status"] == ["ok", "bad", "bad"]
    assert evidence["rows"]["native_idx"] == [0, -1, -1]
    assert evidence["rows"]["pts_sec"] == [0.0, None, None]
    assert not frames[1:].any()
    assert len(evidence["problems"]) == 2
    assert "4.04 s (frame 101) is past the end: the video has 100 frames" in evidence["problems"][0]
    told = capfd.readouterr()
    assert "cfr_25: 2 of 3 rows are bad: 4.04 s (frame 101) is past the end" in told.err
    assert told.out == told.err, "the log and the person who looks at the run are told the same"


@pytest.mark.parametrize("decoder", ["auto", "pyav"])
def test_a_damaged_file_is_bad_where_it_is_damaged(tmp_path, decoder):
    whole = clips.noisy(tmp_path / "whole.mp4")
    path = clips.damaged(whole, tmp_path / "damaged.mp4")
    times = [k / 10 for k in range(30)]
    evidence, frames = sample(tmp_path / "out", path, times, fps=30.0, decoder=decoder)
    _, truth = sample(tmp_path / "truth", whole, times, fps=30.0, decoder="pyav")
    bad = np.array(evidence["rows"]["status"]) == "bad"
    assert bad.any()
    assert len(evidence["problems"]) == bad.sum()
    assert not bad[:10].any()
    assert not bad[20:].any()
    assert not frames[bad].any()
    np.testing.assert_array_equal(frames[~bad], truth[~bad])
    assert evidence["recheck"]["agrees"]


def test_a_file_cut_short_is_bad_from_there_on(tmp_path):
    whole = clips.noisy(tmp_path / "whole.mp4")
    path = clips.cut_short(whole, tmp_path / "part.mp4")
    times = [k / 10 for k in range(30)]
    evidence, frames = sample(tmp_path / "out", path, times, fps=30.0)
    _, truth = sample(tmp_path / "truth", whole, times, fps=30.0, decoder="pyav")
    assert "90 frames expected, found" in evidence["problems"][0]
    status = evidence["rows"]["status"]
    first = status.index("bad")
    assert 12 <= first <= 19
    assert set(status[first:]) == {"bad"}
    np.testing.assert_array_equal(frames[:first], truth[:first])
    assert not frames[first:].any()


def assert_nothing_came(evidence, frames, words):
    assert set(evidence["rows"]["status"]) == {"bad"}
    assert evidence["decoder"] is None
    assert evidence["video"] is None
    assert not evidence["recheck"]["agrees"]
    assert not frames.any()
    assert words in evidence["problems"][0]


@pytest.mark.parametrize("kind", ["empty", "audio", "text"])
def test_a_file_without_frames_gives_bad_rows(tmp_path, kind):
    path = tmp_path / "clip.mp4"
    if kind == "audio":
        clips.audio_only(path)
    else:
        path.write_text("x" * 1000 if kind == "text" else "")
    evidence, frames = sample(tmp_path / "out", path, [0.0, 0.5])
    assert_nothing_came(evidence, frames, "clip.mp4")
    assert frames.shape == (2, 96, 96, 3)
    assert np.load(tmp_path / "out" / "a.recheck.npy").shape == (0, 96, 96, 3)


@pytest.mark.parametrize("kind", ["gone", "folder", "pipe"])
def test_a_file_that_cannot_be_read_says_how_to_go_on(tmp_path, kind):
    """The merge could not read it either, and the next one looks at it anew."""
    path = tmp_path / "clip.mp4"
    if kind == "folder":
        path.mkdir()
    elif kind == "pipe":
        os.mkfifo(path)
    evidence, frames = sample(tmp_path / "out", path, [0.0, 0.5], timeout=1.0)
    assert_nothing_came(evidence, frames, "clip.mp4' cannot be read (")
    assert "mend this and run again" in evidence["problems"][0]


def test_an_input_error_in_the_middle_keeps_what_could_be_had(tmp_path, monkeypatch):
    path = clips.damaged(clips.noisy(tmp_path / "whole.mp4"), tmp_path / "damaged.mp4")
    monkeypatch.setattr(video, "_read_through", lambda path, line: "Input/output error")
    evidence, _ = sample(tmp_path / "out", path, [k / 10 for k in range(30)], fps=30.0)
    assert {"ok", "bad"} == set(evidence["rows"]["status"])
    assert "damaged.mp4' cannot be read (Input/output error)" in evidence["problems"][0]


def test_a_name_that_is_not_utf_8_can_be_told(tmp_path):
    path = tmp_path / os.fsdecode(b"cl\xffip.mp4")
    path.write_text("no video")
    evidence, frames = sample(tmp_path / "out", path, [0.0])
    assert_nothing_came(evidence, frames, r"cl\udcffip.mp4")


def _crash(self, wanted):
    faulthandler.disable()  # pytest's own, in this child: no dump in the log of a crash that is meant
    os.kill(os.getpid(), signal.SIGSEGV)
    yield


def _hang(self, wanted):
    time.sleep(60)
    yield


def _unforeseen(self, wanted):
    raise RuntimeError("no such thing was seen before")
    yield


FAULTS = pytest.mark.parametrize(
    ("fault", "words"),
    [
        (_crash, "killed by signal 11"),
        (_hang, "no progress for 1 s"),
        (_unforeseen, "failed (RuntimeError: no such thing was seen before)"),
    ],
)


@FAULTS
def test_a_decord_that_dies_is_replaced(tmp_path, monkeypatch, capfd, fault, words):
    monkeypatch.setattr(DecordReader, "frames", fault)
    clip = clips.made("cfr_25.mp4")
    evidence, frames = sample(tmp_path / "out", clip.path, [0.0, 1.0], timeout=1.0)
    assert evidence["decoder"] == "pyav"
    assert words in evidence["decoder_reason"]
    assert [read_number(frame) for frame in frames] == [0, 25]
    assert words in capfd.readouterr().err
    evidence, frames = sample(tmp_path / "forced", clip.path, [0.0, 1.0], timeout=1.0, decoder="decord")
    assert_nothing_came(evidence, frames, words)


@FAULTS
def test_a_decoder_that_always_fails_is_a_finding(tmp_path, monkeypatch, capfd, fault, words):
    for reader in (DecordReader, PyavReader):
        monkeypatch.setattr(reader, "frames", fault)
    clip = clips.made("cfr_25.mp4")
    evidence, frames = sample(tmp_path / "out", clip.path, [0.0, 1.0], timeout=1.0)
    assert_nothing_came(evidence, frames, words)
    assert "cfr_25.mp4" in evidence["problems"][0]
    told = capfd.readouterr()
    assert ("in _unforeseen" in told.err) == (fault is _unforeseen), "an exception's trace is in the log"
    assert "Traceback" not in told.out


def test_a_misread_file_is_a_finding_where_decord_is_asked_for(tmp_path, monkeypatch):
    def mistaken(self, wanted):
        raise ReaderMistake("it counts other frames")
        yield

    monkeypatch.setattr(DecordReader, "frames", mistaken)
    clip = clips.made("cfr_25.mp4")
    evidence, frames = sample(tmp_path / "out", clip.path, [0.0, 1.0], decoder="decord")
    assert_nothing_came(
        evidence, frames, "decord misreads this file: it counts other frames; set decoder: auto"
    )


def _raise(error):
    def fault(self, row, pixels):
        raise error

    return fault


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (OSError(errno.ENOSPC, "No space left on device"), r"No space left on device\. Nothing half written"),
        (OSError(errno.EDQUOT, "Disk quota exceeded"), "Disk quota exceeded"),
        (OSError(errno.EFBIG, "File too large"), "File too large"),
        (OSError(errno.EMFILE, "Too many open files"), "Too many open files"),
        (MemoryError(), "not enough memory"),
    ],
)
def test_the_machine_s_trouble_is_no_finding(tmp_path, monkeypatch, error, words):
    monkeypatch.setattr(attempt.RowFile, "write", _raise(error))
    clip = clips.made("cfr_25.mp4")
    with pytest.raises(MachineError, match=words):
        sample(tmp_path / "out", clip.path, [0.0, 1.0])
    assert list((tmp_path / "out").iterdir()) == []


def test_an_output_that_cannot_be_written_is_no_finding(tmp_path, monkeypatch):
    def broken(*arguments):
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(os, "pwrite", broken)
    with pytest.raises(MachineError, match=r"a\.npy' cannot be written \(Input/output error\)"):
        sample(tmp_path / "out", clips.made("cfr_25.mp4").path, [0.0, 1.0])
    assert list((tmp_path / "out").iterdir()) == []


def test_a_disk_that_does_not_answer_is_no_finding(tmp_path, monkeypatch):
    monkeypatch.setattr(PyavReader, "frames", _hang)
    monkeypatch.setattr(video, "_read_through", lambda path, line: time.sleep(60))
    with pytest.raises(MachineError, match="the disk or the network does not answer"):
        sample(tmp_path / "out", clips.made("cfr_25.mp4").path, [0.0], timeout=0.5, decoder="pyav")
    assert list((tmp_path / "out").iterdir()) == []


def test_a_decoder_killed_from_outside_proves_nothing(tmp_path, monkeypatch, capfd):
    """The same result as undisturbed if it happens once; never bad rows, and never another decoder."""
    real = DecordReader.frames
    once = tmp_path / "once"

    def killed(self, wanted):
        if not once.exists():
            once.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        yield from real(self, wanted)

    clip = clips.made("cfr_25.mp4")
    undisturbed, _ = sample(tmp_path / "undisturbed", clip.path, [0.0, 1.0])
    monkeypatch.setattr(DecordReader, "frames", killed)
    evidence, _ = sample(tmp_path / "out", clip.path, [0.0, 1.0])
    assert evidence == undisturbed
    assert "killed by signal 9 (SIGKILL); once more" in capfd.readouterr().err
    monkeypatch.setattr(DecordReader, "frames", lambda self, wanted: os.kill(os.getpid(), signal.SIGKILL))
    with pytest.raises(MachineError, match=r"twice.*memory"):
        sample(tmp_path / "killed", clip.path, [0.0, 1.0])
    assert list((tmp_path / "killed").iterdir()) == []


def test_a_decord_with_other_pixels_is_found_by_the_second_decode(tmp_path, monkeypatch):
    real = DecordReader.frames

    def other_frames(self, wanted):
        for frame in real(self, wanted):
            yield Decoded(frame.native, frame.pts, frame.rgb if frame.native < 20 else 255 - frame.rgb)

    monkeypatch.setattr(DecordReader, "frames", other_frames)
    clip = clips.made("cfr_25.mp4")
    evidence, frames = sample(tmp_path / "out", clip.path, [0.0, 1.0, 2.0])
    assert evidence["decoder"] == "pyav"
    assert "second decode" in evidence["decoder_reason"]
    assert [read_number(frame) for frame in frames] == [0, 25, 50]
    assert evidence["recheck"]["agrees"]
    evidence, _ = sample(tmp_path / "forced", clip.path, [0.0, 1.0, 2.0], decoder="decord")
    assert evidence["rows"]["status"] == ["bad"] * 3
    assert "decord misreads this file: a second decode gives other frames" in evidence["problems"][0]


def test_a_decord_that_is_one_frame_off_in_a_quiet_scene_does_not_serve(tmp_path, monkeypatch):
    real = DecordReader._take
    monkeypatch.setattr(DecordReader, "_take", lambda self, number: real(self, number + (number > 60)))
    path = clips.quiet(tmp_path / "quiet.mp4")
    evidence, frames = sample(tmp_path / "out", path, [0.0, 1.0, 2.0, 2.6, 3.0])
    assert evidence["decoder"] == "pyav"
    _, expected = sample(tmp_path / "pyav", path, [0.0, 1.0, 2.0, 2.6, 3.0], decoder="pyav")
    np.testing.assert_array_equal(frames, expected)


def test_the_key_holds_what_decides_the_result_and_nothing_else(tmp_path):
    clip = clips.made("cfr_25.mp4")
    record = record_of(clip.path, [0.0])
    key = sample_key(record, alignment="index", geometry="squash96", decoder="auto")
    assert set(key) == {"algorithm", "fingerprint", "times_sha256", "fps", "alignment", "geometry", "decoder"}
    evidence, _ = sample(tmp_path / "out", clip.path, [0.0])
    assert evidence["key"] == key


def test_sigterm_ends_the_child_and_leaves_nothing(tmp_path):
    clip = clips.made("cfr_25.mp4")
    out = tmp_path / "out"
    out.mkdir()
    script = f"""
import time
from framefeat.video.pyav import PyavReader
from framefeat.sample.video import sample_video
def hang(self, wanted):
    print("ready", flush=True)
    time.sleep(60)
    yield
PyavReader.frames = hang
from pathlib import Path
sample_video({record_of(clip.path, [0.0])!r}, geometry="squash96", alignment="index", decoder="pyav",
    **{{k: Path(v) for k, v in { ({k: str(v) for k, v in outputs_of(out).items()})!r}.items()}})
"""
    process = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    process.send_signal(signal.SIGTERM)
    assert process.wait(timeout=10) == 128 + signal.SIGTERM
    assert process.stdout.read() == ""  # the child held this pipe too: it is gone
    process.stdout.close()
    assert list(out.iterdir()) == []


def test_no_wait_is_long_enough_to_hold_up_a_signal(monkeypatch):
    """Python runs the handler of a signal that comes just before a wait after it: the test above meets that by
    chance."""
    waits = []
    wait = child.select.select

    def noted(*arguments):
        waits.append(arguments[3])
        return wait(*arguments)

    monkeypatch.setattr(child.select, "select", noted)
    began = time.monotonic()
    with pytest.raises(child.ChildLost, match=r"no progress for 1\.2 s"):
        child.run_in_child(lambda line: time.sleep(30), timeout=1.2)
    assert 1.2 <= time.monotonic() - began < 5
    assert max(waits) <= 0.5


def test_the_parent_stays_light():
    code = (
        "import sys, framefeat.sample.stage\n"
        "heavy = {'numpy', 'av', 'decord', 'PIL', 'torch', 'pandas', 'pyarrow'} & set(sys.modules)\n"
        "sys.exit(str(heavy) if heavy else 0)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_rows_may_come_in_any_order_and_repeat_frames(tmp_path):
    clip = clips.made("h264_vfr.mp4")
    times = [2.0, 0.0, 0.001, 2.0, 1.5]
    evidence, frames = sample(tmp_path / "out", clip.path, times, fps=clip.fps, alignment="pts")
    assert [read_number(frame) for frame in frames] == evidence["rows"]["native_idx"]
    assert evidence["rows"]["native_idx"][1] == evidence["rows"]["native_idx"][2] == 0


def test_rows_for_a_second_decode_are_the_same_each_time(tmp_path):
    clip = clips.made("h264_pyramid.mp4")
    times = [k / 5 for k in range(20)]
    first, _ = sample(tmp_path / "a", clip.path, times)
    second, _ = sample(tmp_path / "b", clip.path, times)
    assert first == second
    assert len(first["recheck"]["rows"]) == 2


SHORT_PROOF = [
    "cfr_23_976.mp4",
    "h264_open_gop.mkv",
    "h264_vfr.mp4",
    "h264_cut.mp4",
    "hevc_open_gop.ts",
    "mpeg4_b.avi",
    "av1.webm",
]


@pytest.mark.parametrize("file", SHORT_PROOF)
def test_short_proof(tmp_path, monkeypatch, file):
    monkeypatch.setattr(proof_run, "RATES", (2.0, 0.0) if file == "h264_open_gop.mkv" else (2.0,))
    recipe = next(recipe for recipe in RECIPES if recipe.file == file)
    line = proof_run.prove_made(recipe, tmp_path, ["auto"], naive=False)
    assert (line.silent, line.lost, line.failures) == (0, 0, [])
    assert line.rows == line.ok + line.clamped


def test_a_proof_with_a_wrong_reader_fails(tmp_path, monkeypatch):
    """The proof itself notices frames that are one off."""
    real = attempt.Frames.keep

    def one_off(self, frame):
        real(self, Decoded(frame.native, frame.pts, np.roll(frame.rgb, 32, axis=1)))

    monkeypatch.setattr(attempt.Frames, "keep", one_off)
    monkeypatch.setattr(proof_run, "RATES", (1.0,))
    recipe = next(recipe for recipe in RECIPES if recipe.file == "cfr_25.mp4")
    line = proof_run.prove_made(recipe, tmp_path, ["pyav"], naive=True)
    assert line.silent > 0
    assert line.failures


def test_a_second_decode_costs_a_bounded_number_of_frames(tmp_path, monkeypatch):
    monkeypatch.setattr(attempt, "_MOST_DECODED_AGAIN", 50)
    clip = clips.made("h264_one_key_60s.mp4")
    evidence, _ = sample(tmp_path / "out", clip.path, [0.0, 1.0, 1.5, 10.0, 50.0])
    assert evidence["recheck"]["agrees"]
    assert set(evidence["recheck"]["rows"]) <= {0, 1, 2}


@pytest.mark.parametrize("alignment", ["index", "pts"])
def test_a_number_after_lost_frames_is_doubtful(tmp_path, alignment):
    """No row is in the damaged part, and yet it is not sure which frame the numbers after it mean."""
    path = clips.without_pictures(clips.made("h264_no_b.mp4").path, tmp_path / "lost.mkv", range(40, 43))
    evidence, _ = sample(tmp_path / "out", path, [0.0, 3.0, 3.6], decoder="pyav", alignment=alignment)
    assert evidence["rows"]["native_idx"] == [0, 75, 90]
    assert any("3 frames lost to damage" in text for text in evidence["doubts"]) == (alignment == "index")


def test_neighbours_in_a_process_decide_nothing(tmp_path, monkeypatch):
    """Clean and damaged files by turns in one process that is never renewed give what each gives alone."""
    monkeypatch.setattr(child, "_RENEWED_AFTER_SECONDS", 1e9)
    whole = clips.noisy(tmp_path / "whole.mp4")
    names = ["cfr_25.mp4", "h264_vfr.mp4", "h264_pyramid.mp4"]
    paths = [clips.made(name).path for name in names]
    paths[1:1] = [
        clips.damaged(whole, tmp_path / "damaged.mp4"),
        clips.cut_short(whole, tmp_path / "cut.mp4"),
        whole,
    ]
    times = [k / 10 for k in range(25)]
    alone = [sample(tmp_path / f"{path.stem}_alone", path, times, fps=30.0) for path in paths]
    with video.sampling_child() as shared:
        monkeypatch.setattr(shared, "end", lambda: None)
        for path, (evidence, frames) in zip(paths, alone, strict=True):
            again = sample(tmp_path / f"{path.stem}_again", path, times, fps=30.0, child=shared)
            # A job imports the readers before it forks: there the versions are the same, too.
            assert {**again[0], "versions": None} == {**evidence, "versions": None}
            np.testing.assert_array_equal(again[1], frames)
        monkeypatch.undo()
