"""Tokens of the storyteller's corpus: its tokenizer, the encoding of documents, and n-gram windows.

Layout of an encoded chat: `<|bos|>`, then per turn `<|role|> content <|end|>`; of a raw tale: `<|bos|>`
content `<|end|>`. `CHAT_TEMPLATE` renders the same, which `train_storyteller.py --check` verifies.
"""

import re

import numpy as np
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers

from . import grammar

SPECIALS = ["<|bos|>", "<|end|>", "<|system|>", "<|user|>", "<|assistant|>", "<|pad|>"]
BOS, END, SYSTEM, USER, ASSISTANT, PAD = range(6)
ROLE_IDS = {"system": SYSTEM, "user": USER, "assistant": ASSISTANT}
CHAT_TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}"
    "{% if message['role'] not in ['system', 'user', 'assistant'] %}"
    "{{ raise_exception('unknown role: ' + message['role']) }}{% endif %}"
    "{{ '<|' + message['role'] + '|>' + (message['content'] | trim) + '<|end|>' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}")
WINDOW = 20


def train_tokenizer(texts, vocab_size):
    """A byte-level BPE with every byte in its alphabet, so any UTF-8 text makes the round trip."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.train_from_iterator(texts, trainers.BpeTrainer(
        vocab_size=vocab_size, special_tokens=SPECIALS, show_progress=False,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet()))
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<|bos|> $A", pair="<|bos|> $A $B", special_tokens=[("<|bos|>", BOS)])
    return tokenizer


def encode(tokenizer, doc):
    """(token ids, mask of the answer's tokens, bits of the answers, bits of everything). The mask marks
    the assistant's or the raw text's tokens and the `<|end|>` after them."""
    ids, mask, answer_bits, all_bits = [BOS], [False], 0.0, 0.0
    for turn in doc.turns:
        answer = turn.role in ("assistant", "text")
        if turn.role != "text":
            ids.append(ROLE_IDS[turn.role])
            mask.append(False)
        content = tokenizer.encode(turn.content, add_special_tokens=False).ids + [END]
        ids += content
        mask += [answer] * len(content)
        all_bits += turn.bits
        answer_bits += turn.bits if answer else 0.0
    return ids, mask, answer_bits, all_bits


def copy_mask(tokenizer, doc, ids):
    """Marks the tokens of `ids` that belong to a name, place or object asked for, in the answers: what a
    reader of the request can copy. bool[len(ids)]."""
    mask, at = np.zeros(len(ids), dtype=bool), 1
    cores = sorted({core for topic in doc.topics for core in topic.key}, key=len, reverse=True)
    pattern = re.compile(r"(?i)(?<![\w-])(" + "|".join(map(re.escape, cores)) + r")(?![\w-])") if cores else None
    for turn in doc.turns:
        encoded = tokenizer.encode(turn.content, add_special_tokens=False)
        at += turn.role != "text"
        if turn.role == "assistant" and pattern:
            spans = [m.span() for m in pattern.finditer(turn.content)]
            for index, (start, stop) in enumerate(encoded.offsets):
                mask[at + index] = any(start < b and a < stop for a, b in spans)
        at += len(encoded.ids) + 1
    assert at == len(ids)
    return mask


def window_hashes(ids):
    """A 64-bit hash of every run of WINDOW consecutive ids (wrapping polynomial); uint64[len-WINDOW+1]."""
    ids = np.asarray(ids, dtype=np.uint64)
    if len(ids) < WINDOW:
        return np.empty(0, dtype=np.uint64)
    multiplier, total = np.uint64(0x9E3779B97F4A7C15), np.zeros(len(ids) - WINDOW + 1, dtype=np.uint64)
    mixed = (ids + np.uint64(1)) * np.uint64(0xD1B54A32D192ED03)
    mixed ^= mixed >> np.uint64(29)
    with np.errstate(over="ignore"):
        for offset in range(WINDOW):
            total = total * multiplier + mixed[offset:offset + len(total)]
    return total


class Stream:
    """The training documents, by step: deterministic in the seed, one pass, nothing repeated.

    Short steps hold whole documents of similar length, padded to `tokens` per step. From step
    `long_from` on every `long_every`th one holds conversations cut to `long_len` tokens. The first `done`
    steps were taken before a restart.
    """

    CHUNK = 2048

    def __init__(self, tokenizer, seed, steps, tokens, long_from, long_every, long_len, done=0):
        self.tokenizer, self.seed, self.steps, self.tokens = tokenizer, seed, steps, tokens
        self.long_from, self.long_every, self.long_len, self.done = long_from, long_every, long_len, done
        self.documents = self.long_documents = 0

    def _example(self, doc):
        return encode(self.tokenizer, doc)[0], doc

    def _short_batches(self):
        rng = np.random.default_rng(self.seed)
        while True:
            first = self.documents
            docs = [self._example(grammar.document(self.seed, first + i)) for i in range(self.CHUNK)]
            self.documents = first + self.CHUNK
            docs.sort(key=lambda example: len(example[0]))
            batches, batch = [], []
            for example in docs:
                if batch and len(example[0]) * (len(batch) + 1) > self.tokens:
                    batches.append(batch)
                    batch = []
                batch.append(example)
            batches.append(batch)
            for index in rng.permutation(len(batches)):
                yield batches[index]

    def _long_batch(self):
        batch = []
        for _ in range(max(1, self.tokens // self.long_len)):
            kind = "long_inn" if self.long_documents % 2 else "long_tales"
            doc = grammar.document(self.seed + 1, self.long_documents, kind=kind)
            batch.append(self._example(doc))
            self.long_documents += 1
        return batch

    def __iter__(self):
        """Yields the batches after the first `done`, each a list of (ids, copy mask)."""
        short = self._short_batches()
        for step in range(self.steps):
            is_long = step >= self.long_from and step % self.long_every == 0
            batch = self._long_batch() if is_long else next(short)
            if step >= self.done:
                masked = ((ids, copy_mask(self.tokenizer, doc, ids)) for ids, doc in batch)
                yield [(ids[:self.long_len], mask[:self.long_len]) for ids, mask in masked]


def training_windows(tokenizer, record):
    """Sorted unique hashes of every window of every training document of `record` (training.json)."""
    hashes = []
    for index in range(record["documents"]):
        hashes.append(window_hashes(encode(tokenizer, grammar.document(record["seed"], index))[0]))
    for index in range(record["long_documents"]):
        kind = "long_inn" if index % 2 else "long_tales"
        hashes.append(window_hashes(encode(tokenizer, grammar.document(record["seed"] + 1, index, kind=kind))[0]))
    return np.unique(np.concatenate(hashes))
