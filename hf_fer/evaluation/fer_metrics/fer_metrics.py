"""`evaluate` module with the metrics of facial expression recognition; the computation is in `scores.py`.

`evaluate` copies this file and the siblings it names into its own cache, reading the import lines one by one:
each import of this file must stand on a line of its own, and a sibling that another one imports must be named too.
"""

# ruff: noqa: I001
import datasets
import evaluate

from .common import check_bootstrap
from .common import check_pairs
from .inputs import check_inputs
from .inputs import check_names
from .scores import bootstrap_ci95
from .scores import score_predictions

_CITATION = """\
@inproceedings{kollias2020abaw,
  title = {Analysing Affective Behavior in the First {ABAW} 2020 Competition},
  author = {Kollias, Dimitrios and Schulc, Attila and Hajiyev, Elnar and Zafeiriou, Stefanos},
  booktitle = {IEEE International Conference on Automatic Face and Gesture Recognition (FG)},
  year = {2020}
}
"""

_DESCRIPTION = """\
Facial expression recognition: accuracy, mean class accuracy (mean recall over the classes present), macro F1, figures
for each class, the confusion matrix, the ABAW challenge score 0.33 * accuracy + 0.67 * macro F1 and, from
probabilities, the negative log-likelihood, the expected calibration error, the Brier score and the top-2 accuracy.
"""

_KWARGS_DESCRIPTION = """
Args:
    predictions (list of int): predicted class ids, 0..K-1.
    references (list of int): true class ids, 0..K-1.
    label_names (list of str, optional): the K class names in the order of the ids.
    probabilities (list of list of float, optional): (N, K) rows that sum to 1.
    answer_only (list of int, optional): ids that can be answered and that the references cannot hold: classes the model
        knows and the data set lacks. Answering one is an error; it is no class of its own in f1_macro.
    bootstrap (int, optional): number of resamples for 95 % intervals, such as 1000; 0, the default, for none.
    seed (int, optional): seed of the resampling, default 0.
Returns:
    n, accuracy, mean_class_accuracy, f1_macro, challenge_score, classes_absent, per_class (name -> precision, recall,
    f1, support), confusion_matrix (rows are the truth); with probabilities nll, ece (15 equal-width bins), brier and
    top2_accuracy; with bootstrap ci95 ([low, high] of the first four figures).
Examples:
    >>> metric = evaluate.load("fer_metrics")
    >>> result = metric.compute(predictions=[0, 1, 1], references=[0, 1, 0], label_names=["neutral", "happiness"])
    >>> round(result["accuracy"], 4), result["mean_class_accuracy"]
    (0.6667, 0.75)
"""


@evaluate.utils.file_utils.add_start_docstrings(_DESCRIPTION, _KWARGS_DESCRIPTION)
class FerMetrics(evaluate.Metric):
    """See `scores.score_predictions` and `scores.bootstrap_ci95` for every key."""

    def _info(self) -> evaluate.MetricInfo:
        return evaluate.MetricInfo(
            description=_DESCRIPTION,
            citation=_CITATION,
            inputs_description=_KWARGS_DESCRIPTION,
            features=datasets.Features({"predictions": datasets.Value("int64"), "references": datasets.Value("int64")}),
        )

    def add(self, *, prediction=None, reference=None):
        """`evaluate`'s add, with the row checked as in `add_batch`."""
        self.add_batch(predictions=[prediction], references=[reference])

    def add_batch(self, *, predictions=None, references=None):
        """`evaluate`'s add_batch, with the rows checked first: Arrow would truncate 1.7 to class 1 in silence.

        Raises:
            ValueError: one sentence that names the first offending row of this batch.
        """
        predictions, references = check_pairs(predictions, references)
        if len(references):
            super().add_batch(predictions=predictions, references=references)

    def compute(
        self,
        *,
        predictions=None,
        references=None,
        label_names=None,
        probabilities=None,
        answer_only=(),
        bootstrap=0,
        seed=0,
    ):
        """`evaluate`'s compute, with the inputs checked first.

        Checked here because an error raised halfway loses the batches added before, or leaves rows of the failed
        call in the writer, where the next call would count them.

        Raises:
            ValueError: one sentence that names the first offending row.
        """
        check_bootstrap(bootstrap, seed)
        if label_names is not None:
            label_names = check_names(label_names)
        if self.writer is None:  # all there is to score is given here
            given = [() if rows is None else rows for rows in (predictions, references)]
            check_inputs(*given, label_names, probabilities)
        return super().compute(
            predictions=predictions,
            references=references,
            label_names=label_names,
            probabilities=probabilities,
            answer_only=answer_only,
            bootstrap=bootstrap,
            seed=seed,
        )

    def _compute(self, predictions, references, label_names, probabilities, answer_only, bootstrap, seed):
        result = score_predictions(predictions, references, label_names, probabilities, answer_only)
        if bootstrap:
            result["ci95"] = bootstrap_ci95(result["confusion_matrix"], bootstrap, seed, answer_only)
        return result
