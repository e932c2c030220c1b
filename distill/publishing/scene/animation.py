"""Frames of a turntable as an animated GIF and as a video."""

from __future__ import annotations

import itertools
import shutil
import subprocess
from collections.abc import Iterable
from pathlib import Path

from PIL import Image

TURN_MS, MIN_FRAME_MS = 3000, 40
"""Time of a whole turn, and the minimum time of a frame, in milliseconds."""


def frame_ms(count: int) -> int:
    """Return how long one of `count` frames is shown, in milliseconds; GIF counts in tens of them."""
    return max(MIN_FRAME_MS, 10 * round(TURN_MS / count / 10))


def save_gif(frames: Iterable[Image.Image], path: Path) -> None:
    """Write frames as a GIF that repeats without end. Equal frames that follow each other are stored once."""
    palettes = [_with_palette(frame) for frame in frames]
    palettes[0].save(
        path,
        format="GIF",
        save_all=True,
        append_images=palettes[1:],
        duration=frame_ms(len(palettes)),
        loop=0,
        optimize=False,
    )


def save_mp4(frames: Iterable[Image.Image], count: int, path: Path) -> str | None:
    """Write `count` frames of one size as an MP4 video with ffmpeg, or return why there is none."""
    program = shutil.which("ffmpeg")
    if program is None:
        return f"{path.name} is not written: there is no program ffmpeg on PATH"
    remaining = iter(frames)
    first = next(remaining)
    width, height = first.size
    command = [program, "-y", "-loglevel", "error"]
    command += ["-f", "rawvideo", "-pix_fmt", "rgb24", "-s", f"{width}x{height}"]
    command += ["-r", f"{1000 / frame_ms(count):g}", "-i", "-"]
    # Players need colours at half the resolution, and so an even height and width.
    command += ["-vf", "pad=ceil(iw/2)*2:ceil(ih/2)*2:color=white", "-pix_fmt", "yuv420p", str(path)]
    pixels = b"".join(frame.convert("RGB").tobytes() for frame in itertools.chain([first], remaining))
    done = subprocess.run(command, input=pixels, capture_output=True)
    if done.returncode:
        path.unlink(missing_ok=True)
        reason = done.stderr.decode(errors="replace").strip().splitlines() or [f"exit code {done.returncode}"]
        return f"{path.name} is not written: ffmpeg says {reason[-1]!r}"
    return None


def _with_palette(frame: Image.Image) -> Image.Image:
    """Reduce a frame to its own 256 colours. Noise of dithering would flicker from frame to frame."""
    return frame.convert("RGB").quantize(256, dither=Image.Dither.NONE)
