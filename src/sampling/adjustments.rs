//! Penalties and biases of a request as a device reads them. The list is kept in the order that the device
//! needs, so that a step only copies it and a new token changes one entry.

use super::{LogitAdjustment, SamplingParams};
use crate::error::{Error, Result, copied};

/// The adjustments of a request, ascending by token id. Of several entries for one token, the first holds the counts.
#[derive(Default, Debug)]
pub struct LogitAdjustments(Vec<LogitAdjustment>);

impl LogitAdjustments {
    /// The adjustments at the start of a request. `prompt`: its token ids, used only with penalties.
    ///
    /// # Errors
    /// `Memory`.
    pub fn new(params: &SamplingParams, prompt: &[u32]) -> Result<LogitAdjustments> {
        let counted = if params.uses_counts() { prompt } else { &[] };
        let mut tokens = copied("the counts of the penalties", counted)?;
        tokens.sort_unstable();
        tokens.dedup();
        let mut list = Vec::new();
        let entries = tokens.len() + params.bias.len();
        list.try_reserve(entries).map_err(|_| memory(entries))?;
        let of_prompt = |token| LogitAdjustment { token, in_prompt: 1, ..LogitAdjustment::default() };
        list.extend(tokens.into_iter().map(of_prompt));
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

    /// Appends the entries as they are after `tokens` more, which are no part of them yet.
    ///
    /// # Errors
    /// `Memory`.
    pub fn append_after(&self, tokens: &[u32], to: &mut Vec<LogitAdjustment>) -> Result<()> {
        let (from, entries) = (to.len(), self.0.len() + tokens.len());
        to.try_reserve(entries).map_err(|_| memory(entries))?;
        to.extend_from_slice(&self.0);
        for &token in tokens {
            let at = from + to[from..].partition_point(|entry| entry.token < token);
            match to.get_mut(at).filter(|entry| entry.token == token) {
                Some(entry) => entry.outputs += 1,
                None => to.insert(at, LogitAdjustment { token, outputs: 1, ..LogitAdjustment::default() }),
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
        let mut list = LogitAdjustments::new(&params, &[7, 5, 7]).unwrap();
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
    fn tokens_that_may_come_count_in_a_copy() {
        let params = SamplingParams { repetition_penalty: 1.2, bias: vec![(3, -1.0)], ..SamplingParams::default() };
        let mut list = LogitAdjustments::new(&params, &[7, 5]).unwrap();
        let before = told(&list);
        let mut copy = vec![LogitAdjustment { token: 9, ..LogitAdjustment::default() }];
        list.append_after(&[5, 4, 4, 3], &mut copy).unwrap();
        assert_eq!(told(&list), before);
        [5, 4, 4, 3].into_iter().for_each(|token| list.push(token).unwrap());
        assert_eq!((copy[0].token, &copy[1..]), (9, list.entries()));
    }

    #[test]
    fn without_penalties_there_are_biases_alone() {
        let params = SamplingParams { bias: vec![(2, 1.0)], ..SamplingParams::default() };
        assert_eq!(told(&LogitAdjustments::new(&params, &[1, 2]).unwrap()), [(2, 0, 0, 1.0)]);
    }

    #[test]
    fn prompt_and_output_are_counted_apart() {
        let params = SamplingParams { presence_penalty: 0.5, ..SamplingParams::default() };
        let mut list = LogitAdjustments::new(&params, &[3, 3, 9]).unwrap();
        for token in [9, 4, 9] {
            list.push(token).unwrap();
        }
        assert_eq!(told(&list), [(3, 1, 0, 0.0), (4, 0, 1, 0.0), (9, 1, 2, 0.0)]);
    }
}
