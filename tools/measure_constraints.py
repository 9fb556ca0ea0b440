"""What constrained answers of a model are worth: how many end, and whether all that end are what their schemas say.

    python tools/measure_constraints.py MODEL [--temperature T] [--seeds N] [--tokens N] [--astrai PROGRAM]

needs jsonschema, an independent validator. The schemas are those of tests/fixtures/constraints/schemas.json; each is asked for with
several seeds, at most so many tokens, through `astrai score`.
"""

import argparse
import json
import subprocess
import sys
from pathlib import Path

import jsonschema

ROOT = Path(__file__).resolve().parent.parent


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("model")
    parser.add_argument("--temperature", type=float, default=1.0)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--tokens", type=int, default=600)
    parser.add_argument("--astrai", default=ROOT / "target/release/astrai")
    options = parser.parse_args()
    cases = json.loads((ROOT / "tests/fixtures/constraints/schemas.json").read_text(encoding="utf-8"))
    lines = []
    for index, case in enumerate(cases):
        for seed in range(options.seeds):
            lines.append(json.dumps({
                "id": [index, seed], "prompt": "Here is an answer as JSON:\n", "constraint": {"json_schema": case["schema"]},
                "temperature": options.temperature, "seed": seed, "max_tokens": options.tokens,
            }))
    command = [str(options.astrai), "score", "--model", options.model]
    done = subprocess.run(command, input="\n".join(lines), capture_output=True, text=True, encoding="utf-8", check=True)
    refused, ended, valid, wrong, tokens = set(), 0, 0, [], 0
    for line in done.stdout.splitlines():
        answer = json.loads(line)
        index = answer["id"][0]
        if "error" in answer:
            refused.add(index)
            continue
        tokens += len(answer["tokens"])
        if answer["finish_reason"] != "eos":
            continue
        ended += 1
        schema = cases[index]["schema"]
        checker = jsonschema.Draft202012Validator(schema, format_checker=jsonschema.Draft202012Validator.FORMAT_CHECKER)
        try:
            good = checker.is_valid(json.loads(answer["text"]))
        except ValueError:
            good = False
        valid += good
        if not good or not answer["complete"]:
            wrong.append((schema, answer["text"]))
    asked = (len(cases) - len(refused)) * options.seeds
    print(f"{len(cases)} schemas, {len(refused)} refused; of {asked} answers {ended} ended ({ended / asked:.1%}), {valid} of them "
          f"valid; {tokens / asked:.0f} tokens each")
    for schema, text in wrong[:5]:
        print(json.dumps(schema), text, sep="\n", file=sys.stderr)
    sys.exit(bool(wrong))


main()
