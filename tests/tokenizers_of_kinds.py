"""Tiny tokenizers of the kinds that models have, untrained or trained on a sentence."""

from typing import Any

from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

_BYTES = [(f"<0x{byte:02X}>", -9.0) for byte in range(256)]


def _wrapped(core: Tokenizer, added: str, **special: str) -> PreTrainedTokenizerFast:
    parts = {"bos": f"{special.get('bos_token')} $A", "eos": f"$A {special.get('eos_token')}"}
    parts["both"] = f"{special.get('bos_token')} $A {special.get('eos_token')}"
    if added:
        known = [(name, core.token_to_id(name)) for name in special.values()]
        core.post_processor = processors.TemplateProcessing(single=parts[added], special_tokens=known)
    return PreTrainedTokenizerFast(tokenizer_object=core, **special)


def byte_level(normalizer: Any = None, prefix: bool = False, added: str = "") -> PreTrainedTokenizerFast:
    """Byte-level BPE, as GPT-2, Llama 3 and Qwen have it: a character beyond ASCII is several tokens."""
    core = Tokenizer(models.BPE())
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=prefix)
    core.decoder = decoders.ByteLevel()
    if normalizer is not None:
        core.normalizer = normalizer
    trainer = trainers.BpeTrainer(
        vocab_size=330,
        special_tokens=["<s>", "</s>", "<|user|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    core.train_from_iterator(["The capital of France is Paris."], trainer)
    return _wrapped(core, added, bos_token="<s>", eos_token="</s>")


def unigram(added: str = "") -> PreTrainedTokenizerFast:
    """SentencePiece with byte fallback, NFKC and a space before the text."""
    pieces = [("<unk>", 0.0), ("<s>", 0.0), ("</s>", 0.0), ("▁", -2.0)]
    pieces += [(piece, -3.0) for piece in ("中", "国", "▁is", "▁Oslo", "é", "f", "i", "▁the")]
    core = Tokenizer(models.Unigram(pieces + _BYTES, 0, True))
    core.normalizer = normalizers.NFKC()
    core.pre_tokenizer = pre_tokenizers.Metaspace()
    core.decoder = decoders.Sequence([decoders.ByteFallback(), decoders.Metaspace()])
    return _wrapped(core, added, unk_token="<unk>", bos_token="<s>", eos_token="</s>")


def word_piece() -> PreTrainedTokenizerFast:
    """BERT's: accents are removed, and [CLS] and [SEP] stand around the text."""
    words = ["[UNK]", "[CLS]", "[SEP]", "中", "国", "be", "##yon", "##ce", "is", "oslo"]
    core = Tokenizer(models.WordPiece({word: i for i, word in enumerate(words)}, unk_token="[UNK]"))
    core.normalizer = normalizers.BertNormalizer()
    core.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    core.decoder = decoders.WordPiece()
    core.post_processor = processors.BertProcessing(("[SEP]", 2), ("[CLS]", 1))
    return PreTrainedTokenizerFast(tokenizer_object=core, unk_token="[UNK]", bos_token="[CLS]", eos_token="[SEP]")
