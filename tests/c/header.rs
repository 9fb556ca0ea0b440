//! `include/astrai.h` is what `src/ffi` says: generated here, compared with the committed file.
//! `ASTRAI_BLESS=1 cargo test --test c header` (`make header`) writes it.

use crate::support::models::root;
use std::fs;
use std::path::Path;

/// The files of the header, in its order, and the banner over the functions of each.
const SECTIONS: [(&str, Option<&str>); 14] = [
    ("constants.rs", None),
    ("types.rs", None),
    ("library.rs", Some("library")),
    ("error.rs", None),
    ("event.rs", None),
    ("engine.rs", Some("engine")),
    ("control.rs", None),
    ("prompt.rs", Some("prompt: a builder, so that nobody marshals arrays of pointers")),
    ("text.rs", Some("text: the caller brings the buffer")),
    ("settings.rs", Some("settings: what a request wants beside numbers")),
    ("constraint.rs", Some("constraint: what answers may be")),
    ("request.rs", Some("request")),
    ("prefix.rs", Some("prefix: what many prompts begin with")),
    ("server.rs", Some("server: the engine behind HTTP")),
];

/// Banners over constants and types, by the first line of code below them.
const TYPE_BANNERS: [(&str, &str); 20] = [
    ("#define ASTRAI_ABI_VERSION ", "version"),
    ("#define ASTRAI_OK ", "status; below 10 is not an error"),
    ("#define ASTRAI_UNIT_NONE ", "unit of an error's numbers"),
    ("#define ASTRAI_EVENT_DELTA ", "kind of an event"),
    ("#define ASTRAI_FINISH_NONE ", "why a request ended"),
    ("#define ASTRAI_DEVICE_AUTO ", "device"),
    ("#define ASTRAI_TYPE_AUTO ", "element type"),
    ("#define ASTRAI_TIER_AUTO ", "instruction set of the CPU"),
    ("#define ASTRAI_DELIVER_THREAD ", "delivery of callbacks"),
    ("#define ASTRAI_LOG_OFF ", "log level"),
    ("#define ASTRAI_ENGINE_NO_MMAP ", "flags of an engine"),
    ("#define ASTRAI_REQUEST_SEEDED ", "flags of a request"),
    ("#define ASTRAI_FORMAT_TEXT ", "how an answer is read"),
    ("#define ASTRAI_PART_CONTENT ", "kind of a part of an answer, and how it ends"),
    ("#define ASTRAI_MESSAGE_SPECIAL ", "flags of a message"),
    ("#define ASTRAI_TEXT_SPECIAL ", "flags of text functions"),
    ("#define ASTRAI_CONSTRAINT_JSON_SCHEMA ", "kind of a constraint"),
    ("#define ASTRAI_TOOLS_AUTO ", "choice of tools"),
    ("#define ASTRAI_JSON_MESSAGES ", "parts of a chat as JSON"),
    ("typedef struct astrai_engine astrai_engine;", "types"),
];

fn generate() -> String {
    let config = cbindgen::Config::from_file(root().join("cbindgen.toml")).expect("cbindgen.toml is readable");
    let mut builder = cbindgen::Builder::new().with_config(config);
    for (file, _) in SECTIONS {
        builder = builder.with_src(root().join("src/ffi").join(file));
    }
    let mut header = Vec::new();
    builder.generate().expect("cbindgen understands src/ffi").write(&mut header);
    let mut header = String::from_utf8(header).expect("the header is UTF-8");
    for (code, title) in TYPE_BANNERS {
        header = with_banner(&header, code, title);
    }
    for (file, title) in SECTIONS {
        if let Some(title) = title {
            let first = exported(&root().join("src/ffi").join(file)).into_iter().next().expect("a function");
            header = with_banner(&header, &format!("{first}("), title);
        }
    }
    tidy(&header)
}

/// Puts a banner above the item whose code contains `code`, and above its documentation.
fn with_banner(header: &str, code: &str, title: &str) -> String {
    let lines: Vec<&str> = header.lines().collect();
    let is_code = |line: &&str| !line.starts_with("///") && !line.starts_with(" *");
    let item = lines
        .iter()
        .position(|line| is_code(line) && line.contains(code))
        .unwrap_or_else(|| panic!("the header has no {code:?}"));
    let start = lines[..item].iter().rposition(|line| !line.starts_with("///")).map_or(0, |above| above + 1);
    let banner = format!("/* {:-<76} */", format!("-- {title} "));
    let mut out: Vec<&str> = lines[..start].to_vec();
    out.extend(["", banner.as_str(), ""]);
    out.extend(&lines[start..]);
    out.join("\n")
}

/// One blank line at most in a row, and none between a constant and the next.
fn tidy(header: &str) -> String {
    let lines: Vec<&str> = header.lines().map(str::trim_end).collect();
    let constant = |line: &str| line.starts_with("#define ASTRAI_");
    let mut out: Vec<&str> = Vec::new();
    for (i, line) in lines.iter().enumerate() {
        let last = out.last().copied().unwrap_or("");
        let next_code = lines[i..].iter().find(|next| !next.is_empty() && !next.starts_with("///"));
        let between_constants = constant(last) && next_code.is_some_and(|next| constant(next));
        if !line.is_empty() || !(last.is_empty() || between_constants) {
            out.push(line);
        }
    }
    out.join("\n").trim_end().to_owned() + "\n"
}

/// Names of the exported functions of a source file, in order.
fn exported(file: &Path) -> Vec<String> {
    let source = fs::read_to_string(file).unwrap_or_else(|e| panic!("{}: {e}", file.display()));
    let functions = source.split("#[unsafe(no_mangle)]").skip(1);
    functions
        .map(|rest| {
            let name = rest.split("fn ").nth(1).and_then(|rest| rest.split('(').next());
            name.expect("a function after no_mangle").to_owned()
        })
        .collect()
}

#[test]
fn the_committed_header_is_what_the_source_says() {
    let path = root().join("include/astrai.h");
    let generated = generate();
    if std::env::var_os("ASTRAI_BLESS").is_some() {
        fs::create_dir_all(root().join("include")).unwrap();
        fs::write(&path, &generated).unwrap();
        return;
    }
    let committed = fs::read_to_string(&path).unwrap_or_default();
    let differs = generated.lines().zip(committed.lines()).position(|(new, old)| new != old);
    assert!(
        generated == committed,
        "include/astrai.h is stale from line {}; run `make header`",
        differs.unwrap_or(generated.lines().count().min(committed.lines().count())) + 1
    );
}

#[test]
fn every_exported_function_is_in_the_header_and_starts_with_astrai() {
    let header = generate();
    let mut count = 0;
    let entries = fs::read_dir(root().join("src/ffi")).unwrap().map(|entry| entry.unwrap().path());
    for file in entries.filter(|path| path.is_file()) {
        for name in exported(&file) {
            assert!(name.starts_with("astrai_"), "{name}");
            assert!(header.contains(&format!(" {name}(")) || header.contains(&format!("*{name}(")), "{name}");
            count += 1;
        }
    }
    assert_eq!(count, 66, "the number of functions changed: look at the ABI, then at this number");
}

#[test]
fn every_function_carries_a_mark_of_the_contract() {
    let header = generate();
    let lines: Vec<&str> = header.lines().collect();
    for (i, line) in lines.iter().enumerate() {
        let is_function = line.contains(" astrai_") || line.contains("*astrai_");
        if !is_function || !line.contains('(') || line.starts_with("typedef") || line.starts_with("//") {
            continue;
        }
        if line.starts_with(' ') || line.starts_with("/*") || line.starts_with('#') {
            continue;
        }
        let start = lines[..i].iter().rposition(|l| !l.starts_with("///")).map_or(0, |above| above + 1);
        let doc = lines[start..i].first().unwrap_or(&"");
        assert!(
            ["/// [A] ", "/// [B] ", "/// [S] ", "/// [B][S] "].iter().any(|mark| doc.starts_with(mark)),
            "{line}: {doc}"
        );
    }
}
