from __future__ import annotations

import json
import subprocess
import sys
from collections import Counter

import numpy as np
import pytest
from torch.utils.data import DataLoader

from hf_fer import FerError
from hf_fer.data.sampling import GroupBalancedSampler, class_balanced_rows, group_balanced_rows

RNG = np.random.default_rng(0)
# Imbalanced classes, and groups of very different size.
LABELS = RNG.choice(4, size=6000, p=[0.7, 0.2, 0.09, 0.01])
GROUPS = np.asarray([f"video{g}" for g in RNG.choice(8, size=6000, p=[0.5, 0.2, 0.1, 0.1, 0.04, 0.03, 0.02, 0.01])])


def test_up_to_so_many_of_a_group_and_then_so_many_of_a_class() -> None:
    rows = group_balanced_rows(LABELS, GROUPS, per_group=300, per_class=100, seed=1)
    assert Counter(LABELS[rows].tolist()) == {0: 100, 1: 100, 2: 100, 3: 100}
    per_group = Counter(GROUPS[np.unique(rows)].tolist())
    assert max(per_group.values()) <= 300
    # A plain draw would take half of all images from the largest group.
    assert per_group["video0"] / len(np.unique(rows)) < 0.42


def test_no_image_twice_unless_its_class_is_too_small() -> None:
    rows = group_balanced_rows(LABELS, GROUPS, per_group=300, per_class=100, seed=1)
    times = Counter(rows.tolist())
    for label in range(4):
        counts = [n for row, n in times.items() if LABELS[row] == label]
        if label == 3:  # about 60 images, fewer after the groups' cut
            assert len(counts) < 100 and max(counts) - min(counts) <= 1 and sum(counts) == 100
        else:
            assert {*counts} == {1}


def test_the_order_depends_on_seed_and_epoch_alone() -> None:
    first = group_balanced_rows(LABELS, GROUPS, 300, 100, seed=1, epoch=4)
    np.random.seed(5)
    assert np.array_equal(first, group_balanced_rows(LABELS.tolist(), GROUPS.tolist(), 300, 100, seed=1, epoch=4))
    for other in ({"seed": 2, "epoch": 4}, {"seed": 1, "epoch": 5}):
        assert {*group_balanced_rows(LABELS, GROUPS, 300, 100, **other).tolist()} != {*first.tolist()}


def test_epochs_reach_every_image() -> None:
    seen: set[int] = set()
    for epoch in range(60):
        seen |= {*group_balanced_rows(LABELS[:600], GROUPS[:600], 100, 60, epoch=epoch).tolist()}
    assert seen == {*range(600)}


def test_a_class_that_its_groups_left_no_room_for_is_still_there() -> None:
    labels = [0] * 50 + [1]
    for epoch in range(20):
        rows = group_balanced_rows(labels, ["one"] * 51, per_group=2, per_class=4, epoch=epoch)
        assert Counter(labels[row] for row in rows) == {0: 4, 1: 4}


def test_classes_alone() -> None:
    rows = class_balanced_rows(LABELS, seed=3)
    assert Counter(LABELS[rows].tolist()) == dict.fromkeys(range(4), 1500)
    assert Counter(LABELS[class_balanced_rows(LABELS, 7)].tolist()) == dict.fromkeys(range(4), 7)


def test_two_processes_share_an_epoch_without_overlap() -> None:
    """Two interpreters, as two ranks have them."""
    program = """
import json, sys
import numpy as np
from hf_fer.data.sampling import GroupBalancedSampler
labels = [0] * 400 + [1] * 90 + [2] * 60
groups = [f"g{i % 7}" for i in range(550)]
sampler = GroupBalancedSampler(labels, groups, 60, 45, seed=2, rank=int(sys.argv[1]), world_size=2)
epochs = []
for epoch in range(2):
    sampler.set_epoch(epoch)
    epochs.append([*sampler])
print(json.dumps([len(sampler), epochs]))
"""
    both = []
    for rank in range(2):
        done = subprocess.run([sys.executable, "-c", program, str(rank)], capture_output=True, text=True, timeout=120)
        assert done.returncode == 0, done.stderr
        both.append(json.loads(done.stdout))
    labels, groups = [0] * 400 + [1] * 90 + [2] * 60, [f"g{i % 7}" for i in range(550)]
    for epoch in range(2):
        parts = [epochs[epoch] for _, epochs in both]
        assert [len(part) for part in parts] == [67, 67] == [length for length, _ in both]  # 135 rows, the odd one out
        assert not {*parts[0]} & {*parts[1]}
        whole = group_balanced_rows(labels, groups, 60, 45, seed=2, epoch=epoch)
        assert Counter(parts[0] + parts[1]) == Counter(whole[:134].tolist())
    assert both[0][1][0] != both[0][1][1]


def test_it_is_a_sampler() -> None:
    sampler = GroupBalancedSampler(LABELS, GROUPS, per_group=300, per_class=10)
    batches = [*DataLoader(LABELS.tolist(), sampler=sampler, batch_size=40)]
    assert len(sampler) == 40 and Counter(batches[0].tolist()) == dict.fromkeys(range(4), 10)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"labels": [0, 1], "groups": ["a"]}, "2 and 1"),
        ({"labels": [], "groups": []}, "0 and 0"),
        ({"labels": [0, -1], "groups": ["a", "a"]}, "no label"),
        ({"labels": [0], "groups": ["a"], "per_class": 0}, "at least 1"),
        ({"labels": [0], "groups": ["a"], "per_group": 0}, "at least 1"),
    ],
)
def test_what_cannot_be_sampled(arguments: dict, said: str) -> None:
    with pytest.raises(FerError, match=said):
        group_balanced_rows(**arguments)


def test_a_rank_that_is_none() -> None:
    with pytest.raises(FerError, match=r"rank must lie in 0\.\.1, not 2"):
        GroupBalancedSampler([0, 1], ["a", "b"], rank=2, world_size=2)
