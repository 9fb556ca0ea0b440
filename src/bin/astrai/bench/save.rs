//! Writes a random model as a folder, so that other engines can be measured on the very weights `astrai bench` makes.

use crate::failure::{Failure, Outcome};
use astrai::source::{ModelSource, Synthetic, TensorFile};
use std::fs;
use std::io::{BufWriter, Write};
use std::path::Path;

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
    let held = model.tensors()?.iter().filter_map(|info| model.tensor(&info.name).transpose());
    let held = held.collect::<astrai::Result<Vec<_>>>()?;
    let tensors: Vec<_> = held.iter().map(|(info, bytes)| (info.clone(), bytes.as_slice())).collect();
    let header = TensorFile::header(&[("format", "pt")], &tensors)?;
    let path = dir.join("model.safetensors");
    let mut file = BufWriter::new(fs::File::create(&path).map_err(|e| fail(&path, e))?);
    file.write_all(&header).map_err(|e| fail(&path, e))?;
    for (_, bytes) in &tensors {
        file.write_all(bytes).map_err(|e| fail(&path, e))?;
    }
    file.flush().map_err(|e| fail(&path, e))
}
