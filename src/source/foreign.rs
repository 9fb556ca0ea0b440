//! What a file or a folder is when it is not what was expected: most that people open by mistake is well known, and a message
//! that names it saves them a search.

use super::files::quoted;
use crate::error::{Error, Status};
use crate::limits;
use std::fs::File;
use std::io::{ErrorKind, Read};
use std::path::Path;

/// Bytes read to see what a file is.
const HEAD_BYTES: u64 = 32;

/// How files begin that stand where another was expected, and what they are.
const BEGINNINGS: [(&[u8], &str); 10] = [
    (
        b"version https://git-lfs",
        "a git-lfs pointer, not the file it stands for; run `git lfs pull` there, or download the model again",
    ),
    (b"GGUF", "a GGUF file, not safetensors; name the .gguf file itself as the model"),
    (b"lmgg", "a GGML file, which GGUF took the place of; download the original model, or a GGUF file of it"),
    (b"tjgg", "a GGML file, which GGUF took the place of; download the original model, or a GGUF file of it"),
    (b"PK\x03\x04", "a zip archive, as PyTorch writes; convert the weights to safetensors"),
    (b"\x80\x02", "a Python pickle, as PyTorch writes; convert the weights to safetensors"),
    (b"\x89HDF", "an HDF5 file; convert the weights to safetensors"),
    (b"\x1f\x8b", "a gzip archive; unpack it"),
    (b"<!DOCTYPE", "a web page, not the file; download the model again"),
    (b"<html", "a web page, not the file; download the model again"),
];

/// What the beginning of a file says it is, if that is nothing a model folder holds.
pub(super) fn content(bytes: &[u8]) -> Option<&'static str> {
    let starts = |text: &[u8]| bytes.get(..text.len()).is_some_and(|head| head.eq_ignore_ascii_case(text));
    BEGINNINGS.iter().find(|(text, _)| starts(text)).map(|(_, what)| *what)
}

/// The error for a file that should be safetensors and begins with `prefix`; `file` stands behind it.
pub(super) fn weights_file(prefix: [u8; 8], file: &mut File, shown: &str) -> Option<Error> {
    let mut head = prefix.to_vec();
    file.take(HEAD_BYTES).read_to_end(&mut head).ok()?;
    content(&head).map(|what| Error::format(format!("{shown} is {what}")).about(shown))
}

/// The error for a path that is no folder.
pub(super) fn not_a_folder(path: &Path, subject: &str) -> Error {
    let mut head = Vec::new();
    // Only of a regular file: reading a pipe would wait.
    if path.metadata().is_ok_and(|m| m.is_file())
        && let Ok(file) = File::open(path)
        && file.take(HEAD_BYTES).read_to_end(&mut head).is_err()
    {
        head.clear();
    }
    let what = match content(&head) {
        Some(what) => format!("it is {what}"),
        None => "name the folder that holds config.json and the weights".to_owned(),
    };
    Error::new(Status::Io, format!("{subject} is not a folder; {what}")).about(subject)
}

/// The error for a path that cannot be looked at.
pub(super) fn no_folder(subject: &str, error: &std::io::Error) -> Error {
    let what = format!("cannot open the model folder {subject}");
    if error.kind() != ErrorKind::NotFound || !is_repository(subject) {
        return Error::io(what, subject, error);
    }
    let mut found = Error::io(what, subject, error);
    found.message += &format!(
        "; if that is a repository of a model hub: nothing is downloaded here, fetch it (`hf download {subject} --local-dir \
         FOLDER`) and name the folder"
    );
    found
}

/// Whether the name could be a repository's, `owner/name`.
fn is_repository(name: &str) -> bool {
    let part = |part: &str| {
        !part.is_empty()
            && !part.starts_with('.')
            && part.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.'))
    };
    name.split_once('/').is_some_and(|(owner, name)| part(owner) && part(name))
}

/// Ends of file names, and what a folder with such a file holds.
const KINDS: [(&[&str], &str); 7] = [
    (&[".gguf"], "a GGUF model; name that file"),
    (
        &["consolidated.safetensors", "consolidated.00.pth", "params.json"],
        "the layout of the model's authors; download or convert to the Hugging Face layout",
    ),
    (&["openvino_model.bin", "openvino_model.xml"], "OpenVINO's format; download the original model"),
    (&[".onnx"], "ONNX; download the original model"),
    (&[".npz"], "NumPy arrays; download the original model"),
    (&["tf_model.h5", ".h5", ".msgpack"], "weights for TensorFlow or JAX; convert the weights to safetensors"),
    (
        &[".bin", ".bin.index.json", ".pth", ".pt", ".ckpt"],
        "PyTorch's format, whose files can run code; convert the weights to safetensors",
    ),
];

/// Ends of the names of files whose download has not ended.
const UNFINISHED: [&str; 5] = [".incomplete", ".part", ".crdownload", ".aria2", ".download"];

/// What a folder is that lacks its config or its weights, and what to do: the end of a sentence.
pub(super) fn folder_hint(dir: &Path) -> String {
    let entries = std::fs::read_dir(dir).into_iter().flatten().take(limits::FOLDER_NAMES_MAX);
    let mut names: Vec<String> = entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok()).collect();
    names.sort_unstable();
    let ends = |ends: &[&str]| names.iter().find(|name| ends.iter().any(|end| name.ends_with(end))).map(|n| quoted(n));
    if let Some(name) = ends(&["adapter_config.json", "adapter_model.safetensors", "adapter_model.bin"]) {
        let base = adapter_base(dir).map_or_else(String::new, |base| format!(" {}", quoted(&base)));
        return format!("it holds {name}, an adapter (LoRA); merge it into its base model{base} and open that");
    }
    if let Some(name) = ends(&UNFINISHED) {
        return format!("it holds {name}: its download is incomplete");
    }
    for (what, kind) in KINDS {
        if let Some(name) = ends(what) {
            return format!("it holds {name}, which is {kind}");
        }
    }
    if let Some(name) = ends(&["model_index.json"]) {
        return format!("it holds {name}, a pipeline of several models; name the folder of its language model");
    }
    let shard = names.iter().find(|name| name.starts_with("model-0") && name.ends_with(".safetensors"));
    if let Some(name) = shard {
        return format!("it holds {} but not the index; its download is incomplete", quoted(name));
    }
    let other = names.iter().find(|name| name.ends_with(".safetensors") && *name != "model.safetensors");
    if let Some(name) = other {
        return format!("it holds {}; if that is the whole model, rename it to model.safetensors", quoted(name));
    }
    match inner_folder(dir, &names) {
        Some(inner) => format!("its folder {} is a model folder; name that", quoted(&inner)),
        None => "it is not a model folder, or its download is incomplete".to_owned(),
    }
}

/// The model an adapter belongs to.
fn adapter_base(dir: &Path) -> Option<String> {
    let config = super::files::read_object(&dir.join("adapter_config.json"), limits::CONFIG_BYTES_MAX).ok()??;
    Some(config.get("base_model_name_or_path")?.as_str()?.to_owned())
}

/// A model folder within the folder, or within the snapshots of a hub's cache.
fn inner_folder(dir: &Path, names: &[String]) -> Option<String> {
    let is_model = |name: &str| dir.join(name).join("config.json").is_file();
    if let Some(name) = names.iter().find(|name| is_model(name)) {
        return Some(name.clone());
    }
    let snapshots = std::fs::read_dir(dir.join("snapshots")).ok()?.take(limits::FOLDER_NAMES_MAX);
    let mut names: Vec<String> = snapshots.filter_map(|entry| entry.ok()?.file_name().into_string().ok()).collect();
    names.sort_unstable();
    names.into_iter().map(|name| format!("snapshots/{name}")).find(|name| is_model(name))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_by_their_beginning() {
        let lfs = b"version https://git-lfs.github.com/spec/v1\noid sha256:00";
        for (bytes, word) in [(&lfs[..], "git-lfs"), (b"GGUF\x03\0\0\0", "GGUF"), (b"<!doctype html>", "web page")] {
            assert!(content(bytes).expect(word).contains(word));
        }
        for bytes in [&b""[..], b"{\"a\": 1}", b"version", b"\x10\0\0\0\0\0\0\0{}"] {
            assert_eq!(content(bytes), None);
        }
    }

    #[test]
    fn names_of_repositories() {
        for name in ["Qwen/Qwen3-0.6B", "mistralai/Mistral-7B-v0.3"] {
            assert!(is_repository(name), "{name}");
        }
        for name in ["Qwen", "/models/x", "./x", "../x", "a/b/c", "a/", "C:\\x/y z"] {
            assert!(!is_repository(name), "{name}");
        }
    }
}
