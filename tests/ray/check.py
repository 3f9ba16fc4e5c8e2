"""Runs the examples for Ray Data and Dask: `check.py OWL2`, where OWL2 is the program."""

import os
import re
import subprocess
import sys
import tempfile
import time
from itertools import cycle
from pathlib import Path

import psutil
from PIL import Image

import owl2

ROOT = Path(__file__).resolve().parents[2]
EXAMPLES = ROOT / "examples"
N_PICTURES = 64
# Ray wants a token for its own server, reports its use, and gives way to whatever else runs.
ENVIRONMENT = {
    **os.environ,
    "RAY_AUTH_MODE": "disabled",
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_worker_niceness": "0",
}
# Longer than any run takes on a busy machine.
PATIENCE = 600

sys.path.insert(0, str(EXAMPLES / "ray"))


def start(program, *arguments):
    command = [sys.executable, EXAMPLES / program, *map(str, arguments)]
    # A file, since a pipe that nobody reads would stop what says a lot.
    log = tempfile.TemporaryFile("w+")
    process = subprocess.Popen(command, env=ENVIRONMENT, stderr=log)
    process.log = log
    return process


def said(process):
    """All that a program that has ended said."""
    process.log.seek(0)
    return process.log.read()


def finish(process):
    """The exit status of a program and what it says at the end: how many were computed and failed."""
    process.wait(timeout=PATIENCE)
    found = re.search(r"(\d+) computed, (\d+) failed\s*$", said(process))
    assert found, said(process)
    return process.returncode, int(found[1]), int(found[2])


def draw(folder):
    """Pictures that differ, of a size that takes time to read."""
    folder.mkdir()
    assets = sorted((ROOT / "assets").glob("*.png"))
    for i, asset in zip(range(N_PICTURES), cycle(assets)):
        picture = Image.open(asset).convert("RGB").resize((1600 + i, 1600))
        picture.save(folder / f"{i:02}.png", compress_level=1)


def kill_a_worker(process, name):
    """Kills one of a run's workers that is at work, and gives its process id."""
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline:
        if process.poll() is not None:
            raise AssertionError("ended before a worker was killed:\n" + said(process))
        for child in psutil.Process(process.pid).children(recursive=True):
            try:
                # Some tenths of a second go by before it has its first picture.
                if name in " ".join(child.cmdline()) and child.num_threads() > 1:
                    time.sleep(0.5)
                    child.kill()
                    return child.pid
            except psutil.NoSuchProcess:
                continue
        time.sleep(0.02)
    raise AssertionError("there was no worker")


def check_captions(work, model, merged):
    pictures, out = work / "pictures", work / "captions"
    # One is broken at first.
    last = pictures / "63.png"
    whole = last.read_bytes()
    last.write_bytes(b"no picture")
    arguments = [pictures, out, "--workers", 2, "--batch", 4]
    process = start("ray/caption.py", *arguments)
    killed = kill_a_worker(process, "Captioner")
    assert finish(process) == (1, N_PICTURES, 1)
    rows = merged(out)
    assert len(rows) == N_PICTURES
    assert rows[str(last)]["text"] is None and "input" in rows[str(last)]["error"]
    print(f"captions: all rows, though process {killed} was killed")

    last.write_bytes(whole)
    assert finish(start("ray/caption.py", *arguments)) == (0, 1, 0)
    assert finish(start("ray/caption.py", *arguments)) == (0, 0, 0)
    captions = {path: row["text"] for path, row in merged(out).items()}
    wanted = {
        str(path): model.ask("Describe the image.", path).text for path in pictures.iterdir()
    }
    assert captions == wanted
    print("captions: the failed row again, and nothing twice; all as the model says")
    return captions


def check_scores(work, model, merged):
    out = work / "scores"
    arguments = [ROOT / "assets", out, "--workers", 2, "--rule", "q-align"]
    assert finish(start("ray/score.py", *arguments)) == (0, 6, 0)
    for path, row in merged(out).items():
        score = model.score(path, rule="q-align")
        assert (row["score"], row["deviation"]) == (score.score, score.deviation)
    print("scores: as the model's")


def check_dask(work, captions, merged):
    out = work / "dask"
    arguments = [work / "pictures", out, "--workers", 2]
    assert finish(start("dask/caption.py", *arguments)) == (0, N_PICTURES, 0)
    assert finish(start("dask/caption.py", *arguments)) == (0, 0, 0)
    assert {path: row["text"] for path, row in merged(out).items()} == captions
    print("Dask: the same captions")


def check_server(work, program, captions, merged):
    out = work / "served"
    server = subprocess.Popen(
        [program, "serve", "--port", "0", "--log", "none"], stderr=subprocess.PIPE, text=True
    )
    try:
        said_where = (line.split("listening on ")[1] for line in server.stderr if "listening" in line)
        url = next(said_where).strip()
        arguments = [work / "pictures", out, "--url", url]
        assert finish(start("ray/served.py", *arguments)) == (0, N_PICTURES, 0)
    finally:
        server.terminate()
        server.wait()
    assert {path: row["text"] for path, row in merged(out).items()} == captions
    print("the server: the same captions")


def main():
    program = sys.argv[1]
    from rows import merged

    model = owl2.Model(threads=1)
    with tempfile.TemporaryDirectory() as work:
        work = Path(work).resolve()
        draw(work / "pictures")
        captions = check_captions(work, model, merged)
        check_scores(work, model, merged)
        check_dask(work, captions, merged)
        check_server(work, program, captions, merged)


if __name__ == "__main__":
    main()
