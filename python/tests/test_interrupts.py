"""The interpreter is free during a request, and Ctrl-C ends it."""

import signal
import subprocess
import sys
import threading

import pytest
from conftest import ROOT

CAPTION = "A cat on a blue background."
# Each takes minutes unless it is ended.
ENDLESS = {
    "score": 'model.score(["assets/cat.png"] * 100_000, rule="q-align")',
    "ask": 'model.ask("Hello " * 60_000, context=1 << 20, temperature=100.0)',
    "stream": 'list(model.ask("Hello " * 60_000, context=1 << 20, stream=True))',
}
# Jobs in the background of a shell ignore SIGINT, and so do their children.
PROGRAM = """
import signal
signal.signal(signal.SIGINT, signal.default_int_handler)
import owl2
model = owl2.Model(threads=1)
model.ask("Describe the image.", "assets/cat.png")
print("ready", flush=True)
try:
    {request}
    print("ended")
except KeyboardInterrupt:
    print("interrupted", flush=True)
{after}
"""


def interrupted(request, after=""):
    """What a program prints whose request is ended by SIGINT."""
    program = PROGRAM.format(request=request, after=after)
    process = subprocess.Popen(
        [sys.executable, "-c", program],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout.readline() == "ready\n"
    with pytest.raises(subprocess.TimeoutExpired):
        # It is at work.
        process.wait(0.5)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 0, err
    return out.splitlines()


@pytest.mark.parametrize("request_", ENDLESS.values(), ids=ENDLESS)
def test_ctrl_c_raises_keyboard_interrupt(request_):
    assert interrupted(request_) == ["interrupted"]


def test_the_model_answers_after_ctrl_c():
    after = 'print(model.ask("Describe the image.", "assets/cat.png"))'
    assert interrupted(ENDLESS["score"], after) == ["interrupted", CAPTION]


def test_other_threads_run_during_a_request(model):
    count = 0
    is_done = threading.Event()

    def work():
        nonlocal count
        while not is_done.is_set():
            count += 1

    thread = threading.Thread(target=work)
    thread.start()
    before = count
    model.score(["assets/cat.png"] * 20, rule="q-align")
    during = count - before
    is_done.set()
    thread.join()
    assert during > 1000
