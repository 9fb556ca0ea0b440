//! docs/families.md shows what a plain family takes: it is what is there, and short.

use crate::support::models::root;

/// Lines of the diff, its heads included.
const LINES_MAX: usize = 60;

#[test]
fn the_diff_of_a_plain_family_is_what_is_there() {
    let text = std::fs::read_to_string(root().join("docs/families.md")).unwrap();
    let (_, diff) = text.split_once("```diff\n").expect("a diff");
    let (diff, _) = diff.split_once("```").expect("its end");
    assert!(diff.lines().count() <= LINES_MAX, "{} lines", diff.lines().count());
    let (mut file, mut added) = (None, 0);
    for line in diff.lines() {
        if let Some(path) = line.strip_prefix("+++ b/") {
            file = Some((path, std::fs::read_to_string(root().join(path)).unwrap()));
        } else if let Some(line) = line.strip_prefix('+') {
            let (path, contents) = file.as_ref().expect("a file first");
            assert!(contents.lines().any(|there| there == line), "{path} has no line {line:?}");
            added += 1;
        } else {
            assert!(line.starts_with("--- a/"), "{line:?}");
        }
    }
    assert!(added > 20);
}
