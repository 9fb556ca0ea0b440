//! Weights in several files: the index that names them, and what holds for all of them together.

use super::{MAPPED, READ, TENSOR, file, folder, open, open_error, says};
use astrai::source::safetensors::Budget;
use astrai::source::{Folder, ModelSource};
use astrai::{Error, Status, Unit, limits};

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
