//! `tools/compare` without any engine: what it prints and draws of results that are there, and that its Python counts
//! rates as `astrai bench` does. No figure of time is judged here.
//!
//! A machine without `python3` prints SKIP.

use crate::support::models::root;
use crate::support::programs::{has_python, run};
use serde_json::json;
use std::process::{Command, Output};

/// Runs `python3` where the tool's modules are; `None`, with the reason told, where there is none.
fn python(args: &[&str]) -> Option<Output> {
    if !has_python(10) {
        return None;
    }
    let mut command = Command::new("python3");
    // No compiled files in the checkout.
    command.arg("-B").args(args).current_dir(root().join("tools/compare"));
    Some(run(&mut command))
}

/// What it prints when it ends well.
fn printed(args: &[&str]) -> Option<String> {
    let output = python(args)?;
    assert!(output.status.success(), "{args:?}: {}", String::from_utf8_lossy(&output.stderr));
    Some(String::from_utf8(output.stdout).expect("output is UTF-8"))
}

fn fixture() -> String {
    root().join("tests/fixtures/compare/results.json").display().to_string()
}

/// Cells of the table's row that begins with `engine`, the `nth` of that name.
fn row(table: &str, engine: &str, nth: usize) -> Vec<String> {
    let mut rows = table.lines().filter(|line| line.strip_prefix("| ").is_some_and(|l| l.starts_with(engine)));
    let row = rows.nth(nth).unwrap_or_else(|| panic!("no row {nth} of {engine} in\n{table}"));
    row.trim_matches('|').split('|').skip(1).map(|cell| cell.trim().to_owned()).collect()
}

#[test]
fn the_table_has_medians_spreads_and_ratios() {
    let Some(out) = printed(&["compare.py", "--from", &fixture()]) else { return };
    assert_eq!(row(&out, "engine", 0), ["prefill 512", "1 stream", "4 streams"]);
    assert_eq!(row(&out, "llama.cpp", 0), ["160 (150–170)", "13.0 (12.9–13.4)", "27.0 (26.0–28.0)"]);
    // The best variant of each cell; the third round at 4 streams was disturbed and does not count.
    assert_eq!(row(&out, "OpenVINO", 0), ["1190 (1000–1200)", "17.5 (17.0–18.0)", "56.0 (55.0–57.0)"]);
    // All rounds were disturbed: they count, and say so.
    assert_eq!(row(&out, "astrai", 0), ["2390 (2380–2400)", "20.5 (20.0–21.0)", "42.0* (40.0–44.0)"]);
    assert_eq!(row(&out, "astrai /", 0), ["2.01×", "1.17×", "0.75×"]);
    // 30 GB/s over 1,192.1 MB of the smallest model and 536 tokens of 114,688 bytes; prompts are bound by computing.
    assert_eq!(row(&out, "bound", 0), ["–", "23.9", "83.7"]);
    assert_eq!(row(&out, "llama.cpp", 1)[0], "383 (380–390)");
    assert!(!out.contains("astrai / best peer  | –"), "{out}");
    for line in [
        "OpenVINO GenAI, 16-bit weights: hint bf16: prefill 512; hint f32: 1 stream, 4 streams",
        "SKIP astrai, q8: 8-bit weights are not built yet",
        "other programs took more than 10% of the processors in 4 of 43 samples",
    ] {
        assert!(out.contains(line), "{line} is not in\n{out}");
    }
}

#[test]
fn the_chart_has_a_bar_for_every_cell() {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let path = dir.path().join("chart.svg");
    let svg_path = path.display().to_string();
    if printed(&["compare.py", "--from", &fixture(), "--svg", &svg_path]).is_none() {
        return;
    }
    let svg = std::fs::read_to_string(&path).expect("a chart");
    // Three engines in three columns, one in three.
    assert_eq!(svg.matches("<title>").count(), 12, "{svg}");
    assert!(svg.starts_with("<svg ") && svg.trim_end().ends_with("</svg>") && !svg.contains("nan"), "{svg}");
    let parse = "import sys, xml.dom.minidom; xml.dom.minidom.parse(sys.argv[1])";
    printed(&["-c", parse, &svg_path]);
}

#[test]
fn rates_are_counted_as_astrai_bench_counts_them() {
    // The cases of the test beside `decode_rate` in src/bin/astrai/bench/result.rs.
    let script = "from rates import decode_rate, prompts
first = [(0.01 * i, 1) for i in range(10)] + [(0.101, 1), (0.121, 1)]
second = [(0.1, 1), (0.12, 1), (0.14, 1), (0.145, 1)]
print(round(decode_rate([first, second]), 6), round(decode_rate([[(0.0, 4), (0.1, 3)]]), 6))
print(decode_rate([first[:5], second]), decode_rate([second[:1]]), decode_rate([second, []]), decode_rate([]))
a, b = prompts(2, 512, 1000, 1)
print(len(a), len(b), a != b, min(a) >= 0, max(a) < 1000, prompts(2, 512, 1000, 1) == [a, b], prompts(1, 9, 99, 2))";
    let Some(out) = printed(&["-c", script]) else { return };
    let lines: Vec<&str> = out.lines().collect();
    assert_eq!(lines[..2], ["100.0 30.0", "None None None None"]);
    assert!(lines[2].starts_with("512 512 True True True True ["), "{out}");
}

#[test]
fn a_vocabulary_has_the_size_asked_for() {
    let script = "from checkpoint import vocabulary
for size in (257, 300, 151936):
    tokens, merges = vocabulary(size)
    known = set(tokens)
    whole = all(a in known and b in known and a + b in known for a, b in merges)
    print(len(tokens), len(known), len(merges), whole)";
    let Some(out) = printed(&["-c", script]) else { return };
    assert_eq!(out, "257 257 0 True\n300 300 43 True\n151936 151936 151679 True\n");
}

/// Two engines that say what they were asked: `fast` has a variant that is far behind when decoding, `picky` refuses 4 bits
/// when it is converted and 8 bits when it runs.
const TURNS: &str = r#"
import json, pathlib, sys, tempfile
import compare, peers
folder = pathlib.Path(tempfile.mkdtemp(dir=sys.argv[1]))
config = {"num_hidden_layers": 2, "num_key_value_heads": 1, "hidden_size": 8, "num_attention_heads": 2, "vocab_size": 300}
(folder / "config.json").write_text(json.dumps(config))
calls = []
class Fake(peers.Peer):
    def __init__(self, name):
        self.name = self.label = name
    def install(self, work):
        work.models.mkdir(parents=True, exist_ok=True)
        return "1"
    def model(self, work, precision):
        if (self.name, precision) == ("picky", "q4"):
            raise peers.Absent("no 4 bits")
        return folder / "config.json"
    def variants(self, precision):
        return ["a", "b"] if self.name == "fast" else ["default"]
    def measure(self, work, model, precision, variant, columns, settings):
        calls.append((self.name, precision, variant, ",".join(c["name"] for c in columns)))
        if (self.name, precision) == ("picky", "q8"):
            raise peers.Absent("not built")
        rate = lambda c: 50.0 if variant == "b" and c["generate"] else 100.0
        return [({c["name"]: rate(c) for c in columns}, 0.0)]
peers.PEERS = {"picky": lambda: Fake("picky"), "fast": lambda: Fake("fast")}
peers.Work.checkpoint = lambda self: folder
options = compare.arguments(["--work", str(folder), "--no-astrai", "--rounds", "2", "--columns", "prefill,s8,busy",
                             "--peers", "picky,fast", "--astrai", sys.executable])
for again in range(2):
    run = compare.Comparison(options)
    run.prepare()
    calls.clear()
    run.rounds(run.screened(), {})
    print(json.dumps({"calls": calls, "skipped": run.skipped, "samples": len(run.samples)}))
print(json.loads(run.path.read_text())["kv_bytes_per_token"])
"#;

#[test]
fn engines_take_turns_and_what_they_refuse_is_skipped() {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let Some(out) = printed(&["-c", TURNS, &dir.path().display().to_string()]) else { return };
    let mut lines = out.lines();
    let mut run = || serde_json::from_str::<serde_json::Value>(lines.next().expect("a line")).expect("JSON");
    let (first, second) = (run(), run());
    let call = |name: &str, precision: &str, variant: &str, columns: &str| json!([name, precision, variant, columns]);
    // Both variants are tried on the columns that tell which can win, for each precision.
    let screening = &first["calls"].as_array().expect("calls")[..6];
    assert_eq!(screening[..2], ["a", "b"].map(|v| call("fast", "bf16", v, "prefill,s1,s4")));
    // The busy column is a run of its own. The second run knows, and each round has every engine for each precision. The variant that decodes at half the
    // rate is measured where it is not behind. What was refused once is not asked again.
    let rounds = [
        call("picky", "bf16", "default", "prefill,s8"),
        call("picky", "bf16", "default", "busy"),
        call("fast", "bf16", "a", "prefill,s8"),
        call("fast", "bf16", "a", "busy"),
        call("fast", "bf16", "b", "prefill"),
        call("picky", "q8", "default", "prefill,s8"),
        call("fast", "q8", "a", "prefill,s8"),
        call("fast", "q8", "a", "busy"),
        call("fast", "q8", "b", "prefill"),
        call("fast", "q4", "a", "prefill,s8"),
        call("fast", "q4", "a", "busy"),
        call("fast", "q4", "b", "prefill"),
    ];
    let again: Vec<_> = rounds.iter().filter(|c| c[1] != "q8" || c[0] != "picky").cloned().collect();
    assert_eq!(second["calls"], json!([&rounds[..], &again[..]].concat()));
    assert_eq!(first["calls"].as_array().expect("calls")[6..], second["calls"].as_array().expect("calls")[..]);
    assert_eq!(
        second["skipped"],
        json!([{"what": "picky, q4", "why": "no 4 bits"}, {"what": "picky, q8", "why": "not built"}])
    );
    // Of the first engine three figures a round, of the second twelve.
    assert_eq!(second["samples"], 30);
    // Keys and values of two layers, one head of four, two bytes each.
    assert_eq!(lines.next(), Some("32"));
}

#[test]
fn wrong_usage_is_told() {
    for (args, words) in [
        (vec!["--columns", "prefill,s3"], vec!["s3", "s16"]),
        (vec!["--peers", "lama.cpp"], vec!["lama.cpp", "openvino"]),
        (vec!["--astrai", "/nowhere/astrai"], vec!["/nowhere/astrai", "cargo build"]),
        (vec!["--from", "/nowhere/results.json"], vec!["/nowhere/results.json"]),
        (vec!["--from", "README.md"], vec!["README.md"]),
    ] {
        let Some(output) = python(&[&["compare.py"], &args[..]].concat()) else { return };
        let told = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(!output.status.success() && !told.contains("Traceback"), "{args:?}: {told}");
        assert!(words.iter().all(|word| told.contains(word)), "{args:?}: {told}");
    }
}
