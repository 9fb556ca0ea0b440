//! Which text of a rendering is content, however the template cuts it.

use super::fixtures;
use astrai::text::{ChatTemplate, MarkedText, TemplateInput};
use serde_json::{Map, Value, json};

/// The part of a marker that no filter changes.
const CORE: &str = "7_7";

/// Renders a conversation as `submit` does.
fn render(source: &str, messages: Value) -> MarkedText {
    render_with(source, &messages, &Map::new(), &[])
}

fn render_with(source: &str, messages: &Value, variables: &Map<String, Value>, special: &[bool]) -> MarkedText {
    let messages = messages.as_array().unwrap();
    let input = TemplateInput { special, ..TemplateInput::new(messages, variables) };
    ChatTemplate::new(source, "t").unwrap().render(&input).unwrap()
}

/// The text, with what is content in ⟦⟧.
fn shown(marked: &MarkedText) -> String {
    let (mut out, mut at) = (String::new(), 0);
    for range in &marked.content {
        assert!(at <= range.start && range.start < range.end, "{marked:?}");
        out += &format!("{}⟦{}⟧", &marked.text[at..range.start], &marked.text[range.clone()]);
        at = range.end;
    }
    out + &marked.text[at..]
}

#[test]
fn marks_travel_through_every_operation() {
    let mut wrong = Vec::new();
    let wide = format!("['⟦{}⟧'\n'⟦{}⟧']", "a<x>b".repeat(10), "a<x>b".repeat(2));
    for (source, expected) in [
        ("<{{ c }}>", "<⟦ a<x>b ⟧>"),
        ("{{ '<' + c + '>' }}", "<⟦ a<x>b ⟧>"),
        ("{{ '<' ~ c ~ '>' ~ 1 }}", "<⟦ a<x>b ⟧>1"),
        ("{{ ('<' ~ c) | trim }}", "<⟦ a<x>b⟧"),
        ("{{ c.strip() }}{{ c | trim('a b') }}", "⟦a<x>b<x>⟧"),
        ("{{ c[3:6] }}{{ c[4] }}{{ c[::-1] }}", "⟦x>b> b>x<a ⟧"),
        ("{{ ('[' ~ c ~ ']')[::-1] }}", "]⟦ b>x<a ⟧["),
        (
            "{{ c.split('<')[1] }}|{{ c.partition('x')[2] }}|{{ c.rsplit('>', 1) | join('=') }}",
            "⟦x>b ⟧|⟦>b ⟧|⟦ a<x⟧=⟦b ⟧",
        ),
        ("{{ c.split('<') | join('<') }}", "⟦ a⟧<⟦x>b ⟧"),
        ("{{ ('<s>' ~ c).split('<') }}", "['', 's>⟦ a⟧', '⟦x>b ⟧']"),
        ("{{ c | replace('x', 'Y') }}", "⟦ a<⟧Y⟦>b ⟧"),
        ("{{ 'x-y' | replace('-', c) }}", "x⟦ a<x>b ⟧y"),
        ("{{ ('<x>' ~ c) | upper }}", "<X>⟦ A<X>B ⟧"),
        ("{{ ('<x>' ~ c ~ 'é') | upper }}", "<X>⟦ A<X>B ⟧É"),
        ("{{ c | title }}{{ c.capitalize() }}{{ c.swapcase() }}", "⟦ A<X>b  a<x>b  A<X>B ⟧"),
        ("{{ '%s|%5s' % (c, 'x') }}", "⟦ a<x>b ⟧|    x"),
        ("{{ '{}|{x:>8}'.format(c, x=c.strip()) }}", "⟦ a<x>b ⟧|   ⟦a<x>b⟧"),
        ("{{ (c ~ '%s') % '!' }}{{ (c ~ '{}').format('?') }}", "⟦ a<x>b ⟧!⟦ a<x>b ⟧?"),
        ("{{ [c, 'p'] }}", "['⟦ a<x>b ⟧', 'p']"),
        ("{{ {'k': c} | tojson }}", "{\"k\": \"⟦ a<x>b ⟧\"}"),
        ("{{ [c ~ '\"', '\"'] | tojson }}", "[\"⟦ a<x>b ⟧\\\"\", \"\\\"\"]"),
        ("{% set s %}<{{ c }}>{% endset %}{{ s | length }}{{ s }}", "9<⟦ a<x>b ⟧>"),
        ("{% set s | trim | upper %}  {{ c }}{% endset %}{{ s }}", "⟦A<X>B⟧"),
        ("{% filter upper %}<{{ c }}{% endfilter %}", "<⟦ A<X>B ⟧"),
        ("{% macro m(t) %}<{{ t }}>{% endmacro %}{{ m(c) | upper }}{{ m(c) }}", "<⟦ A<X>B ⟧><⟦ a<x>b ⟧>"),
        ("{% macro m() %}({{ caller() | upper }}){% endmacro %}{% call m() %}<{{ c }}{% endcall %}", "(<⟦ A<X>B ⟧)"),
        (
            "{% macro m(n) %}{{ n }}{{ c }}{% if n %}{{ m(n - 1) | trim }}{% endif %}{% endmacro %}{{ m(1) }}",
            "1⟦ a<x>b ⟧0⟦ a<x>b⟧",
        ),
        (
            "{% for n in [[[c]]] recursive %}{% if n is string %}{{ n }}{% else %}({{ loop(n) | trim }}){% endif %}{% endfor %}",
            "((⟦a<x>b⟧))",
        ),
        ("{% for x in c %}{{ x }}.{% endfor %}", "⟦ ⟧.⟦a⟧.⟦<⟧.⟦x⟧.⟦>⟧.⟦b⟧.⟦ ⟧."),
        ("{% for l in (c ~ '\n' ~ c).splitlines() %}{{ l }}|{% endfor %}", "⟦ a<x>b ⟧|⟦ a<x>b ⟧|"),
        (
            "{{ nothing | default(c) }}{{ c | default('x') }}{{ c | string }}{{ c | safe }}",
            "⟦ a<x>b  a<x>b  a<x>b  a<x>b ⟧",
        ),
        ("{{ (c ~ '\n' ~ c) | indent(2, true) }}", "  ⟦ a<x>b ⟧\n  ⟦ a<x>b ⟧"),
        ("{{ [c] | join }}{{ [c, c] | join('-') }}{{ ','.join([c]) }}", "⟦ a<x>b  a<x>b ⟧-⟦ a<x>b  a<x>b ⟧"),
        ("{{ c | e }}{{ c | e | e }}", "⟦ a&lt;x&gt;b  a&lt;x&gt;b ⟧"),
        ("{{ '<' + (c | safe) + '>' }}{{ '<' + (c | e) }}", "&lt;⟦ a<x>b ⟧&gt;&lt;⟦ a&lt;x&gt;b ⟧"),
        ("{{ ('<%s>' | safe) % c }}{{ ('{}' | safe).format(c) }}", "<⟦ a&lt;x&gt;b ⟧>⟦ a&lt;x&gt;b ⟧"),
        (
            "{{ (c | safe).split('<')[1] + '<' }}{{ (c | safe)[:2] }}{{ (c | safe) * 2 }}",
            "⟦x>b ⟧&lt;⟦ a a<x>b  a<x>b ⟧",
        ),
        ("{{ ('-' | safe).join([c, '<']) }}{{ ('-' | safe).replace('-', c) }}", "⟦ a&lt;x&gt;b ⟧-&lt;⟦ a&lt;x&gt;b ⟧"),
        ("{{ [c * 12] | pprint | replace(' ', '') }}", &wide),
        ("{{ c | center(11) }}|{{ c.ljust(9, '*') }}", "  ⟦ a<x>b ⟧  |⟦ a<x>b ⟧**"),
        ("{{ c | truncate(5, true, '...', 0) }}", "⟦ a⟧..."),
        ("{{ c | wordwrap(3) }}", "⟦ a<⟧\n⟦x>b⟧"),
        ("{{ c | striptags }}{{ c | urlencode }}", "⟦ab%20a%3Cx%3Eb%20⟧"),
        (
            "{{ [c] | map('upper') | first }}{{ [c] | sort | last }}{{ [c, c] | unique | list | length }}",
            "⟦ A<X>B  a<x>b ⟧1",
        ),
        ("{{ {'k': c} | items | list }}{{ {'a': c}.values() | list }}", "[('k', '⟦ a<x>b ⟧')]['⟦ a<x>b ⟧']"),
        ("{{ {c: 1} }}{{ {c: 1}[' a<x>b '] }}{{ c in {' a<x>b ': 1} }}", "{'⟦ a<x>b ⟧': 1}1True"),
        (
            "{{ c == ' a<x>b ' }}{{ c in [' a<x>b '] }}{{ 'x' in c }}{{ c is string }}{{ c | length }}{{ c < 'b' }}",
            "TrueTrueTrueTrue7True",
        ),
        (
            "{% set n = namespace(t='') %}{% for x in [1, 2] %}{% set n.t = n.t ~ c %}{% endfor %}{{ n.t }}",
            "⟦ a<x>b  a<x>b ⟧",
        ),
        ("{{ dict(k=c).k }}{{ dict(**{'k': c}).k }}", "⟦ a<x>b  a<x>b ⟧"),
        ("{% set j = joiner(c) %}{{ j() }}{{ j() }}{% set y = cycler(c, 'p') %}{{ y.next() }}", "⟦ a<x>b  a<x>b ⟧"),
        ("{% for x in [c, c] %}{{ loop.changed(x) }}{{ loop.cycle(x, '-') }}{% endfor %}", "True⟦ a<x>b ⟧False-"),
        ("{{ c if true }}{{ c or 'x' }}{{ '' or c }}{{ c and c }}", "⟦ a<x>b  a<x>b  a<x>b  a<x>b ⟧"),
        ("{% if c %}1{% endif %}{% if c.strip('ab<x> ') %}2{% else %}3{% endif %}{{ not c }}", "13False"),
        ("{{ c * 2 }}{{ ('-' ~ c) * 2 }}", "⟦ a<x>b  a<x>b ⟧-⟦ a<x>b ⟧-⟦ a<x>b ⟧"),
        ("{{ c.removeprefix(' a') }}{{ c.removesuffix('b ') }}{{ c.zfill(9) }}", "⟦<x>b  a<x>⟧00⟦ a<x>b ⟧"),
        ("{{ c.expandtabs() }}{{ c | list | join }}{{ [[c]] | map('join') | join }}", "⟦ a<x>b  a<x>b  a<x>b ⟧"),
        (
            "{{ {'a': c} | xmlattr }}{{ [('k', c)] | urlencode }}{{ c | pprint }}",
            " a=\"⟦ a&lt;x&gt;b ⟧\"k=⟦+a%3Cx%3Eb+⟧'⟦ a<x>b ⟧'",
        ),
        ("{{ [{'g': c}] | groupby('g') | map(attribute='grouper') | first }}{{ c | first }}", "⟦ a<x>b  ⟧"),
    ] {
        let source = format!("{{% set c = messages[0].content %}}{source}");
        let marked = render(&source, json!([{"role": "user", "content": " a<x>b "}]));
        let got = shown(&marked);
        if got != expected {
            wrong.push(format!("{source}\n  got      {got}\n  expected {expected}"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn who_wrote_it_decides() {
    let all = "{% for m in messages %}{{ m.role }}={{ m.content }};{% endfor %}";
    let said = |role: &str| json!({"role": role, "content": "x"});
    let marked = render(all, json!([said("system"), said("user"), said("assistant"), said("tool"), said("developer")]));
    assert_eq!(shown(&marked), "system=⟦x⟧;user=⟦x⟧;assistant=x;tool=⟦x⟧;developer=⟦x⟧;");
    // With a flag, names of special tokens in a message are tokens.
    let marked = render_with(all, &json!([said("system"), said("user")]), &Map::new(), &[false, true]);
    assert_eq!(shown(&marked), "system=⟦x⟧;user=x;");
    // What a tool returns may be anything; the type of a part and the role are no content.
    let json = "{{ messages[0].content | tojson }}{{ messages[0].role }}";
    let marked = render(json, json!([{"role": "tool", "content": {"k": ["v", 1, null]}}]));
    assert_eq!(shown(&marked), "{\"⟦k⟧\": [\"⟦v⟧\", 1, null]}tool");
    let marked = render(json, json!([{"role": "user", "content": [{"type": "text", "text": "v"}]}]));
    // Nor is the part that a bare string becomes anything but ours, but for its text.
    let bare = render(json, json!([{"role": "user", "content": ["v"]}]));
    assert_eq!(shown(&bare), "[{\"type\": \"text\", \"text\": \"⟦v⟧\"}]user");
    assert_eq!(shown(&marked), "[{\"type\": \"text\", \"⟦text⟧\": \"⟦v⟧\"}]user");
    // Tools, documents and arguments of calls are content; other variables are the template's own.
    let source =
        "{{ tools[0] | tojson }}{{ documents[0] }}{{ bos }}{{ messages[0].tool_calls[0].function.arguments | tojson }}";
    let variables = json!({"documents": ["d"], "bos": "<s>"});
    let call = json!([{"type": "function", "function": {"name": "f", "arguments": "{\"a\": \"b\"}"}}]);
    let messages = [json!({"role": "assistant", "content": "", "tool_calls": call})];
    let tools = json!([{"name": "t"}]);
    let variables = variables.as_object().unwrap();
    let input = TemplateInput { tools: Some(&tools), ..TemplateInput::new(&messages, variables) };
    let marked = ChatTemplate::new(source, "t").unwrap().render(&input).unwrap();
    assert_eq!(shown(&marked), "{\"⟦name⟧\": \"⟦t⟧\"}⟦d⟧<s>{\"⟦a⟧\": \"⟦b⟧\"}");
}

#[test]
fn names_are_content_too() {
    let json = "{{ messages[0] | tojson }}";
    let said = |role: &str| json!([{"role": role, "content": "c", "k": {"l": "v"}}]);
    let of_others = "{\"role\": \"user\", \"⟦content⟧\": \"⟦c⟧\", \"⟦k⟧\": {\"⟦l⟧\": \"⟦v⟧\"}}";
    assert_eq!(shown(&render(json, said("user"))), of_others);
    let own = "{\"role\": \"assistant\", \"content\": \"c\", \"k\": {\"l\": \"v\"}}";
    assert_eq!(shown(&render(json, said("assistant"))), own);
    let calls = json!([{"role": "user", "content": "c", "tool_calls": [{"n": {"m": 1}, "function": {"f": 2}}]}]);
    let want = "[{\"⟦n⟧\": {\"⟦m⟧\": 1}, \"⟦function⟧\": {\"⟦f⟧\": 2}}]";
    assert_eq!(shown(&render("{{ messages[0].tool_calls | tojson }}", calls)), want);
    // As keywords, wherever they end up.
    for (source, want) in [
        ("{{ dict(**d) }}", "{'⟦<k>⟧': '⟦v⟧'}"),
        ("{{ dict({'a': 1}, b=2, **d) }}", "{'a': 1, 'b': 2, '⟦<k>⟧': '⟦v⟧'}"),
        ("{% macro m() %}{{ kwargs | tojson }}{% endmacro %}{{ m(a=1, **d) }}", "{\"a\": 1, \"⟦<k>⟧\": \"⟦v⟧\"}"),
        (
            "{% macro m() %}{{ kwargs }}{% endmacro %}{% macro o() %}{{ m(**kwargs) }}{% endmacro %}{{ o(**d) }}",
            "{'⟦<k>⟧': '⟦v⟧'}",
        ),
        ("{% macro m(x) %}{{ x }}{% endmacro %}{{ m(**e) }}", "⟦v⟧"),
        ("{% macro m() %}{{ caller(**e) }}{% endmacro %}{% call(x) m() %}<{{ x }}>{% endcall %}", "<⟦v⟧>"),
        ("{% set n = namespace(**e) %}{{ n.x }}{% set n = namespace(e) %}{{ n.x }}", "⟦vv⟧"),
        ("{{ '{x}'.format(**e) }}{{ '%(x)s' | format(**e) }}{{ '{x}'.format_map(e) }}", "⟦vvv⟧"),
        ("{{ [[2, 1]] | map('sort', **f) | list }}", "[[2, 1]]"),
        ("{{ dict(**dict(**d)).items() | list }}", "[('⟦<k>⟧', '⟦v⟧')]"),
    ] {
        let source = format!(
            "{{% set d = messages[0].content[0] %}}{{% set e = messages[0].content[1] %}}{{% set f = messages[0].content[2] %}}{source}"
        );
        let marked =
            render(&source, json!([{"role": "tool", "content": [{"<k>": "v"}, {"x": "v"}, {"reverse": true}]}]));
        assert_eq!(shown(&marked), want, "{source}");
    }
}

#[test]
fn what_content_spells_is_never_taken_for_a_mark() {
    // Whatever stands for a mark inside the engine's output, content and templates may spell it.
    for c in ["\u{1}", "\u{1}(", "\u{1})", "a\u{1}(b\u{1})c", "\u{1}\u{1}", "\u{1}("] {
        let source =
            "{% set s %}<{{ messages[0].content }}\u{1}(\u{1})>{% endset %}{{ s }}\u{1}{{ messages[1].content }}";
        let marked = render(source, json!([{"role": "user", "content": c}, {"role": "assistant", "content": c}]));
        assert_eq!(shown(&marked), format!("<⟦{c}⟧\u{1}(\u{1})>\u{1}{c}"));
    }
}

/// Puts a marker before and after each text, and into each object under a name that is a marker.
fn mark(value: &mut Value) {
    match value {
        Value::String(s) => *s = format!("<{CORE}>{s}<{CORE}>"),
        Value::Array(items) => items.iter_mut().for_each(mark),
        Value::Object(fields) => {
            fields.iter_mut().filter(|(k, _)| *k != "type").for_each(|(_, v)| mark(v));
            fields.insert(format!("<{CORE}>"), Value::from(CORE));
        }
        _ => {}
    }
}

#[test]
fn in_every_template_all_that_comes_from_content_is_content() {
    let text = std::fs::read_to_string(fixtures().join("cases.json")).unwrap();
    let cases: Vec<Value> = serde_json::from_str(&text).unwrap();
    let mut found = 0;
    for case in cases.iter().filter(|case| case["expected"].is_string()) {
        let file = case["template"].as_str().unwrap();
        let template = ChatTemplate::new(&std::fs::read_to_string(fixtures().join(file)).unwrap(), file).unwrap();
        let mut messages = case["messages"].as_array().unwrap().clone();
        for message in messages.iter_mut().filter(|m| m["role"] != "assistant") {
            mark(message.get_mut("content").unwrap());
            message.as_object_mut().unwrap().insert(format!("<{CORE}>"), Value::from(CORE));
        }
        let input = |special| TemplateInput {
            tools: Some(&case["tools"]).filter(|t| !t.is_null()),
            exact: true,
            special,
            ..TemplateInput::new(&messages, case["variables"].as_object().unwrap())
        };
        // Some templates refuse what they do not know.
        let Ok(marked) = template.render(&input(&[])) else { continue };
        let plain = template.render(&input(&vec![true; messages.len()])).unwrap();
        let (name, text) = (case["name"].as_str().unwrap(), &marked.text);
        // Dates aside, marks change no character.
        assert!(text == &plain.text || file == "dates.jinja" || file == "telegram.jinja", "{name}");
        for (at, _) in text.match_indices(CORE) {
            let inside = marked.content.iter().any(|r| r.start <= at && at + CORE.len() <= r.end);
            assert!(inside, "{name}: at {at} of {:?}", shown(&marked));
            found += 1;
        }
    }
    assert!(found > 100, "{found}");
}
