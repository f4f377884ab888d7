"""Keeping memory: what it does to a process, by the system's own counts in one that does nothing else."""

from __future__ import annotations

import json
import platform
import resource
import subprocess
import sys

import pytest

pytestmark = pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="its C library is not glibc")

# Takes and drops 64 MiB twenty times, in a thread as the node's reader does, and counts the pages that it was
# given for the last ten: a freed block rarely serves the next of its length, which needs room to be aligned.
# Huge pages, which some systems give unasked, would be counted as one each.
PROGRAM = """
import ctypes, json, resource, sys, threading, torch
from core_model.memory import give_back_memory, keep_memory

def faults():
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt

def resident():
    return int(open("/proc/self/statm").read().split()[1]) * resource.getpagesize()

def use():
    for round in range(20):
        if round == 10:
            before = faults()
        torch.zeros(16 * 2**20).add_(1)
    said["faults"] = faults() - before

ctypes.CDLL(None).prctl(41, 1, 0, 0, 0)  # PR_SET_THP_DISABLE of <linux/prctl.h>
said = {"kept": keep_memory() if sys.argv[1] == "keep" else None}
torch.set_num_threads(1)
thread = threading.Thread(target=use)
thread.start()
thread.join()
before = resident()
said["gave"] = give_back_memory()
said["given_back"] = before - resident()
print(json.dumps(said))
"""
PAGES = 64 * 2**20 // resource.getpagesize()


def _run(how: str) -> dict[str, int]:
    done = subprocess.run([sys.executable, "-c", PROGRAM, how], capture_output=True, text=True, check=True)
    said: dict[str, int] = json.loads(done.stdout)
    return said


def test_a_process_that_keeps_its_memory_is_not_given_it_anew() -> None:
    plain, kept = _run("plain"), _run("keep")
    assert kept["kept"] is True
    assert plain["faults"] > 5 * PAGES  # else the setting would be good for nothing
    assert kept["faults"] < PAGES


def test_what_was_kept_is_given_back_on_demand() -> None:
    kept = _run("keep")
    assert kept["gave"] is True
    assert kept["given_back"] > 48 * 2**20
