"""Fresh random inputs at every run; a failure prints the seed, and SACCADE_TEST_SEED brings it back."""

import os
import secrets

import pytest
import torch


@pytest.fixture(autouse=True)
def fresh_inputs():
    seed = int(os.environ.get("SACCADE_TEST_SEED") or secrets.randbelow(2**31))
    print(f"SACCADE_TEST_SEED={seed}")
    torch.manual_seed(seed)
