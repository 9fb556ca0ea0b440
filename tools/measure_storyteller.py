"""Measures the storyteller on requests whose (name, place, object) its training set does not hold.

    python tools/measure_storyteller.py [--model models/storyteller] [--json models/storyteller/measured.json]

Answers are sampled with transformers at temperature 0.8 without other truncation (--top-p to change),
seeded. Three in four requests ask for a tale, one in four asks the innkeeper about a rumour.

* all three: name, place and object, each without its article, occur literally as whole words in the
  answer, ignoring case ("old lighthouse", not just "lighthouse").
* loop: some run of 4 tokens occurs three times or more within 32 consecutive tokens of the answer. The
  share is also given for the grammar's own answers, which repeat long names on purpose.
* copied: some 20 consecutive tokens of the answer occur anywhere in the training documents, prompts
  included, which are generated again from their seed (64-bit hashes; a collision counts as a copy).
* perplexity: cross entropy of the answers' tokens in fresh held-out documents, beside the grammar's own
  bits for the same answers. The latter count the derivation's choices, an upper bound of the text's
  information; where one text has several derivations a model may get below it.
* long chat: the share of answers with all three at the end of a conversation of about 1,700 tokens.

Exits with 1 if a bound is missed.
"""

import argparse
import json
import math
import sys
import time
from pathlib import Path

import numpy as np
import torch
from tokenizers import Tokenizer
from transformers import AutoModelForCausalLM, AutoTokenizer

sys.path.insert(0, str(Path(__file__).resolve().parent))
from storyteller import corpus, grammar  # noqa: E402

SEED = 777
BOUNDS = {"all_three_min": 0.90, "loop_max_exclusive": 0.05, "copied_max": 0, "entropy_ratio_max": 1.25}
NEW_TOKENS_MAX = 480


def arguments():
    """The command line."""
    folder = Path(__file__).resolve().parent.parent / "models" / "storyteller"
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, default=folder)
    parser.add_argument("--json", type=Path, help="write the figures here")
    parser.add_argument("--samples", type=Path, help="write every request and answer here")
    parser.add_argument("--requests", type=int, default=240)
    parser.add_argument("--long", type=int, default=48, help="long chats")
    parser.add_argument("--documents", type=int, default=300, help="held-out documents for the perplexity")
    parser.add_argument("--temperature", type=float, default=0.8)
    parser.add_argument("--top-p", type=float, default=1.0)
    parser.add_argument("--threads", type=int, default=2)
    return parser.parse_args()


def asked(doc):
    """The messages up to the first request that holds the whole topic, or None."""
    for index, turn in enumerate(doc.turns):
        if turn.role == "user" and doc.topics and all(grammar.contains_topic(turn.content, doc.topics[0])):
            return doc.messages[:index + 1]
    return None


def requests(count, seed):
    """`count` pairs (messages, topic) of distinct held-out topics."""
    found, seen, index = [], set(), 0
    while len(found) < count:
        doc = grammar.document(seed, index, want_held_out=True, kind="inn" if index % 4 == 3 else "tale")
        index += 1
        messages = asked(doc)
        if messages and doc.topics[0].key not in seen:
            assert grammar.held_out(doc.topics[0].key)
            seen.add(doc.topics[0].key)
            found.append((messages, doc.topics[0]))
    return found


def long_requests(count, tokenizer):
    """Requests that follow a conversation of about 1,700 tokens."""
    pairs = []
    for index, (messages, topic) in enumerate(requests(count, SEED + 1)):
        at_inn = messages[0]["role"] == "system" and "inn" in messages[0]["content"]
        doc = grammar.document(SEED + 2, index, True, "long_inn" if at_inn else "long_tales")
        while len(corpus.encode(tokenizer, doc)[0]) > 1700 or doc.turns[-1].role != "assistant":
            doc.turns.pop()
        pairs.append((doc.messages + [m for m in messages if m["role"] != "system"][-1:], topic))
    return pairs


def generate(model, tok, chats, args):
    """The answers' token ids, without `<|end|>`, and whether each one ended."""
    answers, ended = [], []
    for start in range(0, len(chats), 24):
        texts = [tok.apply_chat_template(c, tokenize=False, add_generation_prompt=True) for c in chats[start:start + 24]]
        batch = tok(texts, return_tensors="pt", padding=True, padding_side="left", add_special_tokens=False)
        room = model.config.max_position_embeddings - batch["input_ids"].shape[1]
        with torch.no_grad():
            out = model.generate(
                input_ids=batch["input_ids"], attention_mask=batch["attention_mask"], do_sample=True,
                temperature=args.temperature, top_p=args.top_p, top_k=0, max_new_tokens=min(NEW_TOKENS_MAX, room),
                eos_token_id=corpus.END, pad_token_id=corpus.PAD)
        for row in out[:, batch["input_ids"].shape[1]:].tolist():
            ended.append(corpus.END in row)
            answers.append(row[:row.index(corpus.END)] if ended[-1] else row)
    return answers, ended


def loops(ids):
    """Whether some 4-gram starts three times within 32 consecutive tokens."""
    starts = {}
    for at in range(len(ids) - 3):
        seen = starts.setdefault(tuple(ids[at:at + 4]), [])
        seen.append(at)
        if len(seen) >= 3 and at + 4 - seen[-3] <= 32:
            return True
    return False


def copied(answers, windows):
    """How many answers share a window with the sorted training hashes."""
    hits = 0
    for ids in answers:
        own = corpus.window_hashes(ids)
        at = np.minimum(np.searchsorted(windows, own), len(windows) - 1)
        hits += bool(len(own)) and bool((windows[at] == own).any())
    return hits


def held_out_entropy(model, tokenizer, count):
    """Cross entropy and the grammar's entropy, nats per answer token, and the loop share of the grammar."""
    nats = bits = tokens = looped = answers = 0
    for index in range(count):
        doc = grammar.document(SEED + 3, index, want_held_out=True)
        ids, mask, answer_bits, _ = corpus.encode(tokenizer, doc)
        with torch.no_grad():
            logits = model(torch.tensor([ids[:-1]])).logits[0].float()
        losses = torch.nn.functional.cross_entropy(logits, torch.tensor(ids[1:]), reduction="none")
        kept = torch.tensor(mask[1:])
        nats, tokens, bits = nats + losses[kept].sum().item(), tokens + int(kept.sum()), bits + answer_bits
        for turn in doc.turns:
            if turn.role in ("assistant", "text"):
                looped += loops(tokenizer.encode(turn.content, add_special_tokens=False).ids)
                answers += 1
    return nats / tokens, bits * math.log(2) / tokens, looped / answers


def missed(figures):
    """The names of the bounds that do not hold."""
    return [name for name, bad in {
        "all_three_min": figures["all_three_share"] < BOUNDS["all_three_min"],
        "loop_max_exclusive": figures["loop_share"] >= BOUNDS["loop_max_exclusive"],
        "copied_max": figures["copied"] > BOUNDS["copied_max"],
        "entropy_ratio_max": figures["entropy_ratio"] > BOUNDS["entropy_ratio_max"]}.items() if bad]


def measure(args):
    """All figures, and the sampled (topic, request, answer) triples."""
    torch.manual_seed(SEED)
    tokenizer = Tokenizer.from_file(str(args.model / "tokenizer.json"))
    tok = AutoTokenizer.from_pretrained(args.model)
    model = AutoModelForCausalLM.from_pretrained(args.model, dtype=torch.float32).eval()
    record = json.loads((args.model / "training.json").read_text())
    asked_for = requests(args.requests, SEED)
    answers, ended = generate(model, tok, [m for m, _ in asked_for], args)
    texts = [tok.decode(ids) for ids in answers]
    found = np.array([grammar.contains_topic(t, topic) for t, (_, topic) in zip(texts, asked_for)])
    distant = long_requests(args.long, tokenizer)
    far, _ = generate(model, tok, [m for m, _ in distant], args)
    far_found = [all(grammar.contains_topic(tok.decode(ids), topic)) for ids, (_, topic) in zip(far, distant)]
    cross, entropy, grammar_loops = held_out_entropy(model, tokenizer, args.documents)
    windows = corpus.training_windows(tokenizer, record)
    figures = {
        "requests": len(asked_for), "temperature": args.temperature, "top_p": args.top_p,
        "all_three_share": float(found.all(axis=1).mean()), "name_share": float(found[:, 0].mean()),
        "place_share": float(found[:, 1].mean()), "object_share": float(found[:, 2].mean()),
        "ended_share": float(np.mean(ended)), "answer_tokens_mean": float(np.mean([len(a) for a in answers])),
        "loop_share": float(np.mean([loops(a) for a in answers])), "grammar_loop_share": grammar_loops,
        "copied": copied(answers, windows), "training_windows": len(windows),
        "long_chat_all_three_share": float(np.mean(far_found)),
        "cross_entropy_nats_per_token": cross, "perplexity": math.exp(cross),
        "grammar_entropy_nats_per_token": entropy, "grammar_perplexity": math.exp(entropy),
        "entropy_ratio": cross / entropy}
    return figures, [(topic.key, m[-1]["content"], t) for (m, topic), t in zip(asked_for, texts)]


def main():
    args = arguments()
    torch.set_num_threads(args.threads)
    started = time.monotonic()
    figures, samples = measure(args)
    figures["missed"] = missed(figures)
    text = json.dumps({k: round(v, 4) if isinstance(v, float) else v for k, v in figures.items()}, indent=2)
    print(text)
    print(f"measured in {time.monotonic() - started:.0f} s")
    if args.json:
        args.json.write_text(text + "\n")
    if args.samples:
        args.samples.write_text("\n\n".join(f"{key}\n> {ask}\n{answer}" for key, ask, answer in samples) + "\n")
    sys.exit(1 if figures["missed"] else 0)


if __name__ == "__main__":
    main()
