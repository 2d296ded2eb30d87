"""forget-mi: multimodal machine unlearning in healthcare, reproducible and audited."""

__version__ = "0.1.0"
