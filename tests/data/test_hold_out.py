from __future__ import annotations

from collections import Counter

import datasets
import pytest

from hf_fer import FerError
from hf_fer.data.hold_out import hold_out


def make(labels: list[int], groups: list[str] | None = None) -> datasets.Dataset:
    columns = {"label": labels, "row": list(range(len(labels)))}
    return datasets.Dataset.from_dict(columns | ({} if groups is None else {"group": groups}))


def test_every_class_gives_its_share_and_no_image_is_on_both_sides() -> None:
    data = make([0] * 100 + [1] * 20 + [2] * 3)
    rest, held = hold_out(data, 0.1)
    assert Counter(held["label"]) == {0: 10, 1: 2, 2: 1}
    assert sorted([*rest["row"], *held["row"]]) == data["row"][:]
    assert list(held["row"]) == sorted(held["row"])


def test_the_choice_depends_on_the_seed_alone() -> None:
    data = make([0, 1] * 50)
    rows = [hold_out(data, 0.2, seed=seed)[1]["row"][:] for seed in (0, 0, 1)]
    assert rows[0] == rows[1] != rows[2]
    # Written down: another choice would make earlier runs another experiment.
    assert hold_out(make([0] * 10), 0.3)[1]["row"][:] == [1, 2, 3]


def test_groups_stay_whole() -> None:
    groups = [f"video {i % 7}" for i in range(70)]
    rest, held = hold_out(make([0, 1] * 35, groups), 0.2, by="group")
    assert not {*rest["group"]} & {*held["group"]}
    assert len({*held["group"]}) == 2  # one video holds 14 %


def test_one_huge_group_does_not_take_everything() -> None:
    rest, held = hold_out(make([0] * 100, ["a"] * 99 + ["b"]), 0.5, by="group")
    assert len(rest) and len(held)


def test_a_class_of_one_image_stays_for_training() -> None:
    rest, held = hold_out(make([0] * 10 + [1]), 0.5)
    assert 1 in rest["label"] and 1 not in held["label"]


@pytest.mark.parametrize(
    "options, said",
    [
        ({"share": 0}, "between 0 and 1"),
        ({"share": 1.0}, "between 0 and 1"),
        ({"share": float("nan")}, "between 0 and 1"),
        ({"share": 0.1, "by": "video"}, "not by 'video'"),
        ({"share": 0.1, "by": "group"}, "hold out by 'image'"),
    ],
)
def test_mistakes(options: dict, said: str) -> None:
    with pytest.raises(FerError, match=said):
        hold_out(make([0, 1] * 10), **options)


def test_one_group_or_one_image_cannot_be_divided() -> None:
    with pytest.raises(FerError, match="one group"):
        hold_out(make([0, 1], ["a", "a"]), 0.5, by="group")
    with pytest.raises(FerError, match="too few"):
        hold_out(make([0]), 0.5)
