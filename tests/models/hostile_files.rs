//! Model folders that are damaged, incomplete or hostile: each is one clear error, never a crash; and sound ones read
//! the same as the `safetensors` crate reads them.

use astrai::dtype::DType;
use astrai::source::safetensors::{Budget, Stored, parse_header};
use astrai::source::{Bytes, Folder, FolderOptions, ModelSource};
use astrai::{Error, Status, Unit, limits};
use std::fs;
use std::path::Path;

mod other_kinds;

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
fn lengths_that_lie() {
    says(&weights_error(b""), Status::Format, &["model.safetensors", "has 0 bytes", "8 bytes of header length"]);
    says(&weights_error(&[0; 7]), Status::Format, &["has 7 bytes"]);
    let cut = weights_error(&[&100u64.to_le_bytes()[..], b"{}"].concat());
    says(&cut, Status::Format, &["should have 100 bytes but only 2 follow"]);
    assert_eq!((cut.unit, cut.needed, cut.available), (Unit::Bytes, 100, 2));
    for huge in [limits::SAFETENSORS_HEADER_BYTES_MAX + 1, 4 << 30, u64::MAX, u64::MAX - 7] {
        let error = weights_error(&[&huge.to_le_bytes()[..], b"{}"].concat());
        says(&error, Status::Format, &[&format!("a header of {huge} bytes"), "more than the 100000000"]);
    }
    // Every cut of a good file is an error.
    let good = file(TENSOR, &[1; 8]);
    for len in 0..good.len() {
        weights_error(&good[..len]);
    }
    says(
        &weights_error(&good[..good.len() - 1]),
        Status::Format,
        &["\"t\" ends at byte 8", "only 7 follow", "cut off"],
    );
    let longer = weights_error(&file(TENSOR, &[1; 9]));
    says(&longer, Status::Format, &["cover 8 bytes", "holds 9"]);
}

#[test]
fn headers_that_are_no_headers() {
    let error = |header: &str| weights_error(&file(header, &[0; 8]));
    let bytes = [&4u64.to_le_bytes()[..], b"{\"\xff\""].concat();
    says(&weights_error(&bytes), Status::Format, &["header is not UTF-8 from its byte 2"]);
    let deep = "[".repeat(1 << 20);
    for bad in ["", "{", "[]", "7", "null", "{\"t\":1}", "{} {}", deep.as_str()] {
        says(&error(bad), Status::Format, &["header is not what safetensors demands"]);
    }
    let entry = |text: &str| error(&format!("{{\"the.tensor\":{text}}}"));
    for (bad, part) in [
        ("{}", "missing field `dtype`"),
        (r#"{"dtype":"F32","shape":[2]}"#, "missing field `data_offsets`"),
        (r#"{"dtype":"F32","shape":[-2],"data_offsets":[0,8]}"#, "integer `-2`"),
        (r#"{"dtype":"F32","shape":[2.5],"data_offsets":[0,8]}"#, "2.5"),
        (r#"{"dtype":"F32","shape":[1e2],"data_offsets":[0,8]}"#, "100"),
        (r#"{"dtype":"F32","shape":2,"data_offsets":[0,8]}"#, "expected a sequence"),
        (r#"{"dtype":"F32","shape":[1,1,1,1,1,1,1,1,2],"data_offsets":[0,8]}"#, "more than 8 dimensions"),
        (r#"{"dtype":"F32","shape":[2],"data_offsets":[0]}"#, "tuple of size 2"),
        (r#"{"dtype":"F32","shape":[2],"data_offsets":[0,8,9]}"#, ""),
        (r#"{"dtype":"F32","shape":[2],"data_offsets":[-1,8]}"#, "integer `-1`"),
        (r#"{"dtype":"F32","shape":[2],"data_offsets":[0,18446744073709551616]}"#, ""),
        (r#"{"dtype":7,"shape":[2],"data_offsets":[0,8]}"#, "line 1 column 24"),
    ] {
        says(&entry(bad), Status::Format, &["header is not what", "tensor \"the.tensor\"", part]);
    }
    says(&error(r#"{"__metadata__":{"a":1}}"#), Status::Format, &["__metadata__", "integer `1`"]);
    says(
        &error(r#"{"__metadata__":{},"__metadata__":{}}"#),
        Status::Format,
        &["__metadata__ stands in the header twice"],
    );
    let name = "n".repeat(100_000);
    let long = error(&format!("{{\"{name}\":1}}"));
    assert!(long.message.len() < 1000, "a long name is cut: {} bytes", long.message.len());
}

#[test]
fn tensors_that_lie() {
    let error = |header: &str| weights_error(&file(header, &[0; 16]));
    let t = |dtype: &str, shape: &str, offsets: &str| {
        error(&format!(r#"{{"t":{{"dtype":"{dtype}","shape":{shape},"data_offsets":{offsets}}}}}"#))
    };
    says(&t("F33", "[4]", "[0,16]"), Status::Format, &["tensor \"t\": unknown variant `F33`", "`BF16`"]);
    says(&t("f32", "[4]", "[0,16]"), Status::Format, &["unknown variant `f32`"]);
    for shape in ["[4294967296,4294967296]", "[18446744073709551615]", "[18446744073709551615,2,0]"] {
        says(&t("F32", shape, "[0,16]"), Status::Format, &["tensor \"t\" has shape", "too large"]);
    }
    says(&t("F32", "[3]", "[0,16]"), Status::Format, &["[3] and type F32 needs 12 bytes, its offsets hold 16"]);
    says(&t("BF16", "[4]", "[0,16]"), Status::Format, &["type BF16 needs 8 bytes, its offsets hold 16"]);
    says(&t("F4", "[3]", "[0,2]"), Status::Format, &["12 bits, which are no whole bytes"]);
    says(&t("F32", "[4]", "[16,0]"), Status::Format, &["ends at byte 0, before it begins at 16"]);
    let beyond = t("F32", "[8]", "[0,32]");
    says(&beyond, Status::Format, &["\"t\" ends at byte 32 of the data but only 16 follow"]);
    assert_eq!((beyond.needed, beyond.available), (32, 16));
    let far = "[18446744073709551600,18446744073709551604]";
    says(&t("F32", "[1]", far), Status::Format, &["leaves a gap before it: it begins at byte 18446744073709551600"]);
    says(
        &t("F32", "[2]", "[8,16]"),
        Status::Format,
        &["\"t\" leaves a gap before it", "begins at byte 8", "expected 0"],
    );

    let two = |a: &str, b: &str| {
        let entry = |offsets: &str| format!(r#"{{"dtype":"F32","shape":[2],"data_offsets":{offsets}}}"#);
        error(&format!(r#"{{"a":{},"b":{}}}"#, entry(a), entry(b)))
    };
    says(&two("[0,8]", "[4,12]"), Status::Format, &["\"b\" overlaps the tensor before it", "byte 4", "expected 8"]);
    says(&two("[0,8]", "[0,8]"), Status::Format, &["overlaps"]);
    let twice = error(
        r#"{"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]},"a":{"dtype":"F32","shape":[2],"data_offsets":[8,16]}}"#,
    );
    says(&twice, Status::Format, &["tensor \"a\" stands in the header twice"]);
}

/// A header of more tensors than allowed is refused while it is read.
#[test]
fn too_many_tensors() {
    let mut header = String::from("{");
    for i in 0..=limits::TENSORS_MAX {
        header.push_str(&format!("\"{i}\":{{\"dtype\":\"U8\",\"shape\":[0],\"data_offsets\":[0,0]}},"));
    }
    header.pop();
    header.push('}');
    let error = parse_header(header.as_bytes(), 0, "f").expect_err("too many");
    says(&error, Status::Format, &["more than 1048576 tensors"]);
}

/// Free-form strings are anybody's, and as many as a header has room for: all are read, few are kept.
#[test]
fn too_much_metadata() {
    let entries: Vec<String> = (0..300_000).map(|i| format!("\"key {i}\":\"{i}\"")).collect();
    let with = |last: &str| format!("{{\"__metadata__\":{{{},{last}}}}}", entries.join(","));
    let header = parse_header(with("\"last\":\"1\"").as_bytes(), 0, "f").expect("it is allowed");
    let bytes: usize = header.metadata.iter().map(|(key, value)| key.len() + value.len()).sum();
    assert!(bytes <= limits::METADATA_BYTES_MAX && bytes > limits::METADATA_BYTES_MAX - 32, "{bytes} bytes");
    assert_eq!(header.metadata.get("key 1").map(String::as_str), Some("1"));
    assert!(!header.metadata.contains_key("last"));
    let error = parse_header(with("\"last\":1").as_bytes(), 0, "f").expect_err("a number");
    says(&error, Status::Format, &["__metadata__"]);
}

fn index_error(index: &str) -> Error {
    let shard = file(TENSOR, &[0; 8]);
    open_error(&[
        ("config.json", b"{}"),
        ("model-1.safetensors", &shard),
        ("model-2.safetensors", &shard),
        ("model.safetensors.index.json", index.as_bytes()),
    ])
}

#[test]
fn an_index_that_lies() {
    says(&index_error("{"), Status::Format, &["index.json is not valid JSON"]);
    says(&index_error("{}"), Status::Format, &["has no weight_map"]);
    says(&index_error(r#"{"weight_map":[]}"#), Status::Format, &["weight_map is an array; an object"]);
    says(&index_error(r#"{"weight_map":{}}"#), Status::Format, &["weight_map is empty"]);
    says(&index_error(r#"{"weight_map":{"t":1}}"#), Status::Format, &["file of tensor \"t\" is a number"]);
    says(&index_error("[]"), Status::Format, &["index.json: holds an array; a JSON object is expected"]);
    let missing = index_error(r#"{"weight_map":{"t":"model-9.safetensors"}}"#);
    says(&missing, Status::Io, &["names the file \"model-9.safetensors\", which is not there", "incomplete"]);
    let some = index_error(r#"{"weight_map":{"t":"model-1.safetensors","u":"b.safetensors","v":"a.safetensors"}}"#);
    says(&some, Status::Io, &["names 3 files, of which 2 are not there: \"a.safetensors\", \"b.safetensors\""]);
    assert_eq!((some.unit, some.needed, some.available), (Unit::Count, 3, 1));
    let lacking = index_error(r#"{"weight_map":{"t":"model-1.safetensors","u":"model-1.safetensors"}}"#);
    says(&lacking, Status::Format, &["says tensor \"u\" is in \"model-1.safetensors\", which does not hold it"]);
    for name in [
        "../model-1.safetensors",
        "a/../../model-1.safetensors",
        "/etc/passwd",
        "//x.safetensors",
        "./model-1.safetensors",
        "",
        "..",
        "..\\x.safetensors",
        "C:x.safetensors",
        "\\\\server\\x.safetensors",
        "a\u{0}.safetensors",
        "config.json",
    ] {
        let index = serde_json::json!({"weight_map": {"t": name}}).to_string();
        says(&index_error(&index), Status::Format, &["index.json: names the file", ", wh"]);
    }
    let many: serde_json::Map<_, _> =
        (0..=limits::SHARDS_MAX).map(|i| (i.to_string(), format!("{i}.safetensors").into())).collect();
    let index = serde_json::json!({"weight_map": many}).to_string();
    says(&index_error(&index), Status::Format, &["names 1025 files, more than 1024"]);
}

/// Two files of `t`, with different contents; `b` has `u` in front of it and behind.
fn two_shards(weight_map: &str) -> tempfile::TempDir {
    let header = r#"{"u":{"dtype":"U8","shape":[1],"data_offsets":[0,1]},"t":{"dtype":"F32","shape":[2],"data_offsets":[1,9]},"w":{"dtype":"U8","shape":[1],"data_offsets":[9,10]},"x":{"dtype":"U8","shape":[2],"data_offsets":[10,12]}}"#;
    folder(&[
        ("config.json", b"{}"),
        ("a.safetensors", &file(TENSOR, &[7; 8])),
        ("b.safetensors", &file(header, &[0, 1, 1, 1, 1, 1, 1, 1, 1, 2, 3, 3])),
        ("model.safetensors.index.json", format!(r#"{{"weight_map":{{{weight_map}}}}}"#).as_bytes()),
    ])
}

#[test]
fn of_a_tensor_in_two_shards_the_one_the_index_names_counts() {
    for (place, bytes) in [("a", [7; 8]), ("b", [1; 8])] {
        let map = format!(r#""t":"{place}.safetensors","u":"b.safetensors","w":"b.safetensors","y":"a.safetensors""#);
        // The index has to name the other file, too, and may leave tensors out.
        let dir = two_shards(&map.replace(r#","y":"a.safetensors""#, ""));
        for options in [MAPPED, READ] {
            let mut seen = (0, 0);
            let source = Folder::open(dir.path(), options, &mut |done, total| {
                seen = (done, total);
                true
            });
            let source = source.expect("the index decides");
            let tensor = |name: &str| source.tensor(name).expect("open").expect("there").1.as_slice().to_vec();
            assert_eq!(
                (tensor("t"), tensor("u"), tensor("w"), tensor("x")),
                (bytes.into(), vec![0], vec![2], vec![3, 3])
            );
            assert_eq!(seen.0, seen.1, "all bytes are accounted for");
            assert_eq!(source.warnings().len(), usize::from(place == "a"), "{:?}", source.warnings());
        }
    }
    let both = r#""t":"a.safetensors","u":"b.safetensors""#;
    let dir = two_shards(both);
    let source = open(dir.path(), MAPPED).expect("the index decides");
    let [warning] = source.warnings() else { panic!("{:?}", source.warnings()) };
    assert!(
        warning.contains("tensor \"t\" is in \"b.safetensors\" too, but the index names \"a.safetensors\""),
        "{warning}"
    );
}

#[test]
fn a_tensor_in_two_shards_that_the_index_does_not_name() {
    let shard = |other: &str| {
        let header = format!(
            r#"{{"{other}":{{"dtype":"U8","shape":[1],"data_offsets":[8,9]}},"t":{{"dtype":"F32","shape":[2],"data_offsets":[0,8]}}}}"#
        );
        file(&header, &[0; 9])
    };
    let error = open_error(&[
        ("config.json", b"{}"),
        ("a.safetensors", &shard("u")),
        ("b.safetensors", &shard("v")),
        ("model.safetensors.index.json", br#"{"weight_map":{"u":"a.safetensors","v":"b.safetensors"}}"#),
    ]);
    says(&error, Status::Format, &["tensor \"t\" is in both", "a.safetensors", "b.safetensors", "does not say which"]);
}

/// The tensors of all files count while they are read: the second is refused before its tensors are kept.
#[test]
fn too_many_tensors_in_several_files() {
    let shard = |file: usize, count: usize| {
        let mut header = String::from("{");
        for i in 0..count {
            header.push_str(&format!("\"{file}.{i}\":{{\"dtype\":\"U8\",\"shape\":[0],\"data_offsets\":[0,0]}},"));
        }
        header.pop();
        header.push('}');
        self::file(&header, &[])
    };
    let half = limits::TENSORS_MAX / 2;
    let map = r#"{"weight_map":{"0.0":"0.safetensors","1.0":"1.safetensors"}}"#;
    let dir = folder(&[
        ("config.json", b"{}"),
        ("0.safetensors", &shard(0, half)),
        ("1.safetensors", &shard(1, half + 1)),
        ("model.safetensors.index.json", map.as_bytes()),
    ]);
    let error = Folder::headers(dir.path(), false).expect_err("one too many");
    says(&error, Status::Format, &["1.safetensors", "more than 1048576 tensors, with those of the files before"]);
}

/// The headers of all files together have a limit, and what would exceed it is not read.
#[test]
fn too_many_bytes_of_headers() {
    let (mut budget, each) = (Budget::default(), limits::SAFETENSORS_HEADER_BYTES_MAX);
    for _ in 0..limits::CHECKPOINT_HEADER_BYTES_MAX / each {
        budget.take_header(each, "f").expect("within the limit");
    }
    let error = budget.take_header(each, "f").expect_err("too much");
    says(&error, Status::Format, &["headers of the checkpoint's files", "300000000 bytes, more than the 268435456"]);
    assert_eq!((error.unit, error.needed, error.available), (Unit::Bytes, 300_000_000, 268_435_456));
}

#[test]
fn shards_are_joined_and_sorted() {
    let one = |name: &str, value: u8| {
        file(&format!(r#"{{"{name}":{{"dtype":"U8","shape":[1],"data_offsets":[0,1]}}}}"#), &[value])
    };
    let index = r#"{"metadata":{"total_size":3},"weight_map":{"b":"x.safetensors","a":"sub/y.safetensors"}}"#;
    let dir = folder(&[
        ("config.json", b"{}"),
        ("x.safetensors", &one("b", 2)),
        ("sub/y.safetensors", &one("a", 1)),
        ("model.safetensors.index.json", index.as_bytes()),
    ]);
    for options in [MAPPED, READ] {
        let source = open(dir.path(), options).expect("sound");
        let names: Vec<_> = source.tensors().expect("there").iter().map(|t| t.name.as_str()).collect();
        assert_eq!(names, ["a", "b"]);
        let byte = |name| source.tensor(name).expect("open").expect("there").1.as_slice().to_vec();
        assert_eq!((byte("a"), byte("b")), (vec![1], vec![2]));
        assert!(source.tensor("c").expect("open").is_none());
    }
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

/// The committed fixtures, single and sharded, read the same as through the crate.
#[test]
fn fixtures_read_like_the_crate_reads_them() {
    let fixtures = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/parity");
    let mut tensors = 0;
    for entry in fs::read_dir(&fixtures).expect("committed") {
        let dir = entry.expect("readable").path();
        if !dir.join("config.json").is_file() {
            continue;
        }
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

/// Whatever the header reader accepts, the crate accepts and reads the same: over random damage to a sound file.
#[test]
fn damage_is_never_read_otherwise_than_by_the_crate() {
    const SEED: u64 = 42;
    let header = concat!(
        r#"{"__metadata__":{"a":"b"},"x":{"dtype":"F32","shape":[2,1],"data_offsets":[0,8]},"#,
        r#""y":{"dtype":"BF16","shape":[3],"data_offsets":[8,14]},"z":{"dtype":"U8","shape":[0],"data_offsets":[14,14]}}"#
    );
    let good = file(header, &[7; 14]);
    let mut state = SEED;
    let mut next = |below: usize| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) as usize % below
    };
    let alphabet = b"0123456789,:[]{}\"-. xyFBU\\e";
    let (mut accepted, mut refused) = (0, 0);
    for round in 0..60_000 {
        let mut bytes = good.clone();
        for _ in 0..1 + next(2) {
            let at = 8 + next(header.len());
            match next(3) {
                0 => bytes[at] = alphabet[next(alphabet.len())],
                1 => bytes[at] ^= 1 << next(8),
                _ => bytes.swap(at, 8 + next(header.len())),
            }
        }
        let Some((prefix, rest)) = bytes.split_first_chunk::<8>() else { unreachable!() };
        let len = u64::from_le_bytes(*prefix) as usize;
        let Ok(ours) = parse_header(&rest[..len], (rest.len() - len) as u64, "f") else {
            refused += 1;
            continue;
        };
        accepted += 1;
        let context = || format!("seed {SEED} round {round}: {}", String::from_utf8_lossy(&rest[..len]));
        let (_, theirs) =
            safetensors::SafeTensors::read_metadata(&bytes).unwrap_or_else(|e| panic!("{e}: {}", context()));
        assert_eq!(ours.tensors.len(), theirs.tensors().len(), "{}", context());
        for Stored { info, begin, end } in ours.tensors {
            let other = theirs.info(&info.name).unwrap_or_else(|| panic!("{}", context()));
            assert_eq!((info.shape, (begin as usize, end as usize)), (other.shape.clone(), other.data_offsets));
            assert_eq!(info.dtype.bits(), other.dtype.bitsize());
        }
    }
    println!("seed {SEED}: {accepted} accepted, {refused} refused");
    assert!(accepted > 500 && refused > 5000, "{accepted} {refused}");
}
