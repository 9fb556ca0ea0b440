//! The library as C sees it: every example and every C test program is compiled as C99 and as C++11 with all warnings
//! as errors, linked with the shared library of this build, and run against `models/storyteller`.
//!
//! What a machine cannot do prints SKIP with the reason, and fails when the variable ASTRAI_REQUIRE names it.

use crate::support::{damaged, shared_library};
use astrai::ffi;
use astrai::ffi::types::*;
use std::collections::BTreeSet;
use std::ffi::{CString, c_void};
use std::fmt::Write as _;
use std::fs;
use std::mem::{offset_of, size_of};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::ptr;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Mutex, OnceLock};

const WARNINGS: [&str; 4] = ["-Wall", "-Wextra", "-Werror", "-pedantic"];
/// Growth of memory over 40 open/close rounds that is not a leak, in KiB: the allocator's own arenas.
const GROWTH_KIB_MAX: &str = "4096";

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

pub fn model() -> PathBuf {
    let model = root().join("models/storyteller");
    assert!(model.join("config.json").is_file(), "{} is not there: is this a whole clone?", model.display());
    model
}

/// A folder with the shared library under its soname, as it would be installed.
pub fn libraries() -> &'static Path {
    static FOLDER: OnceLock<PathBuf> = OnceLock::new();
    FOLDER.get_or_init(|| {
        let built = shared_library::built();
        // Named after this test's file, which differs between profiles and sets of features.
        let own = std::env::current_exe().unwrap();
        let folder = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(own.file_name().unwrap());
        fs::create_dir_all(&folder).unwrap();
        for name in ["libastrai.so", "libastrai.so.1"] {
            let link = folder.join(name);
            let _ = fs::remove_file(&link);
            std::os::unix::fs::symlink(&built, &link).unwrap();
        }
        folder
    })
}

pub fn run(command: &mut Command) -> Output {
    let shown = format!("{command:?}");
    command.stdin(Stdio::null()).output().unwrap_or_else(|e| panic!("{shown}: {e}"))
}

/// Runs and wants success; returns what was printed.
pub fn succeed(command: &mut Command) -> String {
    let shown = format!("{command:?}");
    let output = run(command);
    let [printed, told] = [&output.stdout, &output.stderr].map(|bytes| String::from_utf8_lossy(bytes).into_owned());
    assert!(output.status.success(), "{shown}: {}\n{told}\n{printed}", output.status);
    printed
}

/// Compiles `examples-c/<name>.c` or `tests/c/<name>.c`, once in this process.
pub fn compile(folder: &str, name: &str, language: &str) -> PathBuf {
    static DONE: Mutex<BTreeSet<PathBuf>> = Mutex::new(BTreeSet::new());
    let mut done = DONE.lock().unwrap_or_else(|e| e.into_inner());
    let source = root().join(folder).join(format!("{name}.c"));
    let program = libraries().join(format!("{name}-{language}"));
    if done.contains(&program) {
        return program;
    }
    let mut compiler = match language {
        "c" => Command::new(std::env::var_os("CC").unwrap_or("cc".into())),
        _ => Command::new(std::env::var_os("CXX").unwrap_or("c++".into())),
    };
    compiler.args(match language {
        "c" => ["-std=c99", "-x", "c"],
        _ => ["-std=c++11", "-x", "c++"],
    });
    compiler.args(WARNINGS).arg("-g").arg("-O1").arg("-I").arg(root().join("include"));
    compiler.arg(&source).args(["-x", "none"]).arg("-L").arg(libraries()).args([
        "-lastrai",
        "-lpthread",
        "-ldl",
        "-lm",
    ]);
    compiler.arg(format!("-Wl,-rpath,{}", libraries().display())).arg("-o").arg(&program);
    succeed(&mut compiler);
    done.insert(program.clone());
    program
}

/// Names of the C files of a folder, without their ending.
fn programs(folder: &str) -> Vec<String> {
    let entries = fs::read_dir(root().join(folder)).unwrap();
    let files = entries.map(|entry| entry.unwrap().path()).filter(|path| path.extension().is_some_and(|e| e == "c"));
    let mut names: Vec<String> = files.map(|path| path.file_stem().unwrap().to_string_lossy().into_owned()).collect();
    names.sort();
    names
}

/// Whether ASTRAI_REQUIRE names a tool, as it does where nothing may be skipped.
pub fn required(tool: &str) -> bool {
    let required = std::env::var("ASTRAI_REQUIRE").unwrap_or_default();
    required.split([',', ' ']).any(|name| name == tool)
}

/// Whether a tool is there. Without it the test is skipped, or fails if ASTRAI_REQUIRE names the tool.
fn has(tool: &str) -> bool {
    let found = Command::new(tool).arg("--version").stdout(Stdio::null()).stderr(Stdio::null()).status();
    if found.is_ok_and(|status| status.success()) {
        return true;
    }
    assert!(!required(tool), "ASTRAI_REQUIRE names {tool}, which is not there");
    println!("SKIP: {tool} is not there");
    false
}

#[test]
fn everything_compiles_as_c_and_as_cpp_without_warnings() {
    let mut count = 0;
    for folder in ["examples-c", "tests/c"] {
        for name in programs(folder) {
            for language in ["c", "cpp"] {
                compile(folder, &name, language);
                count += 1;
            }
        }
    }
    assert!(count >= 2 * 8, "only {count} programs were found");
    // The header alone, in either order, twice.
    let both = libraries().join("twice.c");
    fs::write(&both, "#include <astrai.h>\n#include <astrai.h>\nint main(void) { return 0; }\n").unwrap();
    for std in ["-std=c99", "-std=c11"] {
        let mut compiler = Command::new("cc");
        compiler.args([std, "-fsyntax-only", "-Wconversion", "-Wshadow", "-Wundef"]).args(WARNINGS);
        succeed(compiler.arg("-I").arg(root().join("include")).arg(&both));
    }
}

#[test]
fn stream_tells_a_story() {
    let lines = fs::read_to_string(root().join("examples-c/stream.c")).unwrap().lines().count();
    assert!(lines <= 60, "stream.c has {lines} lines; it is the first thing a newcomer reads");
    for language in ["c", "cpp"] {
        let program = compile("examples-c", "stream", language);
        let printed = succeed(Command::new(&program).arg(model()).arg("Tell me a story about Tom and a red lantern."));
        let (story, summary) =
            printed.trim_end().rsplit_once("\n\n[").unwrap_or_else(|| panic!("no summary: {printed}"));
        assert!(story.split_whitespace().count() > 5, "{printed}");
        assert!(summary.contains(" tokens, the first after ") && summary.ends_with(" tokens/s]"), "{summary}");
    }
    // Without arguments it finds the model from the root of the repository.
    let program = compile("examples-c", "stream", "c");
    assert!(succeed(Command::new(&program).current_dir(root())).len() > 40);
    // A wrong folder is told in words, and the exit code says so.
    let output = run(Command::new(&program).arg("/nonexistent/model"));
    let told = String::from_utf8_lossy(&output.stderr);
    assert!(
        !output.status.success() && told.contains("ASTRAI_ERR_IO") && told.contains("/nonexistent/model"),
        "{told}"
    );
}

/// Feeds `input` to the chat and returns what it printed.
fn chat(arguments: &[&str], input: &str) -> (Output, String) {
    let program = compile("examples-c", "chat", "c");
    let input_file = libraries().join(format!("chat-input-{}", input.len()));
    fs::write(&input_file, input).unwrap();
    let mut command = Command::new(&program);
    command.arg(model()).args(arguments).stdin(fs::File::open(&input_file).unwrap());
    let output = command.output().unwrap();
    let printed = String::from_utf8(output.stdout.clone()).expect("the chat prints UTF-8");
    (output, printed)
}

#[test]
fn chat_answers_every_line() {
    let (output, printed) = chat(&["You are an innkeeper."], "Good evening!\nWhat is there to eat?\nGoodbye.");
    assert!(output.status.success(), "{output:?}");
    let answers: Vec<&str> = printed.split("> ").skip(1).map(str::trim).filter(|answer| !answer.is_empty()).collect();
    assert_eq!(answers.len(), 3, "{printed}");
    let (output, printed) = chat(&[], "");
    assert!(output.status.success() && printed.trim() == ">", "{printed}");
}

#[test]
fn chat_forgets_the_oldest_turns_when_the_context_is_full() {
    // Each line is several hundred tokens, so that a few of them fill the context of 2,048; one is longer than it.
    let long = "The old lighthouse stood over the silent harbour and a red lantern burned. ".repeat(25);
    let endless = "x y z ".repeat(4000);
    let (output, printed) = chat(&[], &format!("{long}\n{long}\n{long}\n{long}\n{endless}\nGoodbye.\n"));
    let told = String::from_utf8_lossy(&output.stderr);
    assert_eq!(told.matches("ASTRAI_ERR_CONTEXT").count(), 1, "{told}");
    assert!(told.contains("the model reads 2048"), "{told}");
    let answers = printed.split("> ").skip(1).filter(|answer| !answer.trim().is_empty()).count();
    assert_eq!(answers, 5, "{printed}");
    assert!(output.status.success());
}

#[test]
fn concurrent_answers_32_prompts() {
    let program = compile("examples-c", "concurrent", "c");
    let printed = succeed(Command::new(&program).arg(model()));
    let rows: Vec<Vec<&str>> = printed
        .lines()
        .skip_while(|line| !line.starts_with("request "))
        .skip(1)
        .take_while(|line| !line.starts_with("all:"))
        .map(|line| line.split_whitespace().collect())
        .collect();
    assert_eq!(rows.len(), 32, "{printed}");
    for (index, row) in rows.iter().enumerate() {
        assert_eq!(row.len(), 7, "{row:?}");
        assert_eq!(row[0], (index + 1).to_string());
        assert!(row[2].parse::<u32>().unwrap() > 1, "{row:?}");
        let [queue, first, total]: [f64; 3] = [3, 4, 5].map(|column| row[column].parse().unwrap());
        assert!(queue <= first && first <= total, "{row:?}");
    }
    assert_eq!(printed.matches("Tell me a story about ").count(), 32);
    assert!(!printed.contains("(nothing)") && !printed.contains("failed"), "{printed}");
}

#[test]
fn a_game_keeps_its_loop_while_four_characters_talk() {
    let program = compile("examples-c", "game_loop", "c");
    for work in ["4000", "0"] {
        let printed = succeed(Command::new(&program).arg(model()).args(["2", work]));
        let last = printed.lines().last().unwrap_or_default();
        assert!(last.starts_with("120 frames, ms: p50 ") && last.ends_with(" tokens"), "{last}");
        let tokens: u32 = last.rsplit(' ').nth(1).and_then(|n| n.parse().ok()).unwrap_or_else(|| panic!("{last}"));
        assert!(tokens > 0, "{last}");
    }
    let output = run(Command::new(&program).args(["/nonexistent/model", "1"]));
    assert!(!output.status.success() && String::from_utf8_lossy(&output.stderr).contains("/nonexistent/model"));
}

/// A request that fails after it was submitted is no success of the program, and its error is told.
#[test]
fn examples_tell_a_failed_request() {
    let model = damaged::model();
    let file = model.path().join("persona.prefix").display().to_string();
    for (name, arguments) in [
        ("stream", vec![]),
        ("chat", vec![]),
        ("concurrent", vec![]),
        ("game_loop", vec!["1"]),
        ("persona", vec![&*file]),
    ] {
        let input = model.path().join("input");
        fs::write(&input, "Good evening!\n").unwrap();
        let mut command = Command::new(compile("examples-c", name, "c"));
        command.arg(model.path()).args(arguments).stdin(fs::File::open(&input).unwrap());
        let output = command.output().unwrap();
        let told = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{name}: {told}");
        assert!(told.contains("no finite logit"), "{name}: {told}");
    }
}

#[test]
fn pause_duty_cache_and_plan_do_what_the_header_says() {
    for language in ["c", "cpp"] {
        let output = run(Command::new(compile("tests/c", "control", language)).arg(model()));
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        assert!(output.stdout.is_empty() && output.stderr.is_empty());
    }
}

#[test]
fn structs_have_the_layout_of_the_header() {
    let mut expected = String::new();
    macro_rules! layout {
        ($($name:ident { $($field:ident),+ $(,)? })+) => {$(
            writeln!(expected, "{} {}", stringify!($name), size_of::<$name>()).unwrap();
            $(
                let size = field_size(|s: &$name| &s.$field);
                writeln!(expected, "{}.{} {} {size}", stringify!($name), stringify!($field), offset_of!($name, $field)).unwrap();
            )+
        )+};
    }
    fn field_size<S, F>(_: impl Fn(&S) -> &F) -> usize {
        size_of::<F>()
    }
    layout! {
        astrai_error { struct_size, status, os_code, unit, needed, available, message, message_len, subject, subject_len }
        astrai_usage {
            struct_size, prompt_tokens, cached_tokens, generated_tokens, preemptions, reserved, seed, queue_us,
            first_token_us, prefill_us, decode_us, total_us,
        }
        astrai_event {
            struct_size, kind, terminal, finish_reason, request_id, tag, text, text_len, tokens, logprobs, token_count,
            top_count, top_tokens, top_logprobs, prompt_logprobs, prompt_count, usage, error, first_token, first_byte,
        }
        astrai_engine_options {
            struct_size, flags, device, device_index, cpu_tier, compute, weights, kv, delivery, log_level,
            thread_priority, threads, max_running, max_waiting, context_length, page_tokens, step_tokens, duty_work_us,
            duty_interval_us, reserved, memory_budget, affinity_mask, progress, log, wake, finalize, user_data,
            weights_cache, invariant, reserved2,
        }
        astrai_request_options {
            struct_size, flags, tag, seed, max_tokens, top_k, priority, logprobs, deadline_ms, queue_tokens,
            temperature, top_p, min_p, repetition_penalty, presence_penalty, frequency_penalty,
        }
        astrai_info {
            struct_size, vocab_size, context_length, layers, device, cpu_tier, compute, bos_token, eos_token,
            has_chat_template, model_type, device_name,
        }
        astrai_plan {
            struct_size, fits, context_length, max_sequences, weight_bytes, kv_bytes, workspace_bytes, total_bytes,
            available_bytes, kv_tokens, kv_bytes_per_token,
        }
        astrai_stats {
            struct_size, running, waiting, stalled, pages_used, pages_cached, pages_free, prefix_tokens_seen,
            prefix_tokens_hit, preemptions, evictions, tokens_in, tokens_out, finished, cancelled, failed, steps,
            cleanup_us, refill_us, prefill_us, decode_us, queue_us, log_dropped,
        }
    }
    for language in ["c", "cpp"] {
        assert_eq!(succeed(&mut Command::new(compile("tests/c", "layout", language))), expected, "{language}");
    }
}

#[test]
fn bad_arguments_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("file");
    let empty = folder.path().join("empty");
    fs::write(&file, "not a folder").unwrap();
    fs::create_dir(&empty).unwrap();
    for language in ["c", "cpp"] {
        succeed(Command::new(compile("tests/c", "arguments", language)).arg(&empty).arg(&file));
    }
}

#[test]
fn hostile_programs_get_a_status() {
    let output = run(Command::new(compile("tests/c", "hostile", "c")).arg(model()));
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    // The library prints nothing, whatever happens to it.
    assert!(output.stdout.is_empty() && output.stderr.is_empty(), "{}", String::from_utf8_lossy(&output.stderr));
}

#[test]
fn requests_do_what_the_header_says() {
    for language in ["c", "cpp"] {
        let output = run(Command::new(compile("tests/c", "requests", language)).arg(model()));
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        assert!(output.stdout.is_empty() && output.stderr.is_empty());
    }
}

/// Programs about how events are received; each as C and as C++, and they print nothing.
#[test]
fn messages_have_the_flags_of_the_header() {
    for language in ["c", "cpp"] {
        let output = run(Command::new(compile("tests/c", "messages", language)).arg(model()));
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        assert!(output.stdout.is_empty() && output.stderr.is_empty());
    }
}

#[test]
fn events_are_received_as_the_header_says() {
    for name in ["poll", "completion", "deferred"] {
        for language in ["c", "cpp"] {
            let output = run(Command::new(compile("tests/c", name, language)).arg(model()));
            assert!(output.status.success(), "{name}: {}", String::from_utf8_lossy(&output.stderr));
            assert!(output.stdout.is_empty() && output.stderr.is_empty(), "{name} prints");
        }
    }
}

/// A copy of the model whose decoder doubles its text 25 times.
fn with_growing_decoder(folder: &Path) {
    for entry in fs::read_dir(model()).unwrap() {
        let path = entry.unwrap().path();
        fs::copy(&path, folder.join(path.file_name().unwrap())).unwrap();
    }
    let path = folder.join("tokenizer.json");
    let mut file: serde_json::Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
    let step = serde_json::json!({"type": "Replace", "pattern": {"Regex": "."}, "content": "xx"});
    file["decoder"] = serde_json::json!({"type": "Sequence", "decoders": vec![step; 25]});
    fs::remove_file(&path).unwrap();
    fs::write(&path, file.to_string()).unwrap();
}

#[test]
fn long_texts_hold_nobody_up() {
    let folder = tempfile::tempdir().unwrap();
    with_growing_decoder(folder.path());
    for language in ["c", "cpp"] {
        let output = run(Command::new(compile("tests/c", "long_text", language)).arg(model()).arg(folder.path()));
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        assert!(output.stdout.is_empty() && output.stderr.is_empty());
    }
}

/// One request's events come in order, whoever takes them; as a C program of few lines would.
#[test]
fn several_takers_scramble_nothing() {
    let printed = succeed(Command::new(compile("tests/c", "order", "c")).arg(model()).arg("5"));
    assert_eq!(printed, "scrambled 0 of 40\n");
}

/// Growth of memory, in KiB, while thousands of requests are refused because nobody reads the events of those before. As many
/// that were accepted took 20 MB.
const UNREAD_GROWTH_KIB_MAX: &str = "1024";

#[test]
fn requests_that_nobody_reads_are_refused_from_some_number_on() {
    let arguments = ["4000", UNREAD_GROWTH_KIB_MAX];
    println!("{}", succeed(Command::new(compile("tests/c", "unread", "c")).arg(model()).args(arguments)));
}

#[test]
fn prefixes_do_what_the_header_says() {
    for language in ["c", "cpp"] {
        let folder = tempfile::tempdir().unwrap();
        let output = run(Command::new(compile("tests/c", "prefix", language)).arg(model()).arg(folder.path()));
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        assert!(output.stdout.is_empty() && output.stderr.is_empty());
        let mut left: Vec<_> = fs::read_dir(folder.path()).unwrap().map(|e| e.unwrap().file_name()).collect();
        left.sort();
        assert_eq!(left, ["garbage", "killed", "link", "mode", "persona"], "no other file is left");
    }
}

/// The same program twice: what the first process computed and saved, the second one starts from.
#[test]
fn a_persona_is_computed_by_the_first_run_only() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("persona.prefix");
    let runs = ["c", "cpp", "c"].map(|language| {
        let program = compile("examples-c", "persona", language);
        succeed(Command::new(program).arg(model()).arg(&file).arg("Good evening!"))
    });
    assert!(runs[0].starts_with("[computing the persona: ") && runs[0].contains("persona.prefix"), "{}", runs[0]);
    for run in &runs {
        let (_, summary) = run.trim_end().rsplit_once("\n\n[").unwrap_or_else(|| panic!("no summary: {run}"));
        let numbers: Vec<u32> = summary.split(' ').filter_map(|word| word.parse().ok()).collect();
        assert!(numbers[0] >= 16 && numbers[0].is_multiple_of(16) && numbers[0] < numbers[1], "{summary}");
    }
    assert!(runs[1..].iter().all(|run| run.starts_with("[restored from ")), "{runs:?}");
}

#[test]
fn fifty_engines_leave_nothing_behind() {
    let program = compile("tests/c", "lifecycle", "c");
    println!("{}", succeed(Command::new(program).arg(model()).args(["50", GROWTH_KIB_MAX])));
}

/// Largest growth of memory over 40 rounds of loading and unloading, from the tenth on, in KiB: 150 to 190 were
/// measured. Of that 13 are what statics of dependencies point to; the rest is the allocator's. See `docs/testing.md`.
const UNLOAD_GROWTH_KIB_MAX: &str = "512";

/// The one program that is not linked with the library: it loads and unloads it.
#[test]
fn the_library_can_be_unloaded_fifty_times() {
    let program = libraries().join("unload-alone");
    let mut compiler = Command::new(std::env::var_os("CC").unwrap_or("cc".into()));
    compiler.arg("-std=c99").args(WARNINGS).arg("-g").arg("-O1").arg("-I").arg(root().join("include"));
    compiler.arg(root().join("tests/c/unload.c")).args(["-ldl", "-lpthread"]).arg("-o").arg(&program);
    succeed(&mut compiler);
    let library = fs::canonicalize(libraries().join("libastrai.so")).unwrap();
    let mut command = Command::new(&program);
    println!("{}", succeed(command.arg(library).arg(model()).args(["50", UNLOAD_GROWTH_KIB_MAX])));
}

/// Runs a program under valgrind. Blocks that statics still point to are no leak; a table that a static points into the
/// middle of counts as "possibly lost", so that kind is no error.
fn valgrind(program: &Path, arguments: &[&str]) {
    let mut command = Command::new("valgrind");
    command.args(["--quiet", "--error-exitcode=99", "--leak-check=full", "--errors-for-leak-kinds=definite,indirect"]);
    command.args(["--show-leak-kinds=definite,indirect", "--fair-sched=yes", "--num-callers=30"]);
    let printed = succeed(command.arg(program).arg(model()).args(arguments));
    println!("{printed}");
}

#[test]
fn engines_come_and_go_under_valgrind() {
    // Fifty take minutes there; where valgrind is required they are worth it.
    let rounds = if required("valgrind") { "50" } else { "5" };
    if has("valgrind") {
        valgrind(&compile("tests/c", "lifecycle", "c"), &[rounds, "0"]);
    }
}

#[test]
fn hostile_programs_under_valgrind() {
    if has("valgrind") {
        valgrind(&compile("tests/c", "hostile", "c"), &["brief"]);
    }
}

#[test]
fn deferred_submits_under_valgrind() {
    if has("valgrind") {
        valgrind(&compile("tests/c", "deferred", "c"), &[]);
    }
}

#[test]
fn prefixes_under_valgrind() {
    if has("valgrind") {
        let folder = tempfile::tempdir().unwrap();
        valgrind(&compile("tests/c", "prefix", "c"), &[folder.path().to_str().unwrap(), "brief"]);
    }
}

#[test]
fn the_library_exports_the_header_and_nothing_else() {
    if !has("nm") || !has("readelf") {
        return;
    }
    let library = libraries().join("libastrai.so");
    let printed = succeed(Command::new("nm").args(["-D", "--defined-only", "--format=posix"]).arg(&library));
    let mut exported: Vec<&str> = printed.lines().filter_map(|line| line.split(' ').next()).collect();
    exported.sort_unstable();
    let header = fs::read_to_string(root().join("include/astrai.h")).unwrap();
    let declared = header.lines().filter(|line| !line.starts_with(['/', ' ', '#']) && !line.starts_with("typedef"));
    let mut declared: Vec<&str> = declared
        .filter_map(|line| line.split_once('('))
        .filter_map(|(before, _)| before.rsplit([' ', '*']).next())
        .filter(|name| name.starts_with("astrai_"))
        .collect();
    declared.sort_unstable();
    assert!(declared.len() > 30);
    assert_eq!(exported, declared);

    let dynamic = succeed(Command::new("readelf").args(["-d", "-W"]).arg(&library));
    let bracketed = |tag: &str| -> Vec<String> {
        let lines = dynamic.lines().filter(|line| line.contains(tag));
        lines.filter_map(|line| Some(line.split_once('[')?.1.split_once(']')?.0.to_owned())).collect()
    };
    assert_eq!(bracketed("(SONAME)"), ["libastrai.so.1"]);
    for needed in bracketed("(NEEDED)") {
        let allowed = ["libc.so", "libm.so", "libgcc_s.so", "ld-linux"];
        assert!(allowed.iter().any(|name| needed.starts_with(name)), "the library needs {needed}");
    }
}

/// What a C program without a shared library gets: the same code, and nothing of Rust's that it would have to know.
#[test]
fn the_static_library_links() {
    let archive = shared_library::built().with_file_name("libastrai.a");
    let program = libraries().join("stream-static");
    let mut compiler = Command::new(std::env::var_os("CC").unwrap_or("cc".into()));
    compiler.args(["-std=c99", "-O1", "-I"]).arg(root().join("include")).arg(root().join("examples-c/stream.c"));
    let makefile = fs::read_to_string(root().join("Makefile")).unwrap();
    let needed = makefile.lines().find_map(|line| line.strip_prefix("STATIC_LIBS := ")).unwrap();
    succeed(compiler.arg(archive).args(needed.split(' ')).arg("-o").arg(&program));
    let told = succeed(Command::new(&program).arg(model()));
    assert!(told.trim_end().ends_with(" tokens/s]"), "{told}");
}

static TERMINALS: AtomicU32 = AtomicU32::new(0);

unsafe extern "C" fn count_failures(finalized: *mut c_void, event: *const astrai_event) -> i32 {
    // SAFETY: the library shows a whole event; the user data is an AtomicU32 that outlives the request.
    let (event, finalized) = unsafe { (&*event, &*finalized.cast::<AtomicU32>()) };
    assert_eq!(finalized.load(Ordering::SeqCst), 0);
    if event.terminal != 0 {
        assert_eq!((event.kind, event.finish_reason), (ASTRAI_EVENT_FAILED, ASTRAI_FINISH_ERROR));
        // SAFETY: a failed event has an error.
        assert_eq!(unsafe { (*event.error).status }, ASTRAI_ERR_INTERNAL);
        TERMINALS.fetch_add(1, Ordering::SeqCst);
    }
    0
}

unsafe extern "C" fn count_finalize(finalized: *mut c_void) {
    // SAFETY: as above.
    unsafe { (*finalized.cast::<AtomicU32>()).fetch_add(1, Ordering::SeqCst) };
}

/// A panic on an engine's thread ends all its requests with an error; another engine goes on.
#[test]
fn a_panic_stays_inside_its_engine() {
    let dir = CString::new(model().to_str().unwrap()).unwrap();
    let text = "Once upon a time";
    let none = ptr::null_mut;
    let mut finalized = [const { AtomicU32::new(0) }; 3];
    // SAFETY: integers and floats.
    let mut options: astrai_request_options = unsafe { std::mem::zeroed() };
    // SAFETY: live handles throughout, places to write to, and text of the given length.
    unsafe {
        let (mut broken, mut sound) = (ptr::null_mut(), ptr::null_mut());
        assert_eq!(ffi::engine::astrai_engine_open(dir.as_ptr(), ptr::null(), &mut broken, none()), ASTRAI_OK);
        assert_eq!(ffi::engine::astrai_engine_open(dir.as_ptr(), ptr::null(), &mut sound, none()), ASTRAI_OK);
        let mut prompt = ptr::null_mut();
        assert_eq!(ffi::prompt::astrai_prompt_new(&mut prompt, none()), ASTRAI_OK);
        assert_eq!(ffi::prompt::astrai_prompt_add_text(prompt, text.as_ptr().cast(), text.len(), 0, none()), ASTRAI_OK);
        let size = size_of::<astrai_request_options>();
        assert_eq!(ffi::library::astrai_request_options_init(&mut options, size), ASTRAI_OK);
        options.flags = ASTRAI_REQUEST_IGNORE_EOS;
        options.max_tokens = 1500;
        let submit = |engine, callback: Option<&mut AtomicU32>| {
            let mut request = ptr::null_mut();
            let (on_event, user_data): (astrai_event_fn, *mut c_void) = match callback {
                Some(count) => (Some(count_failures), ptr::from_mut(count).cast()),
                None => (None, ptr::null_mut()),
            };
            let finalize: astrai_finalize_fn = on_event.and(Some(count_finalize));
            let status = ffi::request::astrai_submit(
                engine,
                prompt,
                &options,
                on_event,
                user_data,
                finalize,
                &mut request,
                none(),
            );
            assert_eq!(status, ASTRAI_OK);
            request
        };
        let called: Vec<_> = finalized.iter_mut().map(|count| submit(broken, Some(count))).collect();
        let pulled = submit(broken, None);
        let other = submit(sound, None);
        ffi::testing::engine(broken).unwrap().inject_panic();

        for request in &called {
            let status = ffi::request::astrai_request_wait(*request, -1, ptr::null_mut(), none());
            assert_eq!(status, ASTRAI_OK);
        }
        let mut event = ptr::null_mut();
        assert_eq!(ffi::request::astrai_request_wait(pulled, -1, &mut event, none()), ASTRAI_OK);
        assert_eq!((*event).kind, ASTRAI_EVENT_FAILED);
        assert_eq!((*(*event).error).status, ASTRAI_ERR_INTERNAL);
        ffi::event::astrai_event_free(event);

        // The broken engine says so, and closes all the same; the other one does not notice.
        assert_eq!(ffi::engine::astrai_engine_check(broken, none()), ASTRAI_ERR_INTERNAL);
        assert_eq!(ffi::engine::astrai_engine_close(broken, -1, none()), ASTRAI_OK);
        assert_eq!(ffi::request::astrai_request_wait(other, -1, &mut event, none()), ASTRAI_OK);
        assert_eq!(((*event).kind, (*event).finish_reason), (ASTRAI_EVENT_FINISHED, ASTRAI_FINISH_LENGTH));
        assert_eq!((*(*event).usage).generated_tokens, 1500);
        ffi::event::astrai_event_free(event);
        assert_eq!(ffi::engine::astrai_engine_check(sound, none()), ASTRAI_OK);

        for request in called.into_iter().chain([pulled, other]) {
            ffi::request::astrai_request_free(request);
        }
        ffi::prompt::astrai_prompt_free(prompt);
        ffi::engine::astrai_engine_free(broken);
        ffi::engine::astrai_engine_free(sound);
    }
    assert_eq!(TERMINALS.load(Ordering::SeqCst), 3);
    assert!(finalized.iter().all(|count| count.load(Ordering::SeqCst) == 1));
}
