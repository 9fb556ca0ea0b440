//! What the names of a checkpoint's tensors begin with.

/// Where a text model lies in the checkpoint of a larger one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Prefix {
    /// It is the whole checkpoint.
    #[default]
    None,
    /// All its names begin with `language_model.`.
    Before,
    /// Its names begin with `model.language_model.` instead of `model.`.
    Inside,
    /// Its names lack the `model.` of the others: a model saved without its head, as embedding models are.
    Without,
}

impl Prefix {
    /// All there are.
    pub const ALL: [Prefix; 4] = [Prefix::None, Prefix::Before, Prefix::Inside, Prefix::Without];

    /// The name of a tensor in the checkpoint.
    pub fn apply(self, name: &str) -> String {
        match (self, name.strip_prefix("model.")) {
            (Prefix::Before, _) => format!("language_model.{name}"),
            (Prefix::Inside, Some(rest)) => format!("model.language_model.{rest}"),
            (Prefix::Without, Some(rest)) => rest.to_owned(),
            _ => name.to_owned(),
        }
    }
}
