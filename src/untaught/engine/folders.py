"""Model folders, looked at before anything in them is loaded: what is missing, damaged, unsafe or too large.

Only names, JSON and the headers of weights are read, so a folder of any size is judged at once and none of it is run.
A safetensors file is 8 bytes that say how long its header is, the header, and the numbers; the header is JSON and gives
each tensor's type, shape and place (https://github.com/huggingface/safetensors, section Format).

Importing this needs no torch.
"""

from __future__ import annotations

import importlib.metadata
import json
import math
import struct
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path
from typing import Any, NamedTuple

from ..core import UserError, suggest

UNSAFE = ("*.bin", "*.pt", "*.pth", "*.pkl", "*.pickle", "*.ckpt")
"""Files that run code when they are loaded."""
WHOLE, INDEX = "model.safetensors", "model.safetensors.index.json"
TOKENIZERS = (
    *(("tokenizer.json",), ("tokenizer.model",), ("vocab.json", "merges.txt"), ("vocab.txt",)),
    *(("spiece.model",), ("sentencepiece.bpe.model",), ("tekken.json",)),
)
"""Files that a tokenizer is made from, any one of these sets."""
EMBEDDINGS = ("embed_tokens.weight", "wte.weight", "embed_in.weight", "word_embeddings.weight", "tok_embeddings.weight")
"""How the names of matrices end that have a row for each token."""
BITS = {"BOOL": 8, "U8": 8, "I8": 8, "I16": 16, "U16": 16, "I32": 32, "U32": 32, "I64": 64, "U64": 64}
FLOATS = {"F64": 64, "F32": 32, "F16": 16, "BF16": 16, "F8_E4M3": 8, "F8_E5M2": 8, "F8_E8M0": 8}
AGAIN = "Fetch or save the model again."


@dataclass(frozen=True)
class Tensor:
    """What a header says of one tensor. Its bytes are counted from the header's end."""

    dtype: str
    shape: tuple[int, ...]
    begin: int
    end: int

    @property
    def count(self) -> int:
        """How many numbers it has."""
        return math.prod(self.shape)


class Size(NamedTuple):
    """How large a model is."""

    parameters: int
    bytes: int
    """What they take in memory."""


def check_folder(folder: Path, *, causal: bool = True) -> None:
    """A `UserError` unless the folder holds a whole model and tokenizer that can be loaded without running its code.

    `causal`: it is to be a language model, and not only some model.
    """
    if not folder.is_dir():
        raise UserError(f"there is no model folder {folder}. Give a folder that `save_pretrained` wrote.")
    if (folder / "adapter_config.json").is_file():
        raise _adapter(folder)
    if not (folder / "config.json").is_file():
        raise UserError(f"{folder} has no config.json, so it is not a model folder. Give one that has.")
    if not any(folder.glob("*.safetensors")) and not (folder / INDEX).is_file():
        raise no_weights([path.name for path in folder.iterdir()], str(folder))
    config = _table(folder / "config.json")
    for name in ("config.json", "tokenizer_config.json"):
        if (folder / name).is_file() and "auto_map" in _table(folder / name):
            raise UserError(f"{folder}/{name} asks to run code of its own (auto_map). Use a model without it.")
    _check_architecture(folder, config, causal)
    found = tensors(folder)
    if not any(all((folder / name).is_file() for name in names) for names in TOKENIZERS):
        raise UserError(
            f"{folder} has no tokenizer (tokenizer.json, tokenizer.model, or vocab.json with merges.txt). Save the"
            " model's own beside it: tokenizer.save_pretrained(FOLDER)."
        )
    _check_vocabulary(folder, config, found)


def size(folder: Path, dtype: str = "float32") -> Size:
    """How large the model in a folder is, told by the headers of its weights.

    Weights are held in two bytes each where `dtype` is `bfloat16`, else in four, whatever their file has.
    """
    width = 2 if dtype == "bfloat16" else 4
    found = tensors(folder).values()
    return Size(
        sum(tensor.count for tensor in found),
        sum(tensor.count * width if tensor.dtype in FLOATS else tensor.end - tensor.begin for tensor in found),
    )


def check_memory(folder: Path, dtype: str, free: int | None, where: str = "memory") -> None:
    """A `UserError` when a model would not fit into so many free bytes; None is as many as are asked for."""
    parameters, needed = size(folder, dtype)
    if free is None or needed <= free:
        return
    held, half = ("bfloat16" if dtype == "bfloat16" else "float32"), size(folder, "bfloat16").bytes
    mend = f"Set compute.dtype to bfloat16, which takes {half / 1e9:.1f} GB, or use" if half <= free < needed else "Use"
    raise UserError(
        f"{folder} does not fit: its {parameters:,} weights take {needed / 1e9:.1f} GB in {held}, and"
        f" {free / 1e9:.1f} GB of {where} are free. {mend} a machine with more, or a smaller model."
    )


def tensors(folder: Path) -> dict[str, Tensor]:
    """Every tensor of a model folder by name, from one file or from the shards that the index names."""
    if (folder / WHOLE).is_file():
        return header(folder / WHOLE)
    if not (folder / INDEX).is_file():
        there = sorted(path.name for path in folder.glob("*.safetensors"))
        raise UserError(f"{folder} has {there[0]}, and neither {WHOLE} nor {INDEX}, which says what is where. {AGAIN}")
    places = _table(folder / INDEX).get("weight_map")
    if not isinstance(places, dict) or not places or any(Path(str(name)).name != name for name in places.values()):
        raise UserError(f"{folder / INDEX} does not say which file has which tensor (weight_map). {AGAIN}")
    shards: dict[str, dict[str, Tensor]] = {}
    for name in sorted(set(places.values())):
        if not (folder / name).is_file():
            raise UserError(f"{folder} lacks {name}, which {INDEX} names. {AGAIN}")
        shards[name] = header(folder / name)
    for tensor, name in places.items():
        if tensor not in shards[name]:
            raise UserError(f"{folder / name} does not have {tensor}, which {INDEX} says it has. {AGAIN}")
    return {tensor: shards[name][tensor] for tensor, name in places.items()}


def header(path: Path) -> dict[str, Tensor]:
    """What a safetensors file says it holds, when the file is as long as that."""
    length = path.stat().st_size
    with path.open("rb") as file:
        start = file.read(8)
        long = struct.unpack("<Q", start)[0] if len(start) == 8 else 0
        if len(start) < 8 or long > length - 8:
            raise UserError(f"{path} is cut short, or no safetensors file: it ends within its header. {AGAIN}")
        try:
            table = json.loads(file.read(long))
            found = {name: _tensor(told) for name, told in table.items() if name != "__metadata__"}
        except (ValueError, TypeError, KeyError, AttributeError):
            raise UserError(f"{path} is damaged: its header is not that of a safetensors file. {AGAIN}") from None
    at = 0
    for name, tensor in sorted(found.items(), key=lambda pair: (pair[1].begin, pair[1].end)):
        bits = (BITS | FLOATS).get(tensor.dtype)
        if tensor.begin != at or (bits and 8 * (tensor.end - at) != bits * tensor.count):
            raise UserError(f"{path} is damaged: {name} is not where it can be, or not as long as its shape. {AGAIN}")
        at = tensor.end
    if (there := length - 8 - long) != at:
        how = "is cut short" if there < at else "goes on after its end"
        raise UserError(f"{path} {how}: its tensors take {at:,} bytes, and {there:,} are there. {AGAIN}")
    return found


def free_memory(proc: Path = Path("/proc"), groups: Path = Path("/sys/fs/cgroup")) -> int | None:
    """Bytes that this process could still take, as the kernel and its control groups tell; None where they do not."""
    free = [int(line.split()[1]) * 1024 for line in _lines(proc / "meminfo") if line.startswith("MemAvailable:")]
    for line in _lines(proc / "self" / "cgroup"):
        _, kind, own = line.split(":", 2)
        if kind in ("", "memory"):
            group = Path(own.strip("/"))
            lefts = (_left(groups / kind / part, kind) for part in (group, *group.parents))
            free += [left for left in lefts if left is not None]
    return min(free, default=None)


def no_weights(names: Iterable[str], where: str) -> UserError:
    """What to say of a folder with these files, none of which is safetensors."""
    unsafe = sorted(name for name in names if any(fnmatch(name, pattern) for pattern in UNSAFE))
    why = f"only {', '.join(unsafe)}, which would run code when loaded" if unsafe else "no weights"
    return UserError(
        f"{where} has {why}. Weights must be safetensors: convert them where you trust them"
        " (load, then save_pretrained(..., safe_serialization=True))."
    )


# -- parts -------------------------------------------------------------------------------------------------------------


def _adapter(folder: Path) -> UserError:
    base = _table(folder / "adapter_config.json").get("base_model_name_or_path")
    return UserError(
        f"{folder} holds an adapter for {base or 'a model that it does not name'}, and not a whole model. Merge it"
        f" first: PeftModel.from_pretrained(BASE, {str(folder)!r}).merge_and_unload().save_pretrained(OUT), and the"
        " tokenizer into OUT; then give OUT."
    )


def _check_architecture(folder: Path, config: Mapping[str, Any], causal: bool) -> None:
    """What kind of model it is must be one that transformers has code for."""
    from transformers import CONFIG_MAPPING, MODEL_FOR_CAUSAL_LM_MAPPING

    kind, where = config.get("model_type"), f"{folder}/config.json"
    if not isinstance(kind, str):
        raise UserError(f"{where} does not say what architecture the model has (model_type). {AGAIN}")
    if kind not in CONFIG_MAPPING:
        near = suggest(kind, CONFIG_MAPPING.keys())
        raise UserError(
            f"{where}: transformers {importlib.metadata.version('transformers')} does not know the architecture"
            f" '{kind}'.{near if 'mean' in near else ''} Update transformers, or use a model of another family."
        )
    if causal and CONFIG_MAPPING[kind] not in MODEL_FOR_CAUSAL_LM_MAPPING:
        raise UserError(f"{where}: '{kind}' is no architecture of causal language models. Give a model that is one.")


def _check_vocabulary(folder: Path, config: Mapping[str, Any], found: Mapping[str, Tensor]) -> None:
    """The tokenizer's every id has a row in the model. Rows without an id do no harm."""
    said = config.get("vocab_size", (config.get("text_config") or {}).get("vocab_size"))
    matrix = next((name for name in found if name.endswith(EMBEDDINGS) and len(found[name].shape) == 2), None)
    rows = said if matrix is None else found[matrix].shape[0]
    if isinstance(said, int) and said != rows:
        raise UserError(
            f"{folder}/config.json says that vocab_size is {said:,}, and {matrix} has {rows:,} rows. Configuration and"
            f" weights are of different models. {AGAIN}"
        )
    most = max(_ids(folder), default=-1) + 1
    if isinstance(rows, int) and most > rows:
        raise UserError(
            f"the tokenizer of {folder} has ids up to {most - 1:,}, and the model has rows for {rows:,} tokens. Save"
            " the model's own tokenizer beside it, or resize_token_embeddings before saving."
        )


def _ids(folder: Path) -> Iterator[int]:
    """Every id of a tokenizer whose files are JSON; none of any other."""
    if (folder / "tokenizer.json").is_file():
        table = _table(folder / "tokenizer.json")
        words = (table.get("model") or {}).get("vocab")
        if not words:
            raise UserError(
                f"{folder}/tokenizer.json holds no vocabulary. Save the tokenizer again:"
                " tokenizer.save_pretrained(FOLDER)."
            )
        yield from (range(len(words)) if isinstance(words, list) else words.values())
        yield from (token["id"] for token in table.get("added_tokens") or [])
        return
    for name in ("vocab.json", "added_tokens.json"):
        if (folder / name).is_file():
            yield from _table(folder / name).values()


def _table(path: Path) -> dict[str, Any]:
    try:
        return dict(json.loads(path.read_text(encoding="utf-8")))
    except (ValueError, TypeError):
        raise UserError(f"{path} is not a JSON table. {AGAIN}") from None


def _tensor(told: Mapping[str, Any]) -> Tensor:
    begin, end = map(int, told["data_offsets"])
    shape = tuple(map(int, told["shape"]))
    if min((begin, end - begin, *shape)) < 0:
        raise ValueError("a negative size")
    return Tensor(str(told["dtype"]), shape, begin, end)


def _left(group: Path, kind: str) -> int | None:
    """What a control group may still take. Files that it holds in memory only to be quick give way to what is new."""
    version_1, version_2 = ("memory.limit_in_bytes", "memory.usage_in_bytes"), ("memory.max", "memory.current")
    limit, used = version_1 if kind else version_2
    numbers = [next(_lines(group / name), "max") for name in (limit, used)]
    if "max" in numbers:
        return None
    gives_way = "total_inactive_file " if kind else "inactive_file "
    spare = sum(int(line.split()[1]) for line in _lines(group / "memory.stat") if line.startswith(gives_way))
    return max(0, int(numbers[0]) - int(numbers[1]) + spare)


def _lines(path: Path) -> Iterator[str]:
    """The lines of a file of the kernel's; none where there is no such file."""
    with suppress(OSError):
        yield from path.read_text(encoding="utf-8").splitlines()
