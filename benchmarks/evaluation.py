"""What the test protocols cost: `multi_resolution` (four factors) against one `standard` pass.

    python benchmarks/evaluation.py --root ferplus/ --output results/evaluation.json

Both score a checkpoint (default: the one in the package) on the same split of FERPlus, or of the drawn faces without
`--root`, from decoding the images to the finished record with its bootstrap intervals; the data set lies ready. The two
take turns, and the order changes from round to round. The ratio is of medians.
"""

from __future__ import annotations

import argparse
import statistics
import sys
from pathlib import Path
from typing import Any

from inference import Subject, describe_machine, run_rounds, write_report


def main(argv: list[str] | None = None) -> int:
    options = _parse(argv)
    import torch

    from hf_fer import load_classifier, load_fer_dataset
    from hf_fer.evaluation.protocols import multi_resolution, standard

    torch.set_num_threads(options.threads)
    if options.root:
        name, data = "ferplus", load_fer_dataset("ferplus", options.root)["test"]
    else:
        name, data = "synthetic", load_fer_dataset("synthetic", train=8, validation=8, test=512)["test"]
    if options.images:
        data = data.select(range(min(options.images, len(data))))
    model, processor = load_classifier(options.model, "cpu")
    records: dict[str, Any] = {}

    def subject(protocol: Any) -> Subject:
        def call() -> None:
            records[protocol.__name__] = protocol(
                model, data, processor=processor, batch_size=options.batch_size, dataset_name=name, progress=False
            )

        return Subject(protocol.__name__, 0, 0, len(data), call, [])

    subjects = [subject(standard), subject(multi_resolution)]
    run_rounds(subjects, options.repeats)
    medians = [statistics.median(subject.milliseconds) for subject in subjects]
    report = {
        "machine": describe_machine(),
        "settings": {key: value for key, value in vars(options).items() if key not in ("root", "output")},
        "dataset": name,
        "images": len(data),
        "results": [
            {
                "protocol": subject.name,
                "factors": list(records[subject.name]["resolutions"]),
                "median_ms": median,
                "min_ms": min(subject.milliseconds),
                "images_per_second": 1e3 * len(data) / median,
                "ratio": median / medians[0],
            }
            for subject, median in zip(subjects, medians, strict=True)
        ],
    }
    write_report(report, options.output)
    machine = report["machine"]
    print(f"{machine['cpu']}, {options.threads} threads; torch {machine['torch']}; {name}, {len(data)} images")
    print(f"{'protocol':<18} {'factors':<10} {'median, s':>10} {'min, s':>8} {'images/s':>9} {'ratio':>6}")
    for row in report["results"]:
        print(
            f"{row['protocol']:<18} {','.join(row['factors']):<10} {row['median_ms'] / 1e3:>10.2f} "
            f"{row['min_ms'] / 1e3:>8.2f} {row['images_per_second']:>9.1f} {row['ratio']:>6.2f}"
        )
    return 0


def _parse(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Time the test protocols.")
    parser.add_argument("--root", help="raw download of FERPlus; default: drawn faces")
    parser.add_argument("--model", default="default", help="checkpoint folder or Hub id")
    parser.add_argument("--images", type=int, default=0, help="at most so many; default: the whole split")
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--output", type=Path, help="JSON file to write")
    return parser.parse_args(argv)


if __name__ == "__main__":
    sys.exit(main())
