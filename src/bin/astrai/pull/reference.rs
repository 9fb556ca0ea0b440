//! Names of models on a hub: `hf://owner/name[@revision][:quant]`.

use crate::failure::{Failure, Outcome};
use std::fmt;
use std::path::Path;

/// What such a name begins with.
const SCHEME: &str = "hf://";
/// The revision when none is named: the default branch.
const REVISION_DEFAULT: &str = "main";
/// Longest name of a repository, owner included, in bytes: the hub's own limit.
const REPOSITORY_BYTES_MAX: usize = 96;
/// Longest revision and quant, in bytes.
const PART_BYTES_MAX: usize = 255;
/// Digits of a commit.
const COMMIT_DIGITS: usize = 40;

/// A model of a hub.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reference {
    /// `owner/name`.
    pub repository: String,
    /// Branch, tag or commit.
    pub revision: String,
    /// Which of several quantized files: what is in their names, or a whole name.
    pub quant: Option<String>,
}

impl Reference {
    /// Whether a word is meant as such a name, well formed or not.
    pub fn is_meant(word: &Path) -> bool {
        word.as_os_str().as_encoded_bytes().starts_with(SCHEME.as_bytes())
    }

    /// Takes the name apart.
    ///
    /// # Errors
    /// `Usage` when it is not well formed.
    pub fn parse(text: &str) -> Outcome<Reference> {
        let wrong = |what: &str| {
            Failure::Usage(format!("\"{text}\" names no model: {what}; expected hf://owner/name[@revision][:quant]"))
        };
        let Some(rest) = text.strip_prefix(SCHEME) else {
            let hint =
                if text.split('/').count() == 2 { "it does not begin with hf://" } else { "it is no hf:// name" };
            return Err(wrong(hint));
        };
        let (rest, quant) = match rest.split_once(':') {
            Some((rest, quant)) => (rest, Some(quant)),
            None => (rest, None),
        };
        let (repository, revision) = rest.split_once('@').unwrap_or((rest, REVISION_DEFAULT));
        let Some((owner, name)) = repository.split_once('/') else {
            return Err(wrong("there is no owner"));
        };
        if !is_repository_part(owner) || !is_repository_part(name) || repository.len() > REPOSITORY_BYTES_MAX {
            return Err(wrong("owner and name have letters, digits, '-', '_' and '.'"));
        }
        if !is_revision(revision) {
            return Err(wrong("that is no revision"));
        }
        if quant
            .is_some_and(|quant| quant.is_empty() || quant.len() > PART_BYTES_MAX || quant.contains(char::is_control))
        {
            return Err(wrong("that is no quant"));
        }
        Ok(Reference {
            repository: repository.to_owned(),
            revision: revision.to_owned(),
            quant: quant.map(str::to_owned),
        })
    }
}

impl fmt::Display for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{SCHEME}{}", self.repository)?;
        if self.revision != REVISION_DEFAULT {
            write!(f, "@{}", self.revision)?;
        }
        self.quant.as_ref().map_or(Ok(()), |quant| write!(f, ":{quant}"))
    }
}

/// Whether it is the full name of a commit.
pub fn is_commit(text: &str) -> bool {
    text.len() == COMMIT_DIGITS && is_lower_hex(text)
}

/// Whether it has hexadecimal digits alone, the letters small.
pub fn is_lower_hex(text: &str) -> bool {
    text.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b))
}

/// Whether a relative name of several parts stays below the folder it is put in, on every system.
pub fn is_below(name: &str) -> bool {
    let part = |part: &str| {
        !matches!(part, "" | "." | "..") && part.len() <= PART_BYTES_MAX && !part.ends_with('.') && !part.ends_with(' ')
    };
    name.len() <= 4 * PART_BYTES_MAX
        && name.split('/').all(part)
        && !name.contains(|c: char| c.is_control() || matches!(c, '\\' | ':'))
        && !(cfg!(windows) && name.split('/').any(is_device))
}

/// Names that Windows has for devices, with any ending.
fn is_device(part: &str) -> bool {
    let stem = part.split('.').next().unwrap_or(part).to_ascii_uppercase();
    let numbered =
        |name: &str| stem.len() == 4 && stem.starts_with(name) && stem.ends_with(|c: char| c.is_ascii_digit());
    matches!(stem.as_str(), "CON" | "PRN" | "AUX" | "NUL") || numbered("COM") || numbered("LPT")
}

/// One half of a repository's name. `--` stands for the slash in names of the cache's folders.
fn is_repository_part(part: &str) -> bool {
    let inner = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    !part.is_empty()
        && part.chars().all(inner)
        && !part.starts_with(['-', '.'])
        && !part.ends_with(['-', '.'])
        && !part.contains("--")
        && !part.contains("..")
}

/// As git restricts names of branches and tags, as far as paths and addresses need it.
fn is_revision(text: &str) -> bool {
    text.len() <= PART_BYTES_MAX
        && is_below(text)
        && !text.starts_with('-')
        && !text.contains([' ', '~', '^', '?', '*', '['])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(text: &str) -> (String, String, Option<String>) {
        let reference = Reference::parse(text).unwrap();
        assert_eq!(reference.to_string(), text);
        (reference.repository, reference.revision, reference.quant)
    }

    #[test]
    fn a_reference_has_a_repository_and_may_have_a_revision_and_a_quant() {
        let of = |repository: &str, revision: &str, quant: Option<&str>| {
            (repository.to_owned(), revision.to_owned(), quant.map(str::to_owned))
        };
        assert_eq!(parsed("hf://Qwen/Qwen3-0.6B"), of("Qwen/Qwen3-0.6B", "main", None));
        assert_eq!(parsed("hf://a/b_c.d:Q4_K_M"), of("a/b_c.d", "main", Some("Q4_K_M")));
        assert_eq!(parsed("hf://a/b@v1.0"), of("a/b", "v1.0", None));
        assert_eq!(parsed("hf://a/b@refs/pr/3:q8_0"), of("a/b", "refs/pr/3", Some("q8_0")));
        assert_eq!(parsed("hf://a/b:sub/b-Q8_0.gguf"), of("a/b", "main", Some("sub/b-Q8_0.gguf")));
    }

    #[test]
    fn what_is_no_reference_is_refused() {
        for text in [
            "a/b",
            "hf://",
            "hf://a",
            "hf://a/",
            "hf:///b",
            "hf://a/b/c",
            "hf://../b",
            "hf://a/..",
            "hf://a/b--c",
            "hf://a/b:",
            "hf://a/b@",
            "hf://a/b@../../x",
            "hf://a/b@/x",
            "hf://a/b@x\\y",
            "hf://a/b c",
            "hf://a/b:\u{1b}[2J",
            "https://huggingface.co/a/b",
        ] {
            assert!(matches!(Reference::parse(text), Err(Failure::Usage(_))), "{text}");
        }
        assert!(Reference::is_meant(Path::new("hf://a")) && !Reference::is_meant(Path::new("a/b")));
    }

    #[test]
    fn names_of_a_server_stay_below_the_folder() {
        for name in ["config.json", "a/b-Q4.gguf", ".hidden", "a b.json", "ä/ö.gguf", "...x"] {
            assert!(is_below(name), "{name}");
        }
        let long = "x".repeat(300);
        for name in [
            "",
            ".",
            "..",
            "../x",
            "a/../../x",
            "/etc/passwd",
            "a//b",
            "a/",
            "C:\\x",
            "C:x",
            "a\\..\\b",
            "a\0b",
            "a\nb",
            "a/.",
            "x ",
            "x.",
            &long,
        ] {
            assert!(!is_below(name), "{name:?}");
        }
        assert!(is_device("con") && is_device("LPT1.txt") && !is_device("config.json") && !is_device("comb"));
    }
}
