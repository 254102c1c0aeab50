"""Every combination of schedule, rule and loss at a size that trains in a blink."""

from itertools import product

from saccade.config.names import LOSSES, RULES, SCHEDULES
from saccade.config.run import TrainConfig

_SMALL = {
    "hinge": "hinge(m2=1.5, negatives=5, block=true)",
    "simclr": "simclr",
    "clapp": "clapp(negatives=4)",
    "clapp-patches": "clapp-patches(steps=2, negatives=2, coin=true)",
    "hinge-patches": "hinge-patches(negatives=2)",
    "byol": "byol(momentum=0.9, hidden=8)",
    "simsiam": "simsiam(hidden=8)",
    "moco": "moco(momentum=0.9, queue=50)",
}


def config_of(schedule: str, rule: str, loss: str, optimizer: str = "adam", **changes) -> TrainConfig:
    """60 digits in batches of 20; kolen-pollack gets the weight decay that it needs."""
    if rule == "kolen-pollack":
        optimizer = {
            "adam": "adam(weight_decay=0.1)",
            "sgd(momentum=0.9)": "sgd(momentum=0.9, weight_decay=0.01)",
        }[optimizer]
    if rule == "dtp" and optimizer.startswith("sgd"):
        rule = "dtp(rate=1e-6)"  # its inverses descend sums of squares
    options = {
        "data": "digits:train[:60]",
        "views": "digits",
        "size": 32 if "patches" in LOSSES[loss].facts else None,  # 3 x 3 patches
        "network": "conv4 maxpool tanh | conv6 maxpool tanh",
        "head": "flatten linear8",
        "loss": _SMALL.get(loss, loss),
        "schedule": schedule,
        "rule": rule,
        "optimizer": optimizer,
        "rate": 1e-3 if optimizer.startswith("adam") else 1e-5,
        "epochs": 1,
        "batch": 20,
        "device": "cpu",
        "precision": "float32",
    }
    return TrainConfig(**options | changes)


ALL = list(product(SCHEDULES, RULES, LOSSES))
