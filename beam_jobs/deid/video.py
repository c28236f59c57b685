"""MPEG-2, H.264 and HEVC clips: one stream → frames in colour, one at a time (PS3.5 8.2.5 to 8.2.8).

PyAV, which brings FFmpeg, is the extra `video`: its wheels are partly under the GPL, so a site
decides for itself. Without it a clip is rejected with a reason that says so.
"""

from collections.abc import Collection, Iterator
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from beam_jobs.deid.errors import RejectedError
from beam_jobs.deid.pixel_format import PixelFormat
from beam_jobs.deid.source import PixelSource
from beam_jobs.records import Reason

_CONTAINERS: Final = "mpegts,mpeg,mpegvideo,mov,h264,hevc"
_CODECS: Final = ("mpeg2video", "h264", "hevc")
"""What the transfer syntaxes allow: FFmpeg knows hundreds of others, each with its own faults."""

_PROBED_BYTES: Final = 1 << 20


def decode_video(
    source: PixelSource, places: Collection[int] | None = None
) -> Iterator[npt.NDArray[np.uint8]]:
    """Decode the declared frames of a video stream.

    Args:
        source: of one of `VIDEO_TRANSFER_SYNTAXES`.
        places: which frames to give, in their order; those before them are decoded all the same.
            None for all.

    Yields:
        [H, W, 3], uint8, RGB of full range.

    Raises:
        RejectedError: NO_VIDEO_DECODER where the extra `video` is not installed,
            UNSUPPORTED_PIXELS for a codec that the syntaxes do not allow, CORRUPT_PIXELS for what
            cannot be decoded or is of another size than the header says, TRUNCATED_PIXELS for a
            stream with fewer frames.
    """
    wanted = range(source.pixels.number_of_frames) if places is None else frozenset(places)
    frames = _decode(source)
    last = max(wanted, default=-1)
    for place in range(last + 1):
        frame = next(frames, None)
        if frame is None:
            raise RejectedError(Reason.TRUNCATED_PIXELS)
        if place in wanted:
            yield frame.to_ndarray(format="rgb24")


def _decode(source: PixelSource) -> Iterator[Any]:
    try:
        import av  # noqa: PLC0415 - an extra: only a clip that needs it asks for it
    except ImportError:
        raise RejectedError(Reason.NO_VIDEO_DECODER) from None
    reason: Reason | None = None
    with source.stream() as stream:
        try:
            yield from _decode_stream(av, stream, source.pixels)
        except RejectedError as error:
            reason = error.reason
        except (av.FFmpegError, ValueError, MemoryError):
            reason = Reason.CORRUPT_PIXELS
    if reason is not None:
        raise RejectedError(reason)


def _decode_stream(av: Any, stream: Any, pixels: PixelFormat) -> Iterator[Any]:
    options = {
        "format_whitelist": _CONTAINERS,
        "codec_whitelist": ",".join(_CODECS),
        "probesize": str(_PROBED_BYTES),
        # A reference to another file in the container would be followed by its protocol.
        "protocol_whitelist": "",
        # Checked by FFmpeg before it allocates a frame, even one that it only looks at to know the
        # stream. A coded picture is padded to blocks of 64 at most.
        "max_pixels": str((pixels.rows + 64) * (pixels.columns + 64)),
    }
    with av.open(stream, mode="r", options=options, metadata_errors="ignore") as container:
        video = container.streams.video[0] if len(container.streams.video) == 1 else None
        if video is None or video.codec_context.name not in _CODECS:
            raise RejectedError(Reason.UNSUPPORTED_PIXELS)
        video.codec_context.options = {"max_pixels": options["max_pixels"]}
        video.thread_count = 1
        for frame in container.decode(video):
            if (frame.height, frame.width) != (pixels.rows, pixels.columns):
                raise RejectedError(Reason.CORRUPT_PIXELS)
            yield frame
