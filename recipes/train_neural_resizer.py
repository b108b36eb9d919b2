"""Neural Resizer: super-resolution and learned down-sizing in front of a vision transformer, and the loss F-PDLS.

    accelerate launch recipes/train_neural_resizer.py --config recipes/configs/neural_resizer_ferplus.yaml \\
        --data_root DIR

What is special about it sits in `NeuralResizerForImageClassification`: `resize` is the trainable front end, and the
loss is `focal_pdls`, whose prior `label_prior` the run takes from the votes of the training images, or from FERPlus'
where there are none. Every row of the poster's Tables 1 to 3 is in `NeuralResizerConfig.ablations`.
"""

from hf_fer.training.cli import main

if __name__ == "__main__":
    raise SystemExit(main("neural_resizer"))
