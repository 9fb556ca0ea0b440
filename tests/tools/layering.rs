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
const GPU_NAMED: (&str, &str) = ("ffi/types.rs", "pub const ASTRAI_DEVICE_CUDA: i32 = 2;");

/// The files of `src/engine` through which opening goes, each after all that it may use of them.
const OPENING: [&str; 11] =
    ["api", "begin", "templates", "describe", "device", "memory_plan", "honour", "identity", "prompt", "load", "open"];

/// Macros and re-exports at the root of the crate.
const ROOT_NAMES: [&str; 5] = ["Error", "Result", "Status", "Unit", "lib"];

/// Every Rust file below `dir`, with its text. Sorted, so that failures are the same on every machine.
fn sources(dir: &Path) -> Vec<(PathBuf, String)> {
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
fn code(text: &str) -> String {
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
fn top_level(list: &str) -> Vec<&str> {
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

/// The text without what is compiled for tests only.
fn without_tests(code: &str) -> String {
    let mut parts = code.split("#[cfg(test)]");
    let mut kept = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        // Up to the end of the item, statement or field: a semicolon or comma, or the brace that closes its body.
        let mut depth = 0;
        let end = part.char_indices().find(|&(_, c)| {
            depth += i32::from("({[".contains(c)) - i32::from(")}]".contains(c));
            depth == 0 && ";,}".contains(c)
        });
        kept.push_str(end.map_or("", |(at, _)| &part[at + 1..]));
    }
    kept
}

/// The paths of a tree such as `a::{b, c::D as E}`, up to its end.
fn tree(text: &str) -> Vec<Vec<String>> {
    let text = text.trim_start();
    if let Some(list) = text.strip_prefix('{') {
        return top_level(list).into_iter().filter(|part| !part.trim().is_empty()).flat_map(tree).collect();
    }
    let end = text.find(|c: char| !c.is_alphanumeric() && c != '_' && c != '*').unwrap_or(text.len());
    let name = text[..end].to_owned();
    let mut paths = match text[end..].strip_prefix("::") {
        Some(rest) if !rest.starts_with('<') => tree(rest),
        _ => vec![Vec::new()],
    };
    paths.iter_mut().for_each(|path| path.insert(0, name.clone()));
    paths
}

/// A source file of the engine: its name below `src/engine`, its path as a module, its code.
struct EngineFile {
    name: String,
    module: Vec<String>,
    code: String,
}

fn engine_files() -> Vec<EngineFile> {
    let folder = root().join("src/engine");
    let file = |(path, text): (PathBuf, String)| {
        let name = path.strip_prefix(&folder).unwrap().to_string_lossy().replace('\\', "/");
        let module = name.trim_end_matches(".rs").split('/').filter(|part| *part != "mod").map(str::to_owned).collect();
        EngineFile { name, module, code: without_tests(&code(&text)) }
    };
    sources(&folder).into_iter().filter(|(path, _)| !path.ends_with("tests.rs")).map(file).collect()
}

/// Every path in a file that begins within the engine, as modules and names from `engine` on.
fn engine_paths(file: &EngineFile) -> Vec<Vec<String>> {
    let mut found = Vec::new();
    for start in ["crate::engine::", "super::"] {
        for (at, _) in file.code.match_indices(start) {
            let before = file.code[..at].chars().next_back();
            if before.is_some_and(|c| c.is_alphanumeric() || c == '_' || c == ':') {
                continue;
            }
            let mut base = if start == "super::" { file.module.clone() } else { Vec::new() };
            let mut rest = &file.code[at + start.len()..];
            if start == "super::" {
                base.pop();
                while let Some(more) = rest.strip_prefix("super::") {
                    base.pop();
                    rest = more;
                }
            }
            found.extend(tree(rest).into_iter().map(|path| [base.clone(), path].concat()));
        }
    }
    found
}

/// The statements of a `mod.rs`.
fn statements(code: &str) -> impl Iterator<Item = &str> {
    code.split(';').map(str::trim).filter(|statement| !statement.is_empty())
}

/// The tree of a `use` statement.
fn used(statement: &str) -> Option<&str> {
    statement
        .split_once("use ")
        .filter(|(before, _)| before.is_empty() || before.starts_with("pub"))
        .map(|(_, tree)| tree)
}

/// The file in which a path ends, through the re-exports of each `mod.rs`.
fn defining_file<'a>(files: &'a [EngineFile], path: &[String]) -> Option<&'a EngineFile> {
    let longest = |n: &usize| files.iter().any(|f| f.module == path[..*n]);
    let modules = (0..=path.len()).rev().find(longest)?;
    let file = files.iter().find(|f| f.module == path[..modules])?;
    let name = path.get(modules).filter(|name| *name != "self");
    let (Some(name), true) = (name, file.name.ends_with("mod.rs")) else { return Some(file) };
    let mut globs = Vec::new();
    for exported in statements(&file.code).filter_map(used).flat_map(tree) {
        let target = match exported.first().map(String::as_str) {
            Some("super") => [&file.module[..file.module.len() - 1], &exported[1..]].concat(),
            _ => [&file.module[..], &exported].concat(),
        };
        match exported.last() {
            Some(last) if last == name => return defining_file(files, &target),
            Some(last) if last == "*" => globs.push(target),
            _ => {}
        }
    }
    globs.first().map_or(Some(file), |target| defining_file(files, target))
}

/// Methods that a file adds to a type of another file, by name, if no other function has the name.
fn added_methods(files: &[EngineFile]) -> Vec<(&EngineFile, String)> {
    let name_at = |text: &str| -> String { text.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect() };
    let mut found = Vec::new();
    for file in files {
        for (at, _) in file.code.match_indices("\nimpl ") {
            let block = &file.code[at + "\nimpl ".len()..];
            let kind = name_at(block);
            let own = ["struct", "enum"].iter().any(|what| file.code.contains(&format!("{what} {kind}")));
            if own || !block[kind.len()..].starts_with(" {") {
                continue;
            }
            let block = &block[..block.find("\n}").unwrap_or(block.len())];
            found.extend(block.split("fn ").skip(1).map(|function| (file, name_at(function))));
        }
    }
    let all: String = sources(&root().join("src")).into_iter().map(|(_, text)| text).collect();
    found.retain(|(_, name)| {
        [format!("fn {name}("), format!("fn {name}<")].iter().map(|f| all.matches(f).count()).sum::<usize>() == 1
    });
    found
}

/// Which file of `src/engine` uses which.
fn engine_uses() -> Vec<(String, String)> {
    let files = engine_files();
    let mut uses = Vec::new();
    let mut add = |from: &EngineFile, to: &EngineFile| {
        if from.name != to.name && !from.name.ends_with("mod.rs") {
            uses.push((from.name.clone(), to.name.clone()));
        }
    };
    for file in &files {
        for path in engine_paths(file) {
            add(file, defining_file(&files, &path).unwrap_or_else(|| panic!("{}: {path:?}", file.name)));
        }
    }
    for (to, method) in added_methods(&files) {
        let called = [format!(".{method}("), format!("::{method}(")];
        files.iter().filter(|f| called.iter().any(|call| f.code.contains(call))).for_each(|from| add(from, to));
    }
    uses.sort();
    uses.dedup();
    uses
}

/// The files that lie on a circle, or above one.
fn on_circles(uses: &[(String, String)]) -> Vec<&str> {
    let mut files: Vec<&str> = uses.iter().map(|(from, _)| from.as_str()).collect();
    files.dedup();
    loop {
        let before = files.len();
        let kept = files.clone();
        files.retain(|file| uses.iter().any(|(from, to)| from == file && kept.contains(&to.as_str())));
        // Those that nothing on a circle uses.
        let kept = files.clone();
        files.retain(|file| uses.iter().any(|(from, to)| to == file && kept.contains(&from.as_str())));
        if files.len() == before {
            return files;
        }
    }
}

#[test]
fn the_reader_of_uses_sees_what_it_should() {
    let file = |name: &str, text: &str| EngineFile {
        name: name.to_owned(),
        module: name.trim_end_matches(".rs").split('/').filter(|part| *part != "mod").map(str::to_owned).collect(),
        code: without_tests(&code(text)),
    };
    let files = [
        file("mod.rs", "mod room; mod top; pub use room::{Door, door::*};"),
        file("room/mod.rs", "pub mod door; mod wall; pub use super::top::Roof; pub use wall::Wall as Side;"),
        file("room/door.rs", "pub struct Door; pub struct Handle;"),
        file("room/wall.rs", "pub struct Wall;"),
        file(
            "top.rs",
            "use super::room::{self, Wall, door::{Handle, *}}; #[cfg(test)] use super::no::X; fn f(x: crate::engine::Handle) {}
             fn g() { super::room::Roof } #[cfg(test)] mod tests { use super::super::no::Y; fn h() {} } fn i(y: super::Other) {}",
        ),
    ];
    let paths = engine_paths(&files[4]);
    let ends: Vec<&str> = paths.iter().map(|path| defining_file(&files, path).unwrap().name.as_str()).collect();
    let [room, wall, door] = ["room/mod.rs", "room/wall.rs", "room/door.rs"];
    // The `Handle` and the `Other` of the module above come from what it takes over as a whole.
    assert_eq!(ends, [door, room, wall, door, door, "top.rs", door], "{paths:?}");
}

#[test]
fn files_of_the_engine_form_no_circle() {
    let uses = engine_uses();
    assert!(uses.len() > 150, "only {} uses were found: the test does not see the code", uses.len());
    let circles = on_circles(&uses);
    let between = uses.iter().filter(|(from, to)| circles.contains(&from.as_str()) && circles.contains(&to.as_str()));
    let between: Vec<String> = between.map(|(from, to)| format!("{from} uses {to}")).collect();
    assert!(between.is_empty(), "circles of files in src/engine:\n{}", between.join("\n"));
}

/// The table of files in `src/engine/mod.rs`: a file uses those of its own row and of the rows above it.
#[test]
fn files_of_the_engine_use_those_above_them() {
    let text = fs::read_to_string(root().join("src/engine/mod.rs")).unwrap();
    let rows = text.lines().filter_map(|line| line.strip_prefix("//! | [")?.split('|').next());
    let rows: Vec<Vec<&str>> = rows.map(|row| row.split('`').skip(1).step_by(2).collect()).collect();
    let row = |file: &str| {
        let module = file.split('/').next().unwrap().trim_end_matches(".rs");
        let found = rows.iter().position(|row| row.contains(&module));
        found.unwrap_or_else(|| panic!("src/engine/{file} is not in the table of src/engine/mod.rs"))
    };
    let uses = engine_uses();
    let down: Vec<_> = uses.iter().filter(|(from, to)| row(from) < row(to)).collect();
    assert!(down.is_empty(), "uses of files below, as the table has them: {down:?}");
}

#[test]
fn a_mod_file_of_the_engine_only_declares() {
    for file in engine_files().iter().filter(|file| file.name.ends_with("mod.rs")) {
        for statement in statements(&file.code) {
            let declares = used(statement).is_some() || statement.split_whitespace().rev().nth(1) == Some("mod");
            assert!(declares, "src/engine/{}: {statement}", file.name);
        }
    }
}
