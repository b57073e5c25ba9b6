"""What the libraries have in common: reading, renaming, and a model out of another's tensors, all of them or none."""

from __future__ import annotations

import dataclasses
import json
import math
import re
import warnings
import zipfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple, TypedDict

import safetensors
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vitlite import checks, sealed
from vitlite.checks import Size, pair
from vitlite.config import ViTConfig
from vitlite.files import decoding
from vitlite.hybrid import R50
from vitlite.model import PatchEmbed, ViT

Source = nn.Module | Mapping[str, Tensor] | str | Path

# What ViTConfig cannot express, by the names it has in the libraries, and what ours has instead.
INEXPRESSIBLE = {
    r"rope|rotary": "rotary positions whose angles are learned or stored; ours follow from the grid",
    r"norm_pre|pre_?layr?norm": "a norm before the first block; ours enter it as they are",
    r"attn_pool|MAPHead": "attention pooling, a layer of its own; ours takes the class token or the mean",
    r"att\w+\.gate": "a gated attention, which multiplies its output; ours leaves it as it is",
    r"rel_pos|relative_position": "relative position biases; ours are keys",
    r"attn\.norm|mlp\.norm": "a norm inside attention or MLP; ours stand before them",
    r"patch_embed\.(backbone|norm)|conv_(root|proj\.\w+\.)": "a stem that is no plain projection, nor the ResNet-50",
    r"attn\.weight'*$|(^|\.)input\d'*$": "numbers of no layer, as of rotary positions: pass the model or its state",
}


# The tensors that tell a model's shape, by our names, with their axes.
AXES = {"patch_embed.projection.weight": 4, "blocks.0.norm1.weight": 1, "blocks.0.mlp.contract.weight": 2}
OPTIONAL = {"position": 3, "registers": 3, "head.out.weight": 2}


class Options(TypedDict, total=False):
    """What the tensors of a state dict do not tell, and the caller may."""

    num_heads: int | None
    layer_norm_eps: float | None
    gelu: str | None
    pool: str | None
    position: str | None


class Library(NamedTuple):
    """Whose weights: what we call their model, their names for our tensors, and their way of resampling positions.

    A block's number is ``{}`` in a name; an entry stands for a tensor, or for a layer with its weight and bias. Where
    they have two names for one thing, the first is the one that is written. ``head.hidden`` and ``head.out`` are the
    head's layers. ``untold`` is what the tensors do not tell and their models may have otherwise.
    """

    title: str
    convention: str
    names: Mapping[str, str]
    untold: tuple[str, ...] = ()


def named(outside: Mapping[str, str], block: str, inside: Mapping[str, str]) -> dict[str, str]:
    """A table of names: outside the blocks, and inside one, ``block`` being what stands before its number."""
    return {**outside} | {f"{block}{{}}.{theirs}": f"blocks.{{}}.{ours}" for theirs, ours in inside.items()}


def fill(model: nn.Module, state: Mapping[str, Tensor], origin: str, check_only: bool = False) -> None:
    """Load a state dict, all of it or nothing; with ``check_only`` see whether it would fit, and load nothing.

    Example:
        >>> fill(torch.nn.Linear(2, 1), {"weight": torch.ones(1, 3)}, "the file")
        Traceback (most recent call last):
        ValueError: the file does not fit the model; nothing was loaded:
          weight: [1, 3] there, [1, 2] in the model
          bias: missing
        Build the model that these weights are of, or fetch them again
    """
    _check_state(state)
    wanted = model.state_dict()
    wrong = [f"{name}: {list(state[name].shape)} there, {list(tensor.shape)} in the model"
             for name, tensor in wanted.items() if name in state and state[name].shape != tensor.shape]
    wrong += [f"{name}: {why}" for name, tensor in wanted.items()
              if name in state and (why := flaw(state[name], tensor.dtype))]
    wrong += [f"{name}: missing" for name in wanted if name not in state]
    wrong += [f"{name}: not in the model" for name in state if name not in wanted]
    if wrong:
        raise ValueError(f"{origin} does not fit the model; nothing was loaded:\n  " + "\n  ".join(wrong)
                         + "\nBuild the model that these weights are of, or fetch them again")
    if not check_only:
        model.load_state_dict(dict(state))


def flaw(tensor: Tensor, wanted: torch.dtype | None = None) -> str | None:
    """Why a tensor is no weight, or None if it is one: its numbers are missing, of another kind, or not finite."""
    if tensor.is_meta or tensor.layout != torch.strided:
        return "no plain tensor with numbers"
    if wanted is not None and tensor.is_floating_point() != wanted.is_floating_point:
        return f"{tensor.dtype} there, {wanted} in the model"
    if tensor.is_complex():
        return "complex numbers"
    if tensor.is_floating_point():
        whole = tensor if tensor.element_size() > 1 else tensor.float()
        if bad := int((~whole.isfinite()).sum()):
            return f"{bad} of {tensor.numel()} values not finite"
    return None


def bare(model: nn.Module) -> nn.Module:
    """A model without what torch.compile, DataParallel or weight averaging wrapped around it."""
    while isinstance(model, nn.Module):
        inner = getattr(model, "_orig_mod", None) or getattr(model, "module", None)
        if not isinstance(inner, nn.Module):
            break
        model = inner
    return model


# ---- what comes in


@contextmanager
def naming(source: object) -> Iterator[None]:
    """Put a file's name in front of an error that does not say it."""
    try:
        yield
    except (TypeError, ValueError) as error:
        if isinstance(source, str | Path) and str(source) not in str(error):
            error.args = (f"{source}: {error}",)
        raise


def read(source: Source) -> tuple[dict[str, Tensor], nn.Module | None]:
    """The state dict, without what wrappers put in front of its names, and the model if it is one."""
    if isinstance(source, nn.Module):
        source = bare(source)
        return dict(source.state_dict()), source
    if not isinstance(source, Mapping | str | Path):
        raise TypeError(f"source is a {type(source).__name__}; expected a model, its state dict, or a file of that")
    where = source if isinstance(source, str | Path) else "source"
    if where == source and (shard := re.search(r"-\d+-of-(\d+)\.\w+$", str(source))) and int(shard[1]) > 1:
        raise ValueError(f"{source} is one shard of {int(shard[1])}; pass the folder, or its .index.json")
    state = _file(Path(source)) if where == source else source
    if not isinstance(state, Mapping):
        raise ValueError(f"{where} holds a {type(state).__name__}; expected a state dict")
    found = _state_dicts(state)
    if len(found) > 1:
        raise ValueError(f"{where} holds several state dicts, {', '.join(found)}: raw and averaged weights, or those "
                         f"of several models; pass the one you mean, such as torch.load(path){list(found)[-1]}")
    if found:
        (state,) = found.values()
    _check_state(state)
    state = {name: tensor for name, tensor in state.items() if name != "n_averaged"}  # torch's averaged model counts
    while all("." in name for name in state) and len({name.partition(".")[0] for name in state}) == 1 < len(state):
        state = {name.partition(".")[2]: tensor for name, tensor in state.items()}  # "module.", "_orig_mod.", "model."
    return state, None


def _state_dicts(state: Mapping, place: str = "", depth: int = 3) -> dict[str, Mapping]:
    """Every state dict in a checkpoint, by how to get at it: a mapping with a tensor whose name has a dot."""
    if any(isinstance(name, str) and "." in name and isinstance(value, Tensor) for name, value in state.items()):
        return {place: state}
    return {where: found for name, value in state.items() if isinstance(value, Mapping) and depth
            for where, found in _state_dicts(value, f"{place}[{name!r}]", depth - 1).items()}


def _check_state(state: object) -> None:
    checks.kind(Mapping, state=state)
    for name, value in state.items():
        if not isinstance(value, Tensor) or not isinstance(name, str):
            raise TypeError(f"expected a state dict, a tensor for every name, but {name!r} is a "
                            f"{type(value).__name__}; pass model.state_dict()")


READERS = {".npz": "from_npz", ".onnx": "from_onnx"}
FOLDER = ("model.safetensors", "model.safetensors.index.json", "pytorch_model.bin", "pytorch_model.bin.index.json")


def _file(path: Path) -> object:
    """What a file holds, by its first bytes and not by its name; of a folder, what ``save_pretrained`` writes there."""
    if path.is_dir():
        inside = next((path / name for name in FOLDER if (path / name).is_file()), None)
        if inside is None:
            raise ValueError(f"{path} is a folder without {', '.join(FOLDER)}; pass the file with the weights")
        return _file(inside)
    head = sealed.start(path)
    if path.suffix in READERS:
        raise ValueError(f"{path} is an {path.suffix} file; read it with {READERS[path.suffix]}")
    if path.name.endswith(".index.json"):
        return _shards(path)
    with decoding(path, "damaged, or holds more than tensors", "fetch it again, or save model.state_dict() alone"):
        if head[8:9] != b"{":
            if not head.startswith((b"PK", b"\x80")):
                raise ValueError(f"it is of neither safetensors nor torch.save, for it begins with {head!r}")
            if head.startswith(b"PK"):  # torch does not compare its check sums
                with zipfile.ZipFile(path) as parts:
                    if any(part.CRC for part in parts.infolist()) and (wrong := parts.testzip()):
                        raise ValueError(f"{wrong} differs from its check sum")
            try:
                with open(path, "rb") as file:  # by its name, torch would go by the suffix
                    return torch.load(file, map_location="cpu", weights_only=True)
            except Exception as error:  # of which some advise to run whatever the file holds
                raise ValueError("only running it would tell") if "weights_only" in str(error) else error from None
        with safetensors.safe_open(path, "pt") as file:
            ours = "vitlite" in (file.metadata() or {})
            state = {} if ours else {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (no dict)
    if ours:
        raise ValueError(f"{path} is a model of vitlite's; read it with weights.load")
    return state


def _shards(path: Path) -> dict[str, Tensor]:
    """The tensors of all the files that an index lists."""
    advice = "fetch the folder again"
    with decoding(path, "damaged as an index of shards", advice):
        places = json.loads(path.read_text(encoding="utf-8"))["weight_map"]
        files = sorted(set(places.values()))
        if not files or any(Path(name).name != name or name.endswith(".json") or len(name) > 255 for name in files):
            raise ValueError("it lists no files, or some outside of the folder")
    if gone := [name for name in files if not (path.parent / name).is_file()]:
        raise FileNotFoundError(f"there is no file {path.parent / gone[0]}, which {path.name} lists; {advice}")
    state = {}
    for name in files:
        state |= _file(path.parent / name)
    if state.keys() != places.keys():
        odd = sorted(state.keys() ^ places.keys())
        raise ValueError(f"{path} does not fit its files ({odd[0]} and {len(odd) - 1} more are only in one); {advice}")
    return state


def given(options: Options) -> dict:
    """The options that the caller has set, None being nothing."""
    known = Options.__annotations__
    if unknown := options.keys() - known.keys():
        raise TypeError(f"there is no option {', '.join(unknown)}; expected some of {', '.join(known)}")
    return {name: value for name, value in options.items() if value is not None}


def epsilon(model: nn.Module) -> float:
    """The one epsilon of a model's LayerNorms."""
    return one_epsilon({module.eps for module in model.modules() if isinstance(module, nn.LayerNorm)})


def one_epsilon(values: set[float]) -> float:
    """The only one of them."""
    if len(values) != 1:
        raise ValueError("ViTConfig has one epsilon for every LayerNorm; this model has "
                         f"{sorted(values) or 'no LayerNorm'}")
    return values.pop()


def gelu_of(activation: nn.Module) -> str:
    """Which GELU an activation is, by what it does."""
    x = torch.linspace(-4, 4, 81)
    for approximate, name in (("none", "exact"), ("tanh", "tanh")):
        if torch.allclose(activation(x), F.gelu(x, approximate=approximate), rtol=0, atol=1e-5):
            return name
    raise ValueError(f"ViTConfig cannot express the activation {type(activation).__name__}; it knows two forms of GELU")


def refuse(beginning: str, reasons: Mapping[str, bool]) -> None:
    """Raise a ValueError with every reason that holds."""
    holding = [reason for reason, holds in reasons.items() if holds]
    if holding:
        raise ValueError(f"{beginning} {', no '.join(holding)}")


def refuse_names(library: Library, names: Iterable[str]) -> None:
    """Raise a ValueError if one of these names of tensors or modules stands for what ViTConfig cannot express."""
    names, refused = dict.fromkeys(names), []
    for pattern, what in INEXPRESSIBLE.items():
        if named := [name for name in names if re.search(pattern, name)]:
            refused.append(f"{named[0]}: {what}" + (f" ({len(named) - 1} more)" if len(named) > 1 else ""))
    if refused:
        raise ValueError(f"{library.title} with what ViTConfig cannot express; nothing was loaded:\n  "
                         + "\n  ".join(refused))


def names_of(model: nn.Module) -> list[str]:
    """The names of a model's tensors, and of its modules that do something."""
    return [*model.state_dict(), *(name for name, part in model.named_modules() if not isinstance(part, nn.Identity))]


# ---- a model out of theirs


def assemble(
    library: Library, state: Mapping[str, Tensor], known: Mapping, image_size: Size | None, num_classes: int | None,
    remarks: Sequence[str] = (), assumed: Mapping | None = None,
) -> ViT:
    """A model out of their tensors and what is known beside; its warnings point at the caller's caller."""
    if wrong := [f"{name} ({why})" for name, tensor in state.items()
                 if (why := flaw(tensor, None if name.endswith("num_batches_tracked") else torch.float32))]:
        raise ValueError(f"the state of {library.title} holds what is no weight, so nothing was loaded: {wrong[0]}"
                         + (f" and {len(wrong) - 1} more" if len(wrong) > 1 else "") + "; pass the original weights")
    try:
        state, more = _ours(library, state)
        config, taken = _config(library, state, known, assumed or {}, image_size)
        stem = _stem(state)
        stem = stem and R50(**stem)
    except (LookupError, RuntimeError, OverflowError) as error:
        cause = str(error).partition("\n")[0] or type(error).__name__
        raise ValueError(f"the tensors of {library.title} do not fit one another ({cause}); nothing was loaded: fetch "
                         "or save them again") from error
    remarks = [*remarks, *more, *taken]
    classes, width = state.get("head.out.weight", torch.zeros(0, config.embed_dim)).shape
    both = width == 2 * config.embed_dim
    if both and num_classes is None:
        raise ValueError(f"{library.title} whose head reads the class token and the mean of the patches side by side; "
                         "ViTConfig's reads one of them: pass num_classes= for a new head")
    headless = not any(name.startswith("head.out.") for name in state)
    if headless and num_classes is None:
        num_classes = ViTConfig.num_classes
    new_head = headless or both or num_classes not in (None, classes)
    if new_head:
        config = dataclasses.replace(config, num_classes=num_classes, head="linear", zero_head=True)
        state = {name: tensor for name, tensor in state.items() if not _of_head(name)}
        why = f"{library.title} without a head: a new one" if headless else "the head is new"
        remarks.append(f"{why}, for {num_classes} classes, and starts at zero: train it")
    model, state = ViT(config, stem), renamed(state, _head_names(config))
    state["patch_embed.projection.weight"] = state["patch_embed.projection.weight"].flatten(1)  # kernel -> matrix
    if stem is not None:
        state = renamed(state, {"patch_embed.projection": "patch_embed.patches.projection"})
    if new_head:
        state |= {name: tensor for name, tensor in model.state_dict().items() if _of_head(name)}
    fill(model, state, f"the state of {library.title}")
    asked = config.image_size if image_size is None else image_size
    (old_height, old_width), (height, width) = pair(config.image_size), pair(asked)
    if (old_height, old_width) != (height, width):
        model = model.at_resolution((height, width), library.convention)
        remarks.append(
            f"the model was made for images of {old_height}×{old_width}; its positions are resampled for "
            f"{height}×{width} as by convention {library.convention!r}"
        )
    for remark in remarks:
        warnings.warn(remark, stacklevel=3)
    return model.eval()


def _ours(library: Library, state: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], list[str]]:
    """Their tensors under our names, and what there is to remark."""
    first, state = ", ".join(list(state)[:3]), renamed(state, library.names)
    refuse_names(library, state)
    for name, axes in (AXES | {name: axes for name, axes in OPTIONAL.items() if name in state}).items():
        if name not in state or state[name].ndim != axes:
            raise ValueError(f"these are not the weights of {library.title} with a plain patch projection: nothing in "
                             f"them is {name} with {axes} axes (first names: {first})" + _inside(library, state))
    remarks = []
    for name in [name for name in state if name.startswith("blocks.") and ".query." in name]:
        parts = [name.replace("query", part) for part in ("query", "key", "value")]
        if name.endswith("bias") and parts[1] not in state:
            state[parts[1]] = torch.zeros_like(state[name])
            remarks = [f"{library.title} whose keys have no bias: zeros stand in for it"]
        if all(part in state for part in parts):
            state[name.replace("query", "qkv")] = torch.cat([state.pop(part) for part in parts])
    for name in [name for name in state if name.startswith("blocks.") and ".mlp.up." in name]:
        gate = state.pop(name.replace("up", "gate"), None)
        up = state.pop(name)
        state[name.replace("up", "expand")] = up if gate is None else torch.cat([gate, up])
    _fold_layer_scale(state)
    if "late_registers" in state and "class_token" in state:
        if (table := state.get("position")) is not None:
            # its first row is the class token's, registers come after positions are added
            state |= {"class_token": state["class_token"].float() + table[:, :1], "position": table[:, 1:]}
        registers = state.pop("late_registers")
        state |= {"registers": registers} if registers.numel() else {}
    if any(name.endswith(("qkv.bias", "query.bias")) for name in state):
        return state, remarks
    zeros = state["blocks.0.norm1.weight"].new_zeros(3 * len(state["blocks.0.norm1.weight"]))
    state |= {f"blocks.{block}.attention.qkv.bias": zeros for block in range(_depth(state))}
    return state, [f"{library.title} whose query, key and value have no bias: zeros stand in for it"]


def _inside(library: Library, state: Mapping[str, Tensor]) -> str:
    """Where else in these tensors the model may be: what stands before the name of its patch projection."""
    ends = [f".{theirs}.weight" for theirs, ours in library.names.items() if ours == "patch_embed.projection"]
    for name in state:
        for end in ends:
            if name.endswith(end):
                prefix = name.removesuffix(end) + "."
                return (f"; they stand behind {prefix!r}: pass {{name.removeprefix({prefix!r}): tensor for name, "
                        f"tensor in state.items() if name.startswith({prefix!r})}}")
    return ""


def _fold_layer_scale(state: dict[str, Tensor]) -> None:
    """Layer scale λ multiplies what a branch gives, so it may stand in the branch's last layer: λ·(Wx + b)."""
    for block in range(_depth(state)):
        for scale, layer in (("scale1", "attention.projection"), ("scale2", "mlp.contract")):
            name = next((name for name in state if name.startswith(f"blocks.{block}.{scale}.")), None)
            weight, bias = (f"blocks.{block}.{layer}.{leaf}" for leaf in ("weight", "bias"))
            if name and all(part in state and len(state[part]) == state[name].numel() for part in (weight, bias)):
                factor = state.pop(name).flatten().float()
                state |= {weight: factor[:, None] * state[weight], bias: factor * state[bias]}


def _stem(state: Mapping[str, Tensor]) -> dict | None:
    """What makes the paper's ResNet-50 in front, if its tensors are there."""
    if (root := state.get("patch_embed.trunk.0.weight")) is None:
        return None
    channels, in_channels = root.shape[:2]
    width, _, map_patch, _ = state["patch_embed.projection.weight"].shape
    stages = len({name.split(".")[2] for name in state if re.match(r"patch_embed\.trunk\.\d+\.0\.", name)})
    return {"embed_dim": width, "in_channels": in_channels, "stride": 4 * 2 ** (stages - 1), "width": channels // 64,
            "map_patch": map_patch}


def _depth(state: Mapping[str, Tensor]) -> int:
    return 1 + max(int(block[1]) for block in map(re.compile(r"blocks\.(\d+)\.").match, state) if block)


def _config(
    library: Library, state: Mapping[str, Tensor], known: Mapping, assumed: Mapping, asked: Size | None
) -> tuple[ViTConfig, list[str]]:
    """The shape that the tensors have, with what they do not say from ``known``, and a remark on what was assumed."""
    untold = [name for name in library.untold if name not in known]
    width, channels, *patch_size = state["patch_embed.projection.weight"].shape
    if stem := _stem(state):
        channels, patch_size = stem["in_channels"], [stem["stride"] * stem["map_patch"]] * 2
    known = {"pool": "token"} | assumed | known
    if "num_heads" not in known and width % 64:
        raise ValueError(f"a state dict of {library.title} does not tell the number of heads, width is {width}; pass "
                         "num_heads=")
    rows = state["position"].shape[1] if "position" in state else None
    kind = known.get("position", "learned-1d" if rows else None)
    if kind is None:
        raise ValueError(f"{library.title} without a table of positions; pass position='none' or 'rotary', which its "
                         "tensors do not tell, or the live model")
    if (kind == "learned-1d") != (rows is not None):
        raise ValueError(f"{library.title} {'with' if rows else 'without'} a table of positions, and position is "
                         f"{kind!r}; ViTConfig has one kind of positions")
    tokens = {"class_token": "class_token" in state, "distillation": "distillation_token" in state,
              "registers": state["registers"].shape[1] if "registers" in state else 0}
    prefix = sum(tokens.values())
    if tokens["class_token"] == (known["pool"] == "token"):
        del tokens["class_token"]  # as by default
    size = pair(known.get("image_size") or _image_size(library, rows, prefix, patch_size, asked))
    remarks = []
    if "image_size" in untold and asked is not None:
        untold.remove("image_size")  # it is as asked, or a remark says that it is resampled
        if pair(asked) == size and size[0] * patch_size[1] != size[1] * patch_size[0] and _square((rows or 0) - prefix):
            remarks.append(f"the {rows} positions of {library.title} are taken for images of {size[0]}×{size[1]}, as "
                           "asked, though they could be a square image's; of that, load it without image_size= and "
                           "use at_resolution")
    patches = (size[0] // patch_size[0]) * (size[1] // patch_size[1])
    if rows is not None and rows not in (patches, patches + prefix):  # before a table of any size is made
        raise ValueError(f"the {rows} positions of {library.title} are not those of images of {size[0]}×{size[1]}, "
                         f"{patches} patches; pass the image_size= that the weights were made for")
    hidden = state["blocks.0.mlp.contract.weight"].shape[1]
    gated = len(state.get("blocks.0.mlp.expand.weight", ())) == 2 * hidden
    if gated and "gelu" in untold:
        untold[untold.index("gelu")] = "mlp"  # the shapes of any other gate are the same
    shape = {
        "patch_size": _tidy(patch_size),
        "in_channels": channels,
        "num_classes": len(state.get("head.out.weight", (0,))),
        "embed_dim": width,
        "depth": _depth(state),
        "num_heads": width // (80 if width == 1280 else 64),
        "mlp_dim": hidden,
        "mlp": "swiglu" if gated else "gelu",
        "qk_norm": "blocks.0.attention.query_norm.weight" in state,
        "prefix_positions": prefix == 0 or rows != patches,
        "head": "mlp" if "head.hidden.weight" in state else "linear",
    }
    config = ViTConfig(**(shape | tokens | known | {"image_size": _tidy(size)}))
    if untold:
        values = ", ".join(f"{name}={getattr(config, name)!r}" for name in untold)
        remarks.append(f"the tensors of {library.title} do not tell all of its model, and assumed is {values}: pass "
                       "what differs, or the live model")
    return config, remarks


def _image_size(library: Library, rows: int, prefix: int, patch_size: Sequence[int], asked: Size | None) -> Size:
    """The size that a position table of so many rows was made for: the one asked for, or else square images'."""
    (tall, wide), wanted = patch_size, asked and pair(asked)
    if rows is None:
        if wanted is None:
            raise ValueError(f"{library.title} has no table of positions, which alone tells the size; pass image_size=")
        return wanted
    counts = rows - prefix, rows  # with and without rows for the prefix
    if wanted and (wanted[0] // tall) * (wanted[1] // wide) in counts and not (wanted[0] % tall or wanted[1] % wide):
        return wanted
    for patches in counts:
        if side := _square(patches):
            return side * tall, side * wide
    given = f", nor the grid of image_size={wanted[0]}×{wanted[1]} in patches of {tall}×{wide}" if wanted else ""
    raise ValueError(f"the {rows} positions of {library.title} are no square grid, with or without {prefix} prefix "
                     f"tokens{given}; pass the image_size= that the weights were made for")


def _square(patches: int) -> int:
    """The side of the square grid of so many patches; 0 if there is none."""
    side = math.isqrt(max(patches, 0))
    return side if side * side == patches else 0


def _tidy(size: Sequence[int]) -> Size:
    return size[0] if size[0] == size[1] else (size[0], size[1])


def rotary_order(head_width: int, halves: bool, columns_first: bool = False) -> Tensor:
    """Which channel of their head each one of ours is: of pairs side by side, those of the row first."""
    channels = torch.arange(head_width)  # both below [axis, frequency, pair]
    channels = channels.view(2, 2, -1).permute(1, 2, 0) if halves else channels.view(2, -1, 2)
    return (channels.flip(0) if columns_first else channels).flatten()


def reordered(model: ViT, halves: bool, columns_first: bool = False, back: bool = False) -> ViT:
    """The model with each head's queries and keys in our order of rotary channels, or back in theirs."""
    order = rotary_order(model.config.embed_dim // model.config.num_heads, halves, columns_first)
    order = order.argsort() if back else order
    for attention in (block.attention for block in model.blocks):
        for part in (attention.qkv.weight.data, attention.qkv.bias.data):
            part = part.unflatten(0, (3, attention.num_heads, -1))[:2]  # a view: [query and key, h, D/h, ...]
            part.copy_(part[:, :, order])
        for norm in filter(None, (attention.query_norm, attention.key_norm)):
            norm.weight.data, norm.bias.data = norm.weight.data[order], norm.bias.data[order]
    return model


# ---- theirs out of a model


def exported(model: ViT, library: Library, table: Tensor | None) -> dict[str, Tensor]:
    """The state dict under another library's names, with one table of positions (or none)."""
    state = {name: tensor for name, tensor in model.state_dict().items() if not name.startswith("position")}
    state |= {} if table is None else {"position": table}
    kernel = state["patch_embed.projection.weight"].unflatten(1, (-1, *model.patch_embed.patch_size))
    state |= {"patch_embed.projection.weight": kernel}
    return renamed(renamed(state, _turned(_head_names(model.config))), _turned(library.names))


def full_table(model: ViT) -> Tensor:
    """The position table with a row for every token: zeros where a token has no position."""
    config, table = model.config, model.position_table()
    tokens = config.prefix_tokens + config.num_patches
    if table is None:
        return model.norm.weight.new_zeros(1, tokens, config.embed_dim)
    return F.pad(table, (0, 0, tokens - table.shape[1], 0))


def never_expressed(model: ViT) -> dict[str, bool]:
    """What no other library has, of a model that shall go out."""
    checks.kind(ViT, model=model)
    return {
        "relative positions": model.config.position == "relative",
        "hybrid stem of vitlite's": not isinstance(model.patch_embed, PatchEmbed),
    }


# ---- names


def renamed(state: Mapping[str, Tensor], names: Mapping[str, str]) -> dict[str, Tensor]:
    """Every tensor under its other name, or under its own where the table has none."""
    blocks = range(len(state))  # there are no more blocks than tensors
    table = {theirs.format(block): ours.format(block) for theirs, ours in names.items() for block in blocks}
    result = {}
    for name, tensor in state.items():
        layer, _, leaf = name.rpartition(".")
        other = table.get(name) or (f"{table[layer]}.{leaf}" if layer in table else name)
        if other in result:
            raise ValueError(f"{name} and another tensor are both {other} in a vitlite model")
        result[other] = tensor
    return result


def _turned(names: Mapping[str, str]) -> dict[str, str]:
    return {ours: theirs for theirs, ours in reversed(names.items())}


def _head_names(config: ViTConfig) -> dict[str, str]:
    last = 2 if config.head == "mlp" else 0
    names = {f"{head}.out": f"{head}.{last}" for head in ("head", "distillation_head")}
    return names | ({"head.hidden": "head.0"} if last else {})


def _of_head(name: str) -> bool:
    return name.startswith(("head.", "distillation_head."))
