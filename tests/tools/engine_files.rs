//! The files of the engine in reading order: each uses those above it, and there is no circle.

use crate::layering::{code, sources, top_level};
use crate::support::models::root;
use std::fs;
use std::path::PathBuf;

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
