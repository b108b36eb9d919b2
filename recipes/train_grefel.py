"""GReFEL: image and landmark streams joined by cross-attention, and a prediction corrected by trainable anchors.

    accelerate launch recipes/train_grefel.py --config recipes/configs/grefel_affwild2.yaml --data_root DIR

What is special about GReFEL sits in `GReFELForImageClassification` (`_distributions`: anchors, attentive correction
and confidences; `_add_loss`: the three losses) and in `sampling: group_balanced`, the paper's data refinement, which
makes an epoch some thousand balanced images. `landmark_weights` names the landmark stream's file and freezes that
stream; without it, it trains with the rest. Every row of the paper's Tables 2, 3 and 6 is in
`GReFELConfig.ablations`.
"""

from hf_fer.training.cli import main

if __name__ == "__main__":
    raise SystemExit(main("grefel"))
