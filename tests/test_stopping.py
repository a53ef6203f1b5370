"""SIGTERM and SIGINT end a command within ten seconds, wherever it waits."""

from __future__ import annotations

import signal
import subprocess
import sys
import time

from tests.support.processes import running_with

_COMMAND = """
import atexit, os, signal, subprocess, sys, threading, time
from prefect_wavespeed.deployments.stopping import stop

def read_for_ever():
    silent, _ = os.pipe()
    print("waiting", flush=True)
    os.read(silent, 1)

def end(status):
    print("waiting", flush=True)
    stop.end(status)

signal.signal(signal.SIGINT, lambda *_: None)  # as a library that goes on
stop.watch()
stop.note = "the job stays open"
"""
_INTERRUPTED = "interrupted: the job stays open\n"
# What a command may be in, the signal that comes then, the status that is due, and what is due on stderr.
_WAITS = [
    ("read_for_ever()", signal.SIGTERM, 143, _INTERRUPTED),
    ("read_for_ever()", signal.SIGINT, 130, _INTERRUPTED),
    ("subprocess.Popen(['sleep', '61']); read_for_ever()", signal.SIGTERM, 143, _INTERRUPTED),
    ("threading.Thread(target=time.sleep, args=(61,)).start(); end(3)", signal.SIGTERM, 3, ""),
    ("atexit.register(time.sleep, 61); end(0)", signal.SIGINT, 0, ""),
]


def test_a_signal_ends_whatever_blocks_and_its_children_with_the_status_that_is_due() -> None:
    commands = [
        subprocess.Popen(
            [sys.executable, "-c", _COMMAND + code],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={"PYTHONPATH": ":".join(sys.path), "STOPPING": "1"},
        )
        for code, *_ in _WAITS
    ]
    for command in commands:
        assert command.stdout
        assert command.stdout.readline() == "waiting\n"
    since = time.monotonic()
    for command, (_, signum, _, _) in zip(commands, _WAITS, strict=True):
        command.send_signal(signum)
    for command, (code, signum, status, said) in zip(commands, _WAITS, strict=True):
        _, stderr = command.communicate(timeout=30)
        assert (command.returncode, stderr) == (status, said), (code, signum)
    assert time.monotonic() - since < 10
    assert running_with("STOPPING=1") == []
