"""The Hugging Face Space: hf-fer's demo, as `hf-fer demo` starts it.

`HF_FER_DEMO_MODELS` (a variable of the Space) lists the models to offer, separated by commas; without it
those inside the package are.
"""

from hf_fer.demo import launch_demo

if __name__ == "__main__":
    launch_demo()
