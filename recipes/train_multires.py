"""Multi-resolution training: some of the images go down to a random size and up again; the loss is class-balanced.

    accelerate launch recipes/train_multires.py --config recipes/configs/multires_affwild2.yaml --data_root DIR

What is special about it sits in `MultiResForImageClassification`: the double random extraction in `_sides` (first
whether to degrade, then to which side) and the class weights 1 - n_c / n. `random_grayscale` and `resize_size` of the
recipe are the rest of the paper's pre-processing. Its variants are in `MultiResConfig.ablations`.
"""

from hf_fer.training.cli import main

if __name__ == "__main__":
    raise SystemExit(main("multires"))
