"""`evaluate` module with the metrics of facial expression recognition; the computation is in `scores.py`.

`evaluate` copies this file and the siblings it names into its own cache, reading the import lines one by one:
each import of this file must stand on a line of its own.
"""

# ruff: noqa: I001
import datasets
import evaluate

from .scores import check_inputs
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
Facial expression recognition: accuracy, mean class accuracy (mean recall over the classes present), macro F1,
    figures for
each class, the confusion matrix, the ABAW challenge score 0.33 * accuracy + 0.67 * macro F1 and, from
probabilities, the negative log-likelihood and the expected calibration error.
"""

_KWARGS_DESCRIPTION = """
Args:
    predictions (list of int): predicted class ids, 0..K-1.
    references (list of int): true class ids, 0..K-1.
    label_names (list of str, optional): the K class names in the order of the ids.
    probabilities (list of list of float, optional): (N, K) rows that sum to 1.
Returns:
    n, accuracy, mean_class_accuracy, f1_macro, challenge_score, classes_absent, per_class (name -> precision,
    recall, f1, support), confusion_matrix (rows are the truth), and with probabilities nll and ece (15
    equal-width bins).
Examples:
    >>> metric = evaluate.load("fer_metrics")
    >>> result = metric.compute(predictions=[0, 1, 1], references=[0, 1, 0], label_names=["neutral",
    "happiness"]) >>> round(result["accuracy"], 4), result["mean_class_accuracy"]
    (0.6667, 0.75)
"""


@evaluate.utils.file_utils.add_start_docstrings(_DESCRIPTION, _KWARGS_DESCRIPTION)
class FerMetrics(evaluate.Metric):
    """See `scores.score_predictions` for every key."""

    def _info(self) -> evaluate.MetricInfo:
        return evaluate.MetricInfo(
            description=_DESCRIPTION,
            citation=_CITATION,
            inputs_description=_KWARGS_DESCRIPTION,
            features=datasets.Features({"predictions": datasets.Value("int64"), "references": datasets.Value("int64")}),
        )

    def compute(self, *, predictions=None, references=None, **kwargs):
        """`evaluate`'s compute, with the inputs checked first.

        Checked here because Arrow would truncate 1.7 to class 1 in silence, and because an error raised
        halfway leaves the rows of the failed call in the writer, where the next call would count them.

        Raises:
            ValueError: one sentence that names the first offending row.
        """
        if predictions is not None and references is not None and self.writer is None:
            names, probabilities = kwargs.get("label_names"), kwargs.get("probabilities")
            predictions, references, _, _ = check_inputs(predictions, references, names, probabilities)
        return super().compute(predictions=predictions, references=references, **kwargs)

    def _compute(self, predictions, references, label_names=None, probabilities=None):
        return score_predictions(predictions, references, label_names, probabilities)
