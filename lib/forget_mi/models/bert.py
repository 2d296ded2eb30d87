"""A BERT of which only the first token, [CLS], is read: its last layer computes that position and
no other."""

from __future__ import annotations

from torch import Tensor, nn
from transformers.models.bert.modeling_bert import BertCrossAttention, BertLayer, BertModel


class FirstTokenLayer(BertLayer):
    """A last layer with BertLayer's output for the first token, and none for the others.

    hidden_states (batch, tokens, width) -> (batch, 1, width). Keys and values come from all tokens,
    the query from the first: what the library calls cross-attention, with this layer's own weights.
    """

    def forward(
        self, hidden_states: Tensor, attention_mask: Tensor | None = None, *_: object, **__: object
    ) -> Tensor:
        """The layer's output for the first token."""
        first = hidden_states[:, :1]
        if attention_mask is not None:  # (batch, 1, queries, keys)
            attention_mask = attention_mask[:, :, :1]
        context, _ = BertCrossAttention.forward(
            self.attention.self, first, hidden_states, attention_mask
        )
        return self.feed_forward_chunk(self.attention.output(context, first))


def read_first_token_only(encoder: nn.Module) -> None:
    """Let a BERT's last hidden state be (batch, 1, width), in place; its weights and their names
    stay. Not where it says more than that: decoders, and attention whose mask has another shape
    (flash)."""
    if not isinstance(encoder, BertModel) or encoder.config.is_decoder:
        return
    if encoder.config._attn_implementation in ("sdpa", "eager"):
        encoder.encoder.layer[-1].__class__ = FirstTokenLayer
