//! Chat templates: every fixture renders byte for byte what transformers made of it, and hostile templates end in
//! errors.

mod content;
mod forms;
mod language;

use astrai::Status;
use astrai::text::{ChatTemplate, LocalTime, TemplateInput};
use serde_json::{Map, Value, json};
use std::path::PathBuf;

fn fixtures() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/templates")
}

/// `2024-07-26T09:05:03`
fn time(text: &str) -> LocalTime {
    let n: Vec<u32> = text.split(['-', 'T', ':']).map(|p| p.parse().unwrap()).collect();
    LocalTime { year: n[0] as i32, month: n[1], day: n[2], hour: n[3], minute: n[4], second: n[5] }
}

/// Renders a fixture case; the error's message on failure.
fn render_case(case: &Value) -> Result<String, String> {
    let file = case["template"].as_str().unwrap();
    let source = std::fs::read_to_string(fixtures().join(file)).unwrap();
    let template = ChatTemplate::new(&source, file).map_err(|e| e.message)?;
    let input = TemplateInput {
        messages: case["messages"].as_array().unwrap(),
        tools: Some(&case["tools"]).filter(|t| !t.is_null()),
        variables: case["variables"].as_object().unwrap(),
        add_generation_prompt: case["add_generation_prompt"].as_bool().unwrap(),
        now: case["now"].as_str().map(time),
        exact: true,
        ..TemplateInput::new(&[], case["variables"].as_object().unwrap())
    };
    template.render(&input).map(|marked| marked.text).map_err(|e| {
        assert_eq!(e.status, Status::Template, "{e:?}");
        e.message
    })
}

#[test]
fn every_fixture_renders_as_transformers_does() {
    let text = std::fs::read_to_string(fixtures().join("cases.json")).unwrap();
    let cases: Vec<Value> = serde_json::from_str(&text).unwrap();
    assert!(cases.len() >= 100, "only {} cases", cases.len());
    let mut wrong = Vec::new();
    for case in &cases {
        let name = case["name"].as_str().unwrap();
        let got = render_case(case);
        let fine = match (&got, case["expected"].as_str(), case["error_from"].as_str()) {
            (Ok(got), Some(expected), _) => got == expected,
            (Err(got), None, Some("template")) => Some(got.as_str()) == case["expected_error"].as_str(),
            (Err(_), None, Some("engine")) => true,
            _ => false,
        };
        if !fine {
            let expected = case["expected"].as_str().or(case["expected_error"].as_str()).unwrap();
            wrong.push(match &got {
                Ok(got) => format!("{name}:\n{}", first_difference(got, expected)),
                Err(e) => format!("{name}: failed: {e}"),
            });
        }
    }
    assert!(wrong.is_empty(), "{} of {} cases differ\n{}", wrong.len(), cases.len(), wrong.join("\n"));
}

/// The first line that differs, of both.
fn first_difference(got: &str, expected: &str) -> String {
    let mut expected_lines = expected.split('\n');
    for (n, line) in got.split('\n').enumerate() {
        match expected_lines.next() {
            Some(other) if other == line => {}
            other => return format!("  line {}: got      {line:?}\n  line {}: expected {other:?}", n + 1, n + 1),
        }
    }
    format!("  missing: {:?}", expected_lines.next())
}

fn render(source: &str) -> Result<String, String> {
    render_with(source, &[], &Map::new())
}

fn render_with(source: &str, messages: &[Value], variables: &Map<String, Value>) -> Result<String, String> {
    let input = TemplateInput { add_generation_prompt: false, ..TemplateInput::new(messages, variables) };
    let template = ChatTemplate::new(source, "test").map_err(|e| e.message)?;
    template.render(&input).map(|marked| marked.text).map_err(|e| {
        assert_eq!(e.status, Status::Template);
        e.message
    })
}

/// Runs on a thread with little stack, as a host's may have; returns the error's message.
fn fails(source: &str) -> String {
    let source = source.to_owned();
    let thread = std::thread::Builder::new().stack_size(512 << 10).spawn(move || render(&source)).unwrap();
    match thread.join().unwrap() {
        Err(message) => message,
        Ok(text) => panic!("rendered {} bytes", text.len()),
    }
}

#[test]
fn endless_loops_end() {
    let nested = "{% for a in range(99999) %}{% for b in range(99999) %}{% set x = a %}{% endfor %}{% endfor %}";
    assert!(fails(nested).contains("it ran longer than"));
    let recursion = "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}";
    assert!(fails(recursion).contains("recursion"), "{}", fails(recursion));
    let mutual = "{% macro f() %}{{ g() }}{% endmacro %}{% macro g() %}{{ f() }}{% endmacro %}{{ f() }}";
    assert!(fails(mutual).contains("recursion"));
    let callers = "{% macro f() %}{% call f() %}x{% endcall %}{{ caller() }}{% endmacro %}{{ f() }}";
    assert!(fails(callers).contains("recursion"));
    let looped = "{% for n in [[1]] recursive %}{{ loop([n]) }}{% endfor %}";
    assert!(!fails(looped).is_empty());
    assert!(fails("{{ range(10 ** 9) }}").contains("Range too big"));
    assert!(fails("{{ range(10 ** 30) }}").contains("integer"));
}

#[test]
fn huge_texts_and_lists_end() {
    for source in [
        "{% set n = namespace(s='ab') %}{% for i in range(60) %}{% set n.s = n.s ~ n.s %}{% endfor %}",
        "{% set n = namespace(s='ab') %}{% for i in range(60) %}{% set n.s = n.s + n.s %}{% endfor %}",
        "{% set n = namespace(s=[1]) %}{% for i in range(60) %}{% set n.s = n.s + n.s %}{% endfor %}",
        "{% set n = namespace(s='ab') %}{% for i in range(60) %}{% set n.s = n.s.replace('', n.s) %}{% endfor %}",
        "{% set n = namespace(s='ab') %}{% for i in range(60) %}{% set n.s = [n.s, n.s] | join(n.s) %}{% endfor %}",
        "{% set n = namespace(s='ab') %}{% for i in range(60) %}{% set n.s %}{{ n.s }}{{ n.s }}{% endset %}{% endfor %}",
        "{% set n = namespace(s='ab') %}{% for i in range(60) %}{% set n.s = '%s%s' % (n.s, n.s) %}{% endfor %}",
        "{% set n = namespace(s='ab') %}{% for i in range(60) %}{% set n.s = '{0}{0}'.format(n.s) %}{% endfor %}",
        "{% set n = namespace(s=[1]) %}{% for i in range(60) %}{% set n.s = n.s * 9 %}{% endfor %}",
        "{% set n = namespace(s={}) %}{% for i in range(60) %}{% set n.s = {1: n.s, 2: n.s} %}{% endfor %}{{ n.s }}",
        "{{ 'x' * 10 ** 12 }}",
        "{{ [0] * 10 ** 12 }}",
        "{{ 'x'.ljust(10 ** 12) }}",
        "{{ 'x' | indent(10 ** 12, true) }}",
        "{{ 'x' | center(10 ** 12) }}",
        "{{ '%999999999d' % 1 }}",
        "{{ '{:999999999}'.format(1) }}",
        "{{ [[[1]]] | tojson(indent=10 ** 12) }}",
        "{{ [1] | batch(10 ** 12, 0) }}",
        "{{ [1] | slice(10 ** 12) }}",
        "{% for i in range(99999) %}{{ 'x' * 9999 }}{% endfor %}",
        "{% macro f() %}{{ 'x' * 99999 }}{% endmacro %}{% for i in range(99999) %}{{ f() }}{% endfor %}",
        "{{ 10 ** 999 }}",
        "{{ 1.5 | round(10 ** 30) ** 99999999 }}{{ 2 ** 99999 }}",
    ] {
        let message = fails(source);
        let why = ["bytes", "it ran longer than", "field wider", "127 bits", "nests deeper"];
        assert!(why.iter().any(|w| message.contains(w)), "{source}: {message}");
    }
}

#[test]
fn deep_things_end() {
    let list = "{% set n = namespace(s=[]) %}{% for i in range(9999) %}{% set n.s = [n.s] %}{% endfor %}{{ n.s }}";
    assert!(fails(list).contains("deeper"));
    let itself = "{% set n = namespace() %}{% set n.me = n %}{{ n }}";
    assert!(fails(itself).contains("namespace"));
    let inside = "{% set n = namespace() %}{% set n.me = [{'a': (n,)}] %}{{ n }}";
    assert!(fails(inside).contains("namespace"));
    for (open, close) in [("(", ")"), ("[", "]"), ("{1:", "}"), ("not ", ""), ("-", ""), ("x[", "]"), ("x(", ")")] {
        for depth in [100, 10_000, 1_000_000] {
            let source = format!("{{{{ {}1{} }}}}", open.repeat(depth), close.repeat(depth));
            assert!(depth == 100 || !fails(&source).is_empty(), "{open} {depth}");
        }
    }
    for (open, close) in [
        ("{% if 1 %}", "{% endif %}"),
        ("{% for a in b %}", "{% endfor %}"),
        ("{% macro a() %}", "{% endmacro %}"),
        ("{% set a %}", "{% endset %}"),
        ("{% if 1 %}{% else %}", "{% endif %}"),
        ("{% generation %}", "{% endgeneration %}"),
    ] {
        for depth in [100, 100_000] {
            assert!(!fails(&(open.repeat(depth) + &close.repeat(depth))).is_empty(), "{open} {depth}");
        }
    }
    for chain in [".a", "[0]", "|trim", "()", " is odd", " or x", " and x", "+x", " ~ x", " < x", "**x", " if x else x"]
    {
        let source = format!("{{% set x = 1 %}}{{{{ x{} }}}}", chain.repeat(100_000));
        let thread = std::thread::Builder::new().stack_size(512 << 10).spawn(move || render(&source)).unwrap();
        // Some of these are fine; none may take the process down.
        let _ = thread.join().unwrap();
    }
    let elifs = format!("{{% if 0 %}}{}{{% endif %}}", "{% elif 0 %}".repeat(100_000));
    assert!(fails(&elifs).contains("elif"));
}

#[test]
fn depths_that_people_use_work() {
    let parentheses = format!("{{{{ {}1{} }}}}", "(".repeat(30), ")".repeat(30));
    assert_eq!(render(&parentheses), Ok("1".into()));
    let blocks = format!("{}x{}", "{% if 1 %}".repeat(30), "{% endif %}".repeat(30));
    assert_eq!(render(&blocks), Ok("x".into()));
    let recursion = "{% macro f(n) %}{{ n }}{% if n %}{% for x in [1] %}{{ f(n - 1) }}{% endfor %}{% endif %}{% endmacro %}{{ f(12) }}";
    assert_eq!(render(recursion), Ok("1211109876543210".into()));
    let sum = format!("{{{{ 1{} }}}}", " + 1".repeat(500));
    assert_eq!(render(&sum), Ok("501".into()));
    let words = format!("{{{{ 'a'{} }}}}", " ~ 'a'".repeat(500));
    assert_eq!(render(&words), Ok("a".repeat(501)));
}

#[test]
fn long_conversations_are_no_hostility() {
    let messages: Vec<Value> =
        (0..3000).map(|i| json!({"role": "user", "content": format!("message {i} ").repeat(20)})).collect();
    let source = "{% set n = namespace(list=[], text='') %}{% for m in messages %}{% set n.list = n.list + [m.content] %}\
        {% if loop.index < 600 %}{% set n.text = n.text + m.content %}{% endif %}{% endfor %}{{ n.list | length }} {{ n.text | length }}";
    let got = render_with(source, &messages, &Map::new());
    let bytes: usize = messages.iter().take(599).map(|m| m["content"].as_str().unwrap().len()).sum();
    assert_eq!(got, Ok(format!("3000 {bytes}")));
}

#[test]
fn broken_templates_name_their_line() {
    for (source, line, what) in [
        ("a\nb {% if x %}", 2, "Unexpected end of template"),
        ("a\n\n{{ x | nothing }}", 3, "No filter named 'nothing'"),
        ("{{ x is nothing }}", 1, "No test named 'nothing'"),
        ("\n{% frobnicate %}", 2, "Encountered unknown tag 'frobnicate'"),
        ("\n{{ 'abc }}", 2, "string does not end"),
        ("{# never closed", 1, "comment"),
        ("{% raw %} never closed", 1, "raw"),
        ("{{ (1, 2 ]}}", 1, "unexpected ']'"),
        ("x\n{{ 1 +\n\n+ }}", 4, "an expression"),
        ("\n{% call a + b %}{% endcall %}", 2, "expected call"),
        ("{% call m() | trim %}{% endcall %}", 1, "expected call"),
        ("{% call m() if m %}{% endcall %}", 1, "expected call"),
        ("{% call not m() %}{% endcall %}", 1, "expected call"),
        ("{% call -m() %}{% endcall %}", 1, "expected call"),
        ("{% call [m()] %}{% endcall %}", 1, "expected call"),
        ("{% call m()[0] %}{% endcall %}", 1, "expected call"),
    ] {
        let error = ChatTemplate::new(source, "chat_template.jinja").map(drop).unwrap_err();
        assert_eq!(error.status, Status::Template);
        assert_eq!(error.subject, "chat_template.jinja");
        let want = format!("chat_template.jinja, line {line}: ");
        assert!(error.message.starts_with(&want) && error.message.contains(what), "{source:?}: {}", error.message);
    }
    let failing = "one\n{# a\ncomment #}\n{% for m in [1] %}\n  {{ m }}{{ 1 + 'a' }}\n{% endfor %}";
    let message = render(failing).unwrap_err();
    assert_eq!(message, "test, line 5: unsupported operand type(s) for +: 'int' and 'str'");
}

#[test]
fn calls_of_any_shape_take_a_block() {
    for callee in ["m()", "n.m()", "n['m']()", "m(x) if false else m()", "(m())", "{'m': m}['m']()", "f()"] {
        let source = format!(
            "{{% macro m() %}}[{{{{ caller() }}}}]{{% endmacro %}}{{% set f = m %}}{{% set n = {{'m': m}} %}}\
             {{% call() {callee} %}}x{{% endcall %}}"
        );
        let want = if callee.contains("if") { None } else { Some("[x]") };
        assert_eq!(render(&source).ok().as_deref(), want, "{callee}");
    }
}

#[test]
fn what_a_template_raises_is_the_message() {
    assert_eq!(render("{{ raise_exception('Rôles must alternate!\\n') }}"), Err("Rôles must alternate!\n".into()));
    let nested = "{% macro f() %}{% for i in [1] %}{{ raise_exception('no: ' ~ i) }}{% endfor %}{% endmacro %}\
        {% set x %}{{ f() }}{% endset %}";
    assert_eq!(render(nested), Err("no: 1".into()));
}

#[test]
fn variables_are_what_the_caller_gave() {
    let variables: Map<String, Value> = serde_json::from_value(
        json!({"__py_meter": 1, "__py_now": 2, "n": 3, "big": 18446744073709551615u64, "f": 1.0}),
    )
    .unwrap();
    assert_eq!(
        render_with("{{ n }} {{ big }} {{ f }} {{ n / 2 }}", &[], &variables),
        Ok("3 18446744073709551615 1.0 1.5".into())
    );
    let reasoning = [json!({"role": "assistant", "reasoning": "hm", "content": "x"})];
    assert_eq!(
        render_with("{{ messages[0].reasoning_content }} {{ messages[0].thinking }}", &reasoning, &Map::new()),
        Ok("hm hm".into())
    );
}

#[test]
fn a_template_serves_many_threads() {
    let template = ChatTemplate::new("{% for m in messages %}{{ m.content | upper }}{% endfor %}", "t").unwrap();
    std::thread::scope(|scope| {
        for i in 0..8 {
            let template = &template;
            scope.spawn(move || {
                let messages = vec![json!({"role": "user", "content": format!("n{i}")}); 50];
                let variables = Map::new();
                let input = TemplateInput::new(&messages, &variables);
                assert_eq!(template.render(&input).unwrap().text, format!("N{i}").repeat(50));
            });
        }
    });
}

#[test]
fn the_clock_is_the_systems_when_none_is_given() {
    let year: i32 = render("{{ strftime_now('%Y') }}").unwrap().parse().unwrap();
    assert!((2024..3000).contains(&year));
    for (now, want) in [("2024-02-29T00:00:00", "Thursday 060 08 09"), ("2023-12-31T12:00:00", "Sunday 365 53 52")] {
        let (messages, variables) = ([], Map::new());
        let now = Some(time(now));
        let input = TemplateInput { now, ..TemplateInput::new(&messages, &variables) };
        let template = ChatTemplate::new("{{ strftime_now('%A %j %U %W') }}", "t").unwrap();
        assert_eq!(template.render(&input).unwrap().text, want);
    }
}

/// Templates that recur and conversations that nest, on a thread with no more stack than the contract asks for.
#[test]
fn a_short_stack_is_enough() {
    let small = |source: &'static str, messages: Value| {
        let body = move || {
            let messages = messages.as_array().unwrap().clone();
            render_with(source, &messages, &Map::new())
        };
        std::thread::Builder::new().stack_size(96 << 10).spawn(body).unwrap().join().unwrap()
    };
    let recursion = small("{% macro f(n) %}{{ f(n + 1) }}{% endmacro %}{{ f(0) }}", json!([]));
    assert!(recursion.unwrap_err().contains("recursion"));
    let mut deep = json!(1);
    for _ in 0..120 {
        deep = json!([deep]);
    }
    let printed = small("{{ messages[0] | tojson }}{{ messages[0] }}", json!([deep])).unwrap();
    assert_eq!(printed, format!("{0}1{1}{0}1{1}", "[".repeat(120), "]".repeat(120)));
    assert!(small("{{ ((((((((((((((((((((1)))))))))))))))))))) }}", json!([])).is_ok());
}

#[test]
fn a_rendering_can_be_stopped() {
    let stop = std::sync::Arc::new(std::sync::atomic::AtomicBool::new(true));
    let variables = Map::new();
    let input = TemplateInput { stop: Some(stop), ..TemplateInput::new(&[], &variables) };
    let source = "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}";
    let error = ChatTemplate::new(source, "t").unwrap().render(&input).unwrap_err();
    assert!(error.message.contains("stopped"), "{}", error.message);
}
