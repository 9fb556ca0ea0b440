//! Where text came from: each text value of a template knows which of its parts are content.
//!
//! What users, tools and developers wrote enters a rendering as content; what the template wrote itself, and what an
//! assistant message holds, is plain. Every operation keeps the two apart down to the character: slices, trims and
//! splits by [`Text::part`], anything that is put together by [`super::meter::Sink`]. Where an operation cannot tell
//! (case mappings that change lengths), all of its result is content: more is marked, never less. Comparisons, lookups
//! and hashes see the characters only.
//!
//! Text also knows whether it is markup: what `safe` and `escape` make, markupsafe's `Markup` in Python. Operators and methods
//! escape what they put to it, and what they cut from it stays markup. Printed, captured or put together by `~` it is text.
//!
//! The engine's own output and captures are strings. Between [`write()`] and [`read`] the marks travel inside them, in an
//! encoding that no text can forge, because what introduces a mark is doubled wherever it is itself text.

use crate::text::MarkedText;
use minijinja::value::{DynObject, Object};
use minijinja::{Output, Value};
use std::cmp::Ordering;
use std::fmt;
use std::ops::Range;
use std::sync::Arc;

/// The ranges of a text that is content from end to end.
#[allow(clippy::single_range_in_vec_init, reason = "a list of ranges")]
static WHOLE: [Range<usize>; 1] = [0..usize::MAX];
/// Introduces a mark in encoded text; doubled, it is itself.
const MARK: char = '\u{1}';
/// After [`MARK`]: content begins.
const BEGIN: char = '(';
/// After [`MARK`]: content ends.
const END: char = ')';

/// Text and where it came from. Borrowed, and cheap to cut.
#[derive(Clone, Copy, Debug)]
pub(super) struct Text<'t> {
    text: &'t str,
    /// Where `text` begins in what `ranges` count from.
    base: usize,
    /// What is content: sorted, disjoint; each that meets the text at all may reach beyond it.
    ranges: &'t [Range<usize>],
    markup: bool,
}

impl<'t> Text<'t> {
    /// Text of the template's own.
    pub(super) fn plain(text: &'t str) -> Text<'t> {
        Text { text, base: 0, ranges: &[], markup: false }
    }

    /// Text that is content from end to end, or none of it.
    pub(super) fn whole(text: &'t str, content: bool) -> Text<'t> {
        Text { ranges: if content { &WHOLE } else { &[] }, ..Text::plain(text) }
    }

    /// Text with ranges of content.
    pub(super) fn new(text: &'t str, ranges: &'t [Range<usize>]) -> Text<'t> {
        Text { ranges, ..Text::plain(text) }
    }

    /// The same text as markup, or as none.
    pub(super) fn as_markup(self, markup: bool) -> Text<'t> {
        Text { markup, ..self }
    }

    /// Whether it is markup: nothing in it is escaped any more.
    pub(super) fn is_markup(self) -> bool {
        self.markup
    }

    /// The characters alone.
    pub(super) fn str(self) -> &'t str {
        self.text
    }

    pub(super) fn len(self) -> usize {
        self.text.len()
    }

    /// Whether any of it is content.
    pub(super) fn is_marked(self) -> bool {
        !self.ranges.is_empty()
    }

    /// A range of bytes of it; empty where that is no range of whole characters.
    pub(super) fn slice(self, range: Range<usize>) -> Text<'t> {
        let Some(text) = self.text.get(range.clone()) else { return Text::plain("") };
        let (start, end) = (self.base.saturating_add(range.start), self.base.saturating_add(range.end));
        let first = self.ranges.partition_point(|r| r.end <= start);
        let last = self.ranges.partition_point(|r| r.start < end);
        Text { text, base: start, ranges: self.ranges.get(first..last).unwrap_or_default(), ..self }
    }

    /// `part`, which is a part of this very text, with its marks.
    pub(super) fn part(self, part: &'t str) -> Text<'t> {
        if self.ranges.is_empty() {
            return Text::plain(part).as_markup(self.markup);
        }
        let offset = part.as_ptr().addr().checked_sub(self.text.as_ptr().addr());
        match offset.filter(|at| at + part.len() <= self.text.len()) {
            Some(at) => self.slice(at..at + part.len()),
            None => Text::whole(part, true).as_markup(self.markup),
        }
    }

    /// The runs of one kind, in order, none of them empty: text, and whether it is content.
    pub(super) fn runs(self) -> Runs<'t> {
        Runs { rest: self, at: 0 }
    }

    /// The characters, and whether each is content.
    pub(super) fn chars(self) -> impl Iterator<Item = (char, bool)> {
        self.runs().flat_map(|(run, content)| run.chars().map(move |c| (c, content)))
    }

    /// Where its content is, counted from its own start.
    pub(super) fn content(self) -> Vec<Range<usize>> {
        let mut at = 0;
        let runs = self.runs().map(|(run, content)| {
            at += run.len();
            (at - run.len()..at, content)
        });
        runs.filter_map(|(range, content)| content.then_some(range)).collect()
    }
}

/// See [`Text::runs`].
pub(super) struct Runs<'t> {
    rest: Text<'t>,
    at: usize,
}

impl<'t> Iterator for Runs<'t> {
    type Item = (&'t str, bool);

    fn next(&mut self) -> Option<(&'t str, bool)> {
        let Text { text, base, ranges, .. } = self.rest;
        let (from, len) = (self.at, text.len());
        if from >= len {
            return None;
        }
        let (mut until, mut content) = (len, false);
        for (i, range) in ranges.iter().enumerate() {
            let (start, end) = (range.start.saturating_sub(base), range.end.saturating_sub(base).min(len));
            if end <= from {
                continue;
            }
            self.rest.ranges = ranges.get(i..).unwrap_or_default();
            (until, content) = if start <= from { (end, true) } else { (start.min(len), false) };
            break;
        }
        self.at = until;
        Some((text.get(from..until).unwrap_or_default(), content))
    }
}

/// A text value of which some is content, or that is markup.
#[derive(Debug)]
struct Marked {
    text: String,
    /// What is content; `None`: all of it.
    ranges: Option<Box<[Range<usize>]>>,
    markup: bool,
}

impl Marked {
    fn text(&self) -> Text<'_> {
        Text::new(&self.text, self.ranges.as_deref().unwrap_or(&WHOLE)).as_markup(self.markup)
    }
}

impl Object for Marked {
    super::meter::plain_object!();

    fn is_true(self: &Arc<Self>) -> bool {
        !self.text.is_empty()
    }

    fn custom_cmp(self: &Arc<Self>, other: &DynObject) -> Option<Ordering> {
        Some(self.text.cmp(&other.downcast_ref::<Marked>()?.text))
    }

    fn render(self: &Arc<Self>, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

/// The text of a value, if it is text.
pub(super) fn text(value: &Value) -> Option<Text<'_>> {
    match value.as_str() {
        Some(s) => Some(Text::plain(s)),
        None => value.downcast_object_ref::<Marked>().map(Marked::text),
    }
}

/// The characters of a value, if it is text.
pub(super) fn str_of(value: &Value) -> Option<&str> {
    text(value).map(Text::str)
}

/// A value of text with ranges of content: sorted, disjoint, of whole characters.
pub(super) fn value(text: String, ranges: Vec<Range<usize>>, markup: bool) -> Value {
    if !markup && (ranges.is_empty() || text.is_empty()) {
        return Value::from(text);
    }
    let whole = matches!(&ranges[..], [only] if only.start == 0 && only.end >= text.len());
    Value::from_object(Marked { text, ranges: (!whole).then(|| ranges.into()), markup })
}

/// A value that is the text; not counted by the rendering's meter.
pub(super) fn value_of(text: Text) -> Value {
    if !text.is_marked() && !text.is_markup() {
        return Value::from(text.str());
    }
    value(text.str().to_owned(), text.content(), text.is_markup())
}

/// The same characters without their marks, for what only looks at them.
pub(super) fn unmarked(value: &Value) -> Value {
    match text(value) {
        Some(text) if text.is_marked() || text.is_markup() => Value::from(text.str()),
        _ => value.clone(),
    }
}

/// Writes text with its marks into the engine's output.
pub(super) fn write(out: &mut Output, text: Text) -> fmt::Result {
    if !text.is_marked() {
        return write_run(out, text.str());
    }
    for (run, content) in text.runs() {
        if !content {
            write_run(out, run)?;
            continue;
        }
        out.write_fmt(format_args!("{MARK}{BEGIN}"))?;
        write_run(out, run)?;
        out.write_fmt(format_args!("{MARK}{END}"))?;
    }
    Ok(())
}

fn write_run(out: &mut Output, run: &str) -> fmt::Result {
    for (i, piece) in run.split(MARK).enumerate() {
        if i > 0 {
            out.write_fmt(format_args!("{MARK}{MARK}"))?;
        }
        out.write_str(piece)?;
    }
    Ok(())
}

/// Text and marks of what [`write()`] wrote.
pub(super) fn read(encoded: String) -> MarkedText {
    if !encoded.contains(MARK) {
        return MarkedText::from(encoded);
    }
    let mut marked = MarkedText { text: String::with_capacity(encoded.len()), content: Vec::new() };
    let (mut rest, mut begun) = (encoded.as_str(), None);
    while let Some(at) = rest.find(MARK) {
        marked.text.push_str(rest.get(..at).unwrap_or_default());
        let mut chars = rest.get(at + MARK.len_utf8()..).unwrap_or_default().chars();
        let here = marked.text.len();
        match chars.next() {
            Some(BEGIN) => begun = Some(here),
            Some(END) => match (begun.take(), marked.content.last_mut()) {
                (Some(start), Some(last)) if last.end == start => last.end = here,
                (Some(start), _) if start < here => marked.content.push(start..here),
                _ => {}
            },
            _ => marked.text.push(MARK),
        }
        rest = chars.as_str();
    }
    marked.text.push_str(rest);
    marked
}

#[cfg(test)]
mod tests {
    use super::{Text, read};

    fn runs<'t>(text: Text<'t>) -> Vec<(&'t str, bool)> {
        text.runs().collect()
    }

    #[test]
    fn cuts_keep_their_marks() {
        let ranges = [2..4, 6..8];
        let text = Text::new("abCDefGHi", &ranges);
        assert_eq!(runs(text), [("ab", false), ("CD", true), ("ef", false), ("GH", true), ("i", false)]);
        assert_eq!(runs(text.slice(3..7)), [("D", true), ("ef", false), ("G", true)]);
        assert_eq!(runs(text.slice(3..7).slice(1..3)), [("ef", false)]);
        assert_eq!(runs(text.slice(4..6)), [("ef", false)]);
        assert!(!text.slice(4..6).is_marked());
        assert_eq!(runs(text.slice(3..3)), []);
        assert_eq!(text.slice(1..9).content(), [1..3, 5..7]);
        let trimmed = text.str().trim_start_matches("abC");
        assert_eq!(runs(text.part(trimmed)), [("D", true), ("ef", false), ("GH", true), ("i", false)]);
        assert_eq!(runs(Text::whole("xyz", true).slice(1..3)), [("yz", true)]);
    }

    #[test]
    fn marks_are_read_as_they_were_written() {
        let marked = read("a\u{1}(bc\u{1})\u{1}(d\u{1}\u{1}\u{1})e\u{1}\u{1}(f".to_owned());
        assert_eq!(marked.text, "abcd\u{1}e\u{1}(f");
        assert_eq!(marked.content, [std::ops::Range { start: 1, end: 5 }]);
    }
}
