"""Writes tests/fixtures/answers: answers of every built-in format, with their parts.

The parts are known because the answers are written from them. Run it from the root of the checkout.
"""

import json
import pathlib

FOLDER = pathlib.Path("tests/fixtures/answers")


def dumps(value):
    return json.dumps(value, ensure_ascii=False)


def python(value):
    """A value as Python writes it, strings in single quotes."""
    if isinstance(value, str):
        escaped = value.replace("\\", "\\\\").replace("'", "\\'").replace("\n", "\\n")
        return f"'{escaped}'"
    if isinstance(value, dict):
        return "{" + ", ".join(f"{python(k)}: {python(v)}" for k, v in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(python(v) for v in value) + "]"
    return repr(value)


def gemma(value):
    if isinstance(value, str):
        return f'<|"|>{value}<|"|>'
    if isinstance(value, dict):
        return "{" + ",".join(f"{k}:{gemma(v)}" for k, v in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ",".join(gemma(v) for v in value) + "]"
    return dumps(value)


def plain(value):
    """A value between tags: strings stand as they are."""
    return value if isinstance(value, str) else dumps(value)


class Format:
    """How a format is written. `call` writes one call; `calls` several ones."""

    markers = ()
    think = ("<think>", "</think>")
    end = ""
    json_body = True
    # Text may stand before a call, and after one.
    before = after = True
    template = ""

    def content(self, text):
        return text

    def reasoning(self, text):
        return self.think[0] + text + self.think[1]

    def call(self, name, arguments):
        raise NotImplementedError

    def calls(self, calls):
        return "\n".join(self.call(*call) for call in calls)

    def call_id(self, index, name):
        return None

    # Beginning of a call that breaks off within the string "Par", and what the text of its part is then.
    def unclosed(self):
        whole = self.call("get_weather", {"city": "Paris", "days": 3})
        at = whole.index("Paris") + 3
        return whole[:at], self.unclosed_text(whole[:at])

    def unclosed_text(self, text):
        return text[text.index("{", text.index("arguments") if '"arguments"' in text else 0) :]

    # An answer that is no call although it begins like one.
    malformed = None


class Hermes(Format):
    template = "hermes"
    markers = ("<tool_call>", "</tool_call>", "<think>", "</think>", "<|im_end|>")
    end = "<|im_end|>"
    malformed = ["<tool_call>not JSON</tool_call>", "<tool_call>\n{\"nam\": 1}\n</tool_call>"]

    def call(self, name, arguments):
        return f'<tool_call>\n{{"name": {dumps(name)}, "arguments": {dumps(arguments)}}}\n</tool_call>'


class Tagged(Format):
    json_body = False
    pieces = ("", "", "", "")

    def call(self, name, arguments):
        head, argument, tail = self.pieces
        is_string = lambda v: str(isinstance(v, str)).lower()
        one = lambda k, v: argument.replace("KEY", k).replace("IS_STRING", is_string(v)).replace("VALUE", plain(v))
        inner = "".join(one(k, v) for k, v in arguments.items())
        return head.replace("NAME", name) + inner + tail

    def unclosed_text(self, text):
        return text[len(self.pieces[0].replace("NAME", "get_weather")) - self.kept :]

    # Characters of the head that belong to the content.
    kept = 0


class QwenXml(Tagged):
    template = "qwen-xml"
    markers = ("<tool_call>", "</tool_call>", "<function=f>", "</function>", "<parameter=a>", "</parameter>")
    end = "<|im_end|>"
    pieces = ("<tool_call>\n<function=NAME>\n", "<parameter=KEY>\nVALUE\n</parameter>\n", "</function>\n</tool_call>")
    kept = 1


class SeedOss(Tagged):
    template = "seed-oss"
    markers = ("<seed:tool_call>", "</seed:tool_call>", "<seed:think>", "</seed:think>")
    think = ("<seed:think>", "</seed:think>")
    end = "<seed:eos>"
    pieces = ("<seed:tool_call>\n<function=NAME>\n", "<parameter=KEY>VALUE</parameter>\n", "</function>\n</seed:tool_call>")
    kept = 1


class MiniMax(Tagged):
    template = "minimax-m2"
    markers = ("<minimax:tool_call>", "</minimax:tool_call>", "</invoke>")
    end = "[e~["
    pieces = ('<minimax:tool_call>\n<invoke name="NAME">\n', '<parameter name="KEY">VALUE</parameter>\n', "</invoke>\n</minimax:tool_call>")
    kept = 1


class MiniCpm(Tagged):
    template = "minicpm-5"
    markers = ('<function name="f">', "</function>", "</param>")
    end = "<|im_end|>"
    pieces = ('<function name="NAME">', '<param name="KEY">VALUE</param>', "</function>")


class Glm(Tagged):
    template = "glm"
    markers = ("<tool_call>", "</tool_call>", "<arg_key>", "</arg_key>", "<arg_value>", "</arg_value>")
    end = "<|user|>"
    pieces = ("<tool_call>NAME\n", "<arg_key>KEY</arg_key>\n<arg_value>VALUE</arg_value>\n", "</tool_call>")


class DeepSeek32(Tagged):
    template = "deepseek-v3.2"
    markers = ("<｜DSML｜function_calls>", "</｜DSML｜function_calls>", "</｜DSML｜invoke>", "</｜DSML｜parameter>")
    end = "<｜end▁of▁sentence｜>"
    pieces = ('<｜DSML｜function_calls>\n<｜DSML｜invoke name="NAME">\n',
              '<｜DSML｜parameter name="KEY" string="IS_STRING">VALUE</｜DSML｜parameter>\n', "</｜DSML｜invoke>\n</｜DSML｜function_calls>")
    kept = 1


class Gemma(Format):
    template = "gemma-4"
    markers = ("<|tool_call>call:f", "<tool_call|>", "<|channel>thought\n", "<channel|>", '<|"|>', "<turn|>")
    think = ("<|channel>thought\n", "<channel|>")
    end = "<turn|>"

    def call(self, name, arguments):
        return f"<|tool_call>call:{name}{gemma(arguments)}<tool_call|>"

    def unclosed_text(self, text):
        return '{"city":"Par'


class GptOss(Format):
    template = "gpt-oss"
    markers = ("<|channel|>", "<|message|>", "<|end|>", "<|start|>assistant", "<|call|>", "<|constrain|>json")
    think = ("<|channel|>analysis<|message|>", "<|end|>")
    after = False

    def content(self, text):
        return f"<|start|>assistant<|channel|>final<|message|>{text}<|end|>"

    def call(self, name, arguments):
        head = f"<|start|>assistant<|channel|>commentary to=functions.{name} <|constrain|>json<|message|>"
        return f"{head}{dumps(arguments)}<|call|>"

    def unclosed_text(self, text):
        return text[text.index("<|message|>") + 11 :]

    malformed = []


class Kimi(Format):
    template = "kimi-k2"
    markers = ("<|tool_calls_section_begin|>", "<|tool_calls_section_end|>", "<|tool_call_begin|>", "<|tool_call_end|>",
               "<|tool_call_argument_begin|>")
    end = "<|im_end|>"

    def calls(self, calls):
        inner = "".join(f"<|tool_call_begin|>functions.{name}:{index}<|tool_call_argument_begin|>{dumps(arguments)}<|tool_call_end|>"
                        for index, (name, arguments) in enumerate(calls))
        return f"<|tool_calls_section_begin|>{inner}<|tool_calls_section_end|>"

    def call(self, name, arguments):
        return self.calls([(name, arguments)])

    def call_id(self, index, name):
        return f"functions.{name}:{index}"


class DeepSeek31(Format):
    template = "deepseek-v3.1"
    markers = ("<｜tool▁calls▁begin｜>", "<｜tool▁calls▁end｜>", "<｜tool▁call▁begin｜>", "<｜tool▁call▁end｜>", "<｜tool▁sep｜>")
    end = "<｜end▁of▁sentence｜>"

    def one(self, name, arguments):
        return f"<｜tool▁call▁begin｜>{name}<｜tool▁sep｜>{dumps(arguments)}<｜tool▁call▁end｜>"

    def calls(self, calls):
        return "<｜tool▁calls▁begin｜>" + "".join(self.one(*call) for call in calls) + "<｜tool▁calls▁end｜>"

    def call(self, name, arguments):
        return self.calls([(name, arguments)])


class DeepSeek3(DeepSeek31):
    template = "deepseek-v3"

    def one(self, name, arguments):
        return f"<｜tool▁call▁begin｜>function<｜tool▁sep｜>{name}\n```json\n{dumps(arguments)}\n```<｜tool▁call▁end｜>"


class Mistral(Format):
    template = "mistral"
    markers = ("[TOOL_CALLS]", "[ARGS]", "[CALL_ID]", "[THINK]", "[/THINK]")
    think = ("[THINK]", "[/THINK]")
    end = "</s>"

    def call(self, name, arguments):
        return f"[TOOL_CALLS]{name}[ARGS]{dumps(arguments)}"


class JsonList(Format):
    head, tail = "", ""
    keys = ("name", "arguments")

    def calls(self, calls):
        return self.head + dumps([{self.keys[0]: name, self.keys[1]: arguments} for name, arguments in calls]) + self.tail

    def call(self, name, arguments):
        return self.calls([(name, arguments)])


class MistralArray(JsonList):
    template = "mistral-array"
    head = "[TOOL_CALLS] "
    think = ("[THINK]", "[/THINK]")
    markers = ("[TOOL_CALLS]", "[THINK]", "[/THINK]")
    end = "</s>"
    malformed = ["[TOOL_CALLS] nothing", "[TOOL_CALLS][{\"name\" 1}]"]


class Granite(JsonList):
    template = "granite"
    head = "<|tool_call|>"
    markers = ("<|tool_call|>", "<tool_call>")
    end = "<|end_of_text|>"
    malformed = ["<|tool_call|>nothing"]


class NemotronList(JsonList):
    template = "nemotron-list"
    head, tail = "<TOOLCALL>", "</TOOLCALL>"
    markers = ("<TOOLCALL>", "</TOOLCALL>")
    end = "<SPECIAL_12>"
    malformed = ["<TOOLCALL>nothing</TOOLCALL>"]


class Phi(JsonList):
    template = "phi-4-mini"
    head = "functools"
    markers = ("functools", "<|tool_call|>", "<|/tool_call|>")
    end = "<|end|>"
    malformed = ["functools are fun", "functools[1]"]


class PythonCalls(Format):
    json_body = False
    head, tail = "", ""

    def calls(self, calls):
        one = lambda name, arguments: f"{name}({', '.join(f'{k}={python(v)}' for k, v in arguments.items())})"
        return self.head + "[" + ", ".join(one(*call) for call in calls) + "]" + self.tail

    def call(self, name, arguments):
        return self.calls([(name, arguments)])

    def unclosed_text(self, text):
        return text[len(self.head) :]


class Lfm2(PythonCalls):
    template = "lfm2"
    head, tail = "<|tool_call_start|>", "<|tool_call_end|>"
    markers = ("<|tool_call_start|>", "<|tool_call_end|>")
    end = "<|im_end|>"
    malformed = ["<|tool_call_start|>[f(1)]<|tool_call_end|>"]


class Llama4(PythonCalls):
    template = "llama-4-pythonic"
    markers = ("[f(", "<|python_start|>", "<|python_end|>", "<|eot|>")
    end = "<|eot|>"
    think = None
    before = False
    malformed = ["[f(1) is no call]", "[link(s)](there)"]


class Llama3(Format):
    template = "llama-3-json"
    markers = ("<|python_tag|>", "<|eot_id|>", '{"name": "f", "parameters":', "; ")
    end = "<|eot_id|>"
    think = None

    def call(self, name, arguments):
        return f'{{"name": {dumps(name)}, "parameters": {dumps(arguments)}}}'

    def calls(self, calls):
        return "; ".join(self.call(*call) for call in calls)

    def unclosed_text(self, text):
        return text[text.index("{", 1) :]


FORMATS = [Hermes, QwenXml, SeedOss, MiniMax, MiniCpm, Glm, DeepSeek32, Gemma, GptOss, Kimi, DeepSeek31, DeepSeek3, Mistral, MistralArray,
           Granite, NemotronList, Phi, Lfm2, Llama4, Llama3]

WEATHER = ("get_weather", {"city": "Paris", "days": 3})
NESTED = ("save", {"item": {"list": [1, [2, {"a": "b"}], {}], "flag": True}, "text": "a \"quoted\" {brace} [and] 'more'"})
UNICODE = ("say", {"text": "日本語 é 😀 \\ back", "müll": "ß"})
EMPTY = ("ping", {})


def part(kind, text):
    return {"kind": kind, "text": text}


def cases(form):
    def calls(*list_of_calls):
        out = []
        for index, (name, arguments) in enumerate(list_of_calls):
            one = {"kind": "call", "name": name, "arguments": arguments}
            if form.call_id(index, name):
                one["id"] = form.call_id(index, name)
            out.append(one)
        return out

    def case(about, text, parts, **more):
        return {"about": about, **more, "text": text, "parts": parts}

    yield case("content", form.content("Hello, <b>world</b> {x} [y] a < b."), [part("content", "Hello, <b>world</b> {x} [y] a < b.")])
    yield case("content and the end of the turn", form.content("Bye.") + form.end, [part("content", "Bye.")])
    yield case("one call", form.call(*WEATHER), calls(WEATHER))
    yield case("one call and the end of the turn", form.call(*WEATHER) + form.end, calls(WEATHER))
    yield case("no arguments", form.call(*EMPTY), calls(EMPTY))
    yield case("several calls", form.calls([WEATHER, EMPTY, NESTED]), calls(WEATHER, EMPTY, NESTED))
    yield case("nested braces and quotes", form.call(*NESTED), calls(NESTED))
    yield case("characters of many bytes", form.call(*UNICODE), calls(UNICODE))
    if form.before:
        yield case("text before", form.content("I look. ") + "\n" + form.call(*WEATHER), [part("content", "I look.")] + calls(WEATHER))
    if form.after:
        yield case("text after", form.call(*WEATHER) + "\n\nDone.", calls(WEATHER) + [part("content", "Done.")])
    text, written = form.unclosed()
    yield case("an unclosed call", text, [{"kind": "call", "name": None if not form.json_body and not isinstance(form, Tagged)
                                           else "get_weather", "text": written, "end": "unclosed"}])
    # The opening of a call within a string; its closing, too, where strings are known.
    inside = form.call("f", {"a": 1})
    if isinstance(form, Tagged):
        inside = inside.split(form.pieces[0].replace("NAME", "f"))[0] + form.pieces[0].replace("NAME", "f").strip()
    elif isinstance(form, Gemma):
        inside = "<|tool_call>call:f{a:1}<tool_call|>"
    marked = ("say", {"text": f"write {inside} so"})
    yield case("a marker in a string", form.call(*marked), calls(marked))
    if form.think:
        thought = "Let me see. " + (form.call(*WEATHER) if "<|end|>" not in form.think else "to=functions.f {}")
        yield case("a call in reasoning", form.reasoning(thought) + form.content("No."), [part("reasoning", thought), part("content", "No.")])
        yield case("reasoning, content and a call", form.reasoning("\nHm.\n") + "\n\n" + form.content("Yes. ") + form.call(*WEATHER),
                   [part("reasoning", "Hm."), part("content", "Yes.")] + calls(WEATHER))
        yield case("unclosed reasoning", form.think[0] + "Hm, so", [{**part("reasoning", "Hm, so"), "end": "unclosed"}])
        if form.think[0] == "<think>":
            yield case("reasoning that the prompt has opened", "\nHm.</think>\n\n" + form.content("Yes."),
                       [part("reasoning", "Hm."), part("content", "Yes.")], prompt="<think>")
            yield case("reasoning that the prompt has closed", form.content("Yes."), [part("content", "Yes.")], prompt="<think>\n\n</think>\n\n")
    for text in form.malformed or []:
        yield case("what is no call", text, [part("content", text)])


def think_cases():
    """Of models that think and have no calls."""
    texts = ["x", " x\n", "<think></think>x", "<think>\n\n</think>\n\nx", "<think>a < b</think>x", "<think>a</think>\n\nx <tool_call>{}</tool_call>",
             "<think>a</think>x<think>b</think>", "<think>日本</think>é", "<think>a<|im_end|>"]
    parts = [[("content", "x")], [("content", "x")], [("content", "x")], [("content", "x")], [("reasoning", "a < b"), ("content", "x")],
             [("reasoning", "a"), ("content", "x <tool_call>{}</tool_call>")], [("reasoning", "a"), ("content", "x"), ("reasoning", "b")],
             [("reasoning", "日本"), ("content", "é")], None]
    for text, wanted in zip(texts, parts):
        if wanted is None:
            yield {"about": "unclosed", "text": text, "parts": [{**part("reasoning", "a<|im_end|>"), "end": "unclosed"}]}
        else:
            yield {"about": "reasoning", "text": text, "parts": [part(*one) for one in wanted]}
    yield {"about": "opened by the prompt", "prompt": "<think>\n", "text": "a\n</think>\nx", "parts": [part("reasoning", "a"), part("content", "x")]}
    yield {"about": "content that the prompt has begun", "prompt": "<|im_start|>assistant\nSure,", "text": " yes. ", "parts": [part("content", " yes.")]}


def special_cases(name):
    """What only one format has."""
    if name == "hermes":
        call = '{"name": "f", "arguments": {"a": 1}}'
        yield {"about": "arguments first", "text": '<tool_call>{"arguments": {"a": [1, 2]}, "name": "f"}</tool_call>',
               "parts": [{"kind": "call", "name": "f", "text": '{"a": [1, 2]}'}]}
        yield {"about": "arguments as they were written", "text": '<tool_call>{"name":"f","arguments":{ "a" :\t1.50e1 }}</tool_call>',
               "parts": [{"kind": "call", "name": "f", "text": '{ "a" :\t1.50e1 }'}]}
        yield {"about": "a line break within a string", "text": '<tool_call>{"name": "f", "arguments": {"a": "x\ny"}}</tool_call>',
               "parts": [{"kind": "call", "name": "f", "arguments": {"a": "x\ny"}}]}
        yield {"about": "no closing brace", "text": '<tool_call>{"name": "f", "arguments": {"a": 1}</tool_call>ok',
               "parts": [{"kind": "call", "name": "f", "arguments": {"a": 1}}, part("content", "ok")]}
        yield {"about": "one brace too many", "text": '<tool_call>{"name": "f", "arguments": {"a": 1}}}</tool_call>ok',
               "parts": [{"kind": "call", "name": "f", "arguments": {"a": 1}}, part("content", "ok")]}
        yield {"about": "a wrong comma", "text": '<tool_call>{"name": "f", "arguments": {"a": 1,}}</tool_call>ok',
               "parts": [{"kind": "call", "name": "f", "text": '{"a": 1,}}', "end": "malformed"}, part("content", "ok")]}
        yield {"about": "two calls between one pair of markers", "text": f"<tool_call>{call}\n{call}</tool_call>",
               "parts": [{"kind": "call", "name": "f", "arguments": {"a": 1}}] * 2}
        yield {"about": "a list of calls", "text": f"<tool_call>[{call}, {call}]</tool_call>",
               "parts": [{"kind": "call", "name": "f", "arguments": {"a": 1}}] * 2}
        yield {"about": "no closing marker", "text": f"<tool_call>{call}", "parts": [{"kind": "call", "name": "f", "arguments": {"a": 1}}]}
        yield {"about": "a marker that is written about", "text": "Use  <tool_call>, so  <tool_call>\n to call.", "parts": [
            part("content", "Use  <tool_call>, so  <tool_call>\n to call.")]}
        yield {"about": "content on both sides of what is no call", "text": "a <tool_call>{x}</tool_call> b <tool_call>" + call + "</tool_call>",
               "parts": [part("content", "a <tool_call>{x}</tool_call> b"), {"kind": "call", "name": "f", "arguments": {"a": 1}}]}
        yield {"about": "cut before the name", "text": '<tool_call>\n{"na', "parts": [{"kind": "call", "name": None, "text": '{"na', "end": "unclosed"}]}
        yield {"about": "special tokens", "text": [{"special": "<think>"}, "x", {"special": "</think>"}, {"special": "<tool_call>"}, call,
                                                    {"special": "</tool_call>"}, {"special": "<|im_end|>"}],
               "parts": [part("reasoning", "x"), {"kind": "call", "name": "f", "arguments": {"a": 1}}]}
        yield {"about": "the prompt's own call and anchor", "prompt": "<|im_start|>user\n<think><|im_end|>\n<|im_start|>assistant\n",
               "text": "Hi.", "parts": [part("content", "Hi.")]}
    if name in ("qwen-xml",):
        tools = [{"type": "function", "function": {"name": "f", "parameters": {"type": "object", "properties": {
            "zip": {"type": "string"}, "n": {"type": "integer"}, "x": {"type": "number"}, "on": {"type": "boolean"},
            "list": {"type": "array"}, "maybe": {"anyOf": [{"type": "integer"}, {"type": "null"}]}}}}}]
        text = "".join(f"<parameter={k}>\n{v}\n</parameter>\n" for k, v in
                       [("zip", "01234"), ("n", "7.0"), ("x", "1e3"), ("on", "True"), ("list", "['a', 1]"), ("maybe", "None"), ("other", "5")])
        yield {"about": "arguments by the tool's schema", "tools": tools, "text": f"<tool_call>\n<function=f>\n{text}</function>\n</tool_call>",
               "parts": [{"kind": "call", "name": "f", "arguments": {"zip": "01234", "n": 7, "x": 1e3, "on": True, "list": ["a", 1],
                                                                       "maybe": None, "other": 5}}]}
        yield {"about": "space at the edges of a value stays", "text": "<function=f>\n<parameter=code>\n    x = 1\n\n    y\n\n</parameter>\n</function>",
               "parts": [{"kind": "call", "name": "f", "arguments": {"code": "    x = 1\n\n    y\n"}}]}
        yield {"about": "no arguments where there is text", "text": "<function=f>\nhello\n</function>\n</tool_call>",
               "parts": [{"kind": "call", "name": "f", "text": "\nhello\n", "end": "malformed"}]}
    if name == "gemma-4":
        yield {"about": "empty reasoning", "text": "<|channel>thought<channel|>Yes.<turn|>", "parts": [part("content", "Yes.")]}
        yield {"about": "no braces", "text": "<|tool_call>call:f<tool_call|>", "parts": [{"kind": "call", "name": "f", "arguments": {}}]}
    if name == "deepseek-v3.2":
        text = ('<｜DSML｜invoke name="f">\n<｜DSML｜parameter name="a" string="true">5</｜DSML｜parameter>\n'
                '<｜DSML｜parameter name="b" string="false">5</｜DSML｜parameter>\n</｜DSML｜invoke>')
        yield {"about": "strings that look like numbers", "text": text, "parts": [{"kind": "call", "name": "f", "arguments": {"a": "5", "b": 5}}]}
    if name == "mistral":
        yield {"about": "an id", "text": "[TOOL_CALLS]f[CALL_ID]abc123XYZ[ARGS]{\"a\": 1}</s>",
               "parts": [{"kind": "call", "name": "f", "id": "abc123XYZ", "arguments": {"a": 1}}]}
    if name == "mistral-array":
        yield {"about": "an id after the arguments", "text": '[TOOL_CALLS][{"name": "f", "arguments": {"a": 1}, "id": "abc123XYZ"}]</s>',
               "parts": [{"kind": "call", "name": "f", "id": "abc123XYZ", "arguments": {"a": 1}}]}
    if name == "gpt-oss":
        yield {"about": "the recipient first", "prompt": "<|start|>assistant",
               "text": " to=functions.f<|channel|>commentary json<|message|>{\"a\": 1}<|call|>",
               "parts": [{"kind": "call", "name": "f", "arguments": {"a": 1}}]}
        yield {"about": "code for a tool that takes no JSON", "text": "<|channel|>commentary to=python <|constrain|>code<|message|>print(1)<|call|>",
               "parts": [{"kind": "call", "name": "python", "text": "print(1)", "end": "malformed"}]}
        yield {"about": "nothing for a tool", "text": "<|channel|>commentary to=f<|message|> <|call|>",
               "parts": [{"kind": "call", "name": "f", "arguments": {}}]}
        yield {"about": "code that is cut", "text": "<|channel|>commentary to=f<|message|> x = ",
               "parts": [{"kind": "call", "name": "f", "text": " x = ", "end": "unclosed"}]}
        yield {"about": "a preamble", "text": "<|channel|>commentary<|message|>I look.<|end|><|start|>assistant<|channel|>commentary to=functions.f "
               "<|constrain|>json<|message|>{}<|call|>", "parts": [part("content", "I look."), {"kind": "call", "name": "f", "arguments": {}}]}
    if name == "llama-3-json":
        yield {"about": "the marker of code", "text": '<|python_tag|>{"type": "function", "name": "f", "parameters": {"a": 1}}<|eom_id|>',
               "parts": [{"kind": "call", "name": "f", "arguments": {"a": 1}}]}
        yield {"about": "JSON that is no call", "text": '{"name": "Bob", "age": 3}', "parts": [part("content", '{"name": "Bob", "age": 3}')]}
    if name == "minicpm-5":
        yield {"about": "text that is quoted", "text": '<function name="f"><param name="a"><![CDATA[<b>&</b>]]></param></function>',
               "parts": [{"kind": "call", "name": "f", "arguments": {"a": "<b>&</b>"}}]}


def main():
    FOLDER.mkdir(parents=True, exist_ok=True)
    total = 0
    for form in (kind() for kind in FORMATS):
        found = list(cases(form)) + list(special_cases(form.template))
        total += len(found)
        fixture = {"template": form.template, "markers": list(form.markers), "cases": found}
        path = FOLDER / f"{form.template}.json"
        path.write_text(json.dumps(fixture, ensure_ascii=False, indent=1) + "\n")
    found = list(think_cases())
    total += len(found)
    fixture = {"template": "think", "cases": found}
    (FOLDER / "think.json").write_text(json.dumps(fixture, ensure_ascii=False, indent=1) + "\n")
    print(f"{total} answers")


if __name__ == "__main__":
    main()
