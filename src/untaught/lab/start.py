"""The lab's starting model: a tokenizer trained on a world's text and a small Llama with random weights.

It is an ordinary causal language model of about a million parameters, saved and loaded as any other. The tokenizer has
seen the world's words, hazard words too, in every arm; a word is not a fact.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from pydantic import Field

from ..core import Settings, Subject

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

END = "<|end|>"
PAD = "<|pad|>"


class StartingModel(Settings):
    """Shape of the starting model."""

    width: int = Field(default=128, ge=8)
    blocks: int = Field(default=4, ge=1)
    heads: int = Field(default=4, ge=1)
    vocabulary: int = Field(default=1200, ge=300)
    """Most tokens; a small world may have fewer."""
    context: int = Field(default=512, ge=16)
    """Longest text in tokens."""

    def build(self, texts: Iterable[str], seed: int) -> Subject:
        """The untrained model: the same bits for the same texts and seed."""
        import torch
        from transformers import LlamaConfig, LlamaForCausalLM

        tokenizer = self._tokenizer(texts)
        vocabulary = tokenizer.get_vocab()
        config = LlamaConfig(
            vocab_size=len(vocabulary),
            hidden_size=self.width,
            intermediate_size=self.width * 8 // 3 // 8 * 8,
            num_hidden_layers=self.blocks,
            num_attention_heads=self.heads,
            num_key_value_heads=self.heads,
            max_position_embeddings=self.context,
            tie_word_embeddings=True,
            bos_token_id=vocabulary[END],
            eos_token_id=vocabulary[END],
            pad_token_id=vocabulary[PAD],
        )
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            return Subject(LlamaForCausalLM(config).eval(), tokenizer)

    def _tokenizer(self, texts: Iterable[str]) -> PreTrainedTokenizerFast:
        """Byte-level BPE that starts every text with the end token, as the model sees texts in training."""
        from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
        from transformers import PreTrainedTokenizerFast

        raw = Tokenizer(models.BPE())
        raw.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        raw.decoder = decoders.ByteLevel()
        trainer = trainers.BpeTrainer(
            vocab_size=self.vocabulary,
            special_tokens=[PAD, END],
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            show_progress=False,
        )
        raw.train_from_iterator(texts, trainer)
        raw.post_processor = processors.TemplateProcessing(
            single=f"{END} $A", special_tokens=[(END, raw.token_to_id(END))]
        )
        return PreTrainedTokenizerFast(tokenizer_object=raw, bos_token=END, eos_token=END, pad_token=PAD)
