"""Multimodal machine unlearning in healthcare, reproducible and audited.

data        cohorts, splits, deletion requests, batches
models      the image-text model, adapters for foreign networks, weights in and out
losses      the paper's losses             metrics   AUC and F1
training    the loop, devices, predictions, reference and shadow models
unlearning  a module a method              attacks   a module an attack
evaluation  audit, verdicts, statistics    plots     figures
runs        parameters, profiles, run folders, the chain of notebooks
studies     sweep, tuning, results         requests  deletion requests and their reports
course      lessons and the explorer
"""

__version__ = "0.1.0"
