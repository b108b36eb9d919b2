"""MEK: two views of each image, re-balanced attention consistency (RAC) and re-balanced smooth labels (RSL).

    accelerate launch recipes/train_mek.py --config recipes/configs/mek_synthetic.yaml

What is special about MEK sits in the loss of `MEKForImageClassification`; its switches (`consistency_weight`,
`smoothing`, `rebalance_attention`, `classify_transformed`, `class_weighting`) also give its baselines
cross-entropy, class-balanced loss and EAC: see `recipes/configs`.
"""

from hf_fer.training.cli import main

if __name__ == "__main__":
    raise SystemExit(main("mek"))
