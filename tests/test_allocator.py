"""Freed memory stays with the process: when it is used again, the kernel has no pages to map."""

import subprocess
import sys

import pytest

FAULTS = """
import resource
import torch
from saccade.allocator import keep_freed_memory

kept = keep_freed_memory()
def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    torch.ones(1 << 24)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
once, often = faults(), sum(faults() for _ in range(20))
print(kept, once, often)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="glibc's malloc is Linux's")
def test_large_tensors_one_after_another_map_no_new_pages(monkeypatch):
    def run():
        said = subprocess.run([sys.executable, "-c", FAULTS], check=True, capture_output=True, text=True).stdout.split()
        return said[0] == "True", int(said[1]), int(said[2])

    kept, once, often = run()
    if kept:
        assert often < 10 * once  # now and then small tensors take a part of what was freed
    monkeypatch.setenv("MALLOC_TRIM_THRESHOLD_", "131072")  # the user's own tuning is left alone
    kept, once, often = run()
    assert not kept
    assert often > 15 * once
