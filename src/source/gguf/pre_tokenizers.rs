//! How the words of a byte-level vocabulary are found: `tokenizer.ggml.pre` names it, this table has the steps that the
//! `tokenizer.json` of those models has. A name stands here once its steps are known to be those; others are refused.

use serde_json::{Value, json};

/// What a name stands for.
pub struct PreTokenizer {
    /// Names in files.
    names: &'static [&'static str],
    /// What is split before bytes become characters; `None` = as GPT-2 does.
    split: Split,
    /// Words that are a token are not merged from their bytes.
    pub ignore_merges: bool,
    /// Text is composed first (Unicode NFC).
    pub compose: bool,
    /// A beginning of sequence is added where the metadata does not say.
    pub begins: bool,
}

enum Split {
    /// By GPT-2's expression.
    Gpt2,
    /// Digits one by one, then by GPT-2's expression.
    Digits,
    /// By expressions, one after the other.
    By(&'static [&'static str]),
}

/// Llama 3: digits in threes.
const LLAMA3: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
/// Qwen 2: digits one by one.
const QWEN2: &str =
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
/// Mistral's Tekken: words end where small letters are followed by capitals.
const TEKKEN: &str = r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+";

/// OpenAI's o200k: as Tekken, with digits in threes and contractions at the end of words.
const GPT4O: &str = r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+";

/// Qwen 3.5: as Qwen 2, with marks beside their letters.
const QWEN35: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?[\p{L}\p{M}]+|\p{N}| ?[^\s\p{L}\p{M}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
/// Seed: as Qwen 2, but no line ends after punctuation.
const SEED: &str =
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1}| ?[^\s\p{L}\p{N}\r\n]+|\s*[\r\n]+|\s+(?!\S)|\s+";
/// DeepSeek V1 and V2: line ends, words of scripts with cases but for those that its list of letters lacks (Georgian and Armenian
/// small letters, mathematical ones and others), ASCII and full-width punctuation, spaces at the end, Han and its
/// neighbours, digits one by one.
const DEEPSEEK: &[&str] = &[
    r"[\r\n]",
    concat!(
        r"\s?(?:(?![\u{560}-\u{588}\u{10C7}\u{10CD}\u{10D0}-\u{10FF}\u{1C80}-\u{1C8A}\u{2D00}-\u{2D2D}\u{A790}-\u{A7FA}\u{AB30}-\u{AB68}",
        r"\u{10570}-\u{105BC}\u{10D50}-\u{10D85}\u{16E40}-\u{16E7F}\u{1D400}-\u{1D7CB}\u{1DF00}-\u{1DF2A}])[\p{Lu}\p{Ll}\p{Lt}])+"
    ),
    r"\s?[!-/:-~！-／：-～‘-‟\u{3000}-。]+",
    r"\s+$",
    r"[一-龥ࠀ-一가-\u{D7FF}]+",
    r"\p{N}",
];
/// DeepSeek V3: digits in threes, Han and kana, then words, with a sign before the letters of one.
const DEEPSEEK3: &[&str] = &[
    r"\p{N}{1,3}",
    r"[一-龥぀-ゟ゠-ヿ]+",
    r##"[!"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+| ?[\p{P}\p{S}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"##,
];

static PRE_TOKENIZERS: [PreTokenizer; 15] = [
    PreTokenizer {
        names: &["gpt-2", "phi-2"],
        split: Split::Gpt2,
        ignore_merges: false,
        compose: false,
        begins: false,
    },
    PreTokenizer { names: &["olmo"], split: Split::Gpt2, ignore_merges: false, compose: true, begins: false },
    PreTokenizer {
        names: &["smollm", "starcoder", "refact", "mellum2"],
        split: Split::Digits,
        ignore_merges: false,
        compose: false,
        begins: false,
    },
    PreTokenizer {
        names: &["llama-bpe", "llama3", "llama-v3", "falcon3", "falcon-h1", "lfm2"],
        split: Split::By(&[LLAMA3]),
        ignore_merges: true,
        compose: false,
        begins: true,
    },
    PreTokenizer {
        names: &["dbrx", "smaug-bpe", "glm4", "chatglm-bpe"],
        split: Split::By(&[LLAMA3]),
        ignore_merges: false,
        compose: false,
        begins: false,
    },
    PreTokenizer {
        names: &["qwen2", "deepseek-r1-qwen"],
        split: Split::By(&[QWEN2]),
        ignore_merges: false,
        compose: true,
        begins: false,
    },
    PreTokenizer {
        names: &["stablelm2"],
        split: Split::By(&[QWEN2]),
        ignore_merges: false,
        compose: false,
        begins: false,
    },
    PreTokenizer {
        names: &["qwen35"],
        split: Split::By(&[QWEN35]),
        ignore_merges: false,
        compose: true,
        begins: false,
    },
    PreTokenizer {
        names: &["seed-coder"],
        split: Split::By(&[SEED]),
        ignore_merges: false,
        compose: false,
        begins: false,
    },
    PreTokenizer {
        names: &["deepseek-llm"],
        split: Split::By(DEEPSEEK),
        ignore_merges: false,
        compose: false,
        begins: true,
    },
    PreTokenizer {
        names: &["deepseek-v3"],
        split: Split::By(DEEPSEEK3),
        ignore_merges: false,
        compose: false,
        begins: true,
    },
    PreTokenizer {
        names: &["hunyuan-dense"],
        split: Split::By(DEEPSEEK3),
        ignore_merges: false,
        compose: false,
        begins: false,
    },
    PreTokenizer { names: &["tekken"], split: Split::By(&[TEKKEN]), ignore_merges: true, compose: false, begins: true },
    PreTokenizer {
        names: &["gpt-4o"],
        split: Split::By(&[GPT4O]),
        ignore_merges: false,
        compose: false,
        begins: false,
    },
    PreTokenizer { names: &["command-r"], split: Split::Digits, ignore_merges: false, compose: true, begins: true },
];

/// The one of this name.
pub fn find(name: &str) -> Option<&'static PreTokenizer> {
    PRE_TOKENIZERS.iter().find(|known| known.names.contains(&name))
}

/// All names.
pub fn names() -> impl Iterator<Item = &'static str> {
    PRE_TOKENIZERS.iter().flat_map(|known| known.names.iter().copied())
}

impl PreTokenizer {
    /// `pre_tokenizer` of a `tokenizer.json`.
    pub fn json(&self) -> Value {
        let bytes = |use_regex: bool| json!({ "type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": use_regex });
        let steps = match self.split {
            Split::Gpt2 => return bytes(true),
            Split::Digits => vec![json!({ "type": "Digits", "individual_digits": true }), bytes(true)],
            Split::By(expressions) => {
                let split = |expression| {
                    let pattern = json!({ "Regex": expression });
                    json!({ "type": "Split", "pattern": pattern, "behavior": "Isolated", "invert": false })
                };
                expressions.iter().map(split).chain([bytes(false)]).collect()
            }
        };
        json!({ "type": "Sequence", "pretokenizers": steps })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokenizers::{
        OffsetReferential, OffsetType, PreTokenizedString, PreTokenizer as _, pre_tokenizers::PreTokenizerWrapper,
    };

    fn words(name: &str, text: &str) -> Vec<String> {
        let steps = find(name).expect("known").json();
        let steps: PreTokenizerWrapper = serde_json::from_value(steps).expect("steps of a tokenizer.json");
        let mut cut = PreTokenizedString::from(text);
        steps.pre_tokenize(&mut cut).expect("cut into words");
        let words = cut.get_splits(OffsetReferential::Original, OffsetType::Byte).into_iter();
        words.map(|(_, (begin, end), _)| text[begin..end].to_owned()).collect()
    }

    #[test]
    fn every_name_has_steps_that_lose_nothing() {
        let text = "He'll  pay 12345.50€ for\r\n 漢字とカナ, ÀÉ ა ʔ; don't\t!\n ";
        for name in names() {
            assert_eq!(words(name, text).concat(), text, "{name}");
        }
        let mut all: Vec<_> = names().collect();
        all.sort_unstable();
        all.dedup();
        assert_eq!(all.len(), names().count(), "a name stands twice");
    }

    #[test]
    fn words_are_cut_as_their_models_cut_them() {
        let cut = |name, text| words(name, text).join("|");
        assert_eq!(cut("deepseek-llm", "Über 123 %x\n漢字。  "), "Ü|ber| |1|2|3| %|x|\n|漢字|。|  ");
        assert_eq!(cut("deepseek-llm", "Ⴀაba"), "Ⴀ|ა|ba");
        assert_eq!(cut("deepseek-v3", "a12345 漢字kana .name x! \n"), "a|123|45| |漢字|kana| .|name| x|!| \n");
        assert_eq!(cut("qwen35", "कि 12 x"), "कि| |1|2| x");
        assert_eq!(cut("qwen2", "कि 12 x"), "क|\u{93f}| |1|2| x");
        assert_eq!(cut("seed-coder", "a!\nb"), "a|!|\n|b");
        assert_eq!(cut("qwen2", "a!\nb"), "a|!\n|b");
        assert_eq!(cut("glm4", "it's 12345"), "it|'s| |123|45");
        assert_eq!(cut("olmo", "it's 12345"), "it|'s| 12345");
        assert_eq!(cut("refact", "it's 12345"), "it|'s| |1|2|3|4|5");
    }
}
