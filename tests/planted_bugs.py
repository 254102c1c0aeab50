"""Break the package on purpose, one way at a time, and see that a test fails for each: python tests/planted_bugs.py [WORD ...]

With words, only the bugs whose names hold one of them. Each bug is an exact replacement of text in a copy of the package;
the tests named beside it run against the copy.
Prints a line a bug and caught/planted; the exit status is 0 only if all are caught.
"""

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

TESTS = Path(__file__).resolve().parent
SOURCE = TESTS.parent / "src" / "saccade"


class Bug(NamedTuple):
    name: str
    tests: str  # file of tests/, and what pytest's -k picks of it after a blank
    patches: list[tuple[str, str, str]]  # file of the package, text that occurs in it once, text in its place


BUGS = [
    # feedback
    Bug(
        "errors run down through W in place of B",
        "rules/test_feedback.py",
        [("rules/feedback.py", "feedback = self.feedback.detach()\n", "feedback = self.weight.detach()\n")],
    ),
    Bug(
        "errors run down through W as well as B",
        "rules/test_feedback.py",
        [("rules/feedback.py", "_apply(self, input.detach(), _Share", "_apply(self, input, _Share")],
    ),
    Bug(
        "locally connected maps send errors through W",
        "rules/test_feedback.py",
        [
            (
                "networks.py",
                ".permute(2, 0, 1), weight)  # (positions, batch, fan_in)",
                ".permute(2, 0, 1), self.weight)",
            )
        ],
    ),
    Bug(
        "B is W itself",
        "rules/test_feedback.py",
        [
            (
                "rules/feedback.py",
                "torch.empty_like(weight).copy_(shaped)",
                "weight.detach()",
            )
        ],
    ),
    Bug(
        "B starts as a copy of W",
        "rules/test_feedback.py",
        [
            (
                "rules/feedback.py",
                "torch.empty_like(weight).copy_(shaped)",
                "weight.detach().clone()",
            )
        ],
    ),
    Bug(
        "URF's B is not updated",
        "rules/test_feedback.py urf or kolen",
        [("rules/feedback.py", "    trains = True\n", "    trains = False\n")],
    ),
    Bug(
        "URF's B gets half of W's gradient",
        "rules/test_feedback.py urf or kolen",
        [("rules/feedback.py", "return gradient, gradient.clone()", "return gradient, gradient / 2")],
    ),
    Bug(
        "sign symmetry without the signs",
        "rules/test_feedback.py",
        [("rules/feedback.py", "feedback * self.weight.detach().sign() if self.signs else feedback", "feedback")],
    ),
    Bug(
        "direct feedback in addition to backpropagation",
        "rules/test_feedback.py direct",
        [
            (
                "rules/feedback.py",
                "return _apply(self, input.detach(), self.weight)",
                "return _apply(self, input, self.weight)",
            )
        ],
    ),
    Bug(
        "every map has the same feedback draw",
        "rules/test_feedback.py own_seed",
        [
            (
                "rules/feedback.py",
                "generator=draws.generator(seed, number), dtype=torch.float64",
                "generator=draws.generator(seed), dtype=torch.float64",
            )
        ],
    ),
    # target propagation
    Bug(
        "targets without the difference correction",
        "rules/test_dtp.py",
        [("rules/dtp.py", "return inverse(shift) - inverse(torch.zeros_like(shift[:1]))", "return inverse(shift)")],
    ),
    Bug("a missing minus", "rules/test_dtp.py", [("rules/dtp.py", "shift = -self.eta", "shift = self.eta")]),
    Bug("a missing factor of 2", "rules/test_dtp.py", [("rules/dtp.py", "(-2 * shift)", "(-shift)")]),
    Bug(
        "targets from stale inverses",
        "rules/test_dtp.py",
        [("rules/dtp.py", "= noise, eta, order, steps, head", '= noise, eta, "targets", steps, head')],
    ),
    Bug(
        "eta refers to the batch's mean",
        "rules/test_dtp.py eta or algorithm",
        [("rules/dtp.py", '(_images(site, batch) if site.needs.reduction == "mean" else 1)', "1")],
    ),
    Bug(
        "eta counts both views of an image",
        "rules/test_dtp.py eta",
        [("rules/dtp.py", '{"pair": 2,', '{"pair": 1,')],
    ),
    Bug(
        "inverses learn without noise",
        "rules/test_dtp.py",
        [("rules/dtp.py", "noisy = x + self.noise * batch.ranks.std(x) * noise", "noisy = x")],
    ),
    Bug(
        "every inverse step has the same noise",
        "rules/test_dtp.py",
        [("rules/dtp.py", "batch.step, number, step)", "batch.step, number, 0)")],
    ),
    Bug(
        "inverses' errors train the layers",
        "rules/test_dtp.py",
        [
            (
                "rules/dtp.py",
                "with torch.no_grad():\n                above = site.layers[number](noisy)",
                "with torch.enable_grad():\n                above = site.layers[number](noisy)",
            )
        ],
    ),
    Bug(
        "weight mirrors without decay",
        "rules/test_feedback.py noise",
        [("rules/feedback.py", "gradient = feedback.detach() - _answered", "gradient = -_answered")],
    ),
    Bug(
        "weight mirrors whose answer has the bias in it",
        "rules/test_feedback.py noise",
        [("rules/feedback.py", "y = y - bias.detach()", "y = y - 0 * bias.detach()")],
    ),
    Bug(
        "a run whose weight mirrors see the same noise at every step",
        "rules/test_feedback.py noise",
        [
            (
                "rules/feedback.py",
                "self.mirror(site, batch.seed, batch.step, site.index)",
                "self.mirror(site, batch.seed)",
            )
        ],
    ),
    Bug(
        "weight mirrors that see the same noise at every step",
        "rules/test_feedback.py noise",
        [("rules/feedback.py", 'seed, "mirror", *purpose, step, number', 'seed, "mirror", *purpose, number')],
    ),
    Bug(
        "head=random sends the error through W",
        "rules/test_dtp.py random",
        [
            (
                "rules/dtp.py",
                'RandomFeedback().convert(site.head, maps_of(site.head), draws.key(seed, "feedback", site.index))',
                "pass",
            )
        ],
    ),
    Bug(
        "bfloat16 inverses from autocast's memory",
        "rules/test_variants.py inverses",
        [("rules/dtp.py", "torch.clear_autocast_cache()  # it would", "pass  # it would")],
    ),
    # losses
    Bug(
        "the gradient block forgotten",
        "rules/test_gradient.py",
        [
            ("losses/hinge.py", 'return "b" if self.block else "ab"', 'return "ab"'),
            ("losses/hinge.py", "z_a = z_a.detach()", "pass"),
        ],
    ),
    Bug(
        "m1 for m2",
        "rules/test_gradient.py",
        [("losses/hinge.py", "(m2 - distances).relu()", "(m1 - distances).relu()")],
    ),
    Bug(
        "negatives start at the image itself",
        "rules/test_gradient.py",
        [("losses/common.py", "torch.cat([z[1:], z[:count]])", "torch.cat([z, z[: count - 1]])")],
    ),
    Bug(
        "a mean for a sum",
        "rules/test_gradient.py",
        [("losses/hinge.py", "return (positives - m1).relu().sum()", "return (positives - m1).relu().mean()")],
    ),
    # learning
    Bug(
        "one optimizer shared by all sites",
        "training/test_model.py",
        [
            (
                "training/model.py",
                "    steps_per_epoch = len(images) // config.batch\n",
                "    every = [p for p in nn.ModuleList(sites).parameters() if p.requires_grad]\n"
                "    optimizers = dict.fromkeys(optimizers, _optimizer(config, every, config.rate))\n"
                "    steps_per_epoch = len(images) // config.batch\n",
            ),
            ("training/model.py", "optimizer.zero_grad(set_to_none=True)", "optimizer.zero_grad(set_to_none=False)"),
        ],
    ),
    Bug(
        "gradients left over from the last step",
        "training/test_model.py",
        [("training/model.py", "optimizer.zero_grad(set_to_none=True)", "pass")],
    ),
    Bug(
        "GLL trains the layer above",
        "test_schedules.py",
        [("schedules.py", "return (step // steps,)", "return (min(step // steps + 1, sites - 1),)")],
    ),
    Bug(
        "RLL never draws the top layer",
        "test_schedules.py",
        [("schedules.py", "% sites,)", "% max(1, sites - 1),)")],
    ),
    Bug(
        "gradient leaks between simultaneous layers",
        "training/test_model.py simultaneous or between",
        [("rules/gradient.py", "features.append(f.detach())", "features.append(f)")],
    ),
    Bug(
        "simultaneous layers see the layer below after its step",
        "training/test_model.py simultaneous",
        [("training/model.py", "x = batch.outputs\n", "x = site.layers(x).detach()\n")],
    ),
    Bug(
        "labels travel to every loss",
        "training/test_model.py labels",
        [
            (
                "training/model.py",
                "if not model.sites[0].needs.labels or images.labels is None",
                "if images.labels is None",
            )
        ],
    ),
    Bug(
        "a flatten at a chain's end takes a layer away",
        "test_networks.py users",
        [("networks.py", "last = groups.pop()\n        groups[-1] += last\n", "groups[-2] += groups.pop()\n")],
    ),
]


def patched(bug: Bug, folder: Path) -> Path:
    """A copy of the package with the bug in it, and its parent folder as the path to import it from."""
    shutil.copytree(SOURCE, folder / "saccade", ignore=shutil.ignore_patterns("__pycache__"))
    for file, old, new in bug.patches:
        path = folder / "saccade" / file
        text = path.read_text()
        if text.count(old) != 1:
            raise ValueError(f"{bug.name}: {old!r} occurs {text.count(old)} times in {file}")
        path.write_text(text.replace(old, new))
    return folder


def failing(tests: str, source: Path) -> str:
    """The first of the tests that fails against the package in `source`; empty where all pass."""
    file, _, pick = tests.partition(" ")
    command = [sys.executable, "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider", str(TESTS / file)]
    environment = os.environ | {"PYTHONPATH": str(source), "OMP_NUM_THREADS": "1", "PYTHONDONTWRITEBYTECODE": "1"}
    done = subprocess.run(
        command + (["-k", pick] if pick else []), cwd=TESTS.parent, env=environment, capture_output=True, text=True
    )
    if done.returncode not in (0, 1):  # neither passed nor failed: nothing ran
        raise RuntimeError(f"{tests}:\n{done.stdout[-2000:]}{done.stderr[-2000:]}")
    failed = [line.split(" - ")[0].removeprefix("FAILED ") for line in done.stdout.splitlines() if "FAILED" in line]
    return failed[0] if failed else "a failure" if done.returncode else ""


def caught(bug: Bug) -> str:
    """The test that catches the bug; empty where none does."""
    with tempfile.TemporaryDirectory() as folder:
        return failing(bug.tests, patched(bug, Path(folder)))


def main() -> int:
    parser = argparse.ArgumentParser(
        description="Plant bugs in a copy of the package and see that a test catches each."
    )
    parser.add_argument("words", metavar="WORD", nargs="*", help="plant only bugs whose names hold one of the words")
    words = parser.parse_args().words
    bugs = [bug for bug in BUGS if not words or any(word in bug.name for word in words)]
    if not bugs:
        parser.error(f"no bug's name holds {' or '.join(words)}; the names are: {'; '.join(bug.name for bug in BUGS)}")
    with tempfile.TemporaryDirectory() as folder, ThreadPoolExecutor(os.cpu_count()) as pool:
        whole = patched(Bug("none", "", []), Path(folder))
        for failure in pool.map(lambda file: failing(file, whole), {bug.tests.split()[0] for bug in bugs}):
            if failure:
                print(f"{failure} without any bug")
                return 1
        count = 0
        for bug, test in zip(bugs, pool.map(caught, bugs), strict=True):
            count += bool(test)
            print(f"{'caught' if test else 'MISSED':7} {bug.name:58} {test}", flush=True)
    print(f"{count}/{len(bugs)} caught/planted")
    return 0 if count == len(bugs) else 1


if __name__ == "__main__":
    sys.exit(main())
