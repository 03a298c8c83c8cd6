"""GlassLLM, a Llama of 0.85 million parameters written in NumPy, as an ordinary checkpoint.

Its matrices are stored input by output and so are transposed; its rotary pairs are neighbours. Its tokenizer works on
characters: NFC, a space is U+2581, and merges do not cross the chunks of `CHUNK`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .checkpoints import Shape, halves_together, write_json, write_tokenizer, write_weights

if TYPE_CHECKING:
    from tokenizers import Tokenizer

SPECIALS = ("<pad>", "<unk>", "<bos>", "<eos>")
SPACE = "\u2581"
CHUNK = f"\\n|{SPACE}*[^{SPACE}\\n]+|{SPACE}+"
NAMES = {
    "input_layernorm": "norm1.gamma",
    "self_attn.q_proj": "attn.W_Q",
    "self_attn.k_proj": "attn.W_K",
    "self_attn.v_proj": "attn.W_V",
    "self_attn.o_proj": "attn.W_O",
    "post_attention_layernorm": "norm2.gamma",
    "mlp.gate_proj": "ffn.W1",
    "mlp.up_proj": "ffn.W3",
    "mlp.down_proj": "ffn.W2",
}
WHOLE = {"model.embed_tokens.weight": "E", "model.norm.weight": "norm_f.gamma"}


def convert(members: Mapping[str, Path], folder: Path) -> dict[str, Any]:
    """Write the checkpoint folder from the weights' and the tokenizer's file."""
    import numpy as np

    (weights,) = (path for name, path in members.items() if name.endswith(".npz"))
    (tokens,) = (path for name, path in members.items() if name.endswith(".tokenizer.json"))
    with np.load(weights) as arrays:
        given = json.loads(str(arrays["__config__"]))
        shape = Shape(
            vocabulary=given["vocab_size"], width=given["d_model"], blocks=given["n_layers"], heads=given["n_heads"],
            key_heads=given["n_kv_heads"], inner=arrays["blocks.0.ffn.W1"].shape[1], context=given["max_len"],
            epsilon=given["eps"], rope_base=given["rope_base"], tied=True,
        )  # fmt: skip

        def tensor(name: str) -> np.ndarray:
            if name in WHOLE:
                return arrays[WHOLE[name]]
            _, _, block, part = name.removesuffix(".weight").split(".", 3)
            found = arrays[f"blocks.{block}.{NAMES[part]}"].T.astype(np.float32)
            heads = {"self_attn.q_proj": shape.heads, "self_attn.k_proj": shape.key_heads}.get(part)
            return halves_together(found, heads) if heads else found

        write_weights(folder, shape.tensors(), tensor)
    write_json(folder / "config.json", shape.config(bos=2, eos=3, pad=0))
    named = dict(zip(("pad_token", "unk_token", "bos_token", "eos_token"), SPECIALS, strict=True))
    write_tokenizer(
        folder, _tokenizer(json.loads(tokens.read_text(encoding="utf-8"))), {"model_max_length": shape.context, **named}
    )
    return {"parameters": "float16, widened"}


def _tokenizer(given: Mapping[str, Any]) -> Tokenizer:
    from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers

    merges = [tuple(pair) for pair in given["merges"]]
    words = [*SPECIALS, *given["alphabet"], *(first + second for first, second in merges)]
    model = models.BPE(vocab={word: number for number, word in enumerate(words)}, merges=merges, unk_token="<unk>")
    tokenizer = Tokenizer(model)
    tokenizer.normalizer = normalizers.Sequence([normalizers.NFC(), normalizers.Replace(" ", SPACE)])
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(CHUNK), "isolated")
    tokenizer.decoder = decoders.Sequence([decoders.Replace(SPACE, " "), decoders.Fuse()])
    tokenizer.add_special_tokens([AddedToken(word, special=True, normalized=False) for word in SPECIALS])
    return tokenizer
