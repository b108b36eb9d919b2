"""`evaluate` module with the accuracy by group and the gap between groups; the computation is in `scores.py`.

`evaluate` copies this file and the siblings it names into its own cache, reading the import lines one by one:
each import of this file must stand on a line of its own, and a sibling that another one imports must be named too.
"""

# ruff: noqa: I001
import datasets
import evaluate

from .common import check_bootstrap
from .inputs import check_inputs
from .inputs import check_min_support
from .inputs import check_rows
from .scores import score_groups

_CITATION = """\
@inproceedings{lum2022debiasing,
  title = {De-biasing "bias" measurement},
  author = {Lum, Kristian and Zhang, Yunfeng and Bower, Amanda},
  booktitle = {ACM Conference on Fairness, Accountability, and Transparency (FAccT)},
  year = {2022}
}
"""

_DESCRIPTION = """\
Accuracy and mean class accuracy in each group of images, such as age bands, and the gap between the best and the worst
group.
"""

_KWARGS_DESCRIPTION = """
Args:
    predictions (list of int): predicted class ids.
    references (list of int): true class ids.
    groups (list of str): the group of each image, the value of one attribute.
    min_support (int, optional): groups with fewer images stay out of the gaps, default 1.
    bootstrap (int, optional): number of resamples for 95 % intervals, such as 1000; 0, the default, for none.
    seed (int, optional): seed of the resampling, default 0.
Returns:
    n, per_group (name -> n, accuracy, mean_class_accuracy, with bootstrap ci95), accuracy_gap, best_group, worst_group,
    mean_class_accuracy_gap, mean_class_accuracy_best_group, mean_class_accuracy_worst_group, min_support, left_out
    (groups too small for the gaps); with bootstrap ci95 of the gaps.
Examples:
    >>> metric = evaluate.load("fairness_gap")
    >>> ages = ["old", "old", "young", "young"]
    >>> result = metric.compute(predictions=[0, 1, 1, 1], references=[0, 1, 0, 1], groups=ages)
    >>> result["accuracy_gap"], result["best_group"], result["worst_group"]
    (0.5, 'old', 'young')
"""


@evaluate.utils.file_utils.add_start_docstrings(_DESCRIPTION, _KWARGS_DESCRIPTION)
class FairnessGap(evaluate.Metric):
    """See `scores.score_groups` for every key."""

    def _info(self) -> evaluate.MetricInfo:
        return evaluate.MetricInfo(
            description=_DESCRIPTION,
            citation=_CITATION,
            inputs_description=_KWARGS_DESCRIPTION,
            features=datasets.Features(
                {
                    "predictions": datasets.Value("int64"),
                    "references": datasets.Value("int64"),
                    "groups": datasets.Value("string"),
                }
            ),
        )

    def add(self, *, prediction=None, reference=None, groups=None):
        """`evaluate`'s add, with the row checked as in `add_batch`; `groups` is the one group of the row."""
        self.add_batch(predictions=[prediction], references=[reference], groups=[groups])

    def add_batch(self, *, predictions=None, references=None, groups=None):
        """`evaluate`'s add_batch, with the rows checked first: Arrow would truncate 1.7 to class 1 in silence.

        Raises:
            ValueError: one sentence that names the first offending row of this batch.
        """
        predictions, references, groups = check_rows(predictions, references, groups)
        if len(references):
            super().add_batch(predictions=predictions, references=references, groups=groups)

    def compute(self, *, predictions=None, references=None, groups=None, min_support=1, bootstrap=0, seed=0):
        """`evaluate`'s compute, with the inputs checked first.

        Checked here because an error raised halfway loses the batches added before, or leaves rows of the failed
        call in the writer, where the next call would count them.

        Raises:
            ValueError: one sentence that names the first offending row or group.
        """
        check_min_support(min_support)
        check_bootstrap(bootstrap, seed)
        if self.writer is None:  # all there is to score is given here
            given = [() if rows is None else rows for rows in (predictions, references, groups)]
            check_inputs(*given, min_support, bootstrap, seed)
        return super().compute(
            predictions=predictions,
            references=references,
            groups=groups,
            min_support=min_support,
            bootstrap=bootstrap,
            seed=seed,
        )

    def _compute(self, predictions, references, groups, min_support, bootstrap, seed):
        return score_groups(predictions, references, groups, min_support, bootstrap, seed)
