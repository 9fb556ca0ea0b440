//! A model that opens and then fails every request: the storyteller with a norm that is not a number.

use std::fs;
use std::path::Path;

/// The model's folder.
pub fn model() -> tempfile::TempDir {
    let (name, from) = ("model.norm.weight", Path::new(env!("CARGO_MANIFEST_DIR")).join("models/storyteller"));
    let dir = tempfile::tempdir().expect("a temporary folder");
    for file in fs::read_dir(&from).expect("the storyteller") {
        let file = file.expect("an entry");
        fs::copy(file.path(), dir.path().join(file.file_name())).expect("a copy");
    }
    let path = dir.path().join("model.safetensors");
    let mut bytes = fs::read(&path).expect("weights");
    let (header_len, header) = safetensors::SafeTensors::read_metadata(&bytes).expect("a header");
    let (begin, end) = header.info(name).expect("a final norm").data_offsets;
    let data = 8 + header_len;
    bytes[data + begin..data + end].fill(0xff);
    fs::write(&path, bytes).expect("written");
    dir
}
