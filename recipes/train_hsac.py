"""HSAC: each image beside a low-resolution view of itself and that view's flip; hard samples are spared.

    accelerate launch recipes/train_hsac.py --config recipes/configs/hsac_rafdb.yaml --data_root DIR

What is special about HSAC sits in `HSACForImageClassification`: `forward` makes the two low-resolution views (their
factors are drawn by `draw_views`), and `_add_consistency` adds combined attention consistency, label distribution
learning and the adversarial term, the latter two switched off for hard samples. The `train_s_A` and `train_tau` of
`metrics.jsonl` are the curves of the paper's Figure 6. Every row of its Tables 1 and 3 is in `HSACConfig.ablations`.
"""

from hf_fer.training.cli import main

if __name__ == "__main__":
    raise SystemExit(main("hsac"))
