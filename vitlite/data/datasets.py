"""Image sets by name or path: generated scenes, CIFAR, an ``.npz`` file, a folder of class folders.

Every set arrives in one form: three splits of uint8 tensors that fit on the training device whole. The validation split
is taken from the training images; the test split is there to be read once, at the end.

CIFAR comes in whatever order its source chose. So that the validation split and every subset hold the same images
everywhere, images are first put into the order of the SHA-256 hash of their bytes.
"""

import difflib
import hashlib
import io
import os
import tarfile
import unicodedata
import urllib.request
import warnings
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from http.client import HTTPException
from pathlib import Path
from typing import NamedTuple
from urllib.parse import urlsplit

import numpy as np
import torch
from torch import Tensor
from torchvision.transforms.functional import center_crop, resize

from vitlite.checks import Size, pair
from vitlite.data import augment, pictures, scenes
from vitlite.files import decoding, try_writing, written_whole

__all__ = ["Split", "Splits", "fitted", "load", "load_all"]

NAMES = ("scenes", "cifar10", "cifar100")
HELD_OUT = 0.1  # share of the training images that becomes the validation split
# What people call the folders of a set that is split already.
SPLITS = {"train": "train", "training": "train", "val": "validation", "valid": "validation", "dev": "validation",
          "validation": "validation", "test": "test", "testing": "test"}
SECONDS = 60  # that a server may be silent while it is asked for an archive
SCHEME = "https"
# Scenes are numbered. The three splits start so far apart that no training set is long enough to reach the
# others.
SCENES_START = {"train": 0, "validation": 10**12, "test": 2 * 10**12}


@dataclass(frozen=True, eq=False)
class Split:
    """One split of a data set, held in memory as uint8.

    Attributes:
        images: uint8 [N, C, H, W].
        labels: int64 [N], positions in ``classes``.
        masks: bool [N, H, W], true on the object; None where the set has no masks.
        classes: the name of each class.
        mean: mean of each channel over the *training* images, on the scale 0 to 1.
        std: standard deviation of each channel over the training images, on the same scale; 1 where they are constant.

    Example:
        >>> train = load("scenes", train_images=100, held_out=20).train
        >>> train.images.shape, train.images.dtype, len(train.subset(50))
        (torch.Size([100, 3, 32, 32]), torch.uint8, 50)
    """

    images: Tensor
    labels: Tensor
    masks: Tensor | None
    classes: tuple[str, ...]
    mean: tuple[float, ...]
    std: tuple[float, ...]

    def __len__(self) -> int:
        return len(self.images)

    def normalised(self) -> Tensor:
        """The images as a model sees them: float32 [N, C, H, W], by ``mean`` and ``std``."""
        return augment.normalise(self.images, self.mean, self.std)

    def subset(self, n: int, seed: int = 0) -> "Split":
        """Draw ``n`` images, as many of each class as of any other, to within one image; ``seed`` is the draw.

        Subsets of one seed are nested: the first 100 images are among the first 1,000. Where a class has too few images
        to keep the balance, the others fill the gap. ``mean`` and ``std`` stay those of the whole set.
        """
        if not len(self.classes) <= n <= len(self):
            raise ValueError(f"a subset of {n} images was asked for; it must have at least one image for each of the "
                             f"{len(self.classes)} classes and at most the {len(self)} that are there")
        chosen = torch.from_numpy(_balanced_order(self.labels.cpu().numpy(), seed)[:n]).to(self.images.device)
        masks = None if self.masks is None else self.masks[chosen]
        return replace(self, images=self.images[chosen], labels=self.labels[chosen], masks=masks)

    def to(self, device: torch.device | str) -> "Split":
        """The same split with its tensors on ``device``."""
        masks = None if self.masks is None else self.masks.to(device)
        return replace(self, images=self.images.to(device), labels=self.labels.to(device), masks=masks)


class Splits(NamedTuple):
    """The three splits of a data set, which share classes, mean and deviation. Choose on ``validation``; read ``test``
    once, at the end.

    Example:
        >>> sets = load("scenes", train_images=100, held_out=20)
        >>> [len(split) for split in sets]
        [100, 20, 20]
    """

    train: Split
    validation: Split
    test: Split


def load(
    name_or_path: str | Path, root: str | Path | None = None, *, train_images: int | None = None,
    image_size: Size | None = None, seed: int = 0, held_out: int = 2_000, cues: scenes.Cues | None = None
) -> Splits:
    """Load a data set by name or by path.

    Args:
        name_or_path: ``"scenes"`` (generated, no download), ``"cifar10"`` or ``"cifar100"`` (read from
            ``<root>/NAME.npz``, which the first call downloads and writes), the path of an ``.npz`` file with the
            arrays ``train_images`` uint8 [N, H, W, C], ``train_labels``, ``test_images``, ``test_labels`` and
            ``classes``, or the path of a folder with one folder of images for each class (a tenth of its images becomes
            the validation split, a tenth the test split). It may hold these in folders ``train``, ``val`` and ``test``;
            of the last two each one that is missing is a tenth of the first. Images are read by ``pictures.read``, of
            an animation the first frame; a warning says how many files were left out, and why.
        root: where CIFAR lives. By default the environment variable ``VITLITE_DATA``, else the checkout's ``data/``.
        train_images: how many training images: rendered for scenes (20,000 by default), drawn class-balanced from the
            training split for the others (all by default).
        image_size: pixels, one number or (height, width). Scenes are rendered at it (32 by default); other images are
            resized until they cover it, then cropped at the centre.
        seed: of scenes, which world; of the others, which draw of ``train_images``.
        held_out: scenes only: how many images validation and test have, each.
        cues: scenes only: how much shape, hue and texture say about the class.

    Raises:
        FileNotFoundError: if the path does not exist.
        ValueError: for an unknown name, and for files that do not have the form above.
        ConnectionError: if CIFAR has to be downloaded and cannot be.
        RuntimeError: if the downloaded archive is not the expected one, for example because it was cut short.

    Example:
        >>> sets = load("scenes", train_images=100, held_out=20, image_size=(32, 48))
        >>> sets.train.images.shape, sets.train.classes[0]
        (torch.Size([100, 3, 32, 48]), 'fish')
    """
    name = str(name_or_path)
    if name == "scenes":
        train_images = 20_000 if train_images is None else train_images
        return _load_scenes(train_images, held_out, 32 if image_size is None else image_size, seed, cues)
    if cues is not None:
        raise ValueError(f"cues belong to scenes, and {name!r} is not scenes: leave cues out")
    if name in CIFAR:
        path = data_root(root) / f"{name}.npz"
        if not path.exists():
            _fetch_cifar(CIFAR[name], path)
        return _load_npz(path, train_images, image_size, seed, "remove it, and the next call downloads it again")
    path = Path(name_or_path).expanduser()
    if path.is_dir():
        return _load_folder(path, train_images, image_size, seed)
    if path.is_file():
        return _load_npz(path, train_images, image_size, seed, "write it again")
    raise _not_found(name)


def load_all(name_or_path: str | Path, root: str | Path | None = None, *, image_size: Size | None = None) -> Split:
    """Every image of a set as one split, to evaluate on: nothing is held out, and a class may have a single image.

    Arguments and errors are those of ``load``. ``mean`` and ``std`` are those of ``load``'s training images, or of all
    images of a folder; a trained model brings its own.

    Example:
        >>> import tempfile
        >>> path, pixels, labels = f"{tempfile.mkdtemp()}/x.npz", np.zeros((40, 8, 8, 3), np.uint8), np.arange(40) % 2
        >>> np.savez(path, train_images=pixels, train_labels=labels, test_images=pixels, test_labels=labels,
        ...          classes=np.array(["cat", "fish"]))
        >>> len(load_all(path)), [len(split) for split in load(path)]
        (80, [36, 4, 40])
    """
    path = Path(name_or_path).expanduser()
    if str(name_or_path) not in NAMES and path.is_dir():
        classes, files, *where = _class_folders(path)
        images, labels, _ = _in_order(files, image_size, *where)
        return Split(images, torch.from_numpy(labels), None, classes, *_channel_statistics(images))
    sets = load(name_or_path, root, image_size=image_size)
    masks = None if sets.train.masks is None else torch.cat([split.masks for split in sets])
    return replace(sets.train, images=torch.cat([split.images for split in sets]),
                   labels=torch.cat([split.labels for split in sets]), masks=masks)


def _not_found(name: str) -> Exception:
    """The error for a name that is neither a known set nor a path."""
    if Path(name).exists():
        return ValueError(f"{name!r} is neither a regular file nor a folder: give the path of an .npz file or of a "
                          "folder of class folders")
    if os.sep in name or Path(name).suffix:
        return FileNotFoundError(f"there is no {name!r}: give the path of an .npz file or of a folder of class folders")
    near = difflib.get_close_matches(name.lower(), NAMES, n=2, cutoff=0.4) or NAMES
    return ValueError(f"no data set is called {name!r}, and no file or folder either. Nearest known: "
                      f"{', '.join(near)}. Otherwise give the path of an .npz file or of a folder of class folders")


def data_root(root: str | Path | None = None) -> Path:
    """The folder of downloaded data: the argument, the environment, the checkout's data/, or ./data."""
    said = "root" if root else "VITLITE_DATA"
    root = root or os.environ.get("VITLITE_DATA")
    if root:
        if Path(root).expanduser().is_file():
            raise NotADirectoryError(f"{said} is {str(root)!r}, a file; expected the folder that holds the data")
        return Path(root).expanduser()
    checkout = Path(__file__).resolve().parents[2]
    return checkout / "data" if (checkout / "pyproject.toml").is_file() else Path("data")


# --- from arrays to splits --------------------------------------------------------------------------------


def _load_scenes(train_images: int, held_out: int, image_size: Size, seed: int, cues: scenes.Cues | None) -> Splits:
    for what, n in (("train_images", train_images), ("held_out", held_out)):
        if n < len(scenes.CLASSES):
            raise ValueError(f"{what} is {n}; it must be at least {len(scenes.CLASSES)}, one scene for each class")
    parts = []
    for split, n in (("train", train_images), ("validation", held_out), ("test", held_out)):
        indices = SCENES_START[split] + np.arange(n)
        parts.append(tuple(torch.from_numpy(a) for a in scenes.render(indices, seed, image_size, cues)))
    mean, std = _channel_statistics(parts[0][0])
    return Splits(*(Split(*part, scenes.CLASSES, mean, std) for part in parts))


def _assemble(
    pairs: Iterable[tuple[Tensor, Tensor]], classes: tuple[str, ...], train_images: int | None, seed: int
) -> Splits:
    """Make splits out of (images, labels) pairs, with the statistics of the training images that are used."""
    splits = [Split(*each, None, classes, (0.0,), (0.0,)) for each in pairs]
    if train_images is not None:
        splits[0] = splits[0].subset(train_images, seed)
    mean, std = _channel_statistics(splits[0].images)
    return Splits(*(replace(split, mean=mean, std=std) for split in splits))


def _channel_statistics(images: Tensor) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation of each channel, 0 to 1; exact in any order: from counts of 256 levels."""
    levels = np.arange(256) / 255
    means, stds = [], []
    for channel in range(images.shape[1]):
        share = torch.bincount(images[:, channel].reshape(-1), minlength=256).numpy().astype(np.float64)
        share /= share.sum()
        mean = float(share @ levels)
        means.append(mean)
        stds.append(float(share @ (levels - mean) ** 2) ** 0.5 if share.max() < 1 else 1.0)
    return tuple(means), tuple(stds)


def _balanced_order(labels: np.ndarray, seed: int) -> np.ndarray:
    """An order of which every beginning is class-balanced: round after round, one image of each class."""
    key = scenes.random_bits(seed, np.arange(len(labels)), "subset")
    shuffled = np.argsort(key, kind="stable")
    rank = np.empty(len(labels), dtype=np.int64)  # which image of its class this one is
    for label in np.unique(labels):
        members = shuffled[labels[shuffled] == label]
        rank[members] = np.arange(len(members))
    return np.lexsort((key, rank))


def _hold_out(labels: np.ndarray, share: float, classes: tuple[str, ...]) -> tuple[np.ndarray, np.ndarray]:
    """Split positions in two: the rest, and the first ``share`` of each class (at least one image)."""
    held = np.zeros(len(labels), dtype=bool)
    for label, name in enumerate(classes):
        members = np.flatnonzero(labels == label)
        if len(members) < 2:
            raise ValueError(f"class {name!r} has {len(members)} training image(s) and one is held out; at least two "
                             "are needed: add images or leave the class out")
        held[members[: max(1, round(share * len(members)))]] = True
    return np.flatnonzero(~held), np.flatnonzero(held)


def _hash_order(items: Iterable[bytes | np.ndarray], labels: Sequence[int] | np.ndarray) -> np.ndarray:
    """Positions sorted by the SHA-256 of each item, of which one is held at a time; equal items by label."""
    digests = [hashlib.sha256(item).digest() for item in items]
    return np.array(sorted(range(len(digests)), key=lambda i: (digests[i], int(labels[i]))), dtype=np.int64)


def fitted(images: Tensor, size: Size | None) -> Tensor:
    """Resize uint8 [N, C, H, W] until it covers ``size``, then crop at the centre. None leaves it alone.

    Example:
        >>> fitted(torch.zeros(1, 3, 40, 60, dtype=torch.uint8), 32).shape
        torch.Size([1, 3, 32, 32])
    """
    if size is None:
        return images
    height, width = pair(size, "image_size")
    old_height, old_width = images.shape[-2:]
    if (old_height, old_width) == (height, width):
        return images
    scale = max(height / old_height, width / old_width)
    covering = [max(height, round(old_height * scale)), max(width, round(old_width * scale))]
    return center_crop(resize(images, covering, antialias=True), [height, width])


# --- .npz -------------------------------------------------------------------------------------------------


def _load_npz(path: Path, train_images: int | None, image_size: Size | None, seed: int, remedy: str) -> Splits:
    arrays = _read_npz(path, remedy)
    classes = _names(path, arrays["classes"])
    pairs = {}
    for split in ("train", "test"):
        images, labels = arrays[f"{split}_images"], arrays[f"{split}_labels"].astype(np.int64)
        images = np.ascontiguousarray(images)
        order = _hash_order(images, labels)
        pairs[split] = images[order], labels[order]
    images, labels = pairs["train"]
    kept, held = _hold_out(labels, HELD_OUT, classes)
    parts = ((images[kept], labels[kept]), (images[held], labels[held]), pairs["test"])
    tensors = ((fitted(_channels_first(i), image_size), torch.from_numpy(y)) for i, y in parts)
    return _assemble(tensors, classes, train_images, seed)


def _names(path: Path, names: Iterable[str]) -> tuple[str, ...]:
    """Class names in the one Unicode form, whatever system wrote them; no two of them alike."""
    classes = tuple(unicodedata.normalize("NFC", str(name)) for name in names)
    twice = [name for name, count in Counter(classes).items() if count > 1]
    if twice:
        raise ValueError(f"{path}: more than one class is called {', '.join(twice)}; rename, or put them together")
    return classes


def _channels_first(images: np.ndarray) -> Tensor:
    return torch.from_numpy(images).permute(0, 3, 1, 2).contiguous()


def _read_npz(path: Path, remedy: str) -> dict[str, np.ndarray]:
    """Read and check the five arrays. Nothing is ever unpickled."""
    names = ("train_images", "train_labels", "test_images", "test_labels", "classes")
    wanted = "which needs the arrays " + ", ".join(names)
    with (
        decoding(path, f"no whole .npz of plain arrays, with classes as str and images as uint8, {wanted}", remedy),
        open(path, "rb") as opened, np.load(opened, allow_pickle=False) as file,
    ):
        there = file.files
        arrays = {name: file[name] for name in names if name in there}
    if missing := [name for name in names if name not in arrays]:
        raise ValueError(f"{path} has no array {', '.join(missing)}; it has {', '.join(there) or 'none'}")
    _check_arrays(path, arrays)
    return arrays


def _check_arrays(path: Path, arrays: dict[str, np.ndarray]) -> None:
    classes = arrays["classes"]
    if classes.ndim != 1 or classes.dtype.kind != "U":
        raise ValueError(f"{path}: classes is {_form(classes)}; expected one str for each class, in one dimension")
    if len(classes) < 2:
        raise ValueError(f"{path}: classes names {len(classes)} class(es); at least two are needed to tell apart")
    for split in ("train", "test"):
        images, labels = arrays[f"{split}_images"], arrays[f"{split}_labels"]
        if images.ndim != 4 or images.dtype != np.uint8 or 0 in images.shape:
            raise ValueError(f"{path}: {split}_images is {_form(images)}; expected uint8 [N, H, W, C], none 0")
        if images.shape[3] > 4 >= images.shape[1]:
            raise ValueError(f"{path}: {split}_images has shape {list(images.shape)}, channels second; expected "
                             "[N, H, W, C]: transpose with images.transpose(0, 2, 3, 1)")
        if labels.shape != (len(images),) or labels.dtype.kind not in "iu":
            raise ValueError(f"{path}: {split}_labels is {_form(labels)}; expected {len(images)} integers, one for "
                             "each image")
        if labels.min() < 0 or labels.max() >= len(classes):
            raise ValueError(f"{path}: {split}_labels go from {labels.min()} to {labels.max()}; with {len(classes)} "
                             f"classes they must lie in 0 to {len(classes) - 1}")
    if arrays["train_images"].shape[1:] != arrays["test_images"].shape[1:]:
        train, test = (list(arrays[f"{split}_images"].shape[1:]) for split in ("train", "test"))
        raise ValueError(f"{path}: training images are {train}, test images {test}; expected one shape [H, W, C]")


def _form(array: np.ndarray) -> str:
    return f"{array.dtype} {list(array.shape)}"


# --- a folder of class folders ----------------------------------------------------------------------------

def _load_folder(path: Path, train_images: int | None, image_size: Size | None, seed: int) -> Splits:
    classes, files, *where = _class_folders(path)
    counts = Counter(label for label, split in zip(*where, strict=True) if split == "train")
    least = 4 - len({*where[1]})
    for label, name in enumerate(classes):
        if counts[label] < least:
            raise ValueError(f"class folder {path / name} holds {counts[label]} image(s); at least "
                             f"{('one', 'two', 'three')[least - 1]} are needed, one for each split that is drawn from "
                             "them. To evaluate on what is there, take load_all")
    images, labels, splits = _in_order(files, image_size, *where)
    at, share = {split: np.flatnonzero(splits == split) for split in SPLITS.values()}, HELD_OUT
    for split in ("test", "validation"):
        if not len(at[split]):
            kept, held = _hold_out(labels[at["train"]], share, classes)
            at["train"], at[split] = at["train"][kept], at["train"][held]
            share = HELD_OUT / (1 - HELD_OUT)  # of what is left then
    pairs = ((images[at[split]], torch.from_numpy(labels[at[split]])) for split in ("train", "validation", "test"))
    return _assemble(pairs, classes, train_images, seed)


def _folders(path: Path) -> list[Path]:
    return sorted(p for p in path.iterdir() if p.is_dir() and not p.name.startswith("."))


def _class_folders(path: Path) -> tuple:
    """Class names, and each image's file, label and split: "train" for all where no folder has the name of a split."""
    folders = _folders(path)
    kinds = [SPLITS.get(folder.name.lower()) for folder in folders]
    roots = {"train": path}
    if {"validation", "test"} & {*kinds} or (kinds and all(kinds)):  # "train" beside others is a class
        roots = dict(zip(kinds, folders, strict=True))
        if "train" not in roots or None in roots or not 1 < len(roots) == len(kinds):
            raise ValueError(f"{path} holds {', '.join(folder.name for folder in folders)}; expected class folders "
                             "alone, or train, test and val alone (one of the last two will do) with the class folders "
                             "in each. Move or rename what does not belong, or pass the path of one of them")
    left_out: Counter[str] = Counter()
    names, found = {}, []
    for split in sorted(roots, key="train".__ne__):
        names[split], images = _class_files(roots[split], left_out)
        found += [(*image, split) for image in images]
        if names[split] != names["train"]:
            raise ValueError(f"{roots[split]} has the classes {', '.join(names[split])}; {roots['train']} has "
                             f"{', '.join(names['train'])}: make them the same, an empty folder will do")
    if lost := left_out.total():
        why = ", ".join(f"{count} {reason}" for reason, count in left_out.items() if count)
        warnings.warn(f"{path}: {lost} of {lost + len(found)} files were left out ({why}); images stand in a class "
                      f"folder itself and end in {', '.join(sorted(pictures.SUFFIXES))}", stacklevel=4)
    return names["train"], *zip(*found, strict=True)


def _class_files(root: Path, left_out: Counter[str]) -> tuple[tuple[str, ...], list[tuple[Path, int]]]:
    folders, images = _folders(root), []
    if len(folders) < 2:
        held = f"only {folders[0].name!r}" if folders else "none"
        raise ValueError(f"{root} must hold one folder of images for each class, at least two; it holds {held}")
    left_out["beside the class folders"] += sum(p.suffix.lower() in pictures.SUFFIXES for p in root.iterdir())
    for label, folder in enumerate(folders):
        for entry in sorted(p for p in folder.iterdir() if not p.name.startswith(".")):
            if entry.is_dir():
                left_out["in folders inside a class folder"] += sum(p.is_file() for p in entry.rglob("*"))
            elif entry.suffix.lower() not in pictures.SUFFIXES:
                left_out[f"ending in {entry.suffix}" if entry.suffix else "without an ending"] += 1
            else:
                images.append((entry, label))
    if not images:
        raise ValueError(f"{root} has no images in its class folders, which end in "
                         f"{', '.join(sorted(pictures.SUFFIXES))}: fill it, or take it out")
    return _names(root, (folder.name for folder in folders)), images


def _in_order(files: Sequence[Path], size: Size | None, labels: Sequence[int], splits: Sequence[str]) -> tuple:
    """Images in the order of their files' hashes, with label and split; one file is held in memory at a time."""
    order = _hash_order((pictures.content(file) for file in files), labels)
    return _read_images([files[i] for i in order], size), np.array(labels)[order], np.array(splits)[order]


def _read_images(files: Sequence[Path], size: Size | None) -> Tensor:
    """Decode image files as RGB, uint8 [N, 3, H, W], each made to fit ``size``; else they must agree."""
    images = []
    for file in files:
        images.append(fitted(_channels_first(pictures.read(file)[None]), size)[0])
        if images[-1].shape != images[0].shape:
            first, this = (f"{i.shape[1]}×{i.shape[2]}" for i in (images[0], images[-1]))
            raise ValueError(f"{files[0]} is {first} pixels, {file} is {this}: pass image_size=… to make them one size")
    return torch.stack(images)


# --- CIFAR ------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Archive:
    """An official binary archive: where it is, what it must hash to, and how a record inside it looks."""

    url: str
    sha256: str  # by TensorFlow Datasets, in url_checksums/cifar10.txt and cifar100.txt
    train: tuple[str, ...]
    test: tuple[str, ...]
    names: str
    label_bytes: int  # CIFAR-100 has the coarse label first, then the fine one; the last is the one we read


CIFAR = {
    "cifar10": _Archive(
        url="https://www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz",
        sha256="c4a38c50a1bc5f3a1c5537f2155ab9d68f9f25eb1ed8d9ddda3db29a59bca1dd",
        train=tuple(f"cifar-10-batches-bin/data_batch_{i}.bin" for i in range(1, 6)),
        test=("cifar-10-batches-bin/test_batch.bin",),
        names="cifar-10-batches-bin/batches.meta.txt",
        label_bytes=1,
    ),
    "cifar100": _Archive(
        url="https://www.cs.toronto.edu/~kriz/cifar-100-binary.tar.gz",
        sha256="58a81ae192c23a4be8b1804d68e518ed807d710a4eb253b1f2a199162a40d8ec",
        train=("cifar-100-binary/train.bin",),
        test=("cifar-100-binary/test.bin",),
        names="cifar-100-binary/fine_label_names.txt",
        label_bytes=2,
    ),
}


def _fetch_cifar(archive: _Archive, path: Path) -> None:
    """Download, verify and decode an archive into ``path``, which appears whole or not at all."""
    try_writing(path)
    content = _download(archive, path)
    with written_whole(path) as beside, open(beside, "wb") as file:
        np.savez(file, **_decode(archive, content))


class _NoDetour(urllib.request.HTTPRedirectHandler):
    """Follows a server that sends elsewhere, unless that is to plain http."""

    def redirect_request(self, request, answer, code, message, headers, url):
        if urlsplit(url).scheme != SCHEME:
            raise ConnectionError(f"the server sends to {url}, which is not {SCHEME}")
        return super().redirect_request(request, answer, code, message, headers, url)


def _download(archive: _Archive, path: Path) -> bytes:
    """The bytes of an archive, verified; 170 MB, which stay in memory so that a killed download leaves nothing."""
    instead = f"or put a finished file at {path}, or set VITLITE_DATA to the folder that has one"
    try:
        if urlsplit(archive.url).scheme != SCHEME:
            raise ConnectionError(f"the address is not {SCHEME}")
        with urllib.request.build_opener(_NoDetour).open(archive.url, timeout=SECONDS) as answer:
            content = answer.read(2 * 10**8)  # more than either archive has
    except (OSError, HTTPException) as error:
        raise ConnectionError(
            f"{archive.url} could not be downloaded ({error}). Try again with a network, {instead}; "
            'load("scenes") needs no download'
        ) from error
    if hashlib.sha256(content).hexdigest() != archive.sha256:
        raise RuntimeError(f"{archive.url} did not arrive whole: its sha256 is not {archive.sha256}. Nothing was kept; "
                           f"try again, {instead}")
    return content


def _decode(archive: _Archive, content: bytes) -> dict[str, np.ndarray]:
    """The five arrays of the .npz form out of the binary archive, whose checksum has been verified."""
    arrays = {}
    with tarfile.open(fileobj=io.BytesIO(content)) as tar:

        def read(name: str) -> bytes:
            return tar.extractfile(name).read()

        arrays["classes"] = np.array(read(archive.names).decode().split())
        for split, names in (("train", archive.train), ("test", archive.test)):
            data = np.frombuffer(b"".join(read(name) for name in names), dtype=np.uint8)
            records = data.reshape(-1, archive.label_bytes + 3 * 32 * 32)  # labels; then values of red, green and blue
            pixels = records[:, archive.label_bytes :].reshape(-1, 3, 32, 32)
            arrays[f"{split}_images"] = np.ascontiguousarray(pixels.transpose(0, 2, 3, 1))
            arrays[f"{split}_labels"] = records[:, archive.label_bytes - 1].astype(np.int64)
    return arrays
