//! Which files of a repository are its model: the folder of safetensors, or one `.gguf` of several.

use super::fit::{Fit, Headers, by_size, fits};
use super::hub::RemoteFile;
use super::quant::{self, Variant};
use astrai::limits::{INDEX_BYTES_MAX, SHARDS_MAX};
use indicatif::BinaryBytes;
use serde_json::Value;
use std::collections::BTreeSet;
use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

pub const CONFIG: &str = "config.json";
pub const INDEX: &str = "model.safetensors.index.json";
const SINGLE: &str = "model.safetensors";
/// The small files of a model folder.
const TEXT_FILES: [&str; 13] = [
    CONFIG,
    "generation_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "vocab.txt",
    "merges.txt",
    "tokenizer.model",
    "chat_template.json",
    "chat_template.jinja",
    INDEX,
];
/// More templates, by name.
const TEMPLATES: (&str, &str) = ("additional_chat_templates/", ".jinja");
/// Quants that the engine cannot run before no other is looked at: then it is not the quant.
const UNSUPPORTED_MAX: usize = 8;

/// Whether the files are those of a folder of safetensors.
pub fn is_folder(files: &[RemoteFile]) -> bool {
    find(files, CONFIG).is_some() && (find(files, INDEX).is_some() || find(files, SINGLE).is_some())
}

/// The small files of the folder.
pub fn text_files(files: &[RemoteFile]) -> Vec<RemoteFile> {
    let wanted = |name: &str| {
        TEXT_FILES.contains(&name)
            || (name.starts_with(TEMPLATES.0) && name.ends_with(TEMPLATES.1) && name.matches('/').count() == 1)
    };
    files.iter().filter(|file| wanted(&file.name)).cloned().collect()
}

/// The weights of the folder: the files that the index at `index` names, or the single one.
///
/// # Errors
/// For an index that is damaged or names files that are not there.
pub fn weights(files: &[RemoteFile], index: Option<&Path>) -> Result<Vec<RemoteFile>, String> {
    let Some(index) = index else {
        return find(files, SINGLE).map(|file| vec![file.clone()]).ok_or_else(|| format!("there is no {SINGLE}"));
    };
    let mut text = Vec::new();
    let read = File::open(index).and_then(|file| file.take(INDEX_BYTES_MAX).read_to_end(&mut text));
    read.map_err(|error| format!("cannot read {}: {error}", index.display()))?;
    let value: Value = serde_json::from_slice(&text).map_err(|error| format!("{INDEX} is no JSON: {error}"))?;
    let names: BTreeSet<&str> = match value["weight_map"].as_object() {
        Some(map) => map.values().filter_map(Value::as_str).collect(),
        None => return Err(format!("{INDEX} has no weight_map")),
    };
    if names.is_empty() || names.len() > SHARDS_MAX {
        return Err(format!("{INDEX} names {} files; from 1 to {SHARDS_MAX} are expected", names.len()));
    }
    let shard = |name: &str| {
        let there = find(files, name).filter(|file| file.name.ends_with(".safetensors"));
        there.cloned().ok_or_else(|| format!("{INDEX} names {}, which is not there", super::http::shown(name, 200)))
    };
    names.into_iter().map(shard).collect()
}

/// What is chosen and why.
pub enum Choice {
    Folder(Option<String>),
    File(Variant, String),
}

/// A folder of safetensors that may be taken.
pub struct Folder<'a> {
    pub weights: &'a [RemoteFile],
    /// Small files that are in the cache.
    pub small: &'a [PathBuf],
}

/// Chooses without a word about the quant, and says why.
pub fn choose(
    headers: &Headers<'_>,
    variants: &[Variant],
    folder: Option<Folder<'_>>,
    reference: &str,
    told: &mut dyn FnMut(&str),
) -> Result<Choice, String> {
    let fit = folder.map(|folder| fits(headers, folder.weights, folder.small, told));
    let instead = match (&fit, variants) {
        (Some(Fit::Fits { needed, available }), _) => {
            return Ok(Choice::Folder(Some(format!("the safetensors are taken: {}", takes(*needed, *available)))));
        }
        (Some(Fit::Unsupported(reason)), []) => return Err(format!("this model cannot be run here: {reason}")),
        (Some(Fit::TooLarge { needed, available }), []) => {
            let (needed, available) = (BinaryBytes(*needed), BinaryBytes(*available));
            told(&format!(
                "the model needs {needed} of memory, and {available} are available; --weights q8, q5 or q4 needs less"
            ));
            return Ok(Choice::Folder(None));
        }
        (Some(Fit::TooLarge { .. }), _) => "; the safetensors do not fit",
        (Some(Fit::Unsupported(_)), _) => "; the safetensors cannot be run here",
        (None, [only]) => return Ok(Choice::File(only.clone(), "it is the only one".to_owned())),
        (None, _) => "",
    };
    let mut unsupported = Vec::new();
    for variant in variants {
        // A size that nobody knows fits nowhere.
        if variant.bytes == 0 {
            continue;
        }
        match fits(headers, &variant.files, &[], told) {
            Fit::Fits { needed, available } => {
                let reason = format!("the best quality that fits: {}{instead}", takes(needed, available));
                return Ok(Choice::File(variant.clone(), reason));
            }
            Fit::TooLarge { .. } => {}
            Fit::Unsupported(reason) => unsupported.push(reason),
        }
        if unsupported.len() >= UNSUPPORTED_MAX {
            break;
        }
    }
    if let Some(reason) = unsupported.first() {
        return Err(format!("no quant that fits can be run here: {reason}"));
    }
    let smallest = variants.iter().min_by_key(|variant| variant.bytes).map_or("", |variant| &*variant.label);
    let available =
        astrai::os::memory::available_bytes().map_or_else(String::new, |b| format!("{} of ", BinaryBytes(b)));
    let list = quant::list(variants);
    Err(match variants.iter().all(|variant| variant.bytes == 0) {
        true => format!(
            "the hub does not list sizes to choose by; name a quant, as in {reference}:{smallest}; there is {list}"
        ),
        false => format!(
            "no quant fits into the {available}memory that are available: {list}; name one to have it all the same, as in \
             {reference}:{smallest}"
        ),
    })
}

/// The model among files that are all there, if they are a whole one.
pub fn in_cache(files: &[RemoteFile], quant: Option<&str>, index: &Path, strict: bool) -> Option<Choice> {
    let variants = quant::variants(files);
    if let Some(quant) = quant {
        return quant::named(&variants, quant).ok().map(|variant| Choice::File(variant.clone(), String::new()));
    }
    let index = find(files, INDEX).map(|_| index);
    // Other programs may have fetched the weights alone.
    let text = || ["tokenizer.json", "tokenizer.model", "vocab.json"].iter().any(|name| find(files, name).is_some());
    if is_folder(files) && weights(files, index).is_ok() && (!strict || text()) {
        return Some(Choice::Folder(None));
    }
    let fits = |variant: &&Variant| matches!(by_size(variant.bytes), Fit::Fits { .. });
    let smallest = || variants.iter().min_by_key(|variant| variant.bytes);
    variants.iter().find(fits).or_else(smallest).map(|variant| Choice::File(variant.clone(), String::new()))
}

fn find<'a>(files: &'a [RemoteFile], name: &str) -> Option<&'a RemoteFile> {
    files.iter().find(|file| file.name == name)
}

fn takes(needed: u64, available: u64) -> String {
    match available {
        0 => format!("{} of memory", BinaryBytes(needed)),
        available => format!("{} of the {} of memory that are available", BinaryBytes(needed), BinaryBytes(available)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(names: &[&str]) -> Vec<RemoteFile> {
        names.iter().map(|name| RemoteFile { name: (*name).to_owned(), bytes: Some(1), hash: None }).collect()
    }

    #[test]
    fn a_folder_is_its_text_files_and_the_weights_that_its_index_names() {
        let files = of(&[
            CONFIG,
            "README.md",
            "tokenizer.json",
            "pytorch_model.bin",
            "onnx/model.onnx",
            "consolidated.safetensors",
            INDEX,
            "model-00001-of-00002.safetensors",
            "model-00002-of-00002.safetensors",
            "additional_chat_templates/tool.jinja",
            "original/config.json",
            "x.jinja",
        ]);
        let names = |files: Vec<RemoteFile>| files.into_iter().map(|file| file.name).collect::<Vec<_>>();
        assert!(is_folder(&files) && !is_folder(&files[1..]));
        let text = names(text_files(&files));
        assert_eq!(text, [CONFIG, "tokenizer.json", INDEX, "additional_chat_templates/tool.jinja"]);
        let dir = tempfile::tempdir().unwrap();
        let index = dir.path().join("index");
        let with = |map: &str| {
            std::fs::write(&index, format!("{{\"weight_map\": {map}}}")).unwrap();
            weights(&files, Some(&index)).map(names)
        };
        let (one, two) = ("model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors");
        assert_eq!(with(&format!("{{\"a\": \"{two}\", \"b\": \"{one}\", \"c\": \"{one}\"}}")).unwrap(), [one, two]);
        for bad in [
            "{}",
            "[]",
            "{\"a\": \"../../x.safetensors\"}",
            "{\"a\": \"pytorch_model.bin\"}",
            "{\"a\": \"missing.safetensors\"}",
        ] {
            assert!(with(bad).is_err(), "{bad}");
        }
        assert_eq!(weights(&of(&[CONFIG, SINGLE]), None).map(names).unwrap(), [SINGLE]);
        assert!(weights(&files, None).is_err());
    }

    #[test]
    fn a_cache_has_a_model_when_it_is_whole() {
        let nowhere = Path::new("/no/such/index");
        let has = |names: &[&str], quant: Option<&str>, strict| match in_cache(&of(names), quant, nowhere, strict) {
            Some(Choice::File(variant, _)) => variant.label,
            Some(Choice::Folder(_)) => "folder".to_owned(),
            None => "nothing".to_owned(),
        };
        assert_eq!(has(&[CONFIG, SINGLE, "tokenizer.json"], None, true), "folder");
        assert_eq!(has(&[CONFIG, SINGLE], None, true), "nothing");
        assert_eq!(has(&[CONFIG, SINGLE], None, false), "folder");
        assert_eq!(has(&[CONFIG, INDEX, "tokenizer.json"], None, true), "nothing");
        assert_eq!(has(&["x-Q4_0.gguf", "x-Q8_0.gguf"], None, true), "Q8_0");
        assert_eq!(has(&["x-Q4_0.gguf", "x-Q8_0.gguf"], Some("q4_0"), true), "Q4_0");
        assert_eq!(has(&["x-Q4_0.gguf"], Some("q8_0"), true), "nothing");
        assert_eq!(has(&[], None, true), "nothing");
    }
}
