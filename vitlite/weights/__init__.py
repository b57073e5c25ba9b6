"""Weights in and out: our own safetensors files, the models of torchvision, timm, transformers and the paper, ONNX.

A file of ours has all that is needed to use the model: its configuration, the classes, the mean and standard
deviation its images were normalised with, and the record it came from. Tensors beside the model find room in it too.

The ``from_...`` functions work alike. Each takes a live model, a state dict or a file, gives a new model in
evaluation mode whose logits are the same, and loads everything or nothing. A live model says all there is to know;
a state dict leaves out the number of heads, the epsilon of the LayerNorms, the form of the GELU and how rotary
positions turn, so these are assumed as the library has them unless they are given. Dropout rates are not taken over.
Layer scale is folded into the layer in front of it, exactly. What ``ViTConfig`` cannot express, such as a gated
attention, is refused by name. Another ``image_size`` or ``num_classes`` than the weights were made for can be asked
for: positions are resampled by the library's own convention, the head starts anew at zero, and a warning says so. An
encoder without a head gets a new one in the same way.

A file that is not there raises a ``FileNotFoundError``; one that is damaged, of another architecture, or does not fit
raises a ``ValueError`` which lists what is wrong; a source or model of another kind a ``TypeError``; and a package that
is not installed an ``ImportError``. A file is written whole, or what stood there stays.

``from_pretrained`` takes the name of published weights; ``published`` lists them.
"""

from vitlite.weights.catalogue import Published, from_pretrained, published, published_file
from vitlite.weights.npz import from_npz
from vitlite.weights.onnx import from_onnx, onnx_tensors, to_onnx
from vitlite.weights.own import extra, info, load, save
from vitlite.weights.shared import fill
from vitlite.weights.timm import from_timm, to_timm
from vitlite.weights.torchvision import from_torchvision, to_torchvision
from vitlite.weights.transformers import from_transformers

__all__ = [
    "Published", "extra", "fill", "from_npz", "from_onnx", "from_pretrained", "from_timm", "from_torchvision",
    "from_transformers", "info", "load", "onnx_tensors", "published", "published_file", "save", "to_onnx", "to_timm",
    "to_torchvision",
]
