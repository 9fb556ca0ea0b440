//! The values of a template: the engine's scalars, and Python's lists, tuples, dicts and ranges as objects of our own.
//!
//! Containers are immutable and know how deep they nest, so that no recursion over a value (printing, comparing,
//! dropping) can exhaust the stack, and whether a namespace is inside, so that none can come to hold itself.

use super::meter::{Held, Meter, R, fault};
use minijinja::value::{Enumerator, Kwargs, Object, ObjectRepr, Value, ValueKind};
use std::collections::HashMap;
use std::sync::Arc;

/// Deepest nesting of lists, tuples and dicts. JSON readers stop at 128.
pub(super) const VALUE_DEPTH_MAX: usize = 160;
/// Dicts with at least this many entries get a hash index over their text keys.
const INDEXED_DICT_MIN: usize = 16;
/// Most items of a range, as in Jinja's sandbox.
const RANGE_MAX: usize = 100_000;

/// A value, taken apart.
pub(super) enum View<'v> {
    Undefined,
    None,
    Bool(bool),
    Int(i128),
    Float(f64),
    Str(&'v str),
    List(&'v Items),
    Tuple(&'v Items),
    Dict(&'v Dict),
    Range(&'v Range),
    /// Functions, macros, namespaces, loops.
    Other,
}

/// Takes a value apart.
pub(super) fn view(value: &Value) -> View<'_> {
    match value.kind() {
        ValueKind::Undefined => View::Undefined,
        ValueKind::None => View::None,
        ValueKind::Bool => View::Bool(value.is_true()),
        ValueKind::Number if value.is_integer() => i128::try_from(value.clone()).map_or(View::Other, View::Int),
        ValueKind::Number => f64::try_from(value.clone()).map_or(View::Other, View::Float),
        ValueKind::String => View::Str(value.as_str().unwrap_or_default()),
        ValueKind::Seq => {
            if let Some(items) = value.downcast_object_ref::<Items>() {
                if items.tuple { View::Tuple(items) } else { View::List(items) }
            } else {
                value.downcast_object_ref::<Range>().map_or(View::Other, View::Range)
            }
        }
        ValueKind::Map => value.downcast_object_ref::<Dict>().map_or(View::Other, View::Dict),
        _ => View::Other,
    }
}

/// The items of a list or tuple.
#[derive(Debug)]
pub(super) struct Items {
    pub(super) items: Vec<Value>,
    tuple: bool,
    depth: usize,
    namespace: bool,
    _held: Held,
}

impl Object for Items {
    fn repr(self: &Arc<Self>) -> ObjectRepr {
        ObjectRepr::Seq
    }

    fn get_value(self: &Arc<Self>, key: &Value) -> Option<Value> {
        self.items.get(key.as_usize()?).cloned()
    }

    fn enumerate(self: &Arc<Self>) -> Enumerator {
        Enumerator::Seq(self.items.len())
    }
}

/// A dict: entries in insertion order.
#[derive(Debug)]
pub(super) struct Dict {
    pub(super) entries: Vec<(Value, Value)>,
    index: HashMap<String, usize>,
    depth: usize,
    namespace: bool,
    held: Held,
}

impl Object for Dict {
    fn get_value(self: &Arc<Self>, key: &Value) -> Option<Value> {
        self.get_value_by_str(key.as_str()?)
    }

    fn get_value_by_str(self: &Arc<Self>, key: &str) -> Option<Value> {
        self.position_of_text(key).and_then(|i| self.entries.get(i)).map(|(_, v)| v.clone())
    }

    fn enumerate(self: &Arc<Self>) -> Enumerator {
        Enumerator::Values(self.entries.iter().map(|(k, _)| k.clone()).collect())
    }

    fn enumerator_len(self: &Arc<Self>) -> Option<usize> {
        Some(self.entries.len())
    }
}

impl Dict {
    fn position_of_text(&self, key: &str) -> Option<usize> {
        if self.index.is_empty() {
            return self.entries.iter().position(|(k, _)| k.as_str() == Some(key));
        }
        self.index.get(key).copied()
    }

    /// The value of `key`. Fails for keys that Python cannot hash.
    pub(super) fn get(&self, key: &Value, meter: &Meter) -> R<Option<Value>> {
        Ok(self.position(key, meter)?.and_then(|i| self.entries.get(i)).map(|(_, v)| v.clone()))
    }

    fn position(&self, key: &Value, meter: &Meter) -> R<Option<usize>> {
        hashable(key)?;
        meter.step()?;
        if let Some(key) = key.as_str() {
            return Ok(self.position_of_text(key));
        }
        for (i, (k, _)) in self.entries.iter().enumerate() {
            if super::ops::equal(k, key, meter)? {
                return Ok(Some(i));
            }
        }
        Ok(None)
    }
}

/// `range(start, stop, step)`.
#[derive(Debug)]
pub(super) struct Range {
    pub(super) start: i128,
    pub(super) stop: i128,
    pub(super) step: i128,
    pub(super) len: usize,
}

impl Range {
    /// Fails for more items than the sandbox allows.
    pub(super) fn new(start: i64, stop: i64, step: i64) -> R<Range> {
        let (start, stop, step) = (i128::from(start), i128::from(stop), i128::from(step));
        let span = match step {
            0 => return Err(fault("range() arg 3 must not be zero")),
            s if s > 0 => stop - start,
            _ => start - stop,
        };
        let size = step.abs();
        let len = usize::try_from((span.max(0) + size - 1) / size).ok().filter(|n| *n <= RANGE_MAX);
        let len = len.ok_or_else(|| {
            fault(format!("Range too big. The sandbox blocks ranges larger than MAX_RANGE ({RANGE_MAX})."))
        })?;
        Ok(Range { start, stop, step, len })
    }

    pub(super) fn at(&self, index: usize) -> Value {
        int(self.start + self.step * index as i128)
    }
}

impl Object for Range {
    fn repr(self: &Arc<Self>) -> ObjectRepr {
        ObjectRepr::Seq
    }

    fn get_value(self: &Arc<Self>, key: &Value) -> Option<Value> {
        key.as_usize().filter(|i| *i < self.len).map(|i| self.at(i))
    }

    fn enumerate(self: &Arc<Self>) -> Enumerator {
        Enumerator::Seq(self.len)
    }
}

/// A method taken from its object without being called.
#[derive(Debug)]
pub(super) struct Method {
    pub(super) object: Value,
    pub(super) name: String,
}

impl Object for Method {
    fn repr(self: &Arc<Self>) -> ObjectRepr {
        ObjectRepr::Plain
    }

    fn call(self: &Arc<Self>, state: &mut minijinja::State<'_, '_>, args: &[Value]) -> R<Value> {
        super::methods::call(&self.object, &self.name, Arguments::new(args)?, &Meter::of(state)?)
    }
}

/// An integer as small as the engine keeps it.
pub(super) fn int(i: i128) -> Value {
    i64::try_from(i).map_or_else(|_| Value::from(i), Value::from)
}

/// The integer, for `int` and `bool`.
pub(super) fn as_int(value: &Value) -> Option<i128> {
    match view(value) {
        View::Int(i) => Some(i),
        View::Bool(b) => Some(i128::from(b)),
        _ => None,
    }
}

/// Python's name of the type.
pub(super) fn type_name(value: &Value) -> &'static str {
    match view(value) {
        View::Undefined => "Undefined",
        View::None => "NoneType",
        View::Bool(_) => "bool",
        View::Int(_) => "int",
        View::Float(_) => "float",
        View::Str(_) => "str",
        View::List(_) => "list",
        View::Tuple(_) => "tuple",
        View::Dict(_) => "dict",
        View::Range(_) => "range",
        View::Other if is_namespace(value) => "Namespace",
        View::Other => "function",
    }
}

/// Fails for undefined values.
pub(super) fn defined(value: &Value) -> R<()> {
    if value.is_undefined() {
        return Err(minijinja::Error::new(minijinja::ErrorKind::UndefinedError, "an undefined value is used"));
    }
    Ok(())
}

/// The engine's namespaces and loops: the maps that are not ours.
pub(super) fn is_namespace(value: &Value) -> bool {
    value.kind() == ValueKind::Map
        && value.downcast_object_ref::<Dict>().is_none()
        && value.downcast_object_ref::<super::functions::Macro>().is_none()
}

fn depth(value: &Value) -> usize {
    match view(value) {
        View::List(l) | View::Tuple(l) => l.depth,
        View::Dict(d) => d.depth,
        View::Other => match value.downcast_object_ref::<Method>() {
            Some(m) => depth(&m.object) + 1,
            None => super::functions::inner(value).iter().map(depth).max().map_or(0, |d| d + 1),
        },
        _ => 0,
    }
}

/// Whether a namespace is the value or inside it.
pub(super) fn holds_namespace(value: &Value) -> bool {
    match view(value) {
        View::List(l) | View::Tuple(l) => l.namespace,
        View::Dict(d) => d.namespace,
        View::Other => {
            is_namespace(value)
                || value.downcast_object_ref::<Method>().is_some_and(|m| holds_namespace(&m.object))
                || super::functions::inner(value).iter().any(holds_namespace)
        }
        _ => false,
    }
}

/// Fails for lists and dicts, which Python cannot hash.
pub(super) fn hashable(key: &Value) -> R<()> {
    match view(key) {
        View::List(_) | View::Dict(_) => Err(fault(format!("unhashable type: '{}'", type_name(key)))),
        View::Tuple(t) => t.items.iter().try_for_each(hashable),
        _ => Ok(()),
    }
}

fn check_depth(depth: usize) -> R<()> {
    if depth > VALUE_DEPTH_MAX {
        return Err(fault(format!("a value nests deeper than {VALUE_DEPTH_MAX} lists and dicts")));
    }
    Ok(())
}

/// Builds a dict; later entries of a key replace earlier ones in place.
pub(super) struct DictBuilder {
    dict: Dict,
}

impl DictBuilder {
    pub(super) fn new(meter: &Arc<Meter>) -> R<DictBuilder> {
        let held = meter.hold(size_of::<Dict>())?;
        let dict = Dict { entries: Vec::new(), index: HashMap::new(), depth: 1, namespace: false, held };
        Ok(DictBuilder { dict })
    }

    pub(super) fn insert(&mut self, key: Value, value: Value, meter: &Meter) -> R<()> {
        let d = &mut self.dict;
        d.depth = d.depth.max(depth(&value).max(depth(&key)) + 1);
        d.namespace = d.namespace || holds_namespace(&value) || holds_namespace(&key);
        check_depth(d.depth)?;
        if let Some(entry) = d.position(&key, meter)?.and_then(|i| d.entries.get_mut(i)) {
            entry.1 = value;
            return Ok(());
        }
        d.held.grow(2 * size_of::<Value>())?;
        if d.entries.len() == INDEXED_DICT_MIN {
            let keys = d.entries.iter().enumerate().filter_map(|(i, (k, _))| Some((k.as_str()?.to_owned(), i)));
            d.index = keys.collect();
        }
        if let (true, Some(text)) = (d.entries.len() >= INDEXED_DICT_MIN, key.as_str()) {
            d.held.grow(text.len() + 64)?;
            d.index.insert(text.to_owned(), d.entries.len());
        }
        d.entries.push((key, value));
        Ok(())
    }

    /// Inserts a key that is not there yet; false if it is.
    pub(super) fn insert_new(&mut self, key: Value, meter: &Meter) -> R<bool> {
        let before = self.dict.entries.len();
        self.insert(key, Value::from(()), meter)?;
        Ok(self.dict.entries.len() > before)
    }

    pub(super) fn finish(self) -> Value {
        Value::from_object(self.dict)
    }
}

impl Meter {
    /// A text value.
    pub(super) fn text(&self, text: &str) -> R<Value> {
        self.charge(text.len())?;
        Ok(Value::from(text))
    }

    pub(super) fn list(self: &Arc<Self>, items: Vec<Value>) -> R<Value> {
        self.items(items, false)
    }

    pub(super) fn tuple(self: &Arc<Self>, items: Vec<Value>) -> R<Value> {
        self.items(items, true)
    }

    /// A list or tuple.
    pub(super) fn items(self: &Arc<Self>, items: Vec<Value>, tuple: bool) -> R<Value> {
        let depth = 1 + items.iter().map(depth).max().unwrap_or(0);
        check_depth(depth)?;
        let namespace = items.iter().any(holds_namespace);
        let held = self.hold(items.capacity() * size_of::<Value>() + size_of::<Items>())?;
        Ok(Value::from_object(Items { items, tuple, depth, namespace, _held: held }))
    }

    /// The items a value yields when it is iterated over.
    pub(super) fn iterate(&self, value: &Value) -> R<Vec<Value>> {
        Ok(match view(value) {
            View::Undefined => Vec::new(),
            View::List(l) | View::Tuple(l) => {
                self.room(l.items.len() * size_of::<Value>())?;
                l.items.clone()
            }
            View::Str(s) => {
                self.room(s.len().saturating_mul(size_of::<Value>()))?;
                s.chars().map(Value::from).collect()
            }
            View::Dict(d) => {
                self.room(d.entries.len() * size_of::<Value>())?;
                d.entries.iter().map(|(k, _)| k.clone()).collect()
            }
            View::Range(r) => (0..r.len).map(|i| r.at(i)).collect(),
            _ => return Err(fault(format!("'{}' object is not iterable", type_name(value)))),
        })
    }

    /// A JSON value.
    pub(super) fn json(self: &Arc<Self>, value: &serde_json::Value) -> R<Value> {
        Ok(match value {
            serde_json::Value::Null => Value::from(()),
            serde_json::Value::Bool(b) => Value::from(*b),
            serde_json::Value::Number(n) => match (n.as_i64(), n.as_u64()) {
                (Some(i), _) => Value::from(i),
                (_, Some(u)) => Value::from(u),
                _ => Value::from(n.as_f64().unwrap_or(f64::NAN)),
            },
            serde_json::Value::String(s) => self.text(s)?,
            serde_json::Value::Array(a) => {
                let items = a.iter().map(|v| self.json(v)).collect::<R<Vec<_>>>()?;
                self.list(items)?
            }
            serde_json::Value::Object(o) => {
                let mut dict = DictBuilder::new(self)?;
                for (k, v) in o {
                    dict.insert(self.text(k)?, self.json(v)?, self)?;
                }
                dict.finish()
            }
        })
    }
}

/// Arguments of a call.
#[derive(Default)]
pub(super) struct Arguments {
    pub(super) positional: Vec<Value>,
    pub(super) named: Vec<(String, Value)>,
}

impl Arguments {
    /// Takes the engine's arguments apart.
    pub(super) fn new(args: &[Value]) -> R<Arguments> {
        let mut arguments = Arguments::default();
        for (i, value) in args.iter().enumerate() {
            if value.is_kwargs() && i + 1 == args.len() {
                let kwargs = Kwargs::try_from(value.clone())?;
                for name in kwargs.args() {
                    arguments.named.push((name.to_owned(), kwargs.get::<Value>(name)?));
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
            let slot = names.iter().position(|n| **n == *name).and_then(|i| bound.get_mut(i));
            match slot {
                Some(slot @ None) => *slot = Some(value),
                Some(_) => return Err(fault(format!("{function}() got multiple values for argument '{name}'"))),
                None => return Err(fault(format!("{function}() got an unexpected keyword argument '{name}'"))),
            }
        }
        Ok(bound)
    }
}
