//! What of a layer group's cache a sequence needs to go on.

/// What has to be kept of the tokens that were computed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Keep {
    /// Every page.
    All,
    /// The pages that a query sees, which sees so many keys, its own included.
    Window(usize),
    /// One state after all tokens, of a fixed size: a recurrence. It fills a frame by itself.
    State,
}

impl Keep {
    /// Of a sequence of so many computed tokens, the first page that its next token needs.
    pub fn first_needed(self, computed: usize, page_tokens: usize) -> usize {
        match self {
            Keep::All => 0,
            // The next query is at position `computed` and sees the keys from `computed + 1 - window` on.
            Keep::Window(window) => (computed + 1).saturating_sub(window) / page_tokens,
            Keep::State => computed.div_ceil(page_tokens).saturating_sub(1),
        }
    }

    /// The most pages that a sequence needs between two steps, and one to grow into.
    pub fn pages_max(self, page_tokens: usize) -> usize {
        match self {
            Keep::All => usize::MAX,
            Keep::Window(window) => (window - 1).div_ceil(page_tokens) + 2,
            Keep::State => 2,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_window_needs_exactly_the_pages_of_the_keys_it_sees() {
        for page_tokens in 1..5 {
            for window in 1..12 {
                for computed in 0..40usize {
                    let first = Keep::Window(window).first_needed(computed, page_tokens);
                    let seen = (0..=computed).filter(|key| key + window > computed);
                    let pages: Vec<usize> = seen.map(|key| key / page_tokens).collect();
                    assert_eq!(pages.first(), Some(&first), "{window} keys of {computed} in pages of {page_tokens}");
                    let held = computed / page_tokens + 1 - first;
                    assert!(held <= Keep::Window(window).pages_max(page_tokens));
                }
            }
        }
        assert_eq!((Keep::State.first_needed(0, 4), Keep::State.first_needed(8, 4)), (0, 1));
    }
}
