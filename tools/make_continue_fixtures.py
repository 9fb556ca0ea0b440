#!/usr/bin/env python3
"""Write tests/fixtures/continued.json: chats whose last message is continued, and what transformers makes of them.

    python tools/make_continue_fixtures.py [--out tests/fixtures/continued.json]

Needs transformers and jinja2. The templates are our own; they treat content as published ones do: keep it, trim it, put
reasoning on lines of its own, drop it, put spaces or tool calls after it. `expected` is the text with
`continue_final_message=True`; null where transformers refuses, because a part of the content is not in it.
"""

import argparse
import json
from pathlib import Path

from transformers.utils import chat_template_utils

TEMPLATES = {
    "kept": "{% for m in messages %}<|{{ m.role }}|>{{ m.content }}<|end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}",
    "lines": "{{ '<s>' }}{%- for m in messages %}{{- '<|im_start|>' + m.role + '\n' + m.content + '<|im_end|>' + '\n' }}"
    "{%- endfor %}{%- if add_generation_prompt %}{{- '<|im_start|>assistant\n' }}{%- endif %}",
    "trimmed": "{% for m in messages %}<start>{{ 'model' if m.role == 'assistant' else m.role }}\n{{ m.content | trim }}"
    "<end>\n{% endfor %}{% if add_generation_prompt %}<start>model\n{% endif %}",
    "spaced": "{% for m in messages %}{% if m.role == 'user' %}{{ '<s>[INST] ' + m.content.strip() + ' [/INST]' }}"
    "{% else %}{{ ' ' + m.content.strip() + ' </s>' }}{% endif %}{% endfor %}",
    "end_after_all": "{% for m in messages %}{{ m.role }}: {{ m.content }}\n\n{% endfor %}</s>"
    "{% if add_generation_prompt %}assistant: {% endif %}",
    "last_open": "{% for m in messages %}{{ m.role }}: {{ m.content.rstrip() }}{% if not loop.last %}</s>{% endif %}"
    "{% endfor %}{{ '\nassistant: ' if add_generation_prompt else '' }}",
    "thinking": "{%- for m in messages %}{%- set content = m.content if m.content is string else '' %}"
    "{%- set ns = namespace(thought='') %}"
    "{%- if m.role == 'assistant' %}{%- if m.reasoning_content is string %}{%- set ns.thought = m.reasoning_content %}"
    "{%- elif '</think>' in content %}"
    "{%- set ns.thought = content.split('</think>')[0].rstrip('\n').split('<think>')[-1].lstrip('\n') %}"
    "{%- set content = content.split('</think>')[-1].lstrip('\n') %}{%- endif %}"
    "{{- '<|im_start|>assistant\n' }}{%- if loop.last or ns.thought %}"
    "{{- '<think>\n' + ns.thought.strip('\n') + '\n</think>\n\n' }}{%- endif %}"
    "{{- content.lstrip('\n') + '<|im_end|>\n' }}"
    "{%- else %}{{- '<|im_start|>' + m.role + '\n' + content + '<|im_end|>\n' }}{%- endif %}{%- endfor %}",
    "thoughts_dropped": "{% for m in messages %}{% if m.role == 'user' %}<user>{{ m.content }}{% else %}"
    "{% set content = m.content %}{% if '</think>' in content %}{% set content = content.split('</think>')[-1] %}"
    "{% endif %}<model>{{ content }}<end>{% endif %}{% endfor %}",
    "parts": "{% for m in messages %}<|{{ m.role }}|>{% if m.content is string %}{{ m.content }}{% else %}"
    "{% for part in m.content %}{% if part.type == 'text' %}{{ part.text | trim }}{% else %}<image>{% endif %}"
    "{% endfor %}{% endif %}<|end|>{% endfor %}",
    "calls_after": "{% for m in messages %}{{ m.role }}: {{ m.content }}{% for c in m.tool_calls or [] %}"
    "<call>{{ c.function | tojson }}</call>{% endfor %}</s>{% endfor %}",
    "last_apart": "{% set start = '' %}{% if messages[-1].role == 'assistant' %}{% set start = messages[-1].content %}"
    "{% set messages = messages[:-1] %}{% endif %}{% for m in messages %}{{ m.role }}> {{ m.content }}\n{% endfor %}"
    "assistant> {{ start }}{% if not add_generation_prompt %}<end>{% endif %}",
}
STARTS = [
    "Ahoy, I a",
    "Ahoy ",
    "Ahoy \n\n",
    "  Ahoy",
    "```json\n{\n  \"a\": ",
    "hi",
    "<end> of <|im_end|>",
    "été \u3000",
    "<think>\nSix sevens",
    "<think>\nSix sevens.\n</think>\n\nIt is ",
    "<think>Six sevens.</think>It is",
    "It is </think> 42",
]
ASK = {"role": "user", "content": "hi"}
EARLIER = [ASK, {"role": "assistant", "content": "<think>\nWho?\n</think>\n\nhi"}, {"role": "user", "content": "Again: hi "}]
CALL = {"type": "function", "function": {"name": "tide", "arguments": {"at": "noon"}}}


def chats():
    """(template, messages) of every case."""
    for name in TEMPLATES:
        for start in STARTS:
            yield name, [ASK, {"role": "assistant", "content": start}]
            yield name, [*EARLIER, {"role": "assistant", "content": start}]
    for name in ["kept", "lines", "end_after_all", "last_apart"]:
        yield name, [ASK, {"role": "assistant", "content": ""}]
    yield "thinking", [ASK, {"role": "assistant", "content": "So ", "reasoning_content": "Six sevens."}]
    yield "thinking", [ASK, {"role": "assistant", "content": "", "reasoning_content": "Six sevens."}]
    yield "calls_after", [ASK, {"role": "assistant", "content": "I look it up ", "tool_calls": [CALL]}]
    text = [{"type": "text", "text": "One "}, {"type": "text", "text": " Two "}]
    for parts in [text[:1], text, [*text, {"type": "image"}]]:
        yield "parts", [ASK, {"role": "assistant", "content": parts}]


def record(name, messages):
    """The JSON form of a case."""
    try:
        rendered, _ = chat_template_utils.render_jinja_template(
            conversations=[json.loads(json.dumps(messages))],
            chat_template=TEMPLATES[name],
            continue_final_message=True,
            add_generation_prompt=False,
        )
        expected = rendered[0]
    except ValueError:
        expected = None
    return {"template": name, "messages": messages, "expected": expected}


def main():
    """Render every case and write the file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent.parent / "tests/fixtures/continued.json")
    out = parser.parse_args().out
    records = [record(*chat) for chat in chats()]
    cases = ",\n".join(json.dumps(r, ensure_ascii=False) for r in records)
    templates = json.dumps(TEMPLATES, ensure_ascii=False)
    out.write_text(f'{{"templates": {templates},\n"cases": [\n{cases}\n]}}\n', encoding="utf-8")
    print(f"{len(records)} cases, {sum(r['expected'] is None for r in records)} of them refused")


if __name__ == "__main__":
    main()
