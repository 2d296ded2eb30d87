"""Training: the loop, devices and precision, predictions, reference models and shadow models."""

from forget_mi.lazy import lazy_exports

__getattr__, __dir__, __all__ = lazy_exports(
    __name__,
    {
        "config": "DeviceConfig ReferenceConfig ShadowConfig TrainingConfig",
        "devices": "accumulate_gradients card_errors clear_accelerator describe_device "
        "make_accelerator peak_memory_bytes to_device uses_cuda",
        "loop": "default_loss eval_frozen_layers make_optimizer train train_new",
        "memory": "StepMemory estimate_step",
        "state": "TrainingLog",
        "recomputing": "recomputed",
        "prediction": "Predictions Tower predict softmax",
        "shadows": "ShadowSet Shadows open_shadow_set SEEDS",
        "sisa": "Sisa SisaConfig assign_slices expected_share",
        "private": "PrivacyConfig train_private",
        "references": "assign_folds rows_outside_fold",
    },
)
