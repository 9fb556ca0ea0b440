//! Special tokens and chat templates, from the several files and spellings published models keep them in.

use super::files::{self, kind, quoted};
use crate::error::{Error, Result};
use crate::limits;
use serde_json::{Map, Value};
use std::path::Path;

/// Folder of templates that are chosen by name.
const ADDITIONAL: &str = "additional_chat_templates";
/// How their files end.
const JINJA: &str = "jinja";

/// A chat template that goes by a name.
#[derive(Clone, Debug, PartialEq)]
pub struct NamedTemplate {
    /// Its name: `tool_use` is the one for prompts with tools.
    pub name: String,
    /// The file it stands in.
    pub file: String,
    /// Its text; an error says why the file cannot be read.
    pub text: Result<String>,
}

/// What the files about text say. Running a model needs none of it: what cannot be read is a warning, and an error where it is
/// used.
#[derive(Debug)]
pub(super) struct TextFiles {
    pub special_tokens: SpecialTokens,
    pub chat_template: Result<Option<String>>,
    /// The file of the template.
    pub chat_template_file: String,
    pub named_templates: Vec<NamedTemplate>,
    /// `response_template` of `tokenizer_config.json`, unchecked.
    pub response_template: Option<Value>,
}

impl TextFiles {
    /// Reads those of a folder. `chat_template.jinja` is the newest spelling of a template and wins; the processor's
    /// `chat_template.json` is the oldest and comes last. A file that may have a template and cannot be read is not passed over
    /// for an older one. Of two named templates of one name the one in a file of its own wins.
    pub fn read(dir: &Path, warnings: &mut Vec<String>) -> TextFiles {
        let mut special_tokens = SpecialTokens::default();
        let jinja = dir.join("chat_template.jinja");
        let mut text = TextFiles {
            special_tokens: SpecialTokens::default(),
            chat_template: files::read_text(&jinja, limits::CONFIG_BYTES_MAX),
            chat_template_file: jinja.to_string_lossy().into_owned(),
            named_templates: additional(dir, warnings),
            response_template: None,
        };
        if let Err(e) = &text.chat_template {
            warnings.push(format!("{e}; there is no chat template"));
        }
        for name in ["tokenizer_config.json", "special_tokens_map.json", "chat_template.json"] {
            let path = dir.join(name);
            let wanted = text.chat_template == Ok(None) && name != "special_tokens_map.json";
            match files::read_object(&path, limits::CONFIG_BYTES_MAX) {
                Ok(None) => {}
                Ok(Some(object)) => {
                    let file = path.to_string_lossy();
                    special_tokens.add(&object, &file, warnings);
                    if name == "tokenizer_config.json" {
                        text.response_template = object.get("response_template").filter(|it| !it.is_null()).cloned();
                    }
                    if wanted {
                        text.templates_of(&object, &file, warnings);
                    }
                }
                Err(e) => {
                    warnings.push(format!("{e}; the file is not used"));
                    if wanted {
                        text.chat_template = Err(e);
                    }
                }
            }
        }
        TextFiles { special_tokens, ..text }
    }

    /// Takes the templates of a JSON file, if it has any.
    fn templates_of(&mut self, object: &Value, file: &str, warnings: &mut Vec<String>) {
        let templates = match templates(object, file) {
            Ok(templates) => templates,
            Err(e) => {
                warnings.push(format!("{e}; there is no chat template"));
                self.chat_template = Err(e);
                return;
            }
        };
        self.chat_template = default_of(&templates, file);
        match &self.chat_template {
            Ok(None) => {}
            Ok(Some(_)) => self.chat_template_file = file.to_owned(),
            Err(e) => warnings.push(format!("{e}; a prompt has to name one of them")),
        }
        for (name, text) in templates.into_iter().filter(|(name, _)| name != "default") {
            if self.named_templates.iter().all(|known| known.name != name) {
                self.named_templates.push(NamedTemplate { name, file: file.to_owned(), text: Ok(text) });
            }
        }
    }
}

/// The templates of the folder [`ADDITIONAL`], by name.
fn additional(dir: &Path, warnings: &mut Vec<String>) -> Vec<NamedTemplate> {
    let folder = dir.join(ADDITIONAL);
    let Ok(entries) = std::fs::read_dir(&folder) else { return Vec::new() };
    let mut paths: Vec<_> = entries.take(limits::FOLDER_ENTRIES_MAX).filter_map(|e| Some(e.ok()?.path())).collect();
    paths.retain(|path| path.extension().is_some_and(|end| end == JINJA));
    paths.sort_unstable();
    if paths.len() > limits::NAMED_TEMPLATES_MAX {
        let (found, most) = (paths.len(), limits::NAMED_TEMPLATES_MAX);
        warnings.push(format!("{} has {found} templates; the first {most} are used", folder.to_string_lossy()));
        paths.truncate(most);
    }
    let mut templates = Vec::new();
    for path in paths {
        let Some(name) = path.file_stem().and_then(|stem| stem.to_str()) else { continue };
        let text = files::read_text(&path, limits::CONFIG_BYTES_MAX);
        if let Err(e) = &text {
            warnings.push(format!("{e}; it is not used"));
        }
        let Some(text) = text.transpose() else { continue };
        templates.push(NamedTemplate { name: name.to_owned(), file: path.to_string_lossy().into_owned(), text });
    }
    templates
}

/// Special tokens by the names chat templates use.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct SpecialTokens {
    /// Name and text of each named token, such as `bos_token`, `eos_token`, `image_token`; in no particular order.
    pub named: Vec<(String, String)>,
    /// `additional_special_tokens`, in order.
    pub additional: Vec<String>,
}

/// Tokens every tokenizer may name: under these keys only a token, or null, makes sense.
const USUAL: [&str; 7] = ["bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token"];

impl SpecialTokens {
    /// The text of the token `name`, for example `bos_token`.
    pub fn get(&self, name: &str) -> Option<&str> {
        self.named.iter().find(|(known, _)| known == name).map(|(_, text)| text.as_str())
    }

    /// The variables that chat templates know the tokens by.
    pub fn variables(&self) -> Map<String, Value> {
        let named = self.named.iter().map(|(name, text)| (name.clone(), Value::from(text.as_str())));
        let mut variables: Map<String, Value> = named.collect();
        if !self.additional.is_empty() {
            variables.insert("additional_special_tokens".to_owned(), self.additional.clone().into());
        }
        variables
    }

    /// Adds what `object`, the content of `file`, names and earlier files did not. Values that are no tokens are left out, with
    /// a warning.
    pub(super) fn add(&mut self, object: &Value, file: &str, warnings: &mut Vec<String>) {
        let Some(object) = object.as_object() else { return };
        self.add_named(object, file, warnings);
        // Later versions of transformers keep tokens of their own in an object; earlier ones a list.
        if let Some(Value::Object(extra)) = object.get("extra_special_tokens") {
            self.add_named(extra, file, warnings);
        }
        for key in ["additional_special_tokens", "extra_special_tokens"] {
            if let (true, Some(Value::Array(list))) = (self.additional.is_empty(), object.get(key)) {
                self.additional = list.iter().filter_map(token_text).map(str::to_owned).collect();
            }
        }
    }

    fn add_named(&mut self, object: &Map<String, Value>, file: &str, warnings: &mut Vec<String>) {
        for (key, value) in object.iter().filter(|(key, _)| key.ends_with("_token")) {
            match token_text(value) {
                Some(text) if self.get(key).is_none() => self.named.push((key.clone(), text.to_owned())),
                Some(_) => {}
                None if value.is_null() || !USUAL.contains(&key.as_str()) => {}
                None => {
                    let found = kind(value);
                    let expected = "a string or an object with \"content\" is expected";
                    warnings.push(format!("{file}: {key} is {found}; {expected}; it is not used"));
                }
            }
        }
    }
}

/// The text of a token written as a string or as an object with `content`.
fn token_text(value: &Value) -> Option<&str> {
    value.as_str().or_else(|| value.get("content")?.as_str())
}

/// The chat templates under `chat_template` of `object`, the content of `file`, by name. One without a name is the default.
fn templates(object: &Value, file: &str) -> Result<Vec<(String, String)>> {
    let bad = |what: String| Error::format(format!("{file}: chat_template {what}")).about(file);
    let entries = match object.get("chat_template") {
        None | Some(Value::Null) => return Ok(Vec::new()),
        Some(Value::String(text)) => return Ok(vec![("default".to_owned(), text.clone())]),
        Some(Value::Array(entries)) => entries,
        Some(other) => return Err(bad(format!("is {}; a string or a list is expected", kind(other)))),
    };
    let most = limits::NAMED_TEMPLATES_MAX;
    if entries.len() > most {
        return Err(bad(format!("lists {} templates, more than {most}", entries.len())));
    }
    let mut templates = Vec::with_capacity(entries.len());
    for entry in entries {
        let field = |key: &str| entry.get(key).and_then(Value::as_str).map(str::to_owned);
        match (field("name"), field("template")) {
            (Some(name), Some(text)) => templates.push((name, text)),
            _ => return Err(bad("lists an entry without the strings \"name\" and \"template\"".into())),
        }
    }
    Ok(templates)
}

/// The one of them named `default`, or the only one.
fn default_of(templates: &[(String, String)], file: &str) -> Result<Option<String>> {
    match templates {
        [] => Ok(None),
        [(_, text)] => Ok(Some(text.clone())),
        several => match several.iter().find(|(name, _)| name == "default") {
            Some((_, text)) => Ok(Some(text.clone())),
            None => {
                let names: Vec<String> = several.iter().map(|(name, _)| quoted(name)).collect();
                let message = format!(
                    "{file}: chat_template names {} but no \"default\"; put the one to use into chat_template.jinja",
                    names.join(", ")
                );
                Err(Error::format(message).about(file))
            }
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn tokens_come_as_strings_and_objects_and_the_first_file_wins() {
        let mut tokens = SpecialTokens::default();
        let config = json!({"bos_token": "<s>", "eos_token": {"content": "</s>", "lstrip": false}, "pad_token": null,
            "add_bos_token": true, "image_token": "<img>", "model_max_length": 1e30,
            "additional_special_tokens": ["<a>", {"content": "<b>"}], "extra_special_tokens": {"audio_token": "<au>"}});
        let mut warnings = Vec::new();
        tokens.add(&config, "tokenizer_config.json", &mut warnings);
        let map = json!({"bos_token": "<other>", "unk_token": "<unk>"});
        tokens.add(&map, "special_tokens_map.json", &mut warnings);
        assert!(warnings.is_empty(), "{warnings:?}");
        let expected = [("bos_token", "<s>"), ("eos_token", "</s>"), ("unk_token", "<unk>"), ("image_token", "<img>")];
        for (name, text) in expected {
            assert_eq!(tokens.get(name), Some(text));
        }
        assert_eq!(tokens.get("audio_token"), Some("<au>"));
        assert_eq!((tokens.get("pad_token"), tokens.get("add_bos_token")), (None, None));
        assert_eq!(tokens.additional, ["<a>", "<b>"]);
        let variables = tokens.variables();
        assert_eq!(
            (&variables["eos_token"], &variables["additional_special_tokens"]),
            (&json!("</s>"), &json!(["<a>", "<b>"]))
        );
        assert!(!SpecialTokens::default().variables().contains_key("additional_special_tokens"));
    }

    #[test]
    fn a_usual_token_of_another_type_is_left_out_with_a_warning() {
        let (mut tokens, mut warnings) = (SpecialTokens::default(), Vec::new());
        tokens.add(&json!({"eos_token": 2, "bos_token": "<s>"}), "f.json", &mut warnings);
        assert!(warnings.len() == 1 && warnings[0].contains("f.json: eos_token is a number"), "{warnings:?}");
        assert_eq!((tokens.get("eos_token"), tokens.get("bos_token")), (None, Some("<s>")));
    }

    #[test]
    fn templates_by_name() {
        let read = |value: Value| templates(&json!({"chat_template": value}), "f.json");
        let default = |value: Value| read(value).and_then(|found| default_of(&found, "f.json"));
        assert_eq!(default(json!("T")), Ok(Some("T".into())));
        assert_eq!(default(Value::Null), Ok(None));
        let list = json!([{"name": "tool_use", "template": "U"}, {"name": "default", "template": "D"}]);
        assert_eq!(default(list.clone()), Ok(Some("D".into())));
        assert_eq!(read(list).expect("good")[0], ("tool_use".to_owned(), "U".to_owned()));
        assert_eq!(default(json!([{"name": "only", "template": "O"}])), Ok(Some("O".into())));
        let two = json!([{"name": "x", "template": "X"}, {"name": "y", "template": "Y"}]);
        assert!(default(two).expect_err("ambiguous").message.contains("\"x\", \"y\""));
        assert!(read(json!(7)).expect_err("a number").message.contains("is a number"));
        assert!(read(json!([{"name": "x"}])).is_err());
    }
}
