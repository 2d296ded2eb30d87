"""Models: two towers side by side, adapters for foreign networks, building, checkpoints, weights in
and out."""

from forget_mi.lazy import lazy_exports

__getattr__, __dir__, __all__ = lazy_exports(
    __name__,
    {
        "config": "ModelConfig model_config NAMED",
        "outputs": "Embeddings ModelOutput fused_probabilities",
        "image_text": "ImageTextModel",
        "joint_embedding": "JointEmbedding joint_embedding_of joint_embedding_or_none",
        "build": "build_model reinitialized text_config_of",
        "tokenizers": "build_tokenizer vocabulary_size",
        "adapters": "adapt",
        "contract": "ModelContract problems_of_model require_model",
        "checkpoints": "Checkpoint load_checkpoint read_manifest save_checkpoint MANIFEST WEIGHTS",
        "pretrained": "from_pretrained load_trained save_pretrained weights_file",
        "released": "load_released",
        "export": "export_model",
    },
)
