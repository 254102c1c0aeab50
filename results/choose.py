"""Compare training choices on held-out images: `python results/choose.py < options.txt`, a line of options a run.

Each run trains on CIFAR-100 without labels at seed 0; probes (15 epochs of Adam, batch 100, rate 1e-3, all features)
are fitted on 20,000 CIFAR-10 training images and scored on 5,000 others of the training set. The test set is never
opened. A line reads like `epochs=0.5, views="paper", loss="hinge(negatives=5)"`.
"""

import ast
import json
import sys
import time

from saccade import api
from saccade.config.run import from_dict
from saccade.evaluation.features import features
from saccade.evaluation.linear import accuracy, fit_adam
from saccade.training import build, train_step

BASE = {
    "data": "cifar100:train",
    "views": "paper",
    "loss": "hinge(negatives=5, block=true)",
    "rate": 3e-4,
    "epochs": 1,
    "batch": 100,
}


def main() -> None:
    images, fitted, held_out = map(
        api.load_images, ("cifar100:train", "cifar10:train[:20000]", "cifar10:train[45000:]")
    )
    for line in filter(None, map(str.strip, sys.stdin)):
        call = ast.parse(f"_({line})", mode="eval").body
        assert isinstance(call, ast.Call)
        options = {str(k.arg): ast.literal_eval(k.value) for k in call.keywords}
        model = build(from_dict(BASE | options, line), images)
        started = time.perf_counter()
        for step in range(model.total_steps):
            train_step(model, images, step)
        found: dict[str, object] = {"options": BASE | options, "pairs": model.total_steps * model.config.batch}
        found["seconds"] = round(time.perf_counter() - started, 1)
        scores = {}
        for layer in (2, 3, 4, 5):
            x, held = (
                features(model.encoder, s, [layer], precision=model.precision)[layer] for s in (fitted, held_out)
            )
            assert fitted.labels is not None
            assert held_out.labels is not None
            probe = fit_adam(x, fitted.labels, 10, epochs=15, batch=100, rate=1e-3)
            scores[layer] = round(accuracy(probe, held, held_out.labels), 2)
        print(json.dumps(found | {"held_out": scores}), flush=True)


if __name__ == "__main__":
    main()
