"""Fixtures for all tests: a tiny configuration that trains in a fraction of a second, and the real images where they are."""

import os
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, settings

from saccade.config.run import TrainConfig

torch.set_num_threads(1)  # small work is slower on more, and workers share the machine

# The same cases each time; `--hypothesis-profile=thorough` makes more of them, as the slow tests of tests/fuzz do.
_SAME = {"derandomize": True, "database": None, "deadline": None, "suppress_health_check": list(HealthCheck)}
settings.register_profile("quick", max_examples=25, **_SAME)
settings.register_profile("thorough", max_examples=1500, **_SAME)


@pytest.fixture
def tiny() -> TrainConfig:
    """Two small layers, 60 digits, three steps."""
    return TrainConfig(
        data="digits:train[:60]",
        views="digits",
        network="conv4 maxpool tanh | conv6 maxpool tanh",
        head="flatten linear8",
        loss="hinge(m2=1.5, negatives=5, block=true)",
        rate=1e-3,
        epochs=1,
        batch=20,
        precision="float32",
    )


@pytest.fixture
def real_data() -> Path:
    """The folder of unpacked real images."""
    if "SACCADE_DATA" not in os.environ:
        pytest.skip("SACCADE_DATA is not set: no real images here")
    return Path(os.environ["SACCADE_DATA"])
