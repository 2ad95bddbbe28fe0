"""What the workflow is measured against. Each function reads the same two indexes and returns float32 [N, 960]."""

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def _model(weights: Path) -> Any:
    import torch
    from torchvision.models import mobilenet_v3_large

    model = mobilenet_v3_large(weights=None)
    model.load_state_dict(torch.load(weights, weights_only=True))
    model.classifier = torch.nn.Identity()
    return model.eval()


def notebook(rows: pd.DataFrame, paths: dict[str, str], fps: dict[str, float], weights: Path) -> np.ndarray:
    """The notebook: open, seek and close for each frame; eager NCHW batches of 128."""
    import cv2
    import torch
    from PIL import Image
    from torchvision import transforms

    prepare = transforms.Compose(
        [transforms.Resize((224, 224)), transforms.ToTensor(), transforms.Normalize(MEAN, STD)]
    )
    model = _model(weights)
    features, batch = [], []

    def flush() -> None:
        if batch:
            with torch.no_grad():
                features.append(model(torch.stack(batch)).numpy())
            batch.clear()

    for row in rows.itertuples():
        capture = cv2.VideoCapture(paths[row.video_id])
        capture.set(cv2.CAP_PROP_POS_FRAMES, round(row.timestamp_sec * fps[row.video_id]))
        found, frame = capture.read()
        capture.release()
        if not found:
            frame = np.zeros((360, 640, 3), np.uint8)
        batch.append(prepare(Image.fromarray(cv2.cvtColor(frame, cv2.COLOR_BGR2RGB))))
        if len(batch) == 128:
            flush()
    flush()
    return np.concatenate([np.zeros((0, 960), np.float32), *features])


def _good_model(weights: Path) -> Callable[[np.ndarray], np.ndarray]:
    """uint8 [n, 224, 224, 3] to float32 [n, 960]: Conv+BatchNorm folded, channels_last, inference mode."""
    import torch
    from torch.fx.experimental.optimization import fuse

    model = fuse(_model(weights)).to(memory_format=torch.channels_last)
    mean = 255 * torch.tensor(MEAN).view(1, 3, 1, 1)
    std = 255 * torch.tensor(STD).view(1, 3, 1, 1)

    def embed(frames: np.ndarray) -> np.ndarray:
        with torch.inference_mode():
            batch = torch.from_numpy(frames).permute(0, 3, 1, 2).float()  # channels_last already
            return model(batch.sub_(mean).div_(std)).numpy()

    return embed


def _resize(frame: np.ndarray) -> np.ndarray:
    from PIL import Image

    return np.asarray(Image.fromarray(frame).resize((224, 224), Image.Resampling.BILINEAR))


def _loop(
    rows: pd.DataFrame, weights: Path, frames_of: Callable[[str, list[int]], Any], fps: dict[str, float]
) -> np.ndarray:
    embed = _good_model(weights)
    features, batch = [], []
    for video_id, part in rows.groupby("video_id", sort=False):
        for frame in frames_of(video_id, [round(t * fps[video_id]) for t in part["timestamp_sec"]]):
            batch.append(_resize(frame))
            if len(batch) == 32:
                features.append(embed(np.stack(batch)))
                batch.clear()
    if batch:
        features.append(embed(np.stack(batch)))
    return np.concatenate([np.zeros((0, 960), np.float32), *features])


def decord_loop(
    rows: pd.DataFrame, paths: dict[str, str], fps: dict[str, float], weights: Path
) -> np.ndarray:
    """One process, one video after the other: decord random access, all cores to decord and to torch in turn."""
    import decord

    def frames_of(video_id: str, wanted: list[int]) -> Any:
        reader = decord.VideoReader(paths[video_id])
        for first in range(0, len(wanted), 32):
            yield from reader.get_batch(wanted[first : first + 32]).asnumpy()

    return _loop(rows, weights, frames_of, fps)


def torchcodec_pool(
    rows: pd.DataFrame, paths: dict[str, str], fps: dict[str, float], weights: Path
) -> np.ndarray:
    """The rival, which a good engineer writes in an hour: torchcodec in a pool of threads, one worker for each core and
    whole videos for each worker, beside full batches on the main thread. It proves nothing and keeps nothing."""
    from collections import deque
    from concurrent.futures import Future, ThreadPoolExecutor

    import torch
    from torchcodec.decoders import VideoDecoder

    cores = len(os.sched_getaffinity(0))
    # Decoding and forward passes take about as long; more threads would only take turns with the decoders.
    torch.set_num_threads(max(1, cores // 2))

    def sample(video_id: str, times: np.ndarray) -> np.ndarray:
        # seek_mode is exact: approximate saves a millisecond, and trusts the container for which frame is which.
        decoder = VideoDecoder(paths[video_id], dimension_order="NHWC", num_ffmpeg_threads=1)
        wanted = [round(t * fps[video_id]) for t in times]
        frames = np.empty((len(wanted), 224, 224, 3), np.uint8)
        for first in range(0, len(wanted), 64):  # a minute's rows of 360p would be 80 MB
            for place, frame in enumerate(
                decoder.get_frames_at(wanted[first : first + 64]).data.numpy(), first
            ):
                frames[place] = _resize(frame)
        return frames

    videos = rows.groupby("video_id", sort=False).indices
    times = rows["timestamp_sec"].to_numpy()
    features = np.empty((len(rows), 960), np.float32)
    batch, places = np.empty((32, 224, 224, 3), np.uint8), np.empty(32, np.int64)
    filled = 0
    with ThreadPoolExecutor(cores) as pool:
        waiting = iter(videos.items())
        ahead: deque[tuple[np.ndarray, Future[np.ndarray]]] = deque()

        def fill() -> None:
            """Let the decoders be 1,000 rows (150 MB) ahead of the forward passes, and none of them idle."""
            while len(ahead) <= cores or sum(len(numbers) for numbers, _ in ahead) < 1000:
                if (video := next(waiting, None)) is None:
                    return
                ahead.append((video[1], pool.submit(sample, video[0], times[video[1]])))

        fill()
        embed = _good_model(weights)  # is loaded while the first videos are decoded
        while ahead:
            numbers, future = ahead.popleft()
            fill()
            for number, frame in zip(numbers, future.result(), strict=True):
                batch[filled], places[filled] = frame, number
                filled += 1
                if filled == len(batch):
                    features[places] = embed(batch)
                    filled = 0
    if filled:
        features[places[:filled]] = embed(batch[:filled])
    return features


def per_process(
    rows: pd.DataFrame, paths: dict[str, str], fps: dict[str, float], weights: Path
) -> np.ndarray:
    """One Python process for each video, as a workflow without a warm embedder does; as many at once as cores."""
    from concurrent.futures import ThreadPoolExecutor

    script = "import sys; from bench.baselines import main; main(sys.argv[1:])"

    def one(video_id: str) -> None:
        subprocess.run(
            [sys.executable, "-c", script, "decord_loop", "--folder", str(Path(paths[video_id]).parent), "--weights",
             str(weights), "--videos", video_id, "--torch-threads", "1"],
            check=True, stdout=subprocess.DEVNULL,
        )  # fmt: skip

    with ThreadPoolExecutor(len(os.sched_getaffinity(0))) as pool:
        list(pool.map(one, dict.fromkeys(rows["video_id"])))
    return np.zeros((0, 960), np.float32)


def decode_cpu(rows: pd.DataFrame, paths: dict[str, str], fps: dict[str, float], weights: Path) -> np.ndarray:
    """Part of the limit: every frame decoded once by one FFmpeg thread, nothing converted."""
    import av

    for video_id in dict.fromkeys(rows["video_id"]):
        with av.open(paths[video_id]) as container:
            stream = container.streams.video[0]
            stream.thread_type = "NONE"
            stream.codec_context.thread_count = 1
            for packet in container.demux(stream):
                stream.codec_context.decode(packet)
    return np.zeros((0, 960), np.float32)


def forward_cpu(
    rows: pd.DataFrame, paths: dict[str, str], fps: dict[str, float], weights: Path
) -> np.ndarray:
    """Part of the limit: the forward passes alone, on frames in memory, model loading not counted."""
    import torch
    from framefeat.backbone import network, resolve

    torch.set_num_threads(1)
    batch = network.AUTO_BATCH["cpu"]  # the fastest of 2 to 32 per frame
    frames = np.random.default_rng(0).integers(0, 256, (batch, 224, 224, 3), dtype=np.uint8)
    spec = resolve.resolve("mobilenet_v3_large", None, "squash224")
    model = network.load_model(spec, weights, device="cpu", precision="float32")
    network.embed(model, frames, batch)
    start = time.process_time()
    for _ in range(-(-len(rows) // batch)):
        network.embed(model, frames, batch)
    print(json.dumps({"forward_cpu_s": time.process_time() - start}))
    return np.zeros((0, 960), np.float32)


METHODS = {
    function.__name__: function
    for function in (notebook, per_process, decord_loop, torchcodec_pool, decode_cpu, forward_cpu)
}


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("method", choices=METHODS)
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--weights", type=Path, required=True)
    parser.add_argument("--videos", nargs="*")
    parser.add_argument("--torch-threads", type=int)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args(arguments)
    rows = pd.read_parquet(options.folder / "frames.parquet")
    videos = pd.read_csv(options.folder / "videos.csv", dtype={"video_id": str})
    if options.videos is not None:  # none named: the start alone
        rows = rows[rows["video_id"].isin(options.videos)]
    if options.torch_threads:
        import torch

        torch.set_num_threads(options.torch_threads)
    paths = {video.video_id: str(options.folder / video.video_path) for video in videos.itertuples()}
    fps = dict(zip(videos["video_id"], videos["fps"], strict=True))
    features = METHODS[options.method](rows, paths, fps, options.weights)
    if options.out:
        np.save(options.out, features)


if __name__ == "__main__":
    main()
