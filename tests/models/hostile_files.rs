//! Model folders that are damaged, incomplete or hostile: each is one clear error, never a crash; and sound ones read
//! the same as the `safetensors` crate reads them.

mod headers;
mod other_kinds;
mod shards;

use crate::support::models;
use astrai::dtype::DType;
use astrai::source::{Bytes, Folder, FolderOptions, ModelSource};
use astrai::{Error, Status, Unit, limits};
use std::fs;
use std::path::Path;

/// A folder with these files.
fn folder(files: &[(&str, &[u8])]) -> tempfile::TempDir {
    let dir = tempfile::tempdir().expect("a writable temporary folder");
    for (name, bytes) in files {
        let path = dir.path().join(name);
        fs::create_dir_all(path.parent().expect("has one")).expect("writable");
        fs::write(path, bytes).expect("writable");
    }
    dir
}

/// A safetensors file of a header and data.
fn file(header: &str, data: &[u8]) -> Vec<u8> {
    [&(header.len() as u64).to_le_bytes(), header.as_bytes(), data].concat()
}

const MAPPED: FolderOptions = FolderOptions { no_mmap: false, text_only: false };

const READ: FolderOptions = FolderOptions { no_mmap: true, text_only: false };

const TEXT: FolderOptions = FolderOptions { no_mmap: false, text_only: true };

fn open(dir: &Path, options: FolderOptions) -> Result<Folder, Error> {
    Folder::open(dir, options, &mut |_, _| true)
}

fn open_error(files: &[(&str, &[u8])]) -> Error {
    let dir = folder(files);
    let mapped = open(dir.path(), MAPPED).expect_err("a damaged folder");
    let read = open(dir.path(), READ).expect_err("a damaged folder");
    assert_eq!(mapped, read, "both ways of loading say the same");
    mapped
}

/// The error of a folder whose only fault is its model.safetensors.
fn weights_error(bytes: &[u8]) -> Error {
    open_error(&[("config.json", b"{}"), ("model.safetensors", bytes)])
}

#[track_caller]
fn says(error: &Error, status: Status, parts: &[&str]) {
    assert_eq!(error.status, status, "{error}");
    for part in parts {
        assert!(error.message.contains(part), "{part:?} is not in: {error}");
    }
}

const TENSOR: &str = r#"{"t":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}}"#;

#[test]
fn a_path_that_is_no_folder() {
    let dir = folder(&[("file", b"x")]);
    let missing = open(&dir.path().join("nothing"), MAPPED).expect_err("missing");
    says(&missing, Status::Io, &["cannot open the model folder", "nothing"]);
    assert_ne!(missing.os_code, 0);
    says(&open(&dir.path().join("file"), MAPPED).expect_err("a file"), Status::Io, &["is not a folder"]);
    says(&open(Path::new(""), MAPPED).expect_err("empty"), Status::Io, &["cannot open"]);
    says(&open(Path::new("a\0b"), MAPPED).expect_err("a NUL"), Status::Io, &["cannot open"]);
    #[cfg(unix)]
    {
        use std::os::unix::ffi::OsStrExt;
        let path = Path::new(std::ffi::OsStr::from_bytes(b"/tmp/\xff"));
        says(&open(path, MAPPED).expect_err("not UTF-8"), Status::Utf8, &["not UTF-8"]);
    }
}

#[test]
fn a_config_that_is_none() {
    let good = file(TENSOR, &[0; 8]);
    let with = |bytes: &[u8]| open_error(&[("config.json", bytes), ("model.safetensors", &good)]);
    says(&open_error(&[("model.safetensors", &good)]), Status::Io, &["has no config.json"]);
    for bad in [&b""[..], b"{", b"{\"a\":}", b"\xff\xfe{}", b"{} x", "[".repeat(100_000).as_bytes()] {
        says(&with(bad), Status::Format, &["config.json is not valid JSON"]);
    }
    says(&with(b"[1]"), Status::Format, &["config.json holds an array; a JSON object"]);
    says(&with(b"null"), Status::Format, &["holds null"]);

    let many = format!("{{\"a\":[{}0]}}", "0,".repeat(1 << 21));
    let error = with(many.as_bytes());
    says(&error, Status::Format, &["config.json is not valid JSON", "more than 67108864 bytes of memory"]);
    assert_eq!((error.unit, error.available), (Unit::Bytes, limits::CONFIG_TREE_BYTES_MAX as u64));

    let dir = folder(&[("model.safetensors", &good), ("config.json/x", b"")]);
    says(&open(dir.path(), MAPPED).expect_err("a folder there"), Status::Io, &["config.json", "not a regular file"]);

    let dir = folder(&[]);
    let huge = fs::File::create(dir.path().join("config.json")).expect("writable");
    huge.set_len(1 << 40).expect("sparse files work here");
    let error = open(dir.path(), MAPPED).expect_err("too large");
    says(&error, Status::Format, &["1099511627776 bytes", "config.json"]);
    assert_eq!((error.unit, error.needed, error.available), (Unit::Bytes, 1 << 40, limits::CONFIG_BYTES_MAX));
}

#[cfg(unix)]
#[test]
fn links_are_followed_and_pipes_refused() {
    let dir = folder(&[("blobs/1", b"{\"a\":1}"), ("blobs/2", &file(TENSOR, &[0; 8])), ("model/x", b"")]);
    let model = dir.path().join("model");
    std::os::unix::fs::symlink("../blobs/1", model.join("config.json")).expect("links work here");
    std::os::unix::fs::symlink("../blobs/2", model.join("model.safetensors")).expect("links work here");
    let source = open(&model, MAPPED).expect("as hubs store models");
    assert_eq!(source.config().expect("there")["a"], 1);
    assert_eq!(source.tensors().expect("there").len(), 1);

    fs::remove_file(dir.path().join("blobs/2")).expect("writable");
    says(
        &open(&model, MAPPED).expect_err("dangling"),
        Status::Io,
        &["model.safetensors is a link to a file that is not there"],
    );
    fs::remove_file(dir.path().join("blobs/1")).expect("writable");
    says(
        &open(&model, MAPPED).expect_err("dangling"),
        Status::Io,
        &["config.json is a link to a file that is not there"],
    );

    let pipe = folder(&[]);
    let path = std::ffi::CString::new(pipe.path().join("config.json").to_str().expect("UTF-8")).expect("no NUL");
    // SAFETY: a valid NUL-terminated path.
    assert_eq!(unsafe { libc::mkfifo(path.as_ptr(), 0o600) }, 0);
    says(&open(pipe.path(), MAPPED).expect_err("a pipe"), Status::Io, &["not a regular file"]);
}

#[test]
fn text_needs_neither_config_nor_weights() {
    let dir = folder(&[
        ("tokenizer.json", b"not looked at here"),
        ("tokenizer_config.json", br#"{"chat_template":"C","bos_token":{"content":"<s>"},"eos_token":"</s>"}"#),
        ("special_tokens_map.json", br#"{"bos_token":"<other>","pad_token":"<pad>"}"#),
        ("model.safetensors", b"not looked at either"),
    ]);
    let source = open(dir.path(), TEXT).expect("text files are enough");
    assert_eq!(source.subject(), dir.path().to_str().expect("UTF-8"));
    assert_eq!(source.chat_template(), Ok(Some("C".into())));
    assert_eq!(source.named_templates(), []);
    let tokens = source.special_tokens().expect("good");
    assert_eq!((tokens.get("bos_token"), tokens.get("pad_token")), (Some("<s>"), Some("<pad>")));
    assert_eq!(source.tokenizer_json().expect("read").expect("there").as_slice(), b"not looked at here");
    says(&source.config().expect_err("none"), Status::Io, &["has no config.json"]);
    says(&source.tensors().expect_err("none"), Status::Argument, &["opened for text only"]);
    says(&source.tensor("t").expect_err("none"), Status::Argument, &["opened for text only"]);

    let nothing = open(folder(&[]).path(), TEXT).expect("an empty folder has empty text");
    assert_eq!(nothing.chat_template(), Ok(None));
    assert!(nothing.tokenizer_json().expect("read").is_none());
}

#[test]
fn templates_have_an_order() {
    let jinja = ("chat_template.jinja", &b"J"[..]);
    let json = ("chat_template.json", &br#"{"chat_template":"O"}"#[..]);
    let config = (
        "tokenizer_config.json",
        &br#"{"chat_template":[{"name":"tool_use","template":"T"},{"name":"default","template":"D"}]}"#[..],
    );
    let read = |files: &[(&str, &[u8])]| {
        let source = open(folder(files).path(), TEXT).expect("good");
        let tools = source.named_templates().iter().find(|t| t.name == "tool_use").map(|t| t.text.clone());
        (source.chat_template().expect("good"), tools.transpose().expect("good"))
    };
    let some = |text: &str| Some(text.to_owned());
    assert_eq!(read(&[jinja, json, config]), (some("J"), None));
    assert_eq!(read(&[json, config]), (some("D"), some("T")));
    assert_eq!(read(&[json]), (some("O"), None));
    // Files of their own come before those of a list; what is no template there is passed over.
    let own = ("additional_chat_templates/tool_use.jinja", &b"F"[..]);
    let other = ("additional_chat_templates/notes.txt", &b"N"[..]);
    assert_eq!(read(&[own, other, config]), (some("D"), some("F")));
    assert_eq!(read(&[own, jinja]), (some("J"), some("F")));
    let bad = ("additional_chat_templates/rag.jinja", &b"\xff"[..]);
    let source = open(folder(&[jinja, own, bad]).path(), TEXT).expect("good");
    assert_eq!(source.named_templates().iter().map(|t| t.name.as_str()).collect::<Vec<_>>(), ["rag", "tool_use"]);
    assert!(
        source.named_templates()[0].text.is_err() && source.warnings()[0].contains("rag.jinja"),
        "{:?}",
        source.warnings()
    );
}

/// Scalars, empty tensors, every size of element, misaligned data: bytes come out as they are, aligned.
#[test]
fn sound_tensors_come_out_aligned() {
    let header = concat!(
        r#"{"__metadata__":{"format":"pt"},"ids":{"dtype":"I64","shape":[1],"data_offsets":[0,8]},"#,
        r#""empty":{"dtype":"F32","shape":[0,7],"data_offsets":[8,8]},"byte":{"dtype":"U8","shape":[],"data_offsets":[8,9]},"#,
        r#""odd":{"dtype":"F32","shape":[1,2],"data_offsets":[9,17]},"half":{"dtype":"BF16","shape":[1],"data_offsets":[17,19]},"#,
        r#""tail":{"dtype":"F64","shape":[0],"data_offsets":[19,19]}}"#
    );
    let data: Vec<u8> = (0..19).collect();
    for padding in 0..8 {
        let header = format!("{header}{}", " ".repeat(padding));
        let dir = folder(&[("config.json", b"{}"), ("model.safetensors", &file(&header, &data))]);
        for options in [MAPPED, READ] {
            let source = open(dir.path(), options).expect("sound");
            let expected: [(&str, DType, &[usize], &[u8]); 6] = [
                ("byte", DType::U8, &[], &data[8..9]),
                ("empty", DType::F32, &[0, 7], &[]),
                ("half", DType::Bf16, &[1], &data[17..19]),
                ("ids", DType::I64, &[1], &data[0..8]),
                ("odd", DType::F32, &[1, 2], &data[9..17]),
                ("tail", DType::F64, &[0], &[]),
            ];
            assert_eq!(source.tensors().expect("there").len(), expected.len());
            for (name, dtype, shape, bytes) in expected {
                let (info, held) = source.tensor(name).expect("open").expect("there");
                assert_eq!((info.name.as_str(), info.dtype, info.shape.as_slice()), (name, dtype, shape));
                assert_eq!(held.as_slice(), bytes, "{name} {padding}");
                assert_eq!(held.as_slice().as_ptr() as usize % dtype.size(), 0, "{name} {padding}");
                if options.no_mmap {
                    assert!(!held.is_mapped());
                }
            }
        }
    }
    let dir = folder(&[("config.json", b"{}"), ("model.safetensors", &file(&format!("{TENSOR}  "), &[3; 8]))]);
    let source = open(dir.path(), MAPPED).expect("sound");
    let (_, bytes) = source.tensor("t").expect("open").expect("there");
    assert!(bytes.is_mapped(), "an aligned tensor is not copied");
    // The bytes outlive their source, and the file's name.
    drop(source);
    drop(dir);
    assert_eq!(bytes.as_slice(), [3; 8]);
    assert_eq!(Bytes::from_vec(vec![1, 2]).len(), 2);
}

#[test]
fn progress_counts_up_and_can_abort() {
    const LEN: usize = 20 << 20;
    let header = format!(r#"{{"t":{{"dtype":"U8","shape":[{LEN}],"data_offsets":[0,{LEN}]}}}}"#);
    let bytes = file(&header, &vec![5; LEN]);
    let dir = folder(&[("config.json", b"{}"), ("model.safetensors", &bytes)]);
    for (options, reports_least) in [(MAPPED, 2), (READ, 4)] {
        let mut seen = Vec::new();
        Folder::open(dir.path(), options, &mut |done, total| {
            assert_eq!(total, bytes.len() as u64);
            seen.push(done);
            true
        })
        .expect("sound");
        assert!(seen.is_sorted() && seen.len() >= reports_least, "{seen:?}");
        assert_eq!((seen.first(), seen.last()), (Some(&0), Some(&(bytes.len() as u64))));
        for stop in 0..seen.len() {
            let mut calls = 0;
            let result = Folder::open(dir.path(), options, &mut |_, _| {
                calls += 1;
                calls <= stop
            });
            says(&result.expect_err("aborted"), Status::Aborted, &["aborted by the progress callback"]);
            assert_eq!(calls, stop + 1, "no call after the one that said stop");
        }
    }
}

/// The committed fixtures, single and sharded, read the same as through the crate.
#[test]
fn fixtures_read_like_the_crate_reads_them() {
    let mut tensors = 0;
    for dir in models::fixtures() {
        for options in [MAPPED, READ] {
            let source = open(&dir, options).expect("sound");
            let mut count = 0;
            for entry in fs::read_dir(&dir).expect("committed") {
                let path = entry.expect("readable").path();
                let name = path.file_name().and_then(|name| name.to_str()).expect("UTF-8");
                if !name.starts_with("model") || !name.ends_with(".safetensors") {
                    continue;
                }
                let bytes = fs::read(&path).expect("readable");
                for (name, view) in safetensors::SafeTensors::deserialize(&bytes).expect("sound").tensors() {
                    let (info, held) = source.tensor(&name).expect("open").expect("there");
                    assert_eq!((info.shape.as_slice(), held.as_slice()), (view.shape(), view.data()));
                    assert_eq!(info.dtype.to_string(), view.dtype().to_string().to_lowercase());
                    count += 1;
                }
            }
            assert_eq!(source.tensors().expect("there").len(), count);
            tensors += count;
        }
    }
    assert!(tensors > 200, "{tensors}");
}
