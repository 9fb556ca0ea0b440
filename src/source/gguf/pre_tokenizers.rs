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
    /// By an expression.
    By(&'static str),
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

static PRE_TOKENIZERS: [PreTokenizer; 8] = [
    PreTokenizer { names: &["gpt-2"], split: Split::Gpt2, ignore_merges: false, compose: false, begins: false },
    PreTokenizer {
        names: &["smollm", "starcoder"],
        split: Split::Digits,
        ignore_merges: false,
        compose: false,
        begins: false,
    },
    PreTokenizer {
        names: &["llama-bpe", "llama3", "llama-v3"],
        split: Split::By(LLAMA3),
        ignore_merges: true,
        compose: false,
        begins: true,
    },
    PreTokenizer {
        names: &["dbrx", "smaug-bpe"],
        split: Split::By(LLAMA3),
        ignore_merges: false,
        compose: false,
        begins: false,
    },
    PreTokenizer {
        names: &["qwen2", "deepseek-r1-qwen"],
        split: Split::By(QWEN2),
        ignore_merges: false,
        compose: true,
        begins: false,
    },
    PreTokenizer { names: &["tekken"], split: Split::By(TEKKEN), ignore_merges: true, compose: false, begins: true },
    PreTokenizer { names: &["gpt-4o"], split: Split::By(GPT4O), ignore_merges: false, compose: false, begins: false },
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
            Split::Digits => [json!({ "type": "Digits", "individual_digits": true }), bytes(true)],
            Split::By(expression) => {
                let pattern = json!({ "Regex": expression });
                [json!({ "type": "Split", "pattern": pattern, "behavior": "Isolated", "invert": false }), bytes(false)]
            }
        };
        json!({ "type": "Sequence", "pretokenizers": steps })
    }
}
