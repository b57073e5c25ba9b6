"""One form for every data set, the same images everywhere, and a clear word for every bad input."""

import errno
import hashlib
import io
import os
import re
import socket
import tarfile
import threading
import tracemalloc
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from vitlite.data import Cues, Split, Splits, datasets, load
from vitlite.data.datasets import load_all

Arrays = dict[str, np.ndarray]


def _arrays(train: int = 120, test: int = 30, classes: int = 3, side: int = 8) -> Arrays:
    rng = np.random.default_rng(0)
    return {
        "train_images": rng.integers(0, 256, (train, side, side, 3), dtype=np.uint8),
        "train_labels": np.arange(train) % classes,
        "test_images": rng.integers(0, 256, (test, side, side, 3), dtype=np.uint8),
        "test_labels": np.arange(test) % classes,
        "classes": np.array([f"class {i}" for i in range(classes)]),
    }


def _same(a: Splits, b: Splits) -> None:
    for x, y in zip(a, b, strict=True):
        assert torch.equal(x.images, y.images)
        assert torch.equal(x.labels, y.labels)
        assert (x.classes, x.mean, x.std) == (y.classes, y.mean, y.std)


def _bytes(split: Split) -> set[bytes]:
    return {image.numpy().tobytes() for image in split.images}


@pytest.fixture
def npz(tmp_path: Path) -> Path:
    np.savez(tmp_path / "set.npz", **_arrays())
    return tmp_path / "set.npz"


# --- scenes ---


def test_scenes_have_the_common_form() -> None:
    sets = load("scenes", train_images=60, image_size=(16, 24), held_out=20)
    for split, n in zip(sets, (60, 20, 20), strict=True):
        assert split.images.shape == (n, 3, 16, 24)
        assert split.images.dtype == torch.uint8
        assert split.labels.dtype == torch.int64
        assert split.masks is not None
        assert split.masks.shape == (n, 16, 24)
        assert split.masks.dtype == torch.bool
        assert torch.equal(split.labels.bincount(), torch.full((10,), n // 10))
        assert (split.classes, split.mean, split.std) == (sets.train.classes, sets.train.mean, sets.train.std)
    scaled = sets.train.images.double() / 255
    torch.testing.assert_close(torch.tensor(sets.train.mean).double(), scaled.mean((0, 2, 3)))
    torch.testing.assert_close(torch.tensor(sets.train.std).double(), scaled.std((0, 2, 3), correction=0))


def test_scenes_held_out_never_depend_on_the_training_set_nor_meet_it() -> None:
    small, large = (load("scenes", train_images=n, held_out=20) for n in (30, 60))
    assert torch.equal(small.validation.images, large.validation.images)
    assert torch.equal(small.test.images, large.test.images)
    assert torch.equal(small.train.images, large.train.images[:30])
    assert len(_bytes(large.train) | _bytes(large.validation) | _bytes(large.test)) == 100
    starts = sorted(datasets.SCENES_START.values())
    assert min(np.diff(starts)) >= 10**12  # room for any training set that could be drawn


def test_scenes_take_cues_and_seed() -> None:
    told, plain, other = (
        load("scenes", train_images=20, held_out=10, **options).train.images
        for options in ({}, {"cues": Cues(hue=0, texture=0)}, {"seed": 1})
    )
    assert not torch.equal(told, plain)
    assert not torch.equal(told, other)


@pytest.mark.parametrize("option", ["train_images", "held_out"])
def test_scenes_need_one_image_for_each_class(option: str) -> None:
    with pytest.raises(ValueError, match=f"{option} is 9; it must be at least 10"):
        load("scenes", **{option: 9})


def test_cues_belong_to_scenes(npz: Path) -> None:
    with pytest.raises(ValueError, match="cues belong to scenes"):
        load(npz, cues=Cues())


# --- subsets ---


@pytest.mark.parametrize("seed", [0, 3])
def test_subsets_are_nested_and_balanced(npz: Path, seed: int) -> None:
    train = load(npz).train
    before: set[bytes] = set()
    for n in (3, 10, 50, len(train)):
        subset = train.subset(n, seed)
        counts = subset.labels.bincount(minlength=3)
        assert len(subset) == len(_bytes(subset)) == n
        assert counts.max() - counts.min() <= 1
        assert before <= _bytes(subset)
        before = _bytes(subset)


def test_a_subset_keeps_label_mask_and_statistics_with_the_image() -> None:
    train = load("scenes", train_images=60, held_out=10).train
    subset = train.subset(20, seed=1)
    where = {image.numpy().tobytes(): i for i, image in enumerate(train.images)}
    index = torch.tensor([where[image.numpy().tobytes()] for image in subset.images])
    assert torch.equal(subset.labels, train.labels[index])
    assert torch.equal(subset.masks, train.masks[index])
    assert (subset.mean, subset.std) == (train.mean, train.std)


def test_seeds_draw_different_subsets(npz: Path) -> None:
    train = load(npz).train
    assert _bytes(train.subset(30, seed=0)) != _bytes(train.subset(30, seed=1))


@pytest.mark.parametrize("n", [0, 2, 109])
def test_a_subset_of_impossible_size_is_refused(npz: Path, n: int) -> None:
    with pytest.raises(ValueError, match=f"a subset of {n} images.* 3 classes and at most the 108"):
        load(npz).train.subset(n)


def test_to_moves_every_tensor() -> None:
    split = load("scenes", train_images=10, held_out=10).train.to("meta")
    assert {split.images.device.type, split.labels.device.type, split.masks.device.type} == {"meta"}


# --- .npz ---


def test_npz_is_split_and_complete(npz: Path) -> None:
    sets = load(npz)
    assert [len(split) for split in sets] == [108, 12, 30]
    assert sets.train.images.shape[1:] == (3, 8, 8)
    assert sets.train.masks is None
    assert torch.equal(sets.validation.labels.bincount(), torch.tensor([4, 4, 4]))
    whole = _arrays()
    kept = {(i.numpy().tobytes(), int(y)) for s in sets[:2] for i, y in zip(s.images, s.labels, strict=True)}
    pairs = zip(whole["train_images"].transpose(0, 3, 1, 2), whole["train_labels"], strict=True)
    assert kept == {(image.tobytes(), int(label)) for image, label in pairs}


def test_the_order_of_the_source_changes_nothing(tmp_path: Path, npz: Path) -> None:
    arrays = _arrays()
    shuffle = np.random.default_rng(1).permutation(120)
    arrays["train_images"], arrays["train_labels"] = (
        arrays["train_images"][shuffle],
        arrays["train_labels"][shuffle],
    )
    np.savez(tmp_path / "shuffled.npz", **arrays)
    _same(load(npz), load(tmp_path / "shuffled.npz"))
    _same(load(npz, train_images=20, seed=5), load(tmp_path / "shuffled.npz", train_images=20, seed=5))


def test_train_images_draws_a_subset_and_leaves_the_others(npz: Path) -> None:
    few, all_ = load(npz, train_images=12, seed=2), load(npz)
    assert _bytes(few.train) == _bytes(all_.train.subset(12, seed=2))
    assert torch.equal(few.validation.images, all_.validation.images)
    torch.testing.assert_close(few.train.mean[0], float((few.train.images[:, 0].double() / 255).mean()))


def test_other_sizes_are_resized_and_cropped(npz: Path) -> None:
    assert load(npz, image_size=12).train.images.shape[2:] == (12, 12)
    assert load(npz, image_size=(4, 8)).test.images.shape[2:] == (4, 8)
    with pytest.raises(ValueError, match="at least 1 pixel"):
        load(npz, image_size=0)


def _without(name: str) -> Callable[[Arrays], Arrays]:
    return lambda a: {k: v for k, v in a.items() if k != name}


def _with(**changes: Callable[[np.ndarray], np.ndarray]) -> Callable[[Arrays], Arrays]:
    return lambda a: a | {name: change(a[name]) for name, change in changes.items()}


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (_without("test_labels"), "has no array test_labels; it has train_images"),
        (_with(train_images=lambda a: a[..., 0]), r"train_images is uint8 \[120, 8, 8\]; expected uint8 \[N"),
        (_with(train_images=lambda a: a / 255), r"train_images is float64 .* expected uint8"),
        (_with(test_images=lambda a: a[:0]), r"test_images is uint8 \[0, 8, 8, 3\]"),
        (_with(train_images=lambda a: a.transpose(0, 3, 1, 2)), r"channels second; .*transpose"),
        (_with(test_images=lambda a: a[:, :4]), r"training images are \[8, 8, 3\], test images \[4, 8, 3\]"),
        (_with(train_labels=lambda a: a[:-1]), r"train_labels is int64 \[119\]; expected 120 integers"),
        (_with(train_labels=lambda a: a * 1.0), r"train_labels is float64 \[120\]; expected 120 integers"),
        (_with(train_labels=lambda a: a + 1), "train_labels go from 1 to 3; with 3 classes .* 0 to 2"),
        (_with(test_labels=lambda a: a - 1), "test_labels go from -1 to 1; with 3 classes .* 0 to 2"),
        (_with(train_labels=lambda a: a * 0), "class 'class 1' has 0 training image"),
        (_with(classes=lambda a: a[:1]), "classes names 1 class"),
        (_with(classes=lambda a: np.arange(3)), r"classes is int64 \[3\]; expected one str"),
        (_with(classes=lambda a: a.astype(object)), "no whole .npz of plain arrays, with classes as str.*allow_pickle"),
    ],
)
def test_a_spoiled_npz_is_refused(tmp_path: Path, spoil: Callable[[Arrays], Arrays], message: str) -> None:
    np.savez(tmp_path / "spoiled.npz", **spoil(_arrays()))
    with pytest.raises(ValueError, match=rf"spoiled\.npz.*{message}|{message}"):
        load(tmp_path / "spoiled.npz")


def test_damage_anywhere_is_refused_or_harmless(tmp_path: Path) -> None:
    np.savez_compressed(tmp_path / "whole.npz", **_arrays(train=12, test=6))
    whole, data = load(tmp_path / "whole.npz"), (tmp_path / "whole.npz").read_bytes()
    chance = np.random.default_rng(0)
    for _ in range(200):
        broken = bytearray(data)
        for place in chance.integers(len(data), size=chance.integers(1, 4)):
            broken[place] = chance.integers(256)
        (tmp_path / "broken.npz").write_bytes(broken)
        try:
            _same(whole, load(tmp_path / "broken.npz"))  # a time stamp, say
        except ValueError as error:
            assert "broken.npz" in str(error)  # noqa: PT017


@pytest.mark.parametrize("content", [b"", b"no archive at all", b"PK\x03\x04 cut short"])
def test_a_file_that_is_no_npz_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "broken.npz").write_bytes(content)
    with pytest.raises(ValueError, match=r"broken\.npz is no whole \.npz of plain arrays"):
        load(tmp_path / "broken.npz")


# --- names ---


@pytest.mark.parametrize(("name", "near"), [("cifar", "cifar10"), ("CIFAR-100", "cifar100"), ("scene", "scenes")])
def test_an_unknown_name_gets_the_nearest(name: str, near: str) -> None:
    with pytest.raises(ValueError, match=f"no data set is called {name!r}.* Nearest known: .*{near}"):
        load(name)


def test_a_missing_path_is_named() -> None:
    with pytest.raises(FileNotFoundError, match=r"there is no 'nowhere/set\.npz'"):
        load("nowhere/set.npz")


# --- folders ---


def _folder(root: Path, sides: tuple[int, ...] = (10,), classes: int = 2, images: int = 20) -> Path:
    rng = np.random.default_rng(0)
    for i in range(classes * images):
        side = sides[i % len(sides)]
        pixels = rng.integers(0, 256, (side, side + 2, 3), dtype=np.uint8)
        path = root / f"kind {i % classes}" / f"{i}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(path)
    return root


def test_a_folder_of_class_folders_is_split(tmp_path: Path) -> None:
    sets = load(_folder(tmp_path / "set"))
    assert [len(split) for split in sets] == [32, 4, 4]
    assert sets.train.classes == ("kind 0", "kind 1")
    assert sets.train.images.shape[1:] == (3, 10, 12)
    assert len(_bytes(sets.train) | _bytes(sets.validation) | _bytes(sets.test)) == 40
    pixels = np.asarray(Image.open(tmp_path / "set" / "kind 1" / "1.png")).transpose(2, 0, 1).tobytes()
    labels = [int(y) for s in sets for i, y in zip(s.images, s.labels, strict=True) if i.numpy().tobytes() == pixels]
    assert labels == [1]


def test_file_names_change_nothing(tmp_path: Path) -> None:
    before = load(_folder(tmp_path / "set"))
    for path in (tmp_path / "set").glob("*/*.png"):
        path.rename(path.with_name(hashlib.md5(path.name.encode()).hexdigest() + ".png"))
    _same(before, load(tmp_path / "set"))


def test_images_of_several_sizes_need_an_image_size(tmp_path: Path) -> None:
    _folder(tmp_path, sides=(10, 20))
    with pytest.raises(ValueError, match="pass image_size="):
        load(tmp_path)
    assert load(tmp_path, image_size=8).train.images.shape[1:] == (3, 8, 8)


def test_a_resized_image_keeps_its_centre(tmp_path: Path) -> None:
    # White on the left and right of a grey square: the crop shows the square alone, whatever its size.
    for i in range(6):
        pixels = np.full((20, 40 + 2 * i), 255, dtype=np.uint8)
        pixels[:, 10 + i : 30 + i] = 100
        (tmp_path / f"{i % 2}").mkdir(exist_ok=True)
        Image.fromarray(pixels).save(tmp_path / f"{i % 2}" / f"{i}.png")
    assert load(tmp_path, image_size=10).train.images[..., 1:9].eq(100).all()


def test_spoiled_folders_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"at least two; it holds none"):
        load(tmp_path)
    _folder(tmp_path, classes=1)
    with pytest.raises(ValueError, match=r"at least two; it holds only 'kind 0'"):
        load(tmp_path)
    (tmp_path / "kind 1").mkdir()
    with pytest.raises(ValueError, match=r"kind 1 holds 0 image\(s\); at least three"):
        load(tmp_path)
    for i in range(3):
        (tmp_path / "kind 1" / f"{i}.jpg").write_bytes(b"not an image")
    with pytest.raises(ValueError, match=r"\.jpg is no image that can be read .*replace it"):
        load(tmp_path)


def _fill(folder: Path, count: int, first: int = 0) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for i in range(first, first + count):
        Image.new("RGB", (8, 8), (i, i, len(folder.name))).save(folder / f"{i}.png")


def test_what_is_left_out_of_a_folder_is_counted_with_its_reason(tmp_path: Path) -> None:
    for name in ("cat", "fish"):
        _fill(tmp_path / name, 3)
        _fill(tmp_path / name / "more", 2)
        for i in range(5):
            (tmp_path / name / f"{i}.heic").touch()
    (tmp_path / "fish" / "notes").touch()
    _fill(tmp_path, 1)
    with pytest.warns(UserWarning, match="16 of 22 files were left out") as caught:
        sets = load(tmp_path)
    told = str(caught[0].message)
    for reason in ("1 beside the class folders", "4 in folders inside a class folder", "10 ending in .heic",
                   "1 without an ending"):
        assert reason in told
    assert sum(len(split) for split in sets) == 6


@pytest.mark.parametrize("held", [("val",), ("Test",), ("valid", "test")])
def test_folders_named_for_splits_are_the_splits(tmp_path: Path, held: tuple[str, ...]) -> None:
    for name in ("cat", "fish"):
        _fill(tmp_path / "train" / name, 20)
        for number, split in enumerate(held):
            _fill(tmp_path / split / name, 7, first=100 + 10 * number)
    sets = load(tmp_path)
    sizes = {"validation": 4, "test": 4} | {datasets.SPLITS[split.lower()]: 14 for split in held}
    assert [len(split) for split in sets] == [40 - 4 * (2 - len(held)), sizes["validation"], sizes["test"]]
    assert {split.classes for split in sets} == {("cat", "fish")}
    for name, split in zip(("train", "validation", "test"), sets, strict=True):
        own = name == "train" or name not in [datasets.SPLITS[split.lower()] for split in held]
        assert bool((split.images[:, 0] < 100).all()) == own, "every image is in the split that it was put in"
    assert len(load_all(tmp_path)) == 40 + 14 * len(held)


def test_a_mixture_of_splits_and_classes_is_refused_and_each_way_out_works(tmp_path: Path) -> None:
    for name in ("cat", "fish"):
        _fill(tmp_path / "train" / name, 10)
        _fill(tmp_path / "test" / name, 3, first=100)
    _fill(tmp_path / "extra", 3)
    with pytest.raises(ValueError, match="holds extra, test, train; expected class folders alone, or train, test"):
        load(tmp_path)
    assert len(load(tmp_path / "train").train) == 16
    (tmp_path / "extra").rename(tmp_path.parent / f"{tmp_path.name}-extra")
    assert len(load(tmp_path).test) == 6
    (tmp_path / "test" / "cat").rename(tmp_path / "test" / "dog")
    with pytest.raises(ValueError, match=r"test has the classes dog, fish; .*train has cat, fish: make them the same"):
        load(tmp_path)
    (tmp_path / "test" / "cat").mkdir()
    (tmp_path / "train" / "dog").mkdir()
    _fill(tmp_path / "train" / "dog", 5)
    assert load(tmp_path).test.labels.bincount(minlength=3).tolist() == [0, 3, 3]
    (tmp_path / "test").rename(tmp_path.parent / f"{tmp_path.name}-test")
    with pytest.raises(ValueError, match="holds train; expected"):
        load(tmp_path)


def test_a_train_is_also_a_vehicle(tmp_path: Path) -> None:
    for name in ("bus", "train"):
        _fill(tmp_path / name, 5)
    assert load(tmp_path).train.classes == ("bus", "train")


def test_every_image_can_be_had_for_evaluation(tmp_path: Path, npz: Path) -> None:
    _fill(tmp_path / "set" / "cat", 1)
    _fill(tmp_path / "set" / "fish", 4)
    with pytest.raises(ValueError, match=r"cat holds 1 image\(s\); at least three .*take load_all"):
        load(tmp_path / "set")
    assert load_all(tmp_path / "set").labels.bincount().tolist() == [1, 4]
    whole, sets = load_all(npz, image_size=4), load(npz, image_size=4)
    assert len(whole) == sum(map(len, sets)) == len(torch.unique(whole.images, dim=0))
    assert (whole.mean, whole.std) == (sets.train.mean, sets.train.std)


def test_a_hanging_file_and_a_hanging_set_are_refused(tmp_path: Path) -> None:
    for name in ("cat", "fish"):
        _fill(tmp_path / "set" / name, 3)
    os.mkfifo(tmp_path / "set" / "cat" / "x.png")
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(ValueError, match=r"x\.png is no image that can be read \(it is no regular file\)"):
        load(tmp_path / "set")
    with pytest.raises(ValueError, match="neither a regular file nor a folder"):
        load(tmp_path / "pipe")


def test_class_names_have_one_unicode_form(tmp_path: Path) -> None:
    _fill(tmp_path / "cafe\u0301", 3)  # as macOS writes it
    _fill(tmp_path / "tea", 3)
    assert load(tmp_path).train.classes == ("caf\u00e9", "tea")
    _fill(tmp_path / "caf\u00e9", 3)
    with pytest.raises(ValueError, match="more than one class is called caf\u00e9; rename"):
        load(tmp_path)


def test_files_are_hashed_one_at_a_time(tmp_path: Path) -> None:
    for name in ("cat", "fish"):
        _fill(tmp_path / name, 3)
        for path in (tmp_path / name).iterdir():
            path.write_bytes(path.read_bytes() + bytes(5_000_000))  # which no decoder reads
    tracemalloc.start()
    load(tmp_path)
    assert tracemalloc.get_traced_memory()[1] < 15_000_000, "two of the six, at most"
    tracemalloc.stop()


def test_a_constant_channel_stays_finite(tmp_path: Path) -> None:
    for name in ("cat", "fish"):
        _fill(tmp_path / name, 5)
    train = load(tmp_path).train.subset(2)
    np.savez(tmp_path / "blue.npz", **(_arrays() | {"train_images": np.full((120, 8, 8, 3), 7, np.uint8)}))
    train = load(tmp_path / "blue.npz").train
    assert train.std == (1.0, 1.0, 1.0)
    assert train.normalised().abs().max() < 1e-6


# --- CIFAR ---


def _records(n: int, label_bytes: int, classes: int, seed: int) -> bytes:
    data = np.random.default_rng(seed).integers(0, 256, (n, label_bytes + 3072), dtype=np.uint8)
    data[:, label_bytes - 1] = np.arange(n) % classes
    return data.tobytes()


def _archive(name: str) -> bytes:
    """An archive like the official one, with few images."""
    official = datasets.CIFAR[name]
    classes = {"cifar10": 10, "cifar100": 100}[name]
    names = "\n".join(f"thing_{i}" for i in range(classes)) + "\n\n"
    files = {official.names: names.encode()}
    for i, member in enumerate(official.train + official.test):
        files[member] = _records(2 * classes, official.label_bytes, classes, seed=i)
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as tar:
        for path, content in files.items():
            member = tarfile.TarInfo(path)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    return buffer.getvalue()


class _Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *args: object) -> None:
        pass


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[Path, str]]:
    """A folder and the address it is served at, which is taken for a safe one."""
    monkeypatch.setattr(datasets, "SCHEME", "http")
    folder = tmp_path / "served"
    folder.mkdir()
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(_Quiet, directory=str(folder))) as httpd:
        thread = threading.Thread(target=httpd.serve_forever, args=(0.01,))
        thread.start()
        yield folder, f"http://127.0.0.1:{httpd.server_port}"
        httpd.shutdown()
        thread.join()


def _point_at(monkeypatch: pytest.MonkeyPatch, name: str, url: str, content: bytes) -> None:
    made = replace(datasets.CIFAR[name], url=url, sha256=hashlib.sha256(content).hexdigest())
    monkeypatch.setitem(datasets.CIFAR, name, made)


@pytest.mark.parametrize("name", ["cifar10", "cifar100"])
def test_cifar_is_downloaded_decoded_and_kept(
    tmp_path: Path, server: tuple[Path, str], monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    folder, address = server
    (folder / "made.tar.gz").write_bytes(content := _archive(name))
    _point_at(monkeypatch, name, f"{address}/made.tar.gz", content)
    monkeypatch.setenv("VITLITE_DATA", str(tmp_path / "root"))
    sets = load(name)
    classes = len(sets.train.classes)
    assert sets.train.classes == tuple(f"thing_{i}" for i in range(classes))
    assert len(sets.train) + len(sets.validation) == 2 * classes * len(datasets.CIFAR[name].train)
    assert len(sets.test) == 2 * classes

    # The first record of the test file: its label, and its pixels channel by channel.
    label_bytes = datasets.CIFAR[name].label_bytes
    last = len(datasets.CIFAR[name].train)
    record = _records(2 * classes, label_bytes, classes, seed=last)[: label_bytes + 3072]
    found = [i for i, image in enumerate(sets.test.images) if image.numpy().tobytes() == record[label_bytes:]]
    assert len(found) == 1
    assert sets.test.labels[found[0]] == record[label_bytes - 1]

    assert [path.name for path in (tmp_path / "root").iterdir()] == [f"{name}.npz"]
    (folder / "made.tar.gz").unlink()
    _same(sets, load(name))  # from the file now
    _same(sets, load(tmp_path / "root" / f"{name}.npz"))


def test_a_truncated_download_is_refused_and_leaves_nothing(
    tmp_path: Path, server: tuple[Path, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, address = server
    content = _archive("cifar10")
    (folder / "made.tar.gz").write_bytes(content[:-1000])
    _point_at(monkeypatch, "cifar10", f"{address}/made.tar.gz", content)
    with pytest.raises(RuntimeError, match=r"did not arrive whole.*Nothing was kept; try again"):
        load("cifar10", tmp_path / "root")
    assert list((tmp_path / "root").iterdir()) == []


def test_without_a_network_the_error_says_what_to_do(
    tmp_path: Path, server: tuple[Path, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    _point_at(monkeypatch, "cifar10", f"{server[1]}/not-there.tar.gz", b"")
    message = re.escape(f"put a finished file at {tmp_path / 'root' / 'cifar10.npz'}")
    with pytest.raises(ConnectionError, match=rf"could not be downloaded .*{message}, or set VITLITE_DATA"):
        load("cifar10", tmp_path / "root")
    assert list((tmp_path / "root").iterdir()) == []


def test_a_full_disk_is_named_and_leaves_nothing(
    tmp_path: Path, server: tuple[Path, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*args: object, **arrays: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    (server[0] / "made.tar.gz").write_bytes(content := _archive("cifar10"))
    _point_at(monkeypatch, "cifar10", f"{server[1]}/made.tar.gz", content)
    monkeypatch.setattr(np, "savez", full)
    with pytest.raises(OSError, match=r"could not write .*cifar10\.npz \(No space .*free some space") as caught:
        load("cifar10", tmp_path / "root")
    assert caught.value.errno == errno.ENOSPC
    assert list((tmp_path / "root").iterdir()) == []


def test_the_checksum_must_be_right(
    tmp_path: Path, server: tuple[Path, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (server[0] / "made.tar.gz").write_bytes(content := _archive("cifar10"))
    _point_at(monkeypatch, "cifar10", f"{server[1]}/made.tar.gz", content)
    monkeypatch.setitem(datasets.CIFAR, "cifar10", replace(datasets.CIFAR["cifar10"], sha256="0" * 64))
    with pytest.raises(RuntimeError, match="its sha256 is not 000.*Nothing was kept; try again"):
        load("cifar10", tmp_path / "root")
    assert list((tmp_path / "root").iterdir()) == []


def test_only_https_is_fetched_also_where_a_server_sends_elsewhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert all(archive.url.startswith("https://") for archive in datasets.CIFAR.values())
    _point_at(monkeypatch, "cifar10", "http://127.0.0.1:9/made.tar.gz", b"")
    with pytest.raises(ConnectionError, match="the address is not https"):
        load("cifar10", tmp_path)
    follow = datasets._NoDetour().redirect_request
    request = datasets.urllib.request.Request("https://one.example/a")
    assert follow(request, None, 302, "", {}, "https://two.example/b").full_url == "https://two.example/b"
    with pytest.raises(ConnectionError, match="the server sends to http://two.example/b, which is not https"):
        follow(request, None, 302, "", {}, "http://two.example/b")


def test_a_server_that_stalls_is_given_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datasets, "SCHEME", "http")
    monkeypatch.setattr(datasets, "SECONDS", 0.2)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        _point_at(monkeypatch, "cifar10", f"http://127.0.0.1:{silent.getsockname()[1]}/made.tar.gz", b"")
        with pytest.raises(ConnectionError, match=r"could not be downloaded \(.*timed out\).*Try again"):
            load("cifar10", tmp_path)


def test_the_advice_for_a_cached_file_that_is_damaged_leads_to_a_good_one(
    tmp_path: Path, server: tuple[Path, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (server[0] / "made.tar.gz").write_bytes(content := _archive("cifar10"))
    _point_at(monkeypatch, "cifar10", f"{server[1]}/made.tar.gz", content)
    whole, path = load("cifar10", tmp_path), tmp_path / "cifar10.npz"
    path.write_bytes(path.read_bytes()[:-1000])
    with pytest.raises(ValueError, match=r"cifar10\.npz is no whole .*remove it, and the next call downloads"):
        load("cifar10", tmp_path)
    path.unlink()
    _same(whole, load("cifar10", tmp_path))


def test_a_root_that_is_a_file_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(NotADirectoryError, match="root is '.*file', a file; expected the folder"):
        load("cifar10", tmp_path / "file")
    monkeypatch.setenv("VITLITE_DATA", str(tmp_path / "file"))
    with pytest.raises(NotADirectoryError, match="VITLITE_DATA is '.*file', a file"):
        load("cifar10")


def test_the_root_is_the_argument_the_environment_or_the_checkout(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VITLITE_DATA", "elsewhere")
    assert datasets.data_root("here") == Path("here")
    assert datasets.data_root(None) == Path("elsewhere")
    monkeypatch.delenv("VITLITE_DATA")
    assert datasets.data_root(None) == Path(datasets.__file__).resolve().parents[2] / "data"


def test_normalised_is_what_a_model_sees():
    train = load("scenes", train_images=200, held_out=10).train
    images = train.normalised()
    assert images.dtype == torch.float32
    torch.testing.assert_close(images.mean(dim=(0, 2, 3)), torch.zeros(3), atol=1e-3, rtol=0)
    torch.testing.assert_close(images.std(dim=(0, 2, 3)), torch.ones(3), atol=1e-2, rtol=0)
