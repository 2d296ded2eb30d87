"""forget-mi: multimodal machine unlearning in healthcare, reproducible and audited."""

import atexit
import gc

__version__ = "0.1.0"

# torch, transformers and their like are a million objects that stay to the end. Python looks through them for garbage
# again and again while they are imported, and once more before it exits: seconds of each process and of each notebook.
gc.set_threshold(50_000, 20, 20)
atexit.register(gc.freeze)
