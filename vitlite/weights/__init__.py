"""Weights in and out: our own safetensors files, and the models of torchvision, timm, transformers and the paper.

A file of ours carries all that is needed to use the model: its configuration, the classes, the mean and standard
deviation its images were normalised with, and the record it came from. Tensors beside the model find room in it too.

The four ``from_...`` functions work alike. Each takes a live model, a state dict or a file, gives a new model in
evaluation mode whose logits are the same, and loads everything or nothing. A live model tells all there is to know;
a state dict leaves out the number of heads, the epsilon of the LayerNorms and the form of the GELU, so these are
assumed as the library has them unless they are given. Dropout rates are not taken over. What ``ViTConfig`` cannot
express, such as layer scale, is refused by name. Another ``image_size`` or ``num_classes`` than the weights were made
for can be asked for: positions are resampled by the library's own convention, the head starts anew at zero,
and a warning says so.
"""

from vitlite.weights.npz import from_npz
from vitlite.weights.own import extra, info, load, save
from vitlite.weights.shared import fill
from vitlite.weights.timm import from_timm, to_timm
from vitlite.weights.torchvision import from_pretrained, from_torchvision, to_torchvision
from vitlite.weights.transformers import from_transformers

__all__ = [
    "extra", "fill", "from_npz", "from_pretrained", "from_timm", "from_torchvision", "from_transformers", "info",
    "load", "save", "to_timm", "to_torchvision",
]
