//! Strings that stand as they are, between delimiters, as terminals of a Lark grammar.

use super::values::{below, refused};
use crate::error::Result;
use astrai_guidance::{lookup_format, regex_to_lark};
use regex_syntax::hir::HirKind;
use serde_json::{Map, Value};

/// The texts that a schema of strings accepts and that contain none of `without`.
///
/// # Errors
/// `Unsupported` for patterns that no terminal can express, and for unknown formats.
pub(super) fn raw(map: &Map<String, Value>, without: &[String], tool: &str, at: &str) -> Result<String> {
    let mut all = vec![format!("/(?s:.){}/", times(map, tool, at)?)];
    if let Some(pattern) = map.get("pattern") {
        let at = below(at, "pattern");
        let pattern = pattern.as_str().ok_or_else(|| refused(tool, "a \"pattern\" that is no string", &at))?;
        all.push(format!("/{}/", whole(pattern).map_err(|what| refused(tool, &what, &at))?));
    }
    if let Some(format) = map.get("format") {
        let name = format.as_str().unwrap_or("");
        let found =
            lookup_format(name).ok_or_else(|| refused(tool, &format!("the format {format}"), &below(at, "format")))?;
        all.push(format!("/{}/", regex_to_lark(found, "")));
    }
    all.extend(without.iter().map(|text| self::without(text)));
    Ok(format!("({})", all.join(" & ")))
}

/// Whether the empty text is one that a schema of strings accepts.
pub(super) fn may_be_empty(map: &Map<String, Value>) -> bool {
    let matches = |pattern: &Value| {
        let hir = pattern.as_str().and_then(|pattern| regex_syntax::parse(pattern).ok());
        hir.is_some_and(|hir| hir.properties().minimum_len() == Some(0))
    };
    map.get("minLength").is_none_or(|least| least.as_f64() == Some(0.0))
        && map.get("pattern").is_none_or(matches)
        && !map.contains_key("format")
}

/// The texts that do not contain one.
pub(super) fn without(text: &str) -> String {
    format!("~/(?s:.*){}(?s:.*)/", regex_to_lark(&regex_syntax::escape(text), ""))
}

/// How many characters there may be, as an expression says it.
pub(super) fn times(map: &Map<String, Value>, tool: &str, at: &str) -> Result<String> {
    let (least, most) = (count(map, "minLength", tool, at)?.unwrap_or(0), count(map, "maxLength", tool, at)?);
    Ok(match most {
        None if least == 0 => "*".to_owned(),
        None => format!("{{{least},}}"),
        Some(most) if most < least => return Err(refused(tool, "\"maxLength\" below \"minLength\"", at)),
        Some(most) => format!("{{{least},{most}}}"),
    })
}

/// A bound that is a number of things.
pub(super) fn count(map: &Map<String, Value>, key: &str, tool: &str, at: &str) -> Result<Option<usize>> {
    let Some(value) = map.get(key) else { return Ok(None) };
    let whole = value.as_f64().filter(|count| count.fract() == 0.0 && (0.0..=1e6).contains(count));
    whole
        .map(|count| Some(count as usize))
        .ok_or_else(|| refused(tool, &format!("{key:?} of {value}"), &below(at, key)))
}

/// An expression, which may match anywhere in a text, as one for the whole text.
fn whole(pattern: &str) -> std::result::Result<String, String> {
    let why = |what: &str| format!("the pattern {pattern:?}, {what},");
    let hir = regex_syntax::parse(pattern).map_err(|_| why("which no automaton can find"))?;
    if hir.properties().look_set().is_empty() {
        return Ok(format!("(?s:.*)({})(?s:.*)", regex_to_lark(pattern, "dw")));
    }
    if matches!(hir.kind(), HirKind::Alternation(_)) {
        return Err(why("whose alternatives have anchors"));
    }
    let (begins, rest) = pattern.strip_prefix('^').map_or(("(?s:.*)", pattern), |rest| ("", rest));
    let escaped = |text: &str| text.len() - text.trim_end_matches('\\').len();
    let cut = rest.strip_suffix('$').filter(|rest| escaped(rest) % 2 == 0);
    let (ends, rest) = cut.map_or(("(?s:.*)", rest), |rest| ("", rest));
    let inner = regex_syntax::parse(rest).map_err(|_| why("which no automaton can find"))?;
    if !inner.properties().look_set().is_empty() {
        return Err(why("with anchors within it"));
    }
    Ok(format!("{begins}({}){ends}", regex_to_lark(rest, "dw")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_are_those_of_whole_texts() {
        assert_eq!(whole("^a/b$").unwrap(), r"(a\/b)");
        assert_eq!(whole("^a").unwrap(), "(a)(?s:.*)");
        assert_eq!(whole(r"\d\$").unwrap(), r"(?s:.*)([0-9]\$)(?s:.*)");
        assert_eq!(whole("a|b").unwrap(), "(?s:.*)(a|b)(?s:.*)");
        for (pattern, word) in [
            ("^a|b$", "alternatives"),
            ("a^b", "within"),
            (r"\bx", "within"),
            ("(", "automaton"),
            ("(?=a)", "automaton"),
        ] {
            assert!(whole(pattern).unwrap_err().contains(word), "{pattern}");
        }
    }
}
