#!/usr/bin/env python3
"""Write tests/fixtures/templates/cases.json: chat templates and what transformers renders from them.

    python tools/make_template_fixtures.py [--out tests/fixtures/templates]

Needs transformers and jinja2. The templates beside cases.json are our own; between them they use every construct
found in the chat templates of widely used models. `expected` is what transformers' own rendering makes of them, with
the clock set to the case's `now`. The format of a case is in `Case.record`.
"""

import argparse
import datetime
import json
from pathlib import Path

from transformers.utils import chat_template_utils

NOW = "2024-07-26T09:05:03"
BOS, EOS = "<s>", "</s>"


class Case:
    """One rendering: a template, a conversation and the other variables."""

    def __init__(self, name, template, messages, *, tools=None, now=NOW, prompt=False, error_from=None, **variables):
        self.name, self.template, self.messages, self.tools = name, template, messages, tools
        self.now, self.prompt, self.error_from = now, prompt, error_from
        self.variables = {"bos_token": BOS, "eos_token": EOS} | variables

    def record(self, directory):
        """The JSON form, with `expected`, or with `expected_error` and `error_from`.

        `error_from` is "template" when the template raised the message itself (it must match), and "engine" when
        the language did (any error will do; the message is Python's).
        """
        record = {
            "name": self.name,
            "template": self.template + ".jinja",
            "messages": self.messages,
            "tools": self.tools,
            "variables": self.variables,
            "add_generation_prompt": self.prompt,
            "now": self.now,
        }
        try:
            expected = render(self, (directory / record["template"]).read_text(encoding="utf-8"))
        except Exception as error:
            if self.error_from is None:
                raise RuntimeError(f"case {self.name} was to render") from error
            return record | {"expected_error": str(error), "error_from": self.error_from}
        if self.error_from is not None:
            raise RuntimeError(f"case {self.name} was to fail, and gave {expected!r}")
        return record | {"expected": expected}


def render(case, source):
    """What transformers makes of the case, at the case's time."""
    now = datetime.datetime.fromisoformat(case.now)

    class Clock(datetime.datetime):
        """A clock that has stopped."""

        @classmethod
        def now(cls, tz=None):
            return now

    real, chat_template_utils.datetime = chat_template_utils.datetime, Clock
    try:
        variables = json.loads(json.dumps(case.variables))
        documents = variables.pop("documents", None)
        rendered, _ = chat_template_utils.render_jinja_template(
            conversations=[json.loads(json.dumps(case.messages))],
            tools=case.tools,
            documents=documents,
            chat_template=source,
            add_generation_prompt=case.prompt,
            **variables,
        )
        return rendered[0]
    finally:
        chat_template_utils.datetime = real


def message(role, content, **fields):
    """One chat message."""
    return {"role": role, "content": content, **fields}


def call(name, arguments, call_id="call_00001"):
    """One entry of tool_calls; `arguments` a dict, or a string of JSON."""
    return {"id": call_id, "type": "function", "function": {"name": name, "arguments": arguments}}


def function(name, description, properties, required, **fields):
    """One tool as a JSON schema."""
    parameters = {"type": "object", "properties": properties, "required": required}
    return {
        "type": "function",
        "function": {"name": name, "description": description, "parameters": parameters} | fields,
    }


WEATHER = function(
    "get_weather",
    "Weather at a place.\nNow, or up to 7 days ahead.",
    {
        "place": {"type": "string", "description": "Town, e.g. \"Orléans\" or '東京'"},
        "days": {"type": "integer", "description": "Days ahead", "default": 0, "minimum": 0, "maximum": 7},
        "unit": {"type": "string", "enum": ["°C", "°F"], "description": "Unit <of> temperature & wind"},
    },
    ["place"],
    **{"return": {"type": "object", "additionalProperties": {"type": "number"}}},
)
BOOK = function(
    "book_table",
    "",
    {
        "guests": {
            "type": "array",
            "description": "Who comes",
            "items": {
                "type": "object",
                "title": None,
                "required": ["name"],
                "properties": {"name": {"type": "string"}, "vegan": {"type": "boolean", "default": False}},
            },
        },
        "at": {
            "type": "object",
            "description": "  When  ",
            "required": ["day"],
            "properties": {
                "day": {"type": "string", "pattern": "^\\d+$", "default": "1"},
                "hour": {"type": ["integer", "null"], "nullable": True},
            },
        },
        "tags": {"type": "array", "items": {"type": ["string", "integer"]}},
        "budget": {"anyOf": [{"type": "number"}, {"type": "null"}], "type": "number", "default": 12.5},
        "again": {"$ref": "#/properties/at"},
        "label": {"type": ["string", "integer"]},
        "first": {"$ref": "#/properties/budget/anyOf/0", "type": "number"},
    },
    ["guests", "at"],
    response={"type": "object", "description": "What was booked"},
)
PING = function("a_ping", "No arguments.", {}, [])
TOOLS = [WEATHER, BOOK, PING]

HELLO = [message("user", "Hello there!")]
WITH_SYSTEM = [
    message("system", "  You are kind.\n"),
    message("user", " Hi — ça va? "),
    message("assistant", "Oui."),
    message("user", '1 < 2 && "x"?'),
]
MULTI = [message("user", "One"), message("assistant", "Two"), message("user", "Three"), message("assistant", "Four")]
PARTS = [
    message("system", [{"type": "text", "text": "Look closely."}]),
    message(
        "user",
        [
            {"type": "text", "text": " What is this? "},
            {"type": "image"},
            {"type": "text", "text": "And this?"},
            {"type": "image", "url": "x"},
        ],
    ),
    message("assistant", [{"type": "text", "text": "Two cats."}]),
    message("user", [{"type": "text", "text": "Sure?"}]),
]
ONE_CALL = [
    message("system", "Use tools."),
    message("user", "Weather in Orléans?"),
    message(
        "assistant",
        None,
        tool_calls=[call("get_weather", {"place": "Orléans", "days": 2, "exact": True, "note": None, "ratio": 0.5})],
    ),
    message("tool", '18.5 °C & "sunny" <ok>', tool_call_id="call_00001", name="get_weather"),
]
ANSWERED = ONE_CALL + [message("assistant", "It is 18.5 °C."), message("user", "Thanks.")]
TWO_CALLS = [
    message("user", "Weather in 東京 and a table?"),
    message(
        "assistant",
        "Both at once.",
        reasoning_content="\nTwo things are asked.\nI can do both.\n",
        tool_calls=[
            call("get_weather", {"place": "東京"}, "call_00011"),
            call(
                "book_table",
                {"guests": [{"name": "Ann", "vegan": True}], "at": {"day": "3", "hour": None}, "tags": ["a", 1]},
                "call_00012",
            ),
        ],
    ),
    message("tool", "rain", tool_call_id="call_00011"),
    message("tool", '{"booked": true}', tool_call_id="call_00012"),
]
STRING_CALL = [
    message("user", "Ping."),
    message("assistant", "", tool_calls=[call("a_ping", '{"n": 1}', "call_00021")]),
    message("tool", "pong", tool_call_id="call_00021"),
    message("assistant", "Pong it is."),
    message("user", "Again."),
    message("assistant", "", tool_calls=[call("a_ping", {}, "call_00022")]),
    message("tool", "pong pong", tool_call_id="call_00022"),
]
THOUGHTS = [
    message("user", "6 * 7?"),
    message("assistant", "<hush>\nSix sevens.\n</hush>\n\n42"),
    message("user", "7 * 8?"),
    message("assistant", "<hush>fifty-something</hush>56"),
]
TREE = [
    {"name": "a", "kids": [{"name": "b", "kids": [{"name": "c", "kids": []}]}, {"name": "d", "kids": []}]},
    {"name": "e", "kids": []},
]
DOCUMENTS = [{"title": "Owls", "text": 'Owls "hoot"\nat night.'}, {"title": "Émeus", "text": "<run>", "pages": 3}]
VALUE = {
    "z": 1,
    "list": [1, 2.5, "three", None, True],
    "Text": "é < & > ' \" \\ /",
    "nested": {"b": [], "a": {}},
    "float": 1e-05,
    "big": 1e22,
    "int": -3,
    "中": "国",
}
NUMBERS = [0, -1, 1.0, 2.5, 1e-05, 1e100, 123456789012345680, 0.30000000000000004, 1e22]


def telegram_cases():
    """Dates, indented JSON, built-in names, arguments as attributes."""
    place = "first"
    return [
        Case("telegram_hello", "telegram", HELLO, prompt=True),
        Case("telegram_system", "telegram", WITH_SYSTEM),
        Case("telegram_day_given", "telegram", HELLO, day="1 May 1844"),
        Case("telegram_tools_header", "telegram", ONE_CALL, tools=TOOLS, prompt=True),
        Case("telegram_tools_first", "telegram", ONE_CALL, tools=[WEATHER], prompt=True, place=place),
        Case(
            "telegram_extra", "telegram", HELLO, tools=[PING], extra_functions=[{"name": "più", "n": [1, {"a": 2.0}]}]
        ),
        Case(
            "telegram_machines",
            "telegram",
            [
                message("user", "Look it up."),
                message("assistant", None, tool_calls=[call("search", {"query": "owls", "lang": "en"})]),
            ],
            machines=["search", "telephone", "abacus"],
        ),
        Case(
            "telegram_reply_dict",
            "telegram",
            [*ONE_CALL[:3], message("tool", {"t": 18.5, "sky": "clear"})],
            prompt=True,
        ),
        Case("telegram_two_calls", "telegram", TWO_CALLS, tools=TOOLS, error_from="template"),
        Case(
            "telegram_no_first",
            "telegram",
            [message("system", "Alone.")],
            tools=[PING],
            place=place,
            error_from="template",
        ),
    ]


def conversation_cases():
    """The templates that work on a conversation alone."""
    quiet = {"enable_thinking": False}
    return [
        Case("turns_hello", "turns", HELLO, prompt=True),
        Case("turns_system", "turns", WITH_SYSTEM),
        Case("turns_empty", "turns", [], prompt=True),
        Case("diary_hello", "diary", HELLO, prompt=True),
        Case("diary_quiet", "diary", WITH_SYSTEM, prompt=True, **quiet),
        Case("diary_thoughts", "diary", THOUGHTS),
        Case("diary_thoughts_loud", "diary", THOUGHTS, prompt=True, enable_thinking=True),
        Case("diary_echo", "diary", [*THOUGHTS[:2], message("user", "<echo>42</echo>"), THOUGHTS[3]]),
        Case("diary_two_calls", "diary", TWO_CALLS, tools=TOOLS, prompt=True),
        Case("diary_string_call", "diary", STRING_CALL, tools=[PING]),
        Case("one_line_hello", "one_line", HELLO, prompt=True),
        Case(
            "one_line_systems", "one_line", [message("system", "A."), message("system", "B."), *THOUGHTS], prompt=True
        ),
        Case("one_line_call", "one_line", ONE_CALL, tools=TOOLS, prompt=True),
        Case("one_line_two_calls", "one_line", [*TWO_CALLS, message("assistant", "Done.")], prompt=True),
        Case("carried_over_system", "carried_over", WITH_SYSTEM, prompt=True),
        Case("carried_over_parts", "carried_over", MULTI[:2] + PARTS[1:2]),
        Case("carried_over_bad", "carried_over", [message("user", 5)], error_from="template"),
        Case("two_modes_loud", "two_modes", WITH_SYSTEM, prompt=True),
        Case(
            "two_modes_flag",
            "two_modes",
            [message("system", "Be short. +silent"), *MULTI],
            prompt=True,
            enable_thinking=True,
        ),
        Case(
            "two_modes_tools",
            "two_modes",
            [message("system", "+aloud"), *MULTI],
            xml_tools=[WEATHER, {"a": None}],
            **quiet,
        ),
        Case("two_modes_december", "two_modes", WITH_SYSTEM[:2], now="1999-12-31T23:59:59"),
        Case("prefilled_fast", "prefilled", [message("system", "Terse. #fast"), *HELLO], prompt=True),
        Case(
            "prefilled_slow_opening",
            "prefilled",
            [message("user", "#slow Count."), message("assistant", " One, ")],
            prompt=True,
        ),
        Case("prefilled_no_prompt", "prefilled", [*HELLO, message("assistant", "Well")]),
        Case("prefilled_continue", "prefilled", [*HELLO, message("assistant", "Well")], continue_final_message=True),
        Case("prefilled_tools", "prefilled", ANSWERED, tools=TOOLS, prompt=True),
        Case("prefilled_two_results", "prefilled", TWO_CALLS, tools=[PING["function"]], prompt=True),
        Case("prefilled_calls_last", "prefilled", TWO_CALLS[:2]),
    ]


def tool_cases():
    """The templates that describe tools, and parts of content."""
    quiet = {"enable_thinking": False}
    return [
        Case("gallery_hello", "gallery", HELLO, prompt=True),
        Case("gallery_quiet", "gallery", WITH_SYSTEM, prompt=True, **quiet),
        Case("gallery_parts", "gallery", PARTS, numbered=True),
        Case("gallery_tools", "gallery", ONE_CALL, tools=TOOLS, prompt=True),
        Case(
            "gallery_two_calls",
            "gallery",
            [*TWO_CALLS, message("user", "And?"), message("tool", "late")],
            tools=[WEATHER],
        ),
        Case("gallery_picture_in_system", "gallery", [message("system", [{"type": "image"}])], error_from="template"),
        Case("gallery_late_system", "gallery", [*HELLO, message("system", "Late.")], error_from="template"),
        Case("gallery_role", "gallery", [message("critic", "Hm.")], error_from="template"),
        Case("gallery_empty", "gallery", [], error_from="template"),
        Case("gallery_number", "gallery", [message("user", {"text": 1})], error_from="template"),
        Case("minutes_hello", "minutes", HELLO),
        Case("minutes_parts", "minutes", PARTS, tools=None),
        Case("minutes_tools", "minutes", ANSWERED, tools=TOOLS),
        Case("minutes_two_calls", "minutes", TWO_CALLS, tools=[PING]),
        Case(
            "minutes_result_dict",
            "minutes",
            [*TWO_CALLS[:2], message("tool", {"content": [1, "a"]}, tool_call_id="xx_call_00011")],
        ),
        Case("minutes_out_of_turn", "minutes", [*HELLO, *HELLO], error_from="template"),
        Case(
            "minutes_short_id",
            "minutes",
            [*HELLO, message("assistant", None, tool_calls=[call("a_ping", {}, "short")])],
            error_from="template",
        ),
        Case("minutes_video", "minutes", [message("user", [{"type": "video"}])], error_from="template"),
        Case("schema_words_hello", "schema_words", HELLO, prompt=True),
        Case("schema_words_tools", "schema_words", TWO_CALLS, tools=TOOLS, prompt=True, enable_thinking=True),
        Case(
            "schema_words_asides",
            "schema_words",
            [message("developer", "D."), *HELLO, message("assistant", "a ((b)) c((d))")],
        ),
        Case("schema_words_parts", "schema_words", PARTS[1:], prompt=True),
        Case("signatures_none", "signatures", WITH_SYSTEM, prompt=True),
        Case("signatures_tools", "signatures", ONE_CALL, tools=[WEATHER, PING], prompt=True),
        Case("signatures_bare_tool", "signatures", TWO_CALLS, tools=[BOOK["function"]]),
        Case("signatures_string_call", "signatures", STRING_CALL, tools=[PING], prompt=True),
        Case("library_hello", "library", HELLO, prompt=True),
        Case("library_rules", "library", [*WITH_SYSTEM, message("SYSTEM", "Late rule.")]),
        Case("library_documents", "library", WITH_SYSTEM, documents=DOCUMENTS, prompt=True, enable_citations=True),
        Case("library_tools", "library", TWO_CALLS, tools=[WEATHER, PING], prompt=True),
        Case("library_tools_documents", "library", ANSWERED, tools=[PING], documents=DOCUMENTS[:1]),
        Case("ledger_hello", "ledger", HELLO, prompt=True),
        Case("ledger_tools", "ledger", ONE_CALL, tools=TOOLS, prompt=True),
        Case("ledger_two_calls_net", "ledger", TWO_CALLS, prompt=True, **quiet),
        Case(
            "ledger_parts_net", "ledger", [message("user", ["plain ", {"type": "text", "text": "part (net)"}])], **quiet
        ),
        Case("ledger_result_parts", "ledger", [*TWO_CALLS[:2], message("tool", [{"output": 1.0}, {"x": [None]}])]),
        Case("typescript_tools", "typescript", HELLO, tools=TOOLS, prompt=True, reasoning_effort="high"),
        Case("typescript_call", "typescript", TWO_CALLS, prompt=True, model_identity="Ours."),
        Case("typescript_answered", "typescript", [*TWO_CALLS, message("assistant", "Done.")]),
        Case("typescript_orphan", "typescript", [message("tool", "x")], error_from="template"),
    ]


def language_cases():
    """The language itself: values, methods, filters, tests, loops, macros, white space, JSON, dates."""
    return [
        Case("values", "values", [message("user", 'it\'s "é"', n=1.0, ok=True, no=None)], numbers=NUMBERS),
        Case("strings", "strings", HELLO),
        Case("filters", "filters", HELLO),
        Case("tests_bare", "tests", HELLO),
        Case("tests_given", "tests", HELLO, tools=[PING], documents=DOCUMENTS, enable_thinking=False),
        Case("loops_two", "loops", HELLO + MULTI[1:2]),
        Case("loops_four", "loops", MULTI),
        Case("macros", "macros", MULTI),
        Case("whitespace", "whitespace", HELLO),
        Case("json", "json", HELLO, value=VALUE),
        Case("dates_summer", "dates", HELLO),
        Case("dates_leap_midnight", "dates", HELLO, now="2024-02-29T00:00:00"),
        Case("dates_noon", "dates", HELLO, now="2031-01-05T12:30:09"),
        Case("generation", "generation", MULTI),
        Case("generation_system", "generation", WITH_SYSTEM),
        # Parts of the language that published templates hardly use.
        Case("rare_values", "rare_values", HELLO),
        Case("rare_strings", "rare_strings", HELLO),
        Case("rare_filters", "rare_filters", HELLO),
        Case("rare_loops", "rare_loops", MULTI, tree=TREE),
        Case("rare_macros", "rare_macros", HELLO),
    ]


def error_cases():
    """Templates that fail: by their own will first, then by the language's."""
    own = ["plain", "unicode", "macro", "loop"]
    language = [
        "append",
        "update",
        "pop",
        "undefined attribute",
        "undefined concatenation",
        "undefined method",
        "none method",
        "string plus int",
        "none plus string",
        "divide",
        "iterate int",
        "iterate none",
        "unpack",
        "length of int",
        "dunder",
        "namespace",
        "unknown argument",
        "recursion",
        "called string",
    ]
    named = [(how, "template") for how in own] + [(how, "engine") for how in language]
    cases = [Case("refuse_" + how.replace(" ", "_"), "refuse", MULTI, how=how, error_from=who) for how, who in named]
    cases.append(Case("refuse_not", "refuse", MULTI, how="not at all"))
    broken = ["unclosed", "unknown_filter", "bad_token"]
    return cases + [Case(name, name, HELLO, error_from="engine") for name in broken]


def main():
    """Render every case and write cases.json."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent.parent / "tests/fixtures/templates")
    directory = parser.parse_args().out
    cases = telegram_cases() + conversation_cases() + tool_cases() + language_cases() + error_cases()
    records = [case.record(directory) for case in cases]
    assert len({record["name"] for record in records}) == len(records), "two cases of one name"
    unused = {path.name for path in directory.glob("*.jinja")} - {record["template"] for record in records}
    assert not unused, f"templates without a case: {sorted(unused)}"
    lines = ",\n".join(json.dumps(record, ensure_ascii=False) for record in records)
    (directory / "cases.json").write_text(f"[\n{lines}\n]\n", encoding="utf-8")
    failing = sum("expected_error" in record for record in records)
    print(f"{len(records)} cases, {failing} of them errors, over {len(list(directory.glob('*.jinja')))} templates")


if __name__ == "__main__":
    main()
