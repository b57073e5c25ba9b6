"""Looking inside: tensors in, tensors out.

Nothing here knows a model of ours. Attention maps come as any iterable of tensors ``[B, heads, T, T]``, one a layer,
from any library; with a generator such as ``ViT.iter_attention`` one layer is in memory at a time. How many tokens
stand before the patches (class token, registers) follows from the grid: T less its patches.
"""

from vitlite.analysis.attention import (
    attention_entropy,
    class_attention,
    mean_attention_distance,
    uniform_attention_distance,
)
from vitlite.analysis.embeddings import Filters, bias_by_offset, embedding_filters, position_similarity
from vitlite.analysis.localisation import (
    Localisation,
    bootstrap,
    centre_prior,
    deletion_curve,
    insertion_curve,
    localisation,
)
from vitlite.analysis.probe import LinearProbe, linear_probe
from vitlite.analysis.rollout import attention_rollout, gradient_rollout, iter_rollout, token_map

__all__ = [
    "Filters",
    "LinearProbe",
    "Localisation",
    "attention_entropy",
    "attention_rollout",
    "bias_by_offset",
    "bootstrap",
    "centre_prior",
    "class_attention",
    "deletion_curve",
    "embedding_filters",
    "gradient_rollout",
    "insertion_curve",
    "iter_rollout",
    "linear_probe",
    "localisation",
    "mean_attention_distance",
    "position_similarity",
    "token_map",
    "uniform_attention_distance",
]
