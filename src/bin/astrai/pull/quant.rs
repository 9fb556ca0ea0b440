//! The quantized files of a repository: which belong together, what they are called, which is better.

use super::hub::RemoteFile;
use std::collections::BTreeMap;

/// Quants by quality, best first, as far as anybody hears a difference: 8 bits are as good as 16 at half the size and twice the
/// speed, so that wider ones come last.
const BY_QUALITY: [&str; 47] = [
    "Q8_K_XL",
    "Q8_0",
    "Q6_K_XL",
    "Q6_K_L",
    "Q6_K",
    "Q5_K_XL",
    "Q5_K_L",
    "Q5_K_M",
    "Q5_1",
    "Q5_K_S",
    "Q5_0",
    "Q4_K_XL",
    "Q4_K_L",
    "Q4_K_M",
    "Q4_1",
    "MXFP4_MOE",
    "MXFP4",
    "Q4_K_S",
    "IQ4_NL",
    "IQ4_XS",
    "Q4_0",
    "Q3_K_XL",
    "Q3_K_L",
    "IQ3_M",
    "Q3_K_M",
    "IQ3_S",
    "IQ3_XS",
    "Q3_K_S",
    "IQ3_XXS",
    "Q2_K_XL",
    "Q2_K_L",
    "Q2_K",
    "IQ2_M",
    "IQ2_S",
    "Q2_K_S",
    "IQ2_XS",
    "IQ2_XXS",
    "TQ2_0",
    "IQ1_M",
    "TQ1_0",
    "IQ1_S",
    "TQ1",
    "BF16",
    "F16",
    "FP16",
    "F32",
    "FP32",
];
/// Variants named in a message, at most.
const NAMED_MAX: usize = 60;

/// One model in one precision: a file, or all its parts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Variant {
    /// Its name in messages and in `:quant`, as in `Q4_K_M`; the file's name where that says nothing.
    pub label: String,
    /// Its name without the part's number and the ending, folders included.
    stem: String,
    /// In their order.
    pub files: Vec<RemoteFile>,
    /// Of all files, as far as they are known.
    pub bytes: u64,
    /// Parts that its names announce.
    parts: usize,
}

impl Variant {
    /// Place in [`BY_QUALITY`].
    pub fn rank(&self) -> usize {
        let label = self.label.to_ascii_uppercase();
        let plain = label.strip_prefix("UD-").unwrap_or(&label);
        BY_QUALITY.iter().position(|name| *name == plain).unwrap_or(BY_QUALITY.len())
    }
}

/// The models among the files; projectors of images and calibration data are none.
pub fn variants(files: &[RemoteFile]) -> Vec<Variant> {
    let mut found: BTreeMap<String, Variant> = BTreeMap::new();
    for file in files {
        let lower = file.name.to_ascii_lowercase();
        let Some(stem) = lower.ends_with(".gguf").then(|| &file.name[..file.name.len() - ".gguf".len()]) else {
            continue;
        };
        let base = lower.rsplit('/').next().unwrap_or(&lower);
        if base.contains("mmproj") || base.contains("imatrix") {
            continue;
        }
        let (stem, parts) = split(stem);
        let variant = found.entry(stem.to_owned()).or_insert_with(|| Variant {
            label: label(stem),
            stem: stem.to_owned(),
            files: Vec::new(),
            bytes: 0,
            parts,
        });
        variant.bytes = variant.bytes.saturating_add(file.bytes.unwrap_or(0));
        variant.files.push(file.clone());
    }
    let mut found: Vec<Variant> = found.into_values().collect();
    for variant in &mut found {
        variant.files.sort_by(|a, b| a.name.cmp(&b.name));
    }
    found.retain(|variant| variant.files.len() == variant.parts);
    found.sort_by(|a, b| a.rank().cmp(&b.rank()).then(b.bytes.cmp(&a.bytes)));
    found
}

/// The variant that `quant` names, in small or large letters: a whole file, a label, or the end of a name.
///
/// # Errors
/// What there is, if none or several are meant.
pub fn named<'a>(variants: &'a [Variant], quant: &str) -> Result<&'a Variant, String> {
    let quant = quant.to_ascii_lowercase();
    let whole = |variant: &Variant| {
        variant.files.iter().any(|file| {
            let name = file.name.to_ascii_lowercase();
            let base = name.rsplit('/').next().unwrap_or(&name);
            [&*name, base].into_iter().any(|name| name == quant || name.strip_suffix(".gguf") == Some(&quant))
        }) || variant.stem.eq_ignore_ascii_case(&quant)
    };
    let label = |variant: &Variant| variant.label.eq_ignore_ascii_case(&quant);
    let end = |variant: &Variant| {
        let stem = variant.stem.to_ascii_lowercase();
        stem.strip_suffix(&quant).is_some_and(|rest| rest.ends_with(['-', '.', '_', '/']))
    };
    let ways: [&dyn Fn(&Variant) -> bool; 3] = [&whole, &label, &end];
    for way in ways {
        let meant: Vec<&Variant> = variants.iter().filter(|variant| way(variant)).collect();
        match meant[..] {
            [] => {}
            [one] => return Ok(one),
            _ => {
                let names: Vec<&str> = meant.iter().map(|variant| &*variant.files[0].name).collect();
                return Err(format!("{quant} may mean {}; name the whole file", names.join(" or ")));
            }
        }
    }
    Err(format!("there is no {quant}; there is {}", list(variants)))
}

/// Labels and sizes, for messages.
pub fn list(variants: &[Variant]) -> String {
    let named = variants.iter().take(NAMED_MAX);
    let mut text = named
        .map(|variant| match variant.bytes {
            0 => variant.label.clone(),
            bytes => format!("{} ({})", variant.label, indicatif::BinaryBytes(bytes)),
        })
        .collect::<Vec<_>>()
        .join(", ");
    if variants.len() > NAMED_MAX {
        text += &format!(" and {} more", variants.len() - NAMED_MAX);
    }
    if text.is_empty() { "no quantized file".to_owned() } else { text }
}

/// A name without `-00001-of-00003`, and how many parts there are.
fn split(stem: &str) -> (&str, usize) {
    let parts = || {
        let (rest, count) = stem.rsplit_once("-of-")?;
        let (rest, number) = rest.rsplit_once('-')?;
        let digits = |text: &str| text.len() == 5 && text.bytes().all(|b| b.is_ascii_digit());
        (digits(number) && digits(count)).then_some((rest, count.parse().ok()?))
    };
    parts().unwrap_or((stem, 1))
}

/// The quant in a name: the last piece of it that is one, in the file's own name or its folder's.
fn label(stem: &str) -> String {
    for part in stem.rsplit('/') {
        let pieces: Vec<&str> = part.split(['-', '.']).collect();
        for (at, piece) in pieces.iter().enumerate().rev() {
            if is_quant(piece) {
                let marked = at > 0 && pieces[at - 1].eq_ignore_ascii_case("UD");
                return if marked { format!("UD-{piece}") } else { (*piece).to_owned() };
            }
        }
    }
    stem.rsplit('/').next().unwrap_or(stem).to_owned()
}

/// Whether a piece of a name is that of a quant, known or not.
fn is_quant(piece: &str) -> bool {
    let upper = piece.to_ascii_uppercase();
    if BY_QUALITY.contains(&&*upper) {
        return true;
    }
    let digits = ["IQ", "TQ", "Q"].into_iter().find_map(|start| upper.strip_prefix(start)).unwrap_or("");
    let mut chars = digits.chars();
    chars.next().is_some_and(|c| c.is_ascii_digit())
        && chars.next().is_none_or(|c| c == '_')
        && chars.all(|c| c.is_ascii_alphanumeric() || c == '_')
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(names: &[(&str, u64)]) -> Vec<Variant> {
        let file =
            |(name, bytes): &(&str, u64)| RemoteFile { name: (*name).to_owned(), bytes: Some(*bytes), hash: None };
        variants(&names.iter().map(file).collect::<Vec<_>>())
    }

    const MANY: [(&str, u64); 9] = [
        ("README.md", 1),
        ("m-Q4_K_M.gguf", 40),
        ("m-UD-Q4_K_M.gguf", 41),
        ("m-q8_0.gguf", 80),
        ("BF16/m-BF16-00002-of-00002.gguf", 90),
        ("BF16/m-BF16-00001-of-00002.gguf", 70),
        ("broken-Q6_K-00001-of-00003.gguf", 60),
        ("mmproj-m-F16.gguf", 9),
        ("m.imatrix.gguf", 9),
    ];

    #[test]
    fn parts_belong_together_and_better_ones_come_first() {
        let found = of(&MANY);
        let told: Vec<_> = found.iter().map(|v| (&*v.label, v.bytes, v.files.len())).collect();
        assert_eq!(told, [("q8_0", 80, 1), ("UD-Q4_K_M", 41, 1), ("Q4_K_M", 40, 1), ("BF16", 160, 2)]);
        assert!(found[3].files[0].name.ends_with("00001-of-00002.gguf"));
    }

    #[test]
    fn a_quant_is_named_by_label_file_or_end() {
        let found = of(&MANY);
        for (quant, label) in [
            ("Q8_0", "q8_0"),
            ("q4_k_m", "Q4_K_M"),
            ("ud-Q4_K_M", "UD-Q4_K_M"),
            ("m-q8_0.gguf", "q8_0"),
            ("M-Q8_0", "q8_0"),
            ("bf16", "BF16"),
            ("BF16/m-BF16-00001-of-00002.gguf", "BF16"),
            ("BF16/m-bf16", "BF16"),
        ] {
            assert_eq!(named(&found, quant).map(|v| &*v.label), Ok(label), "{quant}");
        }
        let missing = named(&found, "Q2_K").unwrap_err();
        assert!(
            missing.contains("no q2_k") && missing.contains("Q4_K_M (40 B)") && missing.contains("BF16"),
            "{missing}"
        );
        let two = of(&[("a/x-Q4_0.gguf", 1), ("b/y-Q4_0.gguf", 1)]);
        assert!(named(&two, "Q4_0").unwrap_err().contains("a/x-Q4_0.gguf or b/y-Q4_0.gguf"));
        assert_eq!(named(&two, "b/y-Q4_0").map(|v| &*v.stem), Ok("b/y-Q4_0"));
    }

    #[test]
    fn labels_are_what_names_have_for_them() {
        for (stem, expected) in [
            ("Qwen3-0.6B-Q8_0", "Q8_0"),
            ("model.q4_k_s", "q4_k_s"),
            ("x-UD-IQ2_XXS", "UD-IQ2_XXS"),
            ("Q6_K/llama", "Q6_K"),
            ("plain", "plain"),
            ("gpt-oss-20b-mxfp4", "mxfp4"),
            ("x-Q4_0_4_4", "Q4_0_4_4"),
            ("Qwen-7B", "Qwen-7B"),
        ] {
            assert_eq!(label(stem), expected);
        }
        assert_eq!(split("x-00001-of-00003"), ("x", 3));
        assert_eq!(split("x-1-of-3"), ("x-1-of-3", 1));
    }
}
