//! Writes a random model as a folder, so that other engines can be measured on the very weights `astrai bench` makes.

use crate::failure::{Failure, Outcome};
use astrai::source::safetensors::PREFIX_BYTES;
use astrai::source::{ModelSource, Synthetic};
use serde_json::{Map, Value, json};
use std::fs;
use std::io::{BufWriter, Write};
use std::path::Path;

/// Where the tensors begin in the file is a multiple of this: a cache line.
const ALIGNMENT: usize = 64;

/// Writes `config.json` and `model.safetensors` into `dir`, which is made. There is no tokenizer: prompts are token ids.
///
/// # Errors
/// `Message` with the file that could not be written.
pub fn save(model: &Synthetic, dir: &Path) -> Outcome {
    let fail = |path: &Path, error: std::io::Error| {
        Failure::Message(format!("cannot write {}: {error}; choose another folder for --save", path.display()))
    };
    fs::create_dir_all(dir).map_err(|e| fail(dir, e))?;
    let path = dir.join("config.json");
    fs::write(&path, format!("{:#}\n", model.config()?)).map_err(|e| fail(&path, e))?;
    let header = header(model)?;
    let path = dir.join("model.safetensors");
    let mut file = BufWriter::new(fs::File::create(&path).map_err(|e| fail(&path, e))?);
    let length = (header.len() as u64).to_le_bytes();
    file.write_all(&length).and_then(|()| file.write_all(header.as_bytes())).map_err(|e| fail(&path, e))?;
    for info in model.tensors()? {
        if let Some((_, bytes)) = model.tensor(&info.name)? {
            file.write_all(bytes.as_slice()).map_err(|e| fail(&path, e))?;
        }
    }
    file.flush().map_err(|e| fail(&path, e))
}

/// The header, padded with spaces so that the tensors begin aligned and can be used where they are mapped.
fn header(model: &Synthetic) -> Outcome<String> {
    let mut entries = Map::new();
    entries.insert("__metadata__".to_owned(), json!({"format": "pt"}));
    let mut at = 0u64;
    for info in model.tensors()? {
        let bytes = info.shape.iter().map(|&d| d as u64).product::<u64>() * info.dtype.size() as u64;
        let dtype = info.dtype.to_string().to_uppercase();
        let entry = json!({"dtype": dtype, "shape": info.shape, "data_offsets": [at, at + bytes]});
        entries.insert(info.name.clone(), entry);
        at += bytes;
    }
    let mut header = Value::Object(entries).to_string();
    let aligned = (header.len() + PREFIX_BYTES as usize).next_multiple_of(ALIGNMENT) - PREFIX_BYTES as usize;
    header.extend(std::iter::repeat_n(' ', aligned - header.len()));
    Ok(header)
}
