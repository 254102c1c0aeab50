"""Small runs side by side."""

import pytest
import torch

from saccade.errors import InputError
from saccade.parallel import side_by_side


def squared(task, report):
    if task < 0:
        raise InputError(f"{task} is below 0.")
    report(1.0)
    return task * task, torch.get_num_threads()


def test_results_come_by_name_in_order_each_from_one_thread():
    told: list[float] = []
    found = side_by_side(squared, {"c": 3, "a": 1, "b": 2}, workers=2, progress=told.append)
    assert list(found.items()) == [("c", (9, 1)), ("a", (1, 1)), ("b", (4, 1))]
    assert told[-1] == 1.0


def test_a_task_that_fails_ends_all():
    with pytest.raises(InputError, match="-1 is below 0"):
        side_by_side(squared, {"a": 1, "b": -1}, workers=1)
