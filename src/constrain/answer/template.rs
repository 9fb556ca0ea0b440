//! `response_template`: how a model writes reasoning, content and calls, as `tokenizer_config.json` says it.
//!
//! The language is that of `transformers` (5.13 and later), version 1. A field is what stands between an opening and a
//! closing delimiter; the one field without an opening gets what is left over. Of the fields, `content`, `tool_calls` and
//! `thinking`, `reasoning` or `reasoning_content` become parts of the answer; the text of any other is dropped, as is text
//! outside of all fields where none is without an opening.
//!
//! Beyond the language: a field with content `json` or `python-call-list` may have no closing delimiter; it ends where its
//! value does. In `content_args`, `"with_open"` names a group of the opening that is a part of the content, and a `tag_pattern`
//! may have a group `text` for values that are strings whatever they look like.

use serde_json::{Map, Value};

use super::PartKind;
use super::cast::ValueStyle;
use super::json_text::Dialect;
use super::pattern::{Pattern, search_expression};
use super::scanner::Watched;
use super::shape::{CallShape, Source};
use super::syntax::{CallSyntax, Delimiters};
use crate::error::{Error, Result};
use crate::limits::{RESPONSE_FIELDS_MAX, RESPONSE_PATTERN_BYTES_MAX};

/// How a model writes its answers. Made once for a model, and shared by all of its requests.
#[derive(Debug)]
pub struct ResponseTemplate {
    name: Option<String>,
    anchor: Anchor,
    pub(super) fields: Vec<Field>,
    /// Index of the field without an opening.
    pub(super) implicit: Option<usize>,
    pub(super) patterns: Vec<Pattern>,
    /// What is looked for outside of fields with an opening.
    pub(super) outside: Watched,
    calls: Option<CallSyntax>,
    /// All strings of the template, without backslashes, a line each.
    texts: String,
}

/// Where the model's answer begins in a prompt: after the last of these.
#[derive(Debug)]
enum Anchor {
    Literals(Vec<String>),
    Expression(Box<fancy_regex::Regex>),
}

/// One field of a template.
#[derive(Debug)]
pub(super) struct Field {
    /// None: its text is dropped.
    pub(super) kind: Option<PartKind>,
    /// Indices of its delimiters.
    pub(super) open: Option<usize>,
    pub(super) close: Option<usize>,
    /// What is looked for within it, once it was opened.
    pub(super) inside: Watched,
    pub(super) body: Body,
}

/// What stands in a field.
#[derive(Debug)]
pub(super) enum Body {
    Text { strip: bool },
    Call(Box<CallBody>),
}

/// Calls in a field.
#[derive(Debug)]
pub(super) struct CallBody {
    pub(super) shape: CallShape,
    pub(super) style: CallStyle,
    /// The group of the opening delimiter that is a part of the content.
    pub(super) with_open: Option<String>,
}

/// How arguments are written.
#[derive(Debug)]
pub(super) enum CallStyle {
    Json(Dialect),
    Tagged { tag: Box<fancy_regex::Regex>, value: ValueStyle, merge: bool },
    Lines { line: String, key: String, value: ValueStyle },
    Python,
    Text { strip: bool },
}

impl ResponseTemplate {
    /// Reads a template.
    ///
    /// # Errors
    /// `Format` with the path of what is wrong; `Unsupported` for what an expression must not have.
    pub fn parse(template: &Value) -> Result<ResponseTemplate> {
        let top = Keys::new("response_template", template)?;
        top.only(&["version", "defaults", "fields", "start_anchor", "start_anchor_pattern"])?;
        if top.map.get("version").is_some_and(|version| version.as_u64() != Some(1)) {
            return Err(Error::unsupported("response_template.version is not 1"));
        }
        if top.map.get("defaults").is_some_and(|defaults| !defaults.is_object()) {
            return Err(Error::format("response_template.defaults must be an object"));
        }
        let fields = Keys::new("response_template.fields", top.map.get("fields").unwrap_or(&Value::Null))?;
        if fields.map.is_empty() || fields.map.len() > RESPONSE_FIELDS_MAX {
            return Err(Error::format(format!("response_template.fields must have 1 to {RESPONSE_FIELDS_MAX} fields")));
        }
        let mut patterns = Vec::new();
        let mut names: Vec<(&str, Field)> = Vec::new();
        for (name, field) in fields.map {
            let keys = Keys::new(format!("response_template.fields.{name}"), field)?;
            names.push((name, Field::parse(name, &keys, &mut patterns)?));
        }
        // By name where nothing else decides.
        names.sort_by_key(|(name, _)| *name);
        let fields: Vec<Field> = names.into_iter().map(|(_, field)| field).collect();
        let mut without = fields.iter().enumerate().filter(|(_, field)| field.open.is_none()).map(|(index, _)| index);
        let implicit = without.next();
        if without.next().is_some() {
            return Err(Error::format(
                "response_template.fields: more than one field has no \"open\" or \"open_pattern\"",
            ));
        }
        let opens = fields.iter().filter_map(|field| field.open);
        let close = implicit.and_then(|index| fields.get(index)?.close);
        let outside = Watched::new(opens.chain(close).collect(), &patterns);
        Ok(ResponseTemplate {
            name: None,
            anchor: Anchor::parse(&top)?,
            fields,
            implicit,
            patterns,
            outside,
            calls: None,
            texts: texts(template),
        })
    }

    /// Name of the format, if it is one of those that are built in.
    pub fn name(&self) -> Option<&str> {
        self.name.as_deref()
    }

    /// Whether a text may be a part of a delimiter, or of how values are written. It may say so of more than is.
    pub fn mentions(&self, text: &str) -> bool {
        self.texts.contains(&text.replace('\\', ""))
    }

    /// The part of a prompt that belongs to the answer: what follows the last anchor. All of it if there is none.
    pub fn tail<'a>(&self, prompt: &'a str) -> &'a str {
        let end = match &self.anchor {
            Anchor::Literals(literals) => {
                let last = |literal: &String| prompt.rfind(literal).map(|at| at + literal.len());
                literals.iter().filter_map(last).max()
            }
            Anchor::Expression(regex) => regex.find_iter(prompt).flatten().last().map(|found| found.end()),
        };
        end.and_then(|end| prompt.get(end..)).unwrap_or(prompt)
    }

    /// What opens and closes reasoning, where the template says it literally.
    pub fn reasoning(&self) -> Option<Delimiters> {
        self.delimiters(PartKind::Reasoning)
    }

    /// What opens and closes calls, where the template says it literally.
    pub fn calls(&self) -> Option<Delimiters> {
        self.delimiters(PartKind::Call)
    }

    /// The expression of what opens a call, as [`Pattern`] has it.
    pub(in crate::constrain) fn call_opening(&self) -> Option<&str> {
        let field = self.fields.iter().find(|field| field.kind == Some(PartKind::Call))?;
        self.patterns.get(field.open?).map(Pattern::source)
    }

    /// Whether content stands where no field was opened.
    pub(in crate::constrain) fn has_plain_content(&self) -> bool {
        self.implicit
            .and_then(|index| self.fields.get(index))
            .is_some_and(|field| field.kind == Some(PartKind::Content))
    }

    /// How a call is to be written, for grammars. None: the template says only how one is read.
    pub fn call_syntax(&self) -> Option<&CallSyntax> {
        self.calls.as_ref()
    }

    /// One that is built in.
    pub(super) fn named(name: &str, template: &Value, calls: Option<CallSyntax>) -> Result<ResponseTemplate> {
        Ok(ResponseTemplate { name: Some(name.to_owned()), calls, ..ResponseTemplate::parse(template)? })
    }

    fn delimiters(&self, kind: PartKind) -> Option<Delimiters> {
        let field = self.fields.iter().find(|field| field.kind == Some(kind))?;
        let texts = |index: Option<usize>| Some(self.patterns.get(index?)?.literal_texts().to_vec());
        let found = Delimiters { open: texts(field.open)?, close: texts(field.close).unwrap_or_default() };
        (!found.open.is_empty()).then_some(found)
    }
}

/// All strings in a value, a line each, without the backslashes that expressions put before characters.
fn texts(value: &Value) -> String {
    match value {
        Value::String(text) => format!("{}\n", text.replace('\\', "")),
        Value::Array(list) => list.iter().map(texts).collect(),
        Value::Object(map) => map.values().map(texts).collect(),
        _ => String::new(),
    }
}

impl Anchor {
    fn parse(top: &Keys) -> Result<Anchor> {
        match (top.literals("start_anchor")?, top.text("start_anchor_pattern")?) {
            (Some(literals), None) => Ok(Anchor::Literals(literals)),
            (None, Some(expression)) => {
                let at = "response_template.start_anchor_pattern";
                Ok(Anchor::Expression(Box::new(search_expression(at, expression)?)))
            }
            _ => Err(Error::format("response_template must have one of \"start_anchor\" and \"start_anchor_pattern\"")),
        }
    }
}

/// The keys of a field.
const FIELD_KEYS: [&str; 11] = [
    "open",
    "open_pattern",
    "close",
    "close_pattern",
    "content",
    "content_args",
    "repeats",
    "join",
    "optional",
    "transform",
    "transform_each",
];

impl Field {
    fn parse(name: &str, keys: &Keys, patterns: &mut Vec<Pattern>) -> Result<Field> {
        keys.only(&FIELD_KEYS)?;
        let kind = match name {
            "content" => Some(PartKind::Content),
            "thinking" | "reasoning" | "reasoning_content" => Some(PartKind::Reasoning),
            "tool_calls" => Some(PartKind::Call),
            _ => None,
        };
        let open = keys.pattern("open", "open_pattern", patterns)?;
        let close = keys.pattern("close", "close_pattern", patterns)?;
        let groups: Vec<String> = [open, close]
            .into_iter()
            .filter_map(|index| patterns.get(index?))
            .flat_map(|pattern| pattern.groups().map(str::to_owned))
            .collect();
        let (repeats, each) = (keys.flag("repeats")?, keys.flag("transform_each")?);
        keys.flag("optional")?;
        if keys.text("join")?.is_some() && !repeats {
            return Err(keys.wrong("join", "needs \"repeats\": true"));
        }
        let transform = keys.map.get("transform").filter(|transform| !transform.is_null());
        if each && transform.is_none() {
            return Err(keys.wrong("transform_each", "needs a \"transform\""));
        }
        if let (Some(group), None) = (groups.first(), transform) {
            return Err(keys.wrong("transform", &format!("is missing, so that the group {group:?} has no use")));
        }
        let none = Value::Object(Map::new());
        let args = Keys::new(format!("{}.content_args", keys.at), keys.map.get("content_args").unwrap_or(&none))?;
        let content = keys.text("content")?.unwrap_or("text");
        let style = CallStyle::parse(content, keys, &args)?;
        let body = if kind == Some(PartKind::Call) {
            if open.is_none() {
                return Err(keys.wrong("open", "is missing"));
            }
            let shape = CallShape::parse(&format!("{}.transform", keys.at), transform, each, &groups)?;
            if !matches!(style, CallStyle::Json(_) | CallStyle::Python)
                && (matches!(shape.name, Source::Content(_)) || shape.arguments != Source::Content(Vec::new()))
            {
                return Err(keys.wrong("transform", "must take the name from a group and the arguments from {content}"));
            }
            let with_open = args.text("with_open")?.map(str::to_owned);
            if with_open.as_ref().is_some_and(|group| !groups.contains(group)) {
                return Err(args.wrong("with_open", "is no group of the opening"));
            }
            Body::Call(Box::new(CallBody { shape, style, with_open }))
        } else {
            let strip = if let CallStyle::Text { strip } = style { strip } else { true };
            Body::Text { strip }
        };
        let inside = Watched::new(close.into_iter().collect(), patterns);
        Ok(Field { kind, open, close, inside, body })
    }
}

impl CallStyle {
    fn parse(content: &str, keys: &Keys, args: &Keys) -> Result<CallStyle> {
        let strip = || args.flag_or("strip", true);
        Ok(match content {
            "text" | "int" | "float" | "bool" => CallStyle::Text { strip: strip()? },
            "json" => CallStyle::Json(dialect(args)?),
            "xml-inline" => {
                let expression = args.text("tag_pattern")?.ok_or_else(|| args.wrong("tag_pattern", "is missing"))?;
                let tag = search_expression(&format!("{}.tag_pattern", args.at), expression)?;
                if !tag.capture_names().flatten().any(|group| group == "key") {
                    return Err(args.wrong("tag_pattern", "must have a group \"key\""));
                }
                let (value, merge) = (value_style(args)?, args.flag("merge_duplicates")?);
                CallStyle::Tagged { tag: Box::new(tag), value, merge }
            }
            "kv-lines" => CallStyle::Lines {
                line: args.text("line_sep")?.unwrap_or("\n").to_owned(),
                key: args.text("kv_sep")?.unwrap_or(":").to_owned(),
                value: value_style(args)?,
            },
            "python-call-list" => CallStyle::Python,
            _ => return Err(keys.wrong("content", &format!("{content:?} is not known"))),
        })
    }
}

/// How values of `xml-inline` and `kv-lines` are read.
fn value_style(args: &Keys) -> Result<ValueStyle> {
    let Some(parser) = args.map.get("value_parser").filter(|parser| !parser.is_null()) else {
        return Ok(ValueStyle::Text { strip: false });
    };
    let parser = Keys::new(format!("{}.value_parser", args.at), parser)?;
    let none = Value::Object(Map::new());
    let inner = Keys::new(format!("{}.args", parser.at), parser.map.get("args").unwrap_or(&none))?;
    let strip = inner.flag_or("strip", true)?;
    match parser.text("name")?.unwrap_or("text") {
        "text" => Ok(ValueStyle::Text { strip }),
        // Numbers and truth values of Python are JSON, but for their spelling.
        "json" | "int" | "float" | "bool" => Ok(ValueStyle::Json { dialect: dialect(&inner)?, strip }),
        name => Err(parser.wrong("name", &format!("{name:?} is not supported within a call"))),
    }
}

fn dialect(args: &Keys) -> Result<Dialect> {
    let mut delimiters = Vec::new();
    let wrong = || args.wrong("string_delims", "must be a list of pairs of strings");
    if let Some(list) = args.map.get("string_delims") {
        for pair in list.as_array().ok_or_else(wrong)? {
            let texts: Option<Vec<&str>> = pair.as_array().and_then(|pair| pair.iter().map(Value::as_str).collect());
            match texts.as_deref() {
                Some(&[open, close]) if !open.is_empty() && !close.is_empty() => {
                    delimiters.push((open.to_owned(), close.to_owned()));
                }
                _ => return Err(wrong()),
            }
        }
    }
    Ok(Dialect { bare_keys: args.flag("unquoted_keys")?, delimiters })
}

/// An object of the template, and where it stands.
struct Keys<'a> {
    at: String,
    map: &'a Map<String, Value>,
}

impl<'a> Keys<'a> {
    fn new(at: impl Into<String>, value: &'a Value) -> Result<Keys<'a>> {
        let at = at.into();
        match value.as_object() {
            Some(map) => Ok(Keys { at, map }),
            None => Err(Error::format(format!("{at} must be an object"))),
        }
    }

    fn wrong(&self, key: &str, what: &str) -> Error {
        Error::format(format!("{}.{key} {what}", self.at))
    }

    fn only(&self, known: &[&str]) -> Result<()> {
        match self.map.keys().find(|key| !known.contains(&key.as_str())) {
            Some(key) => Err(self.wrong(key, "is not known")),
            None => Ok(()),
        }
    }

    fn flag(&self, key: &str) -> Result<bool> {
        self.flag_or(key, false)
    }

    fn flag_or(&self, key: &str, default: bool) -> Result<bool> {
        match self.map.get(key) {
            None => Ok(default),
            Some(value) => value.as_bool().ok_or_else(|| self.wrong(key, "must be true or false")),
        }
    }

    fn text(&self, key: &str) -> Result<Option<&'a str>> {
        match self.map.get(key) {
            None | Some(Value::Null) => Ok(None),
            Some(Value::String(text)) if text.len() <= RESPONSE_PATTERN_BYTES_MAX => Ok(Some(text)),
            Some(_) => Err(self.wrong(key, &format!("must be a string of at most {RESPONSE_PATTERN_BYTES_MAX} bytes"))),
        }
    }

    /// One or more literals.
    fn literals(&self, key: &str) -> Result<Option<Vec<String>>> {
        let texts: Vec<&str> = match self.map.get(key) {
            None => return Ok(None),
            Some(Value::String(text)) => vec![text],
            Some(Value::Array(list)) if list.iter().all(Value::is_string) => {
                list.iter().filter_map(Value::as_str).collect()
            }
            Some(_) => return Err(self.wrong(key, "must be a string or a list of strings")),
        };
        let bytes: usize = texts.iter().map(|text| text.len()).sum();
        if texts.is_empty() || texts.contains(&"") || bytes > RESPONSE_PATTERN_BYTES_MAX {
            let most =
                format!("must have at least one text, none empty, and at most {RESPONSE_PATTERN_BYTES_MAX} bytes");
            return Err(self.wrong(key, &most));
        }
        Ok(Some(texts.into_iter().map(str::to_owned).collect()))
    }

    /// A delimiter, compiled; its index.
    fn pattern(&self, literal: &str, expression: &str, patterns: &mut Vec<Pattern>) -> Result<Option<usize>> {
        let pattern = match (self.literals(literal)?, self.text(expression)?) {
            (None, None) => return Ok(None),
            (Some(literals), None) => Pattern::literals(&format!("{}.{literal}", self.at), literals)?,
            (None, Some(text)) => Pattern::expression(&format!("{}.{expression}", self.at), text)?,
            (Some(_), Some(_)) => return Err(self.wrong(literal, &format!("and {expression:?} cannot both be there"))),
        };
        patterns.push(pattern);
        Ok(Some(patterns.len() - 1))
    }
}
