"""Make src/edgenetllm/tasks/abr/player/black.ivf, the black picture that the player plays: VP9, 16 x 16, 100 frames.

    python scripts/make_black_video.py

Needs ffmpeg with libvpx (`apt-get install ffmpeg`); the file ships, so that nobody else does.
"""

from __future__ import annotations

import subprocess

from edgenetllm.tasks.abr.player.media import FRAMES_FILE, PIXELS

FRAMES = 100


def main() -> None:
    source = f"color=black:s={PIXELS}x{PIXELS}:r=25:d={FRAMES / 25:g}"
    codec = "-c:v libvpx-vp9 -b:v 0 -crf 63 -g 1000 -lag-in-frames 0 -auto-alt-ref 0 -pix_fmt yuv420p -fflags +bitexact"
    command = [
        "ffmpeg",
        "-v",
        "error",
        "-y",
        "-f",
        "lavfi",
        "-i",
        source,
        *codec.split(),
        "-f",
        "ivf",
        str(FRAMES_FILE),
    ]
    subprocess.run(command, check=True)
    print(f"{FRAMES_FILE}: {FRAMES_FILE.stat().st_size} bytes")


if __name__ == "__main__":
    main()
