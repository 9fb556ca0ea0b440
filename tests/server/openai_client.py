"""OpenAI's own client against a server whose last message is its answer. Fails with an assertion."""

import sys

import openai

url = sys.argv[1]
client = openai.OpenAI(base_url=url + "/v1", api_key="key", max_retries=0, _strict_response_validation=True)


def raises(kind, **fields):
    try:
        client.chat.completions.create(**{"model": "m", "messages": [{"role": "user", "content": "x"}], **fields})
    except kind as error:
        return error
    raise AssertionError(f"{kind} was expected")


def say(text):
    return [{"role": "user", "content": "say:" + text}]


TOOLS = [
    {"type": "function", "function": {"name": "dice", "parameters": {"type": "object", "properties": {"sides": {"type": "integer"}}}}},
    {"type": "function", "function": {"name": "coin", "parameters": {"type": "object"}}},
]
CALLS = (
    '<think>Hm, ünd.</think>I roll.<tool_call>{"name": "dice", "arguments": {"sides": 6}}</tool_call>'
    '<tool_call>{"name": "coin", "arguments": {}}</tool_call>'
)

models = client.models.list().data
assert [model.id for model in models] == ["m"], models
assert client.models.retrieve("m").owned_by == "astrai"

answer = client.chat.completions.create(model="m", messages=say(CALLS), tools=TOOLS)
message = answer.choices[0].message
assert message.content == "I roll." and message.reasoning_content == "Hm, ünd.", message
assert [(c.function.name, c.function.arguments) for c in message.tool_calls] == [("dice", '{"sides": 6}'), ("coin", "{}")]
assert answer.choices[0].finish_reason == "tool_calls"
assert answer.usage.total_tokens == answer.usage.prompt_tokens + answer.usage.completion_tokens
assert answer.usage.prompt_tokens_details.cached_tokens >= 0
reasoned = answer.usage.completion_tokens_details.reasoning_tokens
assert 0 < reasoned < answer.usage.completion_tokens, answer.usage

# The client's own way of putting a stream together.
with client.chat.completions.stream(
    model="m", messages=say(CALLS), tools=TOOLS, stream_options={"include_usage": True}
) as stream:
    kinds = [event.type for event in stream]
    whole = stream.get_final_completion()
assert "tool_calls.function.arguments.done" in kinds and "content.delta" in kinds, kinds
streamed = whole.choices[0].message
assert streamed.content == "I roll."
assert [(c.function.name, c.function.arguments) for c in streamed.tool_calls] == [("dice", '{"sides": 6}'), ("coin", "{}")]
assert whole.choices[0].finish_reason == "tool_calls" and whole.usage.completion_tokens == answer.usage.completion_tokens
assert whole.usage.completion_tokens_details.reasoning_tokens == reasoned

# The next turn, with the results of the calls.
turn = [
    {"role": "user", "content": "roll"},
    message.model_dump(exclude_none=True),
    *({"role": "tool", "tool_call_id": call.id, "content": "3"} for call in message.tool_calls),
    *say("Three."),
]
assert client.chat.completions.create(model="m", messages=turn, tools=TOOLS).choices[0].message.content == "Three."

answer = client.chat.completions.create(
    model="m", messages=[{"role": "user", "content": "x"}], max_completion_tokens=5, logprobs=True, top_logprobs=2, n=2, seed=1
)
assert len(answer.choices) == 2 and answer.usage.completion_tokens == 10
assert all(len(choice.logprobs.content) == 5 for choice in answer.choices)
assert all(choice.finish_reason == "length" for choice in answer.choices)

text = client.completions.create(model="m", prompt="Once upon", max_tokens=4, logprobs=1, seed=1)
# In streams OpenAI itself sends no reason before the end, which its types do not know.
loose = openai.OpenAI(base_url=url + "/v1", api_key="key", max_retries=0)
pieces = list(loose.completions.create(model="m", prompt="Once upon", max_tokens=4, seed=1, stream=True))
assert "".join(piece.choices[0].text for piece in pieces) == text.choices[0].text, pieces

error = raises(openai.BadRequestError, temperature="hot")
assert error.param == "temperature", error
assert raises(openai.BadRequestError, messages=[{"role": "user", "content": "word " * 4000}]).code == "context_length_exceeded"
assert raises(openai.NotFoundError, model="other").code == "model_not_found"
client.api_key = "wrong"
assert raises(openai.AuthenticationError).code == "invalid_api_key"

client.api_key = "key"
FLAT = [{"type": "function", "strict": False, **tool["function"]} for tool in TOOLS]
ASK = {"model": "m", "input": "say:" + CALLS, "tools": FLAT}
whole = client.responses.create(**ASK)


def output(response):
    text = {"message": lambda i: i.content[0].text, "reasoning": lambda i: i.content[0].text}
    return [(i.type, text[i.type](i)) if i.type in text else (i.name, i.arguments) for i in response.output]


wanted = [("reasoning", "Hm, ünd."), ("message", "I roll."), ("dice", '{"sides": 6}'), ("coin", "{}")]
assert output(whole) == wanted and whole.status == "completed" and whole.output_text == "I roll.", whole
with client.responses.stream(**ASK) as stream:
    kinds = {event.type for event in stream}
    streamed = stream.get_final_response()
assert output(streamed) == wanted and streamed.usage.total_tokens == whole.usage.total_tokens, streamed
assert whole.usage.output_tokens_details.reasoning_tokens == reasoned == streamed.usage.output_tokens_details.reasoning_tokens
assert client.responses.input_tokens.count(**ASK).input_tokens == whole.usage.input_tokens
assert {"response.output_text.delta", "response.reasoning_text.delta", "response.function_call_arguments.done"} <= kinds, kinds
results = [
    {"type": "function_call_output", "call_id": item.call_id, "output": "3"} for item in whole.output if item.type == "function_call"
]
turn = [{"role": "user", "content": "roll"}, *whole.output, *results, {"role": "user", "content": "say:Three."}]
assert client.responses.create(model="m", input=turn, tools=FLAT).output_text == "Three."
