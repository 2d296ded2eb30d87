"""Training: the loop, devices and precision, predictions, reference models and shadow models."""

from forget_mi.lazy import lazy_exports

__getattr__, __dir__, __all__ = lazy_exports(
    __name__,
    {
        "config": "DeviceConfig ReferenceConfig ShadowConfig TrainingConfig",
        "devices": "make_accelerator",
        "loop": "train train_new",
        "state": "TrainingLog",
        "prediction": "Predictions predict",
        "shadows": "Shadows ShadowSet open_shadow_set",
        "references": "assign_folds rows_outside_fold",
    },
)
