"""Writes the JSON files of tests/fixtures/real: what transformers makes of the files that `make real` brings.

    python tools/make_real_fixtures.py SmolLM2-135M-Instruct.Q4_1.gguf
    python tools/make_real_fixtures.py gemma-3-270m-q4_k_m.gguf

needs torch, transformers, accelerate, gguf, sentencepiece and protobuf. Token ids of 300 texts, and log probabilities in f32, with
the weights that the file's blocks stand for, of a few texts. Gemma's token ids are those of SentencePiece itself, with the
vocabulary of the file.
"""

import json
import os
import random
import sys
from pathlib import Path

import torch
from tokenizers import pre_tokenizers
from transformers import AutoModelForCausalLM, AutoTokenizer

OUT = Path(__file__).resolve().parent.parent / "tests/fixtures/real"
COUNT = 300
SCORED = [
    "The capital of France is Paris, and the capital of Italy is Rome. Water boils at 100 degrees Celsius.",
    "def fibonacci(n):\n    if n < 2:\n        return n\n    return fibonacci(n - 1) + fibonacci(n - 2)\n",
    "<|im_start|>user\nName three fruits.<|im_end|>\n<|im_start|>assistant\nApples, pears and plums.<|im_end|>\n",
    "In 1969, Apollo 11 landed on the Moon; Neil Armstrong was the first human to walk on its surface.",
]
PIECES = [
    "The quick brown fox", "jumps over the lazy dog.", "don't", "WE'LL", "it's", "I'd", "they've", " ", "  ", "   ", "\n", "\n\n",
    "\r\n", "\t", "\t\t", "0", "7", "42", "123", "1234567890", "3.14159", "1,000,000", "0x7fff", "٣٤٥", "½", "²",
    "for (int i = 0; i < n; i++) {", "    return x;", "}", "#include <stdio.h>", "fn main() -> Result<()> {", "a_b_c", "camelCase",
    "SELECT * FROM t WHERE id = 5;", "https://example.com/a?b=c&d=e#f", "user@example.com", "C:\\path\\file.txt", "$HOME", "```python",
    "naïve café", "Zürich", "Ångström", "e\u0301", "ﬁ", "Привет, мир!", "Γειά σου", "שלום", "مرحبا بالعالم", "नमस्ते", "ภาษาไทย", "한국어 문장",
    "日本語の文章です。", "中文句子，没有空格。", "漢字かな交じり", "🙂", "👍🏽", "👨‍👩‍👧‍👦", "🇫🇷", "\u200b", "\u00a0", "\u3000", "\ufeff", "…", "“quotes”", "—",
    "!!!", "???", "...", "()[]{}", "<>", "@#$%^&*", "~`", "|", "\\", "/", "_", "-", "--", "=", "==", "+", "x²+y²=z²", "∑∫√", "αβγ",
    "a", "b", "Z", "é", "ß", "I", "word " * 20, "A" * 60, "ab" * 30, "1" * 30, " " * 40, "\n" * 12,
]


def texts():
    rng = random.Random(20261129)
    all_texts = list(PIECES)
    while len(all_texts) < COUNT:
        joint = rng.choice(["", " ", "\n"])
        all_texts.append(joint.join(rng.choice(PIECES) for _ in range(rng.randint(2, 9))))
    return all_texts[:COUNT]


def smollm2(folder, name):
    tokenizer = AutoTokenizer.from_pretrained(folder, gguf_file=name)
    # transformers leaves out of a GGUF file how its vocabulary splits text (`tokenizer.ggml.pre`: smollm). The tokenizer.json that
    # the model was published with has these two steps.
    steps = [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    tokenizer.backend_tokenizer.pre_tokenizer = pre_tokenizers.Sequence(steps)
    return lambda text: tokenizer(text, add_special_tokens=False).input_ids


def gemma3(folder, name):
    from gguf import GGUFReader
    from sentencepiece import SentencePieceProcessor, sentencepiece_model_pb2

    fields = GGUFReader(os.path.join(folder, name)).fields
    tokens, scores, types = (fields[f"tokenizer.ggml.{key}"].contents() for key in ("tokens", "scores", "token_type"))
    model = sentencepiece_model_pb2.ModelProto()
    for token, score, kind in zip(tokens, scores, types):
        # The format's types are SentencePiece's; what the vocabulary calls unknown has a key of its own.
        kind = 2 if token == "<unk>" else kind
        model.pieces.add(piece=token.replace(" ", "\u2581"), score=score, type=kind)
    spec = model.trainer_spec
    spec.model_type, spec.byte_fallback, spec.vocab_size = spec.BPE, True, len(tokens)
    spec.unk_id, spec.bos_id, spec.eos_id, spec.pad_id = 3, 2, 1, 0
    model.normalizer_spec.name = "identity"
    model.normalizer_spec.add_dummy_prefix = False
    model.normalizer_spec.remove_extra_whitespaces = False
    return SentencePieceProcessor(model_proto=model.SerializeToString()).encode


# Beginning of the file's name; fixture, how text becomes ids, id of the beginning that scored texts get.
MODELS = [("SmolLM2", "smollm2", smollm2, None), ("gemma-3", "gemma3", gemma3, 2)]


def main():
    folder, name = os.path.split(os.path.abspath(sys.argv[1]))
    fixture, encoder, begin = next(entry[1:] for entry in MODELS if name.startswith(entry[0]))
    encode = encoder(folder, name)
    model = AutoModelForCausalLM.from_pretrained(folder, gguf_file=name, dtype=torch.float32).eval()
    scored = []
    for text in SCORED:
        ids = ([] if begin is None else [begin]) + encode(text)
        with torch.no_grad():
            logprobs = model(torch.tensor([ids])).logits[0].log_softmax(-1)
        scored.append({"ids": ids, "logprobs": [round(logprobs[i, ids[i + 1]].item(), 6) for i in range(len(ids) - 1)]})
    encoded = [{"text": text, "ids": encode(text)} for text in texts()]
    OUT.mkdir(parents=True, exist_ok=True)
    out = OUT / f"{fixture}.json"
    out.write_text(json.dumps({"file": name, "scored": scored, "encoded": encoded}, ensure_ascii=True) + "\n")
    print(out, out.stat().st_size)


main()
