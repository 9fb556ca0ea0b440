//! The library as C sees it: it compiles, its structs lie where the header says, it exports what the header declares, and a panic
//! does not leave it.

use crate::programs::{WARNINGS, compile, libraries, programs};
use crate::support::models::{root, storyteller as model};
use crate::support::programs::{has, succeed};
use crate::support::shared_library;
use astrai::ffi;
use astrai::ffi::types::*;
use std::ffi::{CString, c_void};
use std::fmt::Write as _;
use std::fs;
use std::mem::{offset_of, size_of};
use std::process::Command;
use std::ptr;
use std::sync::atomic::{AtomicU32, Ordering};

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
            struct_size, prompt_tokens, cached_tokens, generated_tokens, preemptions, reasoning_tokens, seed, queue_us,
            first_token_us, prefill_us, decode_us, total_us, drafted_tokens, accepted_tokens,
        }
        astrai_event {
            struct_size, kind, terminal, finish_reason, request_id, tag, text, text_len, tokens, logprobs, token_count,
            top_count, top_tokens, top_logprobs, prompt_logprobs, prompt_count, usage, error, first_token, first_byte,
            complete, format, part_count, reserved, embedding, embedding_len,
        }
        astrai_part {
            struct_size, kind, index, call, begins, ends, text, text_len, name, name_len, call_id, call_id_len,
        }
        astrai_engine_options {
            struct_size, flags, device, device_index, cpu_tier, compute, weights, kv, delivery, log_level,
            thread_priority, threads, max_running, max_waiting, context_length, page_tokens, step_tokens, duty_work_us,
            duty_interval_us, draft_tokens, memory_budget, affinity_mask, progress, log, wake, finalize, user_data,
            weights_cache, invariant, speculation, draft_model,
        }
        astrai_request_options {
            struct_size, flags, tag, seed, max_tokens, top_k, priority, logprobs, deadline_ms, queue_tokens,
            temperature, top_p, min_p, repetition_penalty, presence_penalty, frequency_penalty, settings,
            reasoning_tokens, xtc_probability, xtc_threshold, dry_multiplier, dry_base, dry_allowed_length,
            dry_penalty_last_n, draft_tokens,
        }
        astrai_info {
            struct_size, vocab_size, context_length, layers, device, cpu_tier, compute, bos_token, eos_token,
            has_chat_template, model_type, device_name, answer_format,
        }
        astrai_server_options {
            struct_size, port, host, model_name, api_key, allowed_hosts, priority, reserved,
        }
        astrai_plan {
            struct_size, fits, context_length, max_sequences, weight_bytes, kv_bytes, workspace_bytes, total_bytes,
            available_bytes, kv_tokens, kv_bytes_per_token, constraint_bytes, state_bytes,
        }
        astrai_stats {
            struct_size, running, waiting, stalled, pages_used, pages_cached, pages_free, prefix_tokens_seen,
            prefix_tokens_hit, preemptions, evictions, tokens_in, tokens_out, finished, cancelled, failed, steps,
            cleanup_us, refill_us, prefill_us, decode_us, queue_us, log_dropped, drafted_tokens, accepted_tokens, saved_us,
        }
    }
    for language in ["c", "cpp"] {
        assert_eq!(succeed(&mut Command::new(compile("tests/c", "layout", language))), expected, "{language}");
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

/// Both libraries have the parser of constraints in them, and no C function of its origin.
#[test]
fn no_functions_of_others_are_in_the_libraries() {
    if !has("nm") {
        return;
    }
    for (library, flags) in [("libastrai.so", &["-D"][..]), ("libastrai.a", &[])] {
        let path = shared_library::built().with_file_name(library);
        let printed = succeed(Command::new("nm").args(flags).args(["--defined-only", "--format=posix"]).arg(&path));
        let names: Vec<&str> = printed.lines().filter_map(|line| line.split(' ').next()).collect();
        assert!(names.contains(&"astrai_constraint_compile"), "{library}");
        assert_eq!(names.iter().find(|name| name.starts_with("llg_")), None, "{library}");
    }
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
