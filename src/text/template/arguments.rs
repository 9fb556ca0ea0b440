//! Arguments of a call in a template, by position and by name.

use super::functions::named;
use super::marks::str_of;
use super::meter::{R, fault};
use minijinja::value::{Kwargs, Value};

/// Arguments of a call.
#[derive(Default)]
pub(super) struct Arguments {
    pub(super) positional: Vec<Value>,
    /// Names, which are texts with their marks, and values.
    pub(super) named: Vec<(Value, Value)>,
}

impl Arguments {
    /// Takes the engine's arguments apart.
    pub(super) fn new(args: &[Value]) -> R<Arguments> {
        let mut arguments = Arguments::default();
        for (i, value) in args.iter().enumerate() {
            if value.is_kwargs() && i + 1 == args.len() {
                let kwargs = Kwargs::try_from(value.clone())?;
                for name in kwargs.args() {
                    let (name, given) = named(name, kwargs.get::<Value>(name)?);
                    arguments.named.push((name, given));
                }
            } else {
                arguments.positional.push(value.clone());
            }
        }
        Ok(arguments)
    }

    /// The arguments by the names of a signature of at most N; missing ones are `None`.
    pub(super) fn bind<const N: usize>(self, function: &str, names: [&str; N]) -> R<[Option<Value>; N]> {
        let mut bound = [const { None }; N];
        let given = self.positional.len();
        if given > N {
            return Err(fault(format!("{function}() takes at most {N} arguments ({given} given)")));
        }
        for (slot, value) in bound.iter_mut().zip(self.positional) {
            *slot = Some(value);
        }
        for (name, value) in self.named {
            let name = str_of(&name).unwrap_or_default();
            let slot = names.iter().position(|n| *n == name).and_then(|i| bound.get_mut(i));
            match slot {
                Some(slot @ None) => *slot = Some(value),
                Some(_) => return Err(fault(format!("{function}() got multiple values for argument '{name}'"))),
                None => return Err(fault(format!("{function}() got an unexpected keyword argument '{name}'"))),
            }
        }
        Ok(bound)
    }
}
