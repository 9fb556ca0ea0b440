"""Writes tests/fixtures/constraints/schemas.json: JSON schemas of growing difficulty, with instances and near misses of each.

    python tools/make_constraint_fixtures.py

needs jsonschema, which decides what is an instance. Strings and lists are bounded and not empty; properties of an instance come in the
order of the schema, as constrained answers have them. The last schemas use what constraints refuse by name.
"""

import copy
import json
import random
from pathlib import Path

import jsonschema

OUT = Path(__file__).resolve().parent.parent / "tests/fixtures/constraints/schemas.json"
COUNT, EACH, SEED = 200, 20, 20261130
WORDS = ["name", "mood", "gold", "line", "item", "place", "level", "owner", "kind", "weight", "note", "tags", "path", "id", "open", "parts"]
PATTERNS = [("^[a-z]{2,8}$", "abcdefgh"), ("^[A-Z][a-z]+-[0-9]{2}$", None), ("^(ale|key|map)s?$", None), ("^[0-9a-f]{4,6}$", "0123456789abcdef")]


def text_schema(rng, depth):
    kind = rng.randrange(5)
    if kind == 0:
        return {"enum": rng.sample(["ale", "room key", "map", "é", "a \"b\"", "last"], rng.randint(1, 4))}
    if kind == 1:
        return {"type": "string", "pattern": rng.choice(PATTERNS)[0]}
    if kind == 2:
        return {"type": "string", "format": rng.choice(["date", "uuid"])}
    if kind == 3:
        return {"const": rng.choice(["fixed", 7, None, True])}
    low = rng.randint(1, 3)
    return {"type": "string", "minLength": low, "maxLength": low + rng.randint(0, 12)}


def number_schema(rng, depth):
    low = rng.randint(-20, 20)
    high = low + rng.randint(0, 200)
    kind = rng.randrange(4)
    if kind == 0:
        return {"type": "integer", "minimum": low, "maximum": high}
    if kind == 1:
        return {"type": "integer", "exclusiveMinimum": low, "maximum": high + 1}
    if kind == 2:
        return {"type": "integer", "minimum": 0, "maximum": 500, "multipleOf": rng.choice([2, 5, 10])}
    return {"type": "number", "minimum": low, "maximum": high + 1}


def simple(rng, depth):
    kind = rng.randrange(6)
    if kind < 2:
        return text_schema(rng, depth)
    if kind < 4:
        return number_schema(rng, depth)
    return {"type": "boolean"} if kind == 4 else {"enum": [1, "two", None, False]}


def any_schema(rng, depth, defs):
    kind = rng.randrange(10)
    if depth <= 0 or kind < 3:
        return simple(rng, depth)
    if kind < 6:
        return object_schema(rng, depth - 1, defs)
    if kind < 8:
        low = rng.randint(1, 2)
        return {"type": "array", "items": any_schema(rng, depth - 1, defs), "minItems": low, "maxItems": low + rng.randint(0, 2)}
    if kind == 8 and defs is not None:
        name = f"d{len(defs)}"
        defs[name] = None
        defs[name] = any_schema(rng, depth - 1, defs)
        return {"$ref": f"#/$defs/{name}"}
    return {"anyOf": [simple(rng, depth - 1), object_schema(rng, depth - 1, defs)]}


def object_schema(rng, depth, defs):
    names = rng.sample(WORDS, rng.randint(1, 3 + depth))
    properties = {name: any_schema(rng, depth, defs) for name in names}
    required = [name for name in names if rng.random() < 0.7] or names[:1]
    schema = {"type": "object", "properties": properties, "required": required}
    extra = rng.randrange(4)
    schema["additionalProperties"] = False
    if extra == 0:
        # More properties, of bounded names and number.
        schema["patternProperties"] = {"^zz[a-c]{0,2}$": {"type": "integer", "minimum": 0, "maximum": 9}}
        schema["maxProperties"] = len(names) + 1
        schema["required"] = names
    return schema


def instance(rng, schema, root):
    if "$ref" in schema:
        return instance(rng, root["$defs"][schema["$ref"].rsplit("/", 1)[1]], root)
    if "const" in schema:
        return schema["const"]
    if "enum" in schema:
        return rng.choice(schema["enum"])
    if "anyOf" in schema:
        return instance(rng, rng.choice(schema["anyOf"]), root)
    kind = schema.get("type")
    if kind == "boolean":
        return rng.random() < 0.5
    if kind == "integer":
        low = schema.get("minimum", schema.get("exclusiveMinimum", 0) + 1)
        step = schema.get("multipleOf", 1)
        return rng.randrange(low, schema["maximum"] + 1, step) if step == 1 else step * rng.randint(0, schema["maximum"] // step)
    if kind == "number":
        value = rng.uniform(schema["minimum"], schema["maximum"])
        value = round(value, rng.randint(0, 2))
        # Not -0.0, which grammars of number ranges do not write.
        return min(max(value, schema["minimum"]), schema["maximum"]) or 0.0
    if kind == "string":
        if "pattern" in schema:
            pattern = schema["pattern"]
            if pattern == PATTERNS[0][0]:
                return "".join(rng.choice("abcxyz") for _ in range(rng.randint(2, 8)))
            if pattern == PATTERNS[1][0]:
                return rng.choice(["Inn-07", "Lighthouse-42", "Qa-10"])
            if pattern == PATTERNS[2][0]:
                return rng.choice(["ale", "keys", "map", "maps"])
            return "".join(rng.choice("0123456789abcdef") for _ in range(rng.randint(4, 6)))
        if schema.get("format") == "date":
            return f"{rng.randint(1900, 2100)}-{rng.randint(1, 12):02}-{rng.randint(1, 28):02}"
        if schema.get("format") == "uuid":
            digits = "".join(rng.choice("0123456789abcdef") for _ in range(32))
            return "-".join([digits[:8], digits[8:12], digits[12:16], digits[16:20], digits[20:]])
        return "".join(rng.choice("abc XYZé語\"\\.,🦀") for _ in range(rng.randint(schema["minLength"], schema["maxLength"])))
    if kind == "array":
        return [instance(rng, schema["items"], root) for _ in range(rng.randint(schema["minItems"], schema["maxItems"]))]
    value = {}
    for name, inner in schema["properties"].items():
        if name in schema["required"] or rng.random() < 0.5:
            value[name] = instance(rng, inner, root)
    if "patternProperties" in schema and rng.random() < 0.3:
        value[rng.choice(["zz", "zza", "zzbc"])] = rng.randint(0, 9)
    return value


def written(rng, value):
    style = rng.randrange(4)
    ascii_only = style == 3 and False
    if style == 0:
        return json.dumps(value, separators=(",", ":"), ensure_ascii=ascii_only)
    if style == 1:
        return json.dumps(value, indent=2, ensure_ascii=ascii_only)
    return json.dumps(value, ensure_ascii=ascii_only)


def places(value, at=()):
    yield at
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in items:
        yield from places(inner, (*at, key))


def changed(rng, value):
    """The value with something else at one place."""
    value = copy.deepcopy(value)
    at = rng.choice(list(places(value)))
    strange = rng.choice([None, True, -1000, 1e9, 0.123, "", "something else entirely", [], [1, "x"], {}, {"no": 1}, "x" * 40])
    if not at:
        return strange
    inner = value
    for key in at[:-1]:
        inner = inner[key]
    kind = rng.randrange(3)
    if kind == 0 and isinstance(inner, dict):
        del inner[at[-1]]
    elif kind == 1 and isinstance(inner, dict):
        inner["unknown"] = strange
    else:
        inner[at[-1]] = strange
    return value


def near_miss(rng, value, valid):
    """A text that is no instance, though nearly."""
    for _ in range(200):
        text = written(rng, value)
        kind = rng.randrange(5)
        if kind == 0 and len(text) > 1:
            text = text[: rng.randint(1, len(text) - 1)]
        elif kind == 1:
            text += rng.choice(["}", "]", ",", " x", "\"", "1"])
        elif kind == 2 and len(text) > 2:
            at = rng.randrange(len(text))
            text = text[:at] + rng.choice("{}[]\",:x9") + text[at + 1 :]
        else:
            text = written(rng, changed(rng, value))
        if not valid(text):
            return text
    return "x"


def validator(schema):
    checker = jsonschema.Draft202012Validator(schema, format_checker=jsonschema.Draft202012Validator.FORMAT_CHECKER)

    def valid(text):
        try:
            return checker.is_valid(json.loads(text))
        except (ValueError, RecursionError):
            return False

    return valid


def main():
    rng = random.Random(SEED)
    refused = [
        {"type": "array", "items": {"type": "integer"}, "uniqueItems": True, "minItems": 1, "maxItems": 3},
        {"type": "object", "properties": {"a": {"not": {"type": "string"}}}, "required": ["a"]},
        {"type": "object", "properties": {"a": {"type": "string", "format": "colour"}}, "required": ["a"]},
        {"if": {"type": "string"}, "then": {"minLength": 3}},
    ]
    cases = []
    while len(cases) < COUNT - len(refused):
        depth = len(cases) * 4 // COUNT + 1
        defs = {}
        schema = object_schema(rng, depth, defs)
        if defs:
            schema["$defs"] = defs
        valid = validator(schema)
        values = [instance(rng, schema, schema) for _ in range(EACH)]
        texts = [written(rng, value) for value in values]
        if not all(valid(text) for text in texts) or max(map(len, texts)) > 320:
            continue
        misses = [near_miss(rng, rng.choice(values), valid) for _ in range(EACH)]
        cases.append({"schema": schema, "valid": texts, "invalid": misses})
    cases += [{"schema": schema, "refused": True} for schema in refused]
    OUT.parent.mkdir(parents=True, exist_ok=True)
    lines = ",\n".join(json.dumps(case, ensure_ascii=False, separators=(",", ":")) for case in cases)
    OUT.write_text(f"[\n{lines}\n]\n", encoding="utf-8")
    print(OUT, OUT.stat().st_size, len(cases))


main()
