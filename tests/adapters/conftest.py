"""One tiny finished run for all adapters."""

from pathlib import Path

import pytest

import saccade

DIGITS = "digits:train[:60]"


@pytest.fixture(scope="session")
def run(tmp_path_factory) -> Path:
    """Two small layers, three steps, probed by two seeds at both layers."""
    folder = saccade.train(
        data=DIGITS,
        views="digits",
        network="conv4 maxpool tanh | conv6 maxpool tanh",
        head="flatten linear8",
        loss="hinge(m2=1.5, negatives=5, block=true)",
        schedule="gll",
        rate=1e-3,
        epochs=1,
        batch=20,
        precision="float32",
        diagnostics=2,
        out=tmp_path_factory.mktemp("runs") / "first",
    )
    for seed in (0, 1):
        saccade.probe(folder, DIGITS, "digits:test[:40]", layers=[1, 2], seed=seed)
    return folder
