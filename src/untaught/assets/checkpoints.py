"""Writing an ordinary checkpoint folder of a Llama: config.json, safetensors, tokenizer.json. Needs no torch."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np
    from tokenizers import Tokenizer

SHARD = 4 * 10**9
"""Bytes of a weights file, at most."""


@dataclass(frozen=True)
class Shape:
    """What the sizes of a Llama are."""

    vocabulary: int
    width: int
    blocks: int
    heads: int
    key_heads: int
    inner: int
    context: int
    epsilon: float
    rope_base: float
    tied: bool

    def config(self, **tokens: int | None) -> dict[str, Any]:
        """As `config.json` has it. `tokens` are bos, eos and pad."""
        return {
            "architectures": ["LlamaForCausalLM"],
            "model_type": "llama",
            "vocab_size": self.vocabulary,
            "hidden_size": self.width,
            "intermediate_size": self.inner,
            "num_hidden_layers": self.blocks,
            "num_attention_heads": self.heads,
            "num_key_value_heads": self.key_heads,
            "head_dim": self.width // self.heads,
            "max_position_embeddings": self.context,
            "rms_norm_eps": self.epsilon,
            "rope_theta": self.rope_base,
            "tie_word_embeddings": self.tied,
            "hidden_act": "silu",
            "attention_bias": False,
            "mlp_bias": False,
            "torch_dtype": "float32",
            **{f"{name}_token_id": number for name, number in tokens.items()},
        }

    def tensors(self) -> dict[str, tuple[int, ...]]:
        """Every tensor's name and shape."""
        keys = self.key_heads * self.width // self.heads
        block = {
            "input_layernorm": (self.width,),
            "self_attn.q_proj": (self.width, self.width),
            "self_attn.k_proj": (keys, self.width),
            "self_attn.v_proj": (keys, self.width),
            "self_attn.o_proj": (self.width, self.width),
            "post_attention_layernorm": (self.width,),
            "mlp.gate_proj": (self.inner, self.width),
            "mlp.up_proj": (self.inner, self.width),
            "mlp.down_proj": (self.width, self.inner),
        }
        whole: dict[str, tuple[int, ...]] = {"model.embed_tokens.weight": (self.vocabulary, self.width)}
        for index in range(self.blocks):
            whole |= {f"model.layers.{index}.{name}.weight": shape for name, shape in block.items()}
        whole["model.norm.weight"] = (self.width,)
        return whole if self.tied else whole | {"lm_head.weight": (self.vocabulary, self.width)}


def halves_together(weight: np.ndarray, heads: int) -> np.ndarray:
    """Rows of a query or key matrix as Hugging Face orders them.

    Others rotate neighbouring pairs of a head's numbers (0 with 1, 2 with 3, ...); Hugging Face rotates the first half
    with the second. The same model has its rows in another order.
    """
    rows = weight.reshape(heads, weight.shape[0] // heads // 2, 2, *weight.shape[1:])
    return rows.swapaxes(1, 2).reshape(weight.shape)


def write_weights(folder: Path, shapes: Mapping[str, tuple[int, ...]], tensor: Callable[[str], np.ndarray]) -> None:
    """Write the tensors as float32, one weights file in memory at a time."""
    import numpy as np
    from safetensors.numpy import save_file

    shards: list[list[str]] = [[]]
    size = total = 0
    for name, shape in shapes.items():
        new = 4 * int(np.prod(shape))
        if shards[-1] and size + new > SHARD:
            shards.append([])
            size = 0
        shards[-1].append(name)
        size, total = size + new, total + new
    place = {}
    for number, names in enumerate(shards, 1):
        file = "model.safetensors" if len(shards) == 1 else f"model-{number:05}-of-{len(shards):05}.safetensors"
        arrays = {name: np.ascontiguousarray(tensor(name), dtype=np.float32) for name in names}
        save_file(arrays, folder / file, metadata={"format": "pt"})
        place |= dict.fromkeys(names, file)
    if len(shards) > 1:
        write_json(folder / "model.safetensors.index.json", {"metadata": {"total_size": total}, "weight_map": place})


def write_tokenizer(folder: Path, tokenizer: Tokenizer, settings: Mapping[str, Any]) -> None:
    """Write the tokenizer as `AutoTokenizer` reads it."""
    (folder / "tokenizer.json").write_text(tokenizer.to_str(pretty=False), encoding="utf-8")
    write_json(
        folder / "tokenizer_config.json",
        {"tokenizer_class": "PreTrainedTokenizerFast", "clean_up_tokenization_spaces": False, **settings},
    )


def write_json(file: Path, table: Mapping[str, Any]) -> None:
    """Write a table, one entry a line."""
    file.write_text(json.dumps(table, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
