"""clips.py: short videos of two or three pictures in sequence, as H.264 in MP4.

One ffmpeg process reads all frames and cuts them into files at key frames: thousands of clips in seconds, each a complete file.
"""
import subprocess
from pathlib import Path

import numpy as np

from pictures import SIDE

FRAMES = 12  # divides by two and by three pictures
FRAMES_PER_SECOND = 4


def clip_frames(pictures: list) -> np.ndarray:
    """[FRAMES, SIDE, SIDE, 3] u8: each picture for its share of the clip."""
    share = FRAMES // len(pictures)
    return np.repeat(np.stack([np.asarray(p, np.uint8) for p in pictures]), share, axis=0)


def write_clips(folder: Path, clips: list) -> None:
    """clips: arrays of clip_frames -> folder/00000.mp4, 00001.mp4, ..."""
    folder.mkdir(parents=True, exist_ok=True)
    cuts = ",".join(str(FRAMES * i) for i in range(1, len(clips)))
    command = ["ffmpeg", "-nostdin", "-v", "error", "-y", "-f", "rawvideo", "-pix_fmt", "rgb24", "-s", f"{SIDE}x{SIDE}", "-r", str(FRAMES_PER_SECOND),
               "-i", "pipe:0", "-c:v", "libx264", "-preset", "veryfast", "-crf", "16", "-pix_fmt", "yuv420p", "-threads", "1", "-bf", "0",
               "-g", str(FRAMES), "-keyint_min", str(FRAMES), "-sc_threshold", "0", "-flags", "+bitexact", "-fflags", "+bitexact",
               "-f", "segment", "-segment_format", "mp4", "-segment_format_options", "fflags=+bitexact:movflags=+faststart",
               "-reset_timestamps", "1", *(["-segment_frames", cuts] if cuts else []), str(folder / "%05d.mp4")]
    try:
        process = subprocess.Popen(command, stdin=subprocess.PIPE, stderr=subprocess.PIPE)
    except FileNotFoundError:
        raise FileNotFoundError("ffmpeg is missing; install Debian's ffmpeg") from None
    try:
        for frames in clips:
            process.stdin.write(frames.tobytes())
    except BrokenPipeError:
        pass  # ffmpeg has ended: its own words follow
    _, errors = process.communicate()
    made = len(list(folder.glob("*.mp4")))
    if process.returncode or made != len(clips):
        raise RuntimeError(f"ffmpeg made {made} of {len(clips)} clips in {folder} (exit {process.returncode}): {errors.decode(errors='replace')[-500:]}")
