"""Frames of finished results decoded again, in a process of their own: for ``framefeat verify``."""

import os
import traceback
from collections.abc import Sequence
from multiprocessing import get_context
from typing import Any, NamedTuple

import numpy as np

from framefeat.errors import UserError

#: A decoder that has not given a video's few frames again by then hangs.
DECODING_SECONDS = 600


class DecodedAgain(NamedTuple):
    """Frames through the reader that served them and through the reference, a decode of everything in order.

    By frame number: ``differences``, the mean of the pixels' (of 255); ``frames``, the reference's, resized (uint8
    [h, w, 3]); ``unproved``, why each frame that is not proved is not.
    """

    differences: dict[int, float]
    frames: dict[int, np.ndarray]
    unproved: dict[int, str]


def decode_again(
    path: str, wanted: Sequence[int], decoder: str, geometry: str, index_source: str
) -> DecodedAgain:
    """Frames ``wanted`` of ``path``. ``decoder`` and ``index_source``: the reader and the index that served them."""
    from framefeat.video.choice import own_reader, take
    from framefeat.video.geometry import Geometry
    from framefeat.video.pyav import in_order_reader
    from framefeat.video.reader import Contradiction, ReaderMistake
    from framefeat.video.second_look import look_again

    container = container_of(path, index_source)
    shape = Geometry.from_name(geometry)
    own: dict[int, np.ndarray] = {}
    sizes: dict[int, tuple[int, int]] = {}
    try:
        reader = own_reader(container, decoder)
        for frame in reader.frames(wanted):
            own[frame.native], sizes[frame.native] = shape.apply(frame.rgb), _size(frame.rgb)
        for number, reason in reader.problems.items():
            if decoder != "decord":
                for again, rgb in take(in_order_reader(container), [number])[0].items():
                    own[again], sizes[again] = shape.apply(rgb), _size(rgb)
            if number not in own:
                raise UserError(f"{path!r}: frame {number} cannot be decoded again ({reason}).")
        look = look_again(
            lambda: in_order_reader(container),
            wanted,
            own=own.__getitem__,
            sizes=sizes,
            geometry=shape,
            kept=wanted,
            count=container.n_presented,
        )
    except (Contradiction, ReaderMistake, KeyError) as mistake:
        raise UserError(f"{path!r}: its frames cannot be decoded again as they were ({mistake}).") from None
    return DecodedAgain(look.differences, look.pixels, look.unproved)


def _size(rgb: np.ndarray) -> tuple[int, int]:
    return rgb.shape[0], rgb.shape[1]


def container_of(path: str, index_source: str) -> Any:
    """The container as sampling saw it: counted in a decode of everything, where its packets had turned out not to
    tell."""
    from framefeat.video.container import read_container

    return read_container(
        path, contradiction=None if index_source == "packets" else "found when it was sampled"
    )


def _serve(requests: Any) -> None:
    """The decoding process: one answer, or the sentence why there is none, for each request."""
    while True:
        try:
            request = requests.recv()
        except EOFError:
            os._exit(0)  # a decoder's own threads cannot hold up the end
        try:
            requests.send((decode_again(*request), None))
        except UserError as error:
            requests.send((None, str(error)))
        except Exception as error:
            traceback.print_exc()
            requests.send((None, f"{request[0]!r} cannot be decoded again ({error!r})"))


class Decoding:
    """The decoders, in a process of their own: they do not share one with torch in peace, and may crash or hang."""

    def __init__(self) -> None:
        context = get_context("spawn")
        self._pipe, theirs = context.Pipe()
        self._process = context.Process(target=_serve, args=(theirs,), daemon=True)
        self._process.start()
        theirs.close()

    def __call__(self, *request: Any) -> DecodedAgain:
        """``decode_again``'s answer. Raises ``UserError`` where the process fails, which then is of no further use."""
        try:
            self._pipe.send(request)
            if not self._pipe.poll(DECODING_SECONDS):
                raise UserError(f"decoding {request[0]!r} again gave nothing for {DECODING_SECONDS} s")
            answer, problem = self._pipe.recv()
        except (EOFError, ConnectionError) as error:
            raise UserError(f"decoding {request[0]!r} again killed the decoder") from error
        if problem is not None:
            raise UserError(problem)
        return answer

    def end(self) -> None:
        self._process.kill()
        self._process.join()
        self._pipe.close()
