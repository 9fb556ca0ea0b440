"""Anthropic's own client against a server whose last message is its answer. Fails with an assertion."""

import sys

import anthropic

url = sys.argv[1]
client = anthropic.Anthropic(base_url=url, api_key="key", max_retries=0, _strict_response_validation=True)


def say(text):
    return {"role": "user", "content": "say:" + text}


TOOLS = [
    {"name": "dice", "input_schema": {"type": "object", "properties": {"sides": {"type": "integer"}}}},
    {"name": "coin", "input_schema": {"type": "object"}},
]
CALLS = (
    '<think>Hm, ünd.</think>I roll.<tool_call>{"name": "dice", "arguments": {"sides": 6}}</tool_call>'
    '<tool_call>{"name": "coin", "arguments": {}}</tool_call>'
)
ASK = {"model": "m", "max_tokens": 300, "messages": [say(CALLS)], "tools": TOOLS, "thinking": {"type": "adaptive"}}


def blocks(message):
    kinds = {"text": lambda b: b.text, "thinking": lambda b: b.thinking, "tool_use": lambda b: (b.name, b.input)}
    return [(block.type, kinds[block.type](block)) for block in message.content]


wanted = [
    ("thinking", "Hm, ünd."),
    ("text", "I roll."),
    ("tool_use", ("dice", {"sides": 6})),
    ("tool_use", ("coin", {})),
]
whole = client.messages.create(**ASK)
assert blocks(whole) == wanted and whole.stop_reason == "tool_use", whole
with client.messages.stream(**ASK) as stream:
    events = list(stream)
    kinds = {event.type for event in events}
    streamed = stream.get_final_message()
assert blocks(streamed) == wanted and streamed.stop_reason == "tool_use", streamed
assert {"thinking", "text", "input_json", "message_stop"} <= kinds, kinds
total = lambda usage: usage.input_tokens + usage.cache_read_input_tokens
assert total(streamed.usage) == total(whole.usage) and streamed.usage.output_tokens == whole.usage.output_tokens
# What is known of the prompt is told at the beginning.
(begin,) = (event.message for event in events if event.type == "message_start")
assert total(begin.usage) == total(whole.usage), begin

results = [{"type": "tool_result", "tool_use_id": b.id, "content": "3"} for b in whole.content if b.type == "tool_use"]
turn = [
    {"role": "user", "content": "roll"},
    {"role": "assistant", "content": whole.content},
    {"role": "user", "content": [*results, {"type": "text", "text": "say:Three."}]},
]
answer = client.messages.create(model="m", max_tokens=20, messages=turn, tools=TOOLS, system="Be brief.")
assert blocks(answer) == [("text", "Three.")] and answer.stop_reason == "end_turn", answer

count = client.messages.count_tokens(model="m", messages=ASK["messages"], tools=TOOLS)
assert count.input_tokens > 20, count
assert [model.id for model in client.models.list(limit=1000)] == ["m"]

try:
    client.messages.create(**{**ASK, "model": "other"})
    raise AssertionError("an error was expected")
except anthropic.NotFoundError as error:
    assert error.body["error"]["type"] == "not_found_error", error.body
