"""Looking inside: tensors in, tensors out.

Nothing here knows a model of ours. Attention maps come as any iterable of tensors ``[B, heads, T, T]``, one a layer,
from any library; with a generator such as ``ViT.iter_attention`` one layer is in memory at a time. How many tokens
stand before the patches (class token, distillation token, registers) follows from the grid: T less its patches. What
does not fit is refused, with a ``TypeError`` if it is no tensor, else a ``ValueError``: the message says what to pass.
Everywhere ``grid`` is the rows and columns of patches, and ``patch_size`` their side in pixels or (height, width).

Several analyses in one forward pass: what looks at each layer alone can do so on the way to what needs them all.

    >>> model = ViT(ViTConfig(16, 4, 3, 5, embed_dim=24, depth=2, num_heads=3, mlp_dim=48)).eval()
    >>> distances = []
    >>> def measured(layer):
    ...     distances.append(mean_attention_distance([layer], model.config.grid, model.config.patch_size))
    ...     return layer
    >>> rollout = attention_rollout(map(measured, model.iter_attention(torch.randn(2, 3, 16, 16))))
    >>> torch.cat(distances).shape, rollout.shape
    (torch.Size([2, 3]), torch.Size([2, 17, 17]))
"""

from vitlite.analysis.attention import (
    attention_entropy,
    class_attention,
    mean_attention_distance,
    uniform_attention_distance,
    without_query,
)
from vitlite.analysis.embeddings import Filters, bias_by_offset, embedding_filters, position_similarity
from vitlite.analysis.localisation import Localisation, bootstrap, centre_prior, deletion_curve, localisation
from vitlite.analysis.probe import LinearProbe, linear_probe
from vitlite.analysis.rollout import attention_rollout, gradient_rollout, iter_rollout, token_map

__all__ = [
    "Filters", "LinearProbe", "Localisation", "attention_entropy", "attention_rollout", "bias_by_offset", "bootstrap",
    "centre_prior", "class_attention", "deletion_curve", "embedding_filters", "gradient_rollout", "iter_rollout",
    "linear_probe", "localisation", "mean_attention_distance", "position_similarity", "token_map",
    "uniform_attention_distance", "without_query",
]
