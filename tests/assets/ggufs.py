"""Tiny GGUF files, written by llama.cpp's own package: a Llama of two blocks and a byte-level tokenizer."""

import gguf
import numpy as np

WIDTH, HEADS, KEYS, INNER, BLOCKS, CONTEXT = 64, 4, 2, 96, 2, 64
SPECIALS = ["<|end|>", "<|start|>", "<|stop|>"]
MERGES = ["t h", "th e", "\u0120 a", "i n", "\u0120 the"]
TEMPLATE = "{% for message in messages %}{{ message['content'] }}{% endfor %}"
QUANTISED = gguf.GGMLQuantizationType


def words():
    """Specials, the 256 bytes as GPT-2 writes them, and what the merges make."""
    plain = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [chr(256 + n) for n in range(256 - len(plain))]
    return [*SPECIALS, *map(chr, plain), *others, *(pair.replace(" ", "") for pair in MERGES)]


def tensors(seed=0, *, tied=True):
    rng = np.random.default_rng(seed)

    def random(*shape):
        return (rng.standard_normal(shape) / np.sqrt(shape[-1])).astype(np.float32)

    keys = WIDTH // HEADS * KEYS
    made = {"token_embd.weight": random(len(words()), WIDTH), "output_norm.weight": 1 + random(WIDTH)}
    for block in range(BLOCKS):
        shapes = {
            "attn_q": (WIDTH, WIDTH), "attn_k": (keys, WIDTH), "attn_v": (keys, WIDTH), "attn_output": (WIDTH, WIDTH),
            "ffn_gate": (INNER, WIDTH), "ffn_up": (INNER, WIDTH), "ffn_down": (WIDTH, INNER),
        }  # fmt: skip
        made |= {f"blk.{block}.{name}.weight": random(*shape) for name, shape in shapes.items()}
        made |= {f"blk.{block}.{name}_norm.weight": 1 + random(WIDTH) for name in ("attn", "ffn")}
    return made if tied else made | {"output.weight": random(len(words()), WIDTH)}


def write(path, made=None, *, kind="F32", architecture="llama", tokenizer="gpt2", rule="smollm", rotary=None):
    """A GGUF file; matrices are stored as `kind`."""
    writer = gguf.GGUFWriter(path, architecture)
    writer.add_block_count(BLOCKS)
    writer.add_context_length(CONTEXT)
    writer.add_embedding_length(WIDTH)
    writer.add_feed_forward_length(INNER)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(KEYS)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_freq_base(5000.0)
    writer.add_rope_dimension_count(WIDTH // HEADS)
    writer.add_vocab_size(len(words()))
    writer.add_license("apache-2.0")
    if rotary:
        writer.add_rope_scaling_type(rotary)
    writer.add_tokenizer_model(tokenizer)
    writer.add_tokenizer_pre(rule)
    writer.add_token_list(words())
    writer.add_token_types([3] * len(SPECIALS) + [1] * (len(words()) - len(SPECIALS)))
    writer.add_token_merges(MERGES)
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_pad_token_id(2)
    writer.add_unk_token_id(0)
    writer.add_chat_template(TEMPLATE)
    for name, values in (tensors() if made is None else made).items():
        stored = QUANTISED[kind] if values.ndim == 2 else QUANTISED.F32
        writer.add_tensor(name, gguf.quantize(values, stored), raw_dtype=stored)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path
