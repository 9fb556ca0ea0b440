"""Trains the storyteller: generates its corpus, trains the tokenizer and the model, writes the HF folder.

    python tools/train_storyteller.py --work DIR [--out models/storyteller]

Seeded and single-pass: the same steps see the same documents. It stays under an hour on two CPU cores.
A checkpoint in --work, which should lie outside the repository, lets an interrupted run go on. `--check`
only verifies what is in --out against transformers; `--export` writes --out from the last checkpoint.
"""

import argparse
import json
import os
import sys
import time
from pathlib import Path

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # kinder to a shared machine
import torch  # noqa: E402
from safetensors.torch import save_file  # noqa: E402
from tokenizers import Tokenizer  # noqa: E402

sys.path.insert(0, str(Path(__file__).resolve().parent))
from storyteller import corpus, grammar, model  # noqa: E402

SEED = 20
TOKENIZER_DOCS = 20000
TOKENS_PER_STEP = 4096
LONG_FROM, LONG_EVERY = 750, 5
DECAY_SHARE, FAIR_SHARE = 0.3, 0.1
COPY_FROM, COPY_WEIGHT = 650, 4.0
BYTES_MAX = 6_000_000


def arguments():
    """The command line; the root of the repository is two folders up."""
    root = Path(__file__).resolve().parent.parent
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=root / "models" / "storyteller")
    parser.add_argument("--work", type=Path, default=Path("storyteller-work"), help="checkpoint and log")
    parser.add_argument("--steps", type=int, default=1600)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--export", action="store_true", help="only write --out from the checkpoint")
    parser.add_argument("--check", action="store_true", help="only verify --out against transformers")
    return parser.parse_args()


def tokenizer_for(work, vocab):
    """The tokenizer, trained on the first documents; kept in `work` for a restart."""
    path = work / "tokenizer.json"
    if not path.exists():
        texts = (t.content for i in range(TOKENIZER_DOCS) for t in grammar.document(SEED, i).turns)
        corpus.train_tokenizer(texts, vocab).save(str(path))
    return Tokenizer.from_file(str(path))


def write_atomically(path, text):
    """A reader sees the old file or the new one."""
    temporary = path.with_name(path.name + ".part")
    temporary.write_text(text, encoding="utf-8")
    os.replace(temporary, path)


def export(net, config, tokenizer, record, out):
    """Writes the Hugging Face folder, the weights last."""
    out.mkdir(parents=True, exist_ok=True)
    as_json = lambda value: json.dumps(value, indent=2) + "\n"
    write_atomically(out / "config.json", as_json(config.hf(corpus.BOS, corpus.END, corpus.PAD)))
    write_atomically(out / "generation_config.json", as_json({
        "do_sample": True, "temperature": 0.8, "top_p": 0.95, "bos_token_id": corpus.BOS,
        "eos_token_id": corpus.END, "pad_token_id": corpus.PAD}))
    write_atomically(out / "tokenizer.json", tokenizer.to_str(pretty=False) + "\n")
    write_atomically(out / "tokenizer_config.json", as_json({
        "tokenizer_class": "PreTrainedTokenizerFast", "model_max_length": config.context,
        "bos_token": "<|bos|>", "eos_token": "<|end|>", "pad_token": "<|pad|>", "add_bos_token": True,
        "add_eos_token": False, "clean_up_tokenization_spaces": False, "chat_template": corpus.CHAT_TEMPLATE}))
    write_atomically(out / "chat_template.jinja", corpus.CHAT_TEMPLATE)
    write_atomically(out / "training.json", as_json(record))
    temporary = out / "model.safetensors.part"
    save_file(net.hf_state(), temporary, metadata={"format": "pt"})
    if temporary.stat().st_size > BYTES_MAX:
        raise SystemExit(f"the weights take {temporary.stat().st_size} bytes, more than {BYTES_MAX}")
    temporary.chmod(0o644)
    os.replace(temporary, out / "model.safetensors")


def optimizers(net):
    """Muon for the layers' matrices, AdamW for the embedding and the norms; each with its peak rate."""
    hidden = [p for n, p in net.named_parameters() if p.dim() == 2 and "embed" not in n]
    other = [p for n, p in net.named_parameters() if p.dim() != 2 or "embed" in n]
    return ((model.Muon(hidden, lr=0.02, weight_decay=0.05), 0.02),
            (torch.optim.AdamW(other, lr=3e-3, betas=(0.9, 0.95), weight_decay=0.0), 3e-3))


def rate(step, steps):
    """Linear warm-up over 60 steps, the peak, then linearly down over the last DECAY_SHARE of the steps.
    Up to there nothing depends on `steps`, so a checkpoint may be finished with fewer or more of them."""
    return min(1.0, (step + 1) / 60, (steps - step) / (DECAY_SHARE * steps))


def copy_weight(step, steps):
    """How much a copied token counts: more once the grammar is known, as much as any in the last steps,
    which restores the proportions."""
    return COPY_WEIGHT if COPY_FROM <= step < steps * (1 - FAIR_SHARE) else 1.0


def tensors(batch, copy):
    """Right-padded inputs, their next tokens (-1 where there is none) and the weights of those."""
    length = max(len(ids) for ids, _ in batch)
    ids, weights = torch.full((len(batch), length), corpus.PAD), torch.ones(len(batch), length)
    for row, (tokens, copied) in enumerate(batch):
        ids[row, :len(tokens)] = torch.tensor(tokens)
        weights[row, :len(tokens)][torch.from_numpy(copied)] = copy
    targets = ids[:, 1:].clone()
    for row, (tokens, _) in enumerate(batch):
        targets[row, len(tokens) - 1:] = -1
    return ids[:, :-1], targets, weights[:, 1:]


def save_checkpoint(path, net, optims, step, seconds):
    """Everything a restart needs, replaced atomically."""
    temporary = path.with_suffix(".part")
    torch.save({"net": net.state_dict(), "optims": [o.state_dict() for o, _ in optims],
                "step": step, "seconds": seconds}, temporary)
    os.replace(temporary, path)


def train(args, net, tokenizer):
    """Runs the steps that remain; returns the training record."""
    optims, checkpoint = optimizers(net), args.work / "checkpoint.pt"
    done, seconds = 0, 0.0
    if checkpoint.exists():
        state = torch.load(checkpoint)
        net.load_state_dict(state["net"])
        for (optim, _), saved in zip(optims, state["optims"]):
            optim.load_state_dict(saved)
        done, seconds = state["step"], state["seconds"]
    first = done - 1 if args.export else done
    stream = corpus.Stream(tokenizer, SEED, args.steps, TOKENS_PER_STEP, LONG_FROM, LONG_EVERY,
                           net.cos.shape[0], first)
    record = {"seed": SEED, "steps": args.steps, "tokens_per_step": TOKENS_PER_STEP}
    started, average = time.monotonic(), None
    for step, batch in enumerate(stream, first):
        if args.export:
            break
        for optim, peak in optims:
            for group in optim.param_groups:
                group["lr"] = peak * rate(step, args.steps)
            optim.zero_grad(set_to_none=True)
        loss, plain = net.loss(*tensors(batch, copy_weight(step, args.steps)))
        loss.backward()
        torch.nn.utils.clip_grad_norm_(net.parameters(), 1.0)
        for optim, _ in optims:
            optim.step()
        average = plain.item() if average is None else 0.95 * average + 0.05 * plain.item()
        spent = seconds + time.monotonic() - started
        if step % 20 == 19:
            print(f"step {step + 1} loss {average:.4f} nats/token, {spent:.0f} s", flush=True)
        if step % 50 == 49 or step + 1 == args.steps:
            save_checkpoint(checkpoint, net, optims, step + 1, spent)
    record |= {"steps_done": max(done, 0 if args.export else args.steps), "documents": stream.documents,
               "long_documents": stream.long_documents,
               "seconds": round(seconds if args.export else seconds + time.monotonic() - started)}
    return record


def check(out):
    """transformers loads the folder; its logits and its template agree with ours."""
    from transformers import AutoModelForCausalLM, AutoTokenizer
    hf, tok = AutoModelForCausalLM.from_pretrained(out, dtype=torch.float32), AutoTokenizer.from_pretrained(out)
    config = model.Config(vocab=hf.config.vocab_size)
    net = model.Llama(config)
    net.load_state_dict({k.removeprefix("model."): v for k, v in hf.state_dict().items() if k != "lm_head.weight"})
    plain = Tokenizer.from_file(str(out / "tokenizer.json"))
    worst = 0.0
    for index, kind in enumerate(["tale", "inn", "raw", "long_tales"]):
        doc = grammar.document(SEED + 2, index, kind=kind)
        ids = corpus.encode(plain, doc)[0][:config.context]
        if kind == "raw":
            rendered = tok(doc.turns[0].content)["input_ids"] + [corpus.END]
        else:
            rendered = tok.apply_chat_template(doc.messages, tokenize=True, return_dict=False)[:config.context]
        assert rendered == ids, "the chat template and the training layout differ"
        with torch.no_grad():
            ours = torch.nn.functional.linear(net(torch.tensor([ids])), net.embed_tokens.weight)
            worst = max(worst, (ours - hf(torch.tensor([ids])).logits).abs().max().item())
    assert worst < 1e-3, f"logits differ by {worst}"
    odd = "Zo\u00eb \u2603 \U0001f600\n\tx"
    assert tok.decode(tok(odd)["input_ids"], skip_special_tokens=True) == odd
    print(f"transformers agrees: logits within {worst:.1e}, {sum(p.numel() for p in net.parameters())} parameters")


def main():
    args = arguments()
    torch.set_num_threads(args.threads)
    torch.manual_seed(SEED)
    if not args.check:
        args.work.mkdir(parents=True, exist_ok=True)
        config = model.Config()
        tokenizer = tokenizer_for(args.work, config.vocab)
        net = model.Llama(config)
        record = train(args, net, tokenizer)
        export(net, config, tokenizer, record, args.out)
    check(args.out)


if __name__ == "__main__":
    main()
