//! The house rules that a compiler does not check: imports point down the table of rooms in `src/lib.rs`, `unsafe` is
//! where it may be, every exported function is one call of the guard, the kinds of GPUs are known to the backends alone, and
//! opening an engine goes one way.

use crate::support::models::root;
use std::fs;
use std::path::{Path, PathBuf};

/// Where `unsafe` may be written, as beginnings of paths below `src`.
const UNSAFE_ALLOWED: [&str; 3] = ["ffi/", "backend/", "os/"];

/// Uses that the order of the table would allow, but the design does not.
const FORBIDDEN: [(&str, &str); 1] = [("scheduler", "model")];

/// The only line outside `backend/` that names a kind of GPU: the constant of the C header.
const GPU_NAMED: (&str, &str) = ("ffi/constants.rs", "pub const ASTRAI_DEVICE_CUDA: i32 = 2;");

/// The files of `src/engine` through which opening goes, each after all that it may use of them.
const OPENING: [&str; 12] = [
    "api",
    "begin",
    "templates",
    "describe",
    "device",
    "layer_groups",
    "memory_plan",
    "honour",
    "identity",
    "prompt",
    "load",
    "open",
];

/// Macros and re-exports at the root of the crate.
const ROOT_NAMES: [&str; 5] = ["Error", "Result", "Status", "Unit", "lib"];

/// Every Rust file below `dir`, with its text. Sorted, so that failures are the same on every machine.
pub fn sources(dir: &Path) -> Vec<(PathBuf, String)> {
    let mut found = Vec::new();
    for entry in fs::read_dir(dir).unwrap_or_else(|e| panic!("{}: {e}", dir.display())) {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(sources(&path));
        } else if path.extension().is_some_and(|ext| ext == "rs") {
            let text = fs::read_to_string(&path).unwrap();
            found.push((path, text));
        }
    }
    found.sort();
    found
}

/// The table of rooms in `src/lib.rs`, in its order.
fn rooms() -> Vec<String> {
    let lib = fs::read_to_string(root().join("src/lib.rs")).unwrap();
    let mut rooms = Vec::new();
    for line in lib.lines().filter_map(|line| line.strip_prefix("//! | ")) {
        let columns: Vec<&str> = line.split('|').map(str::trim).collect();
        if columns.first().is_some_and(|layer| layer.parse::<u32>().is_ok()) {
            let names = columns[1].split('`').skip(1).step_by(2);
            rooms.extend(names.map(|name| name.trim_matches(['[', ']']).to_owned()));
        }
    }
    assert!(rooms.len() >= 13 && rooms[0] == "error", "the table of rooms in src/lib.rs was not understood: {rooms:?}");
    rooms
}

/// The text with comments blanked and the insides of strings emptied; lines stay where they are.
pub fn code(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let chars: Vec<char> = text.chars().collect();
    let at = |i: usize| chars.get(i).copied().unwrap_or(' ');
    let mut i = 0;
    while i < chars.len() {
        match chars[i] {
            '/' if at(i + 1) == '/' => {
                while i < chars.len() && chars[i] != '\n' {
                    i += 1;
                }
            }
            '/' if at(i + 1) == '*' => {
                let mut depth = 0;
                loop {
                    match (at(i), at(i + 1)) {
                        ('/', '*') => (depth, i) = (depth + 1, i + 2),
                        ('*', '/') => (depth, i) = (depth - 1, i + 2),
                        (c, _) => {
                            if c == '\n' {
                                out.push(c);
                            }
                            i += 1;
                        }
                    }
                    if depth == 0 || i >= chars.len() {
                        break;
                    }
                }
            }
            'r' if (at(i + 1) == '"' || at(i + 1) == '#') && !at(i.wrapping_sub(1)).is_alphanumeric() => {
                let hashes = (i + 1..).take_while(|&j| at(j) == '#').count();
                if at(i + 1 + hashes) != '"' {
                    out.push('r');
                    i += 1;
                    continue;
                }
                i += hashes + 2;
                let closes = |i: usize| at(i) == '"' && (1..=hashes).all(|j| at(i + j) == '#');
                while i < chars.len() && !closes(i) {
                    if chars[i] == '\n' {
                        out.push('\n');
                    }
                    i += 1;
                }
                i += hashes + 1;
                out.push_str("\"\"");
            }
            '"' => {
                i += 1;
                while i < chars.len() && chars[i] != '"' {
                    if chars[i] == '\n' {
                        out.push('\n');
                    }
                    i += if chars[i] == '\\' && at(i + 1) != '\n' { 2 } else { 1 };
                }
                i += 1;
                out.push_str("\"\"");
            }
            // A character literal, not a lifetime.
            '\'' if at(i + 1) == '\\' || at(i + 2) == '\'' => {
                i += if at(i + 1) == '\\' { 3 } else { 2 };
                while i < chars.len() && chars[i] != '\'' {
                    i += 1;
                }
                i += 1;
                out.push_str("' '");
            }
            c => {
                out.push(c);
                i += 1;
            }
        }
    }
    out
}

/// First segments of every path below the crate's root: `crate::a::b`, `crate::{a, b::c}`.
fn crate_paths(code: &str) -> Vec<(usize, String)> {
    let mut found = Vec::new();
    for (start, _) in code.match_indices("crate::") {
        let before = code[..start].chars().next_back();
        if before.is_some_and(|c| c.is_alphanumeric() || c == '_' || c == '$') {
            continue;
        }
        let line = code[..start].matches('\n').count() + 1;
        let rest = code[start + "crate::".len()..].trim_start();
        let names = match rest.strip_prefix('{') {
            None => vec![rest],
            Some(list) => top_level(list),
        };
        for name in names {
            let name = name.trim_start();
            let end = name.find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(name.len());
            if end > 0 {
                found.push((line, name[..end].to_owned()));
            }
        }
    }
    found
}

/// The comma-separated parts of a brace list, up to its closing brace.
pub fn top_level(list: &str) -> Vec<&str> {
    let (mut depth, mut start, mut parts) = (0, 0, Vec::new());
    for (i, c) in list.char_indices() {
        match c {
            '{' => depth += 1,
            '}' if depth == 0 => {
                parts.push(&list[start..i]);
                break;
            }
            '}' => depth -= 1,
            ',' if depth == 0 => {
                parts.push(&list[start..i]);
                start = i + 1;
            }
            _ => {}
        }
    }
    parts
}

fn below_src(path: &Path) -> String {
    path.strip_prefix(root().join("src")).unwrap().to_string_lossy().replace('\\', "/")
}

#[test]
fn imports_point_up_the_table_only() {
    let rooms = rooms();
    let rank = |room: &str| rooms.iter().position(|r| r == room);
    let mut wrong = Vec::new();
    let mut seen = 0;
    for (path, text) in sources(&root().join("src")) {
        let file = below_src(&path);
        let room = file.split('/').next().unwrap().trim_end_matches(".rs").to_owned();
        if room == "lib" || room == "bin" {
            continue;
        }
        let Some(own) = rank(&room) else {
            wrong.push(format!("src/{file}: room `{room}` is not in the table of src/lib.rs"));
            continue;
        };
        for (line, used) in crate_paths(&code(&text)) {
            seen += 1;
            if used == room || ROOT_NAMES.contains(&used.as_str()) {
                continue;
            }
            match rank(&used) {
                None => wrong.push(format!("src/{file}:{line}: `crate::{used}` is not in the table of src/lib.rs")),
                Some(rank) if rank > own => {
                    wrong.push(format!("src/{file}:{line}: `{room}` uses `{used}`, which is above it"))
                }
                Some(_) if FORBIDDEN.contains(&(room.as_str(), used.as_str())) => {
                    wrong.push(format!("src/{file}:{line}: `{room}` must not know `{used}`"));
                }
                Some(_) => {}
            }
        }
    }
    assert!(seen > 50, "only {seen} paths were found: the test does not see the code");
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn the_reader_of_paths_sees_what_it_should() {
    let text = r##"
        use crate::{error::{Error, Result}, model as m}; // crate::ffi
        /* crate::ffi /* */ crate::server */ fn f<'a>(x: &'a str, q: char) -> crate::engine::X { q == '"' || "crate::cli" }
        let s = r#"crate::ffi"#; my_crate::foo; $crate::bar;
    "##;
    let names: Vec<String> = crate_paths(&code(text)).into_iter().map(|(_, name)| name).collect();
    assert_eq!(names, ["error", "model", "engine"]);
}

/// Code above asks for devices through `backend/device.rs` and finds their names there; its comments and messages need none.
#[test]
fn kinds_of_gpus_are_known_to_the_backends_alone() {
    let (mut wrong, mut allowed) = (Vec::new(), 0);
    for (path, text) in sources(&root().join("src")) {
        let file = below_src(&path);
        for (index, line) in text.lines().enumerate().filter(|(_, line)| line.to_lowercase().contains("cuda")) {
            if (file.as_str(), line) == GPU_NAMED {
                allowed += 1;
            } else if !file.starts_with("backend/") {
                wrong.push(format!("src/{file}:{}: {}", index + 1, line.trim()));
            }
        }
    }
    assert!(wrong.is_empty(), "a kind of GPU is named outside backend/:\n{}", wrong.join("\n"));
    assert_eq!(allowed, 1, "{GPU_NAMED:?} is not there any more");
}

#[test]
fn opening_goes_one_way() {
    let mut wrong = Vec::new();
    for (at, name) in OPENING.iter().enumerate() {
        let path = root().join(format!("src/engine/{name}.rs"));
        let text = fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
        for (line, used) in crate_paths(&code(&text).replace("super::", "crate::")) {
            if OPENING[at + 1..].contains(&used.as_str()) {
                wrong.push(format!("src/engine/{name}.rs:{line}: uses `{used}`, which comes after it"));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn unsafe_is_where_it_may_be() {
    let mut wrong = Vec::new();
    for (path, text) in sources(&root().join("src")) {
        let file = below_src(&path);
        if UNSAFE_ALLOWED.iter().any(|room| file.starts_with(room)) {
            continue;
        }
        for (index, line) in code(&text).lines().enumerate() {
            let word = |w: &str| line.split(|c: char| !c.is_alphanumeric() && c != '_').any(|part| part == w);
            if word("unsafe") {
                wrong.push(format!("src/{file}:{}: {}", index + 1, line.trim()));
            }
        }
    }
    assert!(wrong.is_empty(), "unsafe outside {UNSAFE_ALLOWED:?}:\n{}", wrong.join("\n"));
}

#[test]
fn every_exported_function_is_one_call_of_the_guard() {
    let mut count = 0;
    for (path, text) in sources(&root().join("src")) {
        let file = below_src(&path);
        for function in text.split("#[unsafe(no_mangle)]").skip(1).filter(|rest| rest.starts_with('\n')) {
            let name = function.split("fn ").nth(1).and_then(|rest| rest.split('(').next()).unwrap();
            assert!(file.starts_with("ffi/"), "src/{file}: {name} is exported outside ffi");
            let open = function.find("{\n").unwrap_or_else(|| panic!("{name} has no body"));
            let body = &function[open + 1..function.find("\n}\n").unwrap_or_else(|| panic!("{name} has no end"))];
            let body = code(body);
            let body = body.trim();
            let call =
                body.strip_prefix("guard(").unwrap_or_else(|| panic!("src/{file}: {name} does not begin with guard"));
            let end = matching(call).unwrap_or_else(|| panic!("src/{file}: {name}: no end of the call"));
            assert!(call[end + 1..].trim().is_empty(), "src/{file}: {name} does more than call guard");
            let original = &function[open..];
            assert!(
                original.contains(&format!("guard(\"{name}\",")),
                "src/{file}: {name} passes another name to guard"
            );
            count += 1;
        }
    }
    assert!(count >= 30, "only {count} exported functions were found");
}

/// Index of the parenthesis that closes one opened just before `text`.
fn matching(text: &str) -> Option<usize> {
    let mut depth = 1;
    text.char_indices().find_map(|(i, c)| {
        depth += i32::from(c == '(') - i32::from(c == ')');
        (depth == 0).then_some(i)
    })
}

/// The longest that a file may be, in lines: one that grows beyond has two purposes.
const LINES_MAX: usize = 600;

#[test]
fn no_file_is_longer_than_a_reader_holds() {
    let mut long = Vec::new();
    for folder in ["src", "capi", "kernels", "tests", "tools", "examples-c"] {
        for (path, lines) in lines_below(&root().join(folder)) {
            if lines > LINES_MAX {
                long.push(format!("{}: {lines} lines", path.strip_prefix(root()).unwrap().display()));
            }
        }
    }
    assert!(long.is_empty(), "files of more than {LINES_MAX} lines: {long:#?}");
}

/// The sources below a folder with their lines; without data and what is built.
fn lines_below(dir: &Path) -> Vec<(PathBuf, usize)> {
    let mut found = Vec::new();
    for entry in fs::read_dir(dir).unwrap_or_else(|e| panic!("{}: {e}", dir.display())) {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        if path.is_dir() {
            if !["fixtures", "target"].contains(&name.as_str()) {
                found.extend(lines_below(&path));
            }
        } else if path
            .extension()
            .is_some_and(|e| ["rs", "cu", "cuh", "c", "h", "cpp", "hpp", "py", "sh"].iter().any(|x| e == *x))
        {
            found.push((path.clone(), fs::read_to_string(&path).unwrap().lines().count()));
        }
    }
    found
}

/// docs/architecture.md names files; each is there.
#[test]
fn the_way_of_a_request_passes_files_that_exist() {
    let text = fs::read_to_string(root().join("docs/architecture.md")).unwrap();
    let named: Vec<&str> = text.split('`').skip(1).step_by(2).filter(|name| name.starts_with("src/")).collect();
    assert!(named.len() > 60, "only {} files are named", named.len());
    let missing: Vec<&&str> = named.iter().filter(|name| !root().join(name).exists()).collect();
    assert!(missing.is_empty(), "docs/architecture.md names what is not there: {missing:?}");
}

/// A Rust program keeps its own allocator and its own panic hook: what the C libraries need of these is in their package, which
/// exports no function of its own.
#[test]
fn what_belongs_to_the_c_libraries_alone_is_in_their_package() {
    let words = |text: &str, names: &[&str]| -> Vec<String> {
        let code = code(text);
        names.iter().filter(|name| code.contains(**name)).map(|name| (*name).to_owned()).collect()
    };
    for (path, text) in sources(&root().join("src")) {
        let found = words(&text, &["global_allocator", "set_hook", "take_hook"]);
        assert!(found.is_empty(), "src/{}: {found:?}", below_src(&path));
    }
    let package = sources(&root().join("capi/src"));
    assert!(package.iter().any(|(_, text)| text.contains("#[global_allocator]")));
    for (path, text) in package {
        assert!(words(&text, &["no_mangle", "export_name"]).is_empty(), "{} exports something", path.display());
    }
}

/// What the parser of constraints must not do to a process: its copy in this tree has no way to.
#[test]
fn the_parser_of_constraints_keeps_to_itself() {
    let files = sources(&root().join("vendor"));
    assert!(files.len() > 20, "{} files", files.len());
    for (path, text) in files {
        let code = code(&text);
        for word in [
            "set_hook",
            "take_hook",
            "no_mangle",
            "extern \"",
            "export_name",
            "thread_local!",
            "thread::spawn",
            "rayon",
            "process::",
        ] {
            let found = code.lines().find(|line| line.contains(word) && !line.trim_start().starts_with("#[cfg("));
            assert!(found.is_none(), "{}: {word}: {found:?}", path.display());
        }
    }
}
