"""Which layers learn when: worked out by hand."""

from itertools import pairwise

import pytest

from saccade.config.grammar import imported
from saccade.config.names import SCHEDULES
from saccade.schedules import EndToEnd, Greedy, Randomized, Simultaneous


def test_groups_of_layers():
    assert EndToEnd().groups(5) == [range(5)]
    for schedule in (Greedy, Randomized, Simultaneous):
        assert schedule().groups(3) == [range(1), range(1, 2), range(2, 3)]
        assert schedule(block=2).groups(5) == [range(2), range(2, 4), range(4, 5)]
        assert schedule(block=9).groups(5) == [range(5)]


def test_lengths_give_every_site_its_steps():
    assert EndToEnd().length(1, 40) == 40
    assert Greedy().length(5, 40) == Randomized().length(5, 40) == 200  # the paper's 400 x 5 = 2,000 epochs
    assert Simultaneous().length(5, 40) == 40


def test_greedy_trains_from_the_bottom_each_site_to_its_end():
    turns = [Greedy().sites(0, step, 3, 4) for step in range(12)]
    assert turns == [(0,)] * 4 + [(1,)] * 4 + [(2,)] * 4


def test_all_at_once():
    assert Simultaneous().sites(0, 7, 3, 4) == (0, 1, 2)
    assert EndToEnd().sites(0, 7, 1, 4) == (0,)


def test_the_draw_is_uniform_and_a_function_of_seed_and_step_alone():
    steps, sites = 5000, 5
    drawn = [Randomized().sites(3, step, sites, 1) for step in range(steps)]
    assert drawn == [Randomized(block=2).sites(3, step, sites, 99) for step in range(steps)]
    assert drawn[::-1] == [Randomized().sites(3, step, sites, 1) for step in reversed(range(steps))]
    assert drawn != [Randomized().sites(4, step, sites, 1) for step in range(steps)]
    counts = [drawn.count((site,)) for site in range(sites)]
    assert sum(counts) == steps
    chi_squared = sum((c - steps / sites) ** 2 / (steps / sites) for c in counts)
    assert chi_squared < 18.5  # 4 degrees of freedom, 0.1 %
    pairs = sum(a == b for a, b in pairwise(drawn))  # successive draws are independent
    assert abs(pairs / steps - 1 / sites) < 0.03


@pytest.mark.parametrize("name", SCHEDULES)
def test_every_registered_schedule_is_where_its_table_says(name):
    entry = SCHEDULES[name]
    schedule = imported(entry.path, "schedule")(**{k: o.default for k, o in entry.options.items()})
    groups = schedule.groups(4)
    assert [layer for group in groups for layer in group] == [0, 1, 2, 3]
    for step in range(schedule.length(len(groups), 2)):
        turns = schedule.sites(0, step, len(groups), 2)
        assert turns == tuple(sorted(turns))
        assert set(turns) <= set(range(len(groups)))
