//! Penalties and biases of a request as a device reads them. The list is kept in the order that the device
//! needs, so that a step only copies it and a new token changes one entry.

use super::{LogitAdjustment, SamplingParams, TokenCounts};
use crate::error::{Error, Result};

/// The adjustments of a request, ascending by token id. Of several entries for one token, the first holds the counts.
#[derive(Default, Debug)]
pub struct LogitAdjustments(Vec<LogitAdjustment>);

impl LogitAdjustments {
    /// The adjustments at the start of a request. `prompt`: token counts of the prompt, used only with penalties.
    ///
    /// # Errors
    /// `Memory`.
    pub fn new(params: &SamplingParams, prompt: &TokenCounts) -> Result<LogitAdjustments> {
        let mut list = Vec::new();
        let counted = if params.uses_counts() { prompt.len() } else { 0 };
        let refused = |_| memory(counted + params.bias.len());
        list.try_reserve(counted + params.bias.len()).map_err(refused)?;
        if params.uses_counts() {
            list.extend(prompt.iter().map(|(token, count)| LogitAdjustment {
                token,
                in_prompt: u32::from(count.in_prompt),
                outputs: count.output,
                ..LogitAdjustment::default()
            }));
        }
        // For each token, counts come first, then biases in the order given. `raw` belongs to the device, which
        // overwrites it; until then it serves as the sort key.
        let biases = params.bias.iter().enumerate();
        list.extend(biases.map(|(i, &(token, bias))| LogitAdjustment {
            token,
            bias,
            raw: i as f32 + 1.0,
            ..LogitAdjustment::default()
        }));
        list.sort_unstable_by(|a, b| a.token.cmp(&b.token).then(a.raw.total_cmp(&b.raw)));
        Ok(LogitAdjustments(list))
    }

    /// Reserves room for `tokens` more distinct tokens.
    ///
    /// # Errors
    /// `Memory`.
    pub fn reserve(&mut self, tokens: usize) -> Result<()> {
        self.0.try_reserve(tokens).map_err(|_| memory(self.0.len().saturating_add(tokens)))
    }

    /// Counts a generated token. Called only for requests with penalties.
    ///
    /// # Errors
    /// `Memory`.
    pub fn push(&mut self, token: u32) -> Result<()> {
        let at = self.0.partition_point(|entry| entry.token < token);
        match self.0.get_mut(at).filter(|entry| entry.token == token) {
            // This entry may also hold a bias: the device applies penalties before the bias.
            Some(entry) => entry.outputs += 1,
            None => {
                self.0.try_reserve(1).map_err(|_| memory(self.0.len() + 1))?;
                self.0.insert(at, LogitAdjustment { token, outputs: 1, ..LogitAdjustment::default() });
            }
        }
        Ok(())
    }

    /// All entries.
    pub fn entries(&self) -> &[LogitAdjustment] {
        &self.0
    }
}

fn memory(entries: usize) -> Error {
    Error::memory("penalties and biases", (entries * size_of::<LogitAdjustment>()) as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// (token, in prompt, outputs, bias)
    fn told(list: &LogitAdjustments) -> Vec<(u32, u32, u32, f32)> {
        list.entries().iter().map(|a| (a.token, a.in_prompt, a.outputs, a.bias)).collect()
    }

    #[test]
    fn counts_come_before_biases_and_tokens_find_their_place() {
        let bias = vec![(7, 0.5), (3, -1.0), (7, 0.25), (9, f32::NEG_INFINITY)];
        let params = SamplingParams { repetition_penalty: 1.2, bias, ..SamplingParams::default() };
        let mut prompt = TokenCounts::new();
        prompt.add_prompt(&[7, 5, 7]).unwrap();
        let mut list = LogitAdjustments::new(&params, &prompt).unwrap();
        let ninf = f32::NEG_INFINITY;
        let begun = [(3, 0, 0, -1.0), (5, 1, 0, 0.0), (7, 1, 0, 0.0), (7, 0, 0, 0.5), (7, 0, 0, 0.25), (9, 0, 0, ninf)];
        assert_eq!(told(&list), begun);
        for token in [7, 3, 4, 4, 11] {
            list.push(token).unwrap();
        }
        let then = [
            (3, 0, 1, -1.0),
            (4, 0, 2, 0.0),
            (5, 1, 0, 0.0),
            (7, 1, 1, 0.0),
            (7, 0, 0, 0.5),
            (7, 0, 0, 0.25),
            (9, 0, 0, ninf),
            (11, 0, 1, 0.0),
        ];
        assert_eq!(told(&list), then);
    }

    #[test]
    fn without_penalties_there_are_biases_alone() {
        let params = SamplingParams { bias: vec![(2, 1.0)], ..SamplingParams::default() };
        let mut prompt = TokenCounts::new();
        prompt.add_prompt(&[1, 2]).unwrap();
        assert_eq!(told(&LogitAdjustments::new(&params, &prompt).unwrap()), [(2, 0, 0, 1.0)]);
    }
}
