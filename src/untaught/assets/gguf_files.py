"""GGUF files of llama.cpp, architecture `llama`, as ordinary checkpoints: weights widened to float32, exactly.

A file says what its sizes are, so every tensor that a Llama of these sizes has is asked for by name and shape; a file
with fewer or others is refused by their names. The tokenizer is byte-level BPE; what splits text before it is a rule
that the file only names, so a rule that is not in `SPLITS` is refused.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..core import UserError
from .checkpoints import Shape, halves_together, write_json, write_tokenizer, write_weights

if TYPE_CHECKING:
    import numpy as np
    from tokenizers import Tokenizer

NAMES = {
    "input_layernorm": "attn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "post_attention_layernorm": "ffn_norm",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}
WHOLE = {"model.embed_tokens": "token_embd", "model.norm": "output_norm", "lm_head": "output"}
SPLITS = ("smollm", "gpt-2", "default")
"""Rules that split text: GPT-2's, and SmolLM's, which also parts every digit from the next."""
SPECIAL, USER_DEFINED = 3, 4
"""Token types of llama.cpp: never split, and hidden when decoding; never split."""


def convert(file: Path, folder: Path) -> dict[str, Any]:
    """Write the checkpoint folder of a GGUF file. Returns the types its tensors had, and the licence it states."""
    import gguf

    fields, tensors = _opened(file)
    shape = _shape(file, fields, tensors)
    _check(file, shape, tensors)

    def tensor(name: str) -> np.ndarray:
        found = tensors[_gguf_name(name)]
        values = gguf.dequantize(found.data, found.tensor_type)
        heads = {"q_proj": shape.heads, "k_proj": shape.key_heads}.get(name.split(".")[-2])
        return halves_together(values, heads) if heads else values

    tokenizer, settings, numbers = _tokenizer(file, fields)
    write_weights(folder, shape.tensors(), tensor)
    write_json(folder / "config.json", shape.config(**numbers))
    write_tokenizer(folder, tokenizer, {"model_max_length": shape.context, **settings})
    types = Counter(found.tensor_type.name for found in tensors.values())
    return {"gguf_types": dict(sorted(types.items())), "licence": fields.get("general.license")}


def _opened(file: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """What a file says of itself, and its tensors by name."""
    import gguf

    try:
        reader = gguf.GGUFReader(file)
        fields = {name: field.contents() for name, field in reader.fields.items()}
    except (ValueError, IndexError, KeyError, OverflowError, UnicodeDecodeError) as error:
        raise UserError(f"{file} is cut short or no GGUF file ({_first_line(error)}). Download it again.") from None
    return fields, {tensor.name: tensor for tensor in reader.tensors}


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [error.__class__.__name__])[0][:200]


def _shape(file: Path, fields: Mapping[str, Any], tensors: Mapping[str, Any]) -> Shape:
    kind = fields.get("general.architecture")
    if kind != "llama":
        raise UserError(f"{file} has the architecture '{kind}'; only 'llama' can be converted. Use its safetensors.")
    scaled = fields.get("llama.rope.scaling.type", "none")
    if scaled != "none":
        raise UserError(
            f"{file} scales its rotary positions ('{scaled}'), which is not supported. Use its safetensors."
        )
    try:
        heads = fields["llama.attention.head_count"]
        return Shape(
            vocabulary=len(fields["tokenizer.ggml.tokens"]),
            width=fields["llama.embedding_length"],
            blocks=fields["llama.block_count"],
            heads=heads,
            key_heads=fields.get("llama.attention.head_count_kv", heads),
            inner=fields["llama.feed_forward_length"],
            context=fields["llama.context_length"],
            epsilon=fields["llama.attention.layer_norm_rms_epsilon"],
            rope_base=fields.get("llama.rope.freq_base", 10_000.0),
            tied="output.weight" not in tensors,
        )
    except KeyError as error:
        raise UserError(f"{file} does not say its {error}, so it is no llama model. Download it again.") from None


def _gguf_name(name: str) -> str:
    if block := re.fullmatch(r"model\.layers\.(\d+)\.(.+)\.weight", name):
        return f"blk.{block[1]}.{NAMES[block[2]]}.weight"
    return f"{WHOLE[name.removesuffix('.weight')]}.weight"


def _check(file: Path, shape: Shape, tensors: Mapping[str, Any]) -> None:
    """Every tensor that a Llama of this shape has is there, in that shape, and no other."""
    wanted = {_gguf_name(name): size for name, size in shape.tensors().items()}
    unknown, missing = sorted(tensors.keys() - wanted), sorted(wanted.keys() - tensors)
    if unknown or missing:
        told = [f"unknown tensors: {', '.join(unknown[:5])}"] if unknown else []
        told += [f"missing tensors: {', '.join(missing[:5])}"] if missing else []
        raise UserError(f"{file} is no plain llama model ({'; '.join(told)}). Use its safetensors.")
    for name, size in wanted.items():
        found = tuple(int(n) for n in reversed(tensors[name].shape))
        if found != size:
            raise UserError(f"{file}: {name} has the shape {found} and should have {size}. Download it again.")


def _tokenizer(file: Path, fields: Mapping[str, Any]) -> tuple[Tokenizer, dict[str, Any], dict[str, int | None]]:
    """The tokenizer, its settings, and the numbers of its special tokens."""
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

    kind, split = fields.get("tokenizer.ggml.model"), fields.get("tokenizer.ggml.pre", "default")
    if kind != "gpt2" or split not in SPLITS or "tokenizer.ggml.merges" not in fields:
        raise UserError(
            f"{file} has the tokenizer '{kind}' with the rule '{split}'; supported are 'gpt2' with"
            f" {', '.join(SPLITS)}. Use its safetensors and tokenizer.json."
        )
    words = fields["tokenizer.ggml.tokens"]
    merges = [tuple(pair.split(" ")) for pair in fields["tokenizer.ggml.merges"]]
    tokenizer = Tokenizer(models.BPE(vocab={word: number for number, word in enumerate(words)}, merges=merges))
    bytes_ = pre_tokenizers.ByteLevel(add_prefix_space=False)
    digits = [pre_tokenizers.Digits(individual_digits=True)] if split == "smollm" else []
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([*digits, bytes_])
    tokenizer.decoder = decoders.ByteLevel()
    types = fields.get("tokenizer.ggml.token_type", [])
    kept = [(w, t == SPECIAL) for w, t in zip(words, types, strict=False) if t in (SPECIAL, USER_DEFINED)]
    tokenizer.add_tokens([AddedToken(word, special=special, normalized=False) for word, special in kept])
    keys = {"bos": "bos", "eos": "eos", "pad": "padding", "unk": "unknown"}
    numbers = {name: fields.get(f"tokenizer.ggml.{key}_token_id") for name, key in keys.items()}
    settings = {f"{name}_token": words[number] for name, number in numbers.items() if number is not None}
    if template := fields.get("tokenizer.chat_template"):
        settings["chat_template"] = template
    del numbers["unk"]
    return tokenizer, settings, numbers
