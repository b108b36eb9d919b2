from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch

from hf_fer import FerError, load_fer_dataset
from hf_fer.data.ferplus import votes_to_distribution
from hf_fer.data.label_prior import ferplus_label_prior
from hf_fer.labels import label_names
from hf_fer.models import prior_label_distribution

DATA = Path(os.environ.get("FERPLUS_DIR", Path(__file__).parents[3] / "shared" / "data" / "ferplus"))
EIGHT = label_names("ferplus", 8)


@pytest.mark.skipif(not DATA.is_dir(), reason=f"FERPlus is not at {DATA} (set FERPLUS_DIR)")
def test_the_constants_are_the_real_datas() -> None:
    train = load_fer_dataset("ferplus", DATA, label_rule="majority", classes=8)["train"]
    shares = torch.from_numpy(votes_to_distribution(train.with_format("numpy")["votes"][:], 8))
    prior = prior_label_distribution(shares, torch.tensor(train["label"][:]))
    torch.testing.assert_close(ferplus_label_prior(EIGHT), prior, rtol=0, atol=1e-5)


def test_rows_follow_the_names() -> None:
    whole = ferplus_label_prior(EIGHT)
    torch.testing.assert_close(whole.sum(dim=1), torch.ones(8, dtype=torch.float64))
    assert bool((whole.argmax(dim=1) == torch.arange(8)).all())
    raf = label_names("rafdb")
    prior = ferplus_label_prior(raf)
    kept = [EIGHT.index(name) for name in raf]
    for i, row in enumerate(kept):
        total = sum(whole[row, column].item() for column in kept)
        for j, column in enumerate(kept):
            assert prior[i, j].item() == pytest.approx(whole[row, column].item() / total, abs=1e-12)


def test_other_names_of_the_same_expressions_do() -> None:
    assert torch.equal(ferplus_label_prior(["Happy", "angry"]), ferplus_label_prior(["happiness", "anger"]))


@pytest.mark.parametrize(
    ("names", "said"),
    [(["happiness", "other"], "has no label 'other'"), (["happiness", "joy"], "one expression twice")],
)
def test_labels_it_cannot_serve_are_named(names: list[str], said: str) -> None:
    with pytest.raises(FerError, match=f"FERPlus' label prior .*{said}"):
        ferplus_label_prior(names)
