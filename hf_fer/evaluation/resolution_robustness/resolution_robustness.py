"""`evaluate` module with the accuracy of a classifier over the resolution; the computation is in `scores.py`.

`evaluate` copies this file and the siblings it names into its own cache, reading the import lines one by one:
each import of this file must stand on a line of its own, and a sibling that another one imports must be named too.
"""

# ruff: noqa: I001
import datasets
import evaluate

from .common import check_bootstrap
from .inputs import check_inputs
from .inputs import check_rows
from .scores import score_resolutions

_CITATION = """\
@inproceedings{lee2024hard,
  title = {Hard Sample-aware Consistency for Low-resolution Facial Expression Recognition},
  author = {Lee, Bokyeung and Ko, Kyungdeuk and Hong, Jonghwan and Ko, Hanseok},
  booktitle = {IEEE/CVF Winter Conference on Applications of Computer Vision (WACV)},
  year = {2024}
}
"""

_DESCRIPTION = """\
Accuracy and mean class accuracy of the answers to the same images at several resolutions, their average over the low
resolutions (the papers' Avg over x2, x4, x8), and the area under the accuracy over log2(factor).
"""

_KWARGS_DESCRIPTION = """
Args:
    predictions (list of int): predicted class ids, one for each image and factor.
    references (list of int): true class ids.
    factors (list of float): the resolution factor of each row, 1 for the full resolution, 4 for a quarter of the side.
    image_ids (list of str or int, optional): which image each row shows.
    bootstrap (int, optional): number of resamples for 95 % intervals, such as 1000; 0, the default, for none.
    seed (int, optional): seed of the resampling, default 0.
Returns:
    n (images), factors, accuracy and mean_class_accuracy (factor -> figure), average_low_resolution (mean accuracy over
    the factors > 1), area_under_curve (0..1); with bootstrap ci95.
Examples:
    >>> metric = evaluate.load("resolution_robustness")
    >>> result = metric.compute(predictions=[0, 1, 0, 0], references=[0, 1, 0, 1], factors=[1, 1, 4, 4])
    >>> result["accuracy"], result["average_low_resolution"], result["area_under_curve"]
    ({'1': 1.0, '4': 0.5}, 0.5, 0.75)
"""


@evaluate.utils.file_utils.add_start_docstrings(_DESCRIPTION, _KWARGS_DESCRIPTION)
class ResolutionRobustness(evaluate.Metric):
    """See `scores.score_resolutions` for every key."""

    def _info(self) -> evaluate.MetricInfo:
        return evaluate.MetricInfo(
            description=_DESCRIPTION,
            citation=_CITATION,
            inputs_description=_KWARGS_DESCRIPTION,
            features=datasets.Features(
                {
                    "predictions": datasets.Value("int64"),
                    "references": datasets.Value("int64"),
                    "factors": datasets.Value("float64"),
                }
            ),
        )

    def add(self, *, prediction=None, reference=None, factors=None):
        """`evaluate`'s add, with the row checked as in `add_batch`; `factors` is the one factor of the row."""
        self.add_batch(predictions=[prediction], references=[reference], factors=[factors])

    def add_batch(self, *, predictions=None, references=None, factors=None):
        """`evaluate`'s add_batch, with the rows checked first: Arrow would truncate 1.7 to class 1 in silence.

        Raises:
            ValueError: one sentence that names the first offending row of this batch.
        """
        predictions, references, factors = check_rows(predictions, references, factors)
        if len(references):
            super().add_batch(predictions=predictions, references=references, factors=factors)

    def compute(self, *, predictions=None, references=None, factors=None, image_ids=None, bootstrap=0, seed=0):
        """`evaluate`'s compute, with the inputs checked first.

        Checked here because an error raised halfway loses the batches added before, or leaves rows of the failed
        call in the writer, where the next call would count them.

        Raises:
            ValueError: one sentence that names the first offending row or factor.
        """
        check_bootstrap(bootstrap, seed)
        if self.writer is None:  # all there is to score is given here
            given = [() if rows is None else rows for rows in (predictions, references, factors)]
            check_inputs(*given, image_ids, bootstrap, seed)
        return super().compute(
            predictions=predictions,
            references=references,
            factors=factors,
            image_ids=image_ids,
            bootstrap=bootstrap,
            seed=seed,
        )

    def _compute(self, predictions, references, factors, image_ids, bootstrap, seed):
        return score_resolutions(predictions, references, factors, image_ids, bootstrap, seed)
