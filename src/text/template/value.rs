//! The values of a template: the engine's scalars, and Python's lists, tuples, dicts and ranges as objects of our own.
//!
//! Containers are immutable and know how deep they nest, so that no recursion over a value (printing, comparing,
//! dropping) can exhaust the stack, and whether a namespace is inside, so that none can come to hold itself.

use super::arguments::Arguments;
use super::big::Big;
use super::marks::{self, Text, str_of};
use super::meter::{Held, Meter, R, fault, try_block};
use crate::text::exact;
use minijinja::value::{Enumerator, Object, ObjectRepr, Value, ValueKind};
use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

/// Deepest nesting of lists, tuples and dicts. JSON readers stop at 128.
pub(super) const VALUE_DEPTH_MAX: usize = 160;
/// Dicts with at least this many entries get a hash index over their text keys.
const INDEXED_DICT_MIN: usize = 16;
/// What a character of its own takes beyond its value when it is marked, in bytes.
const MARKED_CHAR_BYTES: usize = 96;
/// Most items of a range, as in Jinja's sandbox.
const RANGE_MAX: usize = 100_000;

/// A value, taken apart.
pub(super) enum View<'v> {
    Undefined,
    None,
    Bool(bool),
    Int(i128),
    /// A whole number of more than 127 bits.
    Big(&'v Big),
    Float(f64),
    Str(Text<'v>),
    List(&'v Items),
    Tuple(&'v Items),
    Dict(&'v Dict),
    Range(&'v Range),
    Lazy(&'v Lazy),
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
        ValueKind::String => View::Str(Text::plain(value.as_str().unwrap_or_default())),
        ValueKind::Seq => {
            if let Some(items) = value.downcast_object_ref::<Items>() {
                match items.kind {
                    ItemsKind::Tuple | ItemsKind::Group => View::Tuple(items),
                    ItemsKind::List | ItemsKind::View(_) => View::List(items),
                }
            } else {
                value.downcast_object_ref::<Range>().map_or(View::Other, View::Range)
            }
        }
        ValueKind::Map => value.downcast_object_ref::<Dict>().map_or(View::Other, View::Dict),
        ValueKind::Plain => match (marks::text(value), value.downcast_object_ref::<Big>()) {
            (Some(text), _) => View::Str(text),
            (_, Some(big)) => View::Big(big),
            _ => value.downcast_object_ref::<Lazy>().map_or(View::Other, View::Lazy),
        },
        _ => View::Other,
    }
}

/// What items are to Python.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ItemsKind {
    List,
    Tuple,
    /// A group of `groupby`: a tuple of two items that go by names, too.
    Group,
    /// What a dict's `keys()`, `values()` and `items()` give: the type's name. A list otherwise.
    View(&'static str),
}

/// The items of a list or tuple.
#[derive(Debug)]
pub(super) struct Items {
    pub(super) items: Vec<Value>,
    kind: ItemsKind,
    nesting: Nesting,
    _held: Held,
}

impl Items {
    /// The type's name where it is printed around the items.
    pub(super) fn view_name(&self) -> Option<&'static str> {
        match self.kind {
            ItemsKind::View(name) => Some(name),
            _ => None,
        }
    }

    /// A tuple if this is one; otherwise a list.
    pub(super) fn alike(&self, items: Vec<Value>, meter: &Arc<Meter>) -> R<Value> {
        match self.kind {
            ItemsKind::Tuple | ItemsKind::Group => meter.tuple(items),
            ItemsKind::List | ItemsKind::View(_) => meter.list(items),
        }
    }

    /// The same of what `change` makes of each item.
    pub(super) fn mapped(&self, change: impl FnMut(&Value) -> R<Value>, meter: &Arc<Meter>) -> R<Value> {
        self.alike(self.items.iter().map(change).collect::<R<_>>()?, meter)
    }

    /// The item of a name.
    pub(super) fn named(&self, name: &str) -> Option<Value> {
        match name {
            "grouper" if self.kind == ItemsKind::Group => self.items.first().cloned(),
            "list" if self.kind == ItemsKind::Group => self.items.get(1).cloned(),
            _ => None,
        }
    }
}

impl Object for Items {
    fn repr(self: &Arc<Self>) -> ObjectRepr {
        ObjectRepr::Seq
    }

    fn get_value(self: &Arc<Self>, key: &Value) -> Option<Value> {
        match key.as_usize() {
            Some(i) => self.items.get(i).cloned(),
            None => self.named(str_of(key)?),
        }
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
    nesting: Nesting,
    held: Held,
}

impl Object for Dict {
    fn get_value(self: &Arc<Self>, key: &Value) -> Option<Value> {
        self.get_value_by_str(str_of(key)?)
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
            return self.entries.iter().position(|(k, _)| str_of(k) == Some(key));
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
        if let Some(key) = str_of(key) {
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

/// What Python's generators are: items that are yielded once.
#[derive(Debug)]
pub(super) struct Lazy {
    items: Vec<Value>,
    /// The function that made it, for its name.
    pub(super) origin: &'static str,
    taken: AtomicUsize,
    nesting: Nesting,
    _held: Held,
}

impl Lazy {
    /// The items nobody has taken yet, at most so many; they are taken now.
    pub(super) fn take(&self, most: usize) -> &[Value] {
        let from = self.taken.load(Relaxed).min(self.items.len());
        let until = from.saturating_add(most).min(self.items.len());
        self.taken.store(until, Relaxed);
        self.items.get(from..until).unwrap_or_default()
    }
}

impl Object for Lazy {
    super::meter::plain_object!();
}

/// A method taken from its object without being called.
#[derive(Debug)]
pub(super) struct Method {
    pub(super) object: Value,
    pub(super) name: String,
}

impl Object for Method {
    super::meter::plain_object!();

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
        View::Int(_) | View::Big(_) => "int",
        View::Float(_) => "float",
        View::Str(_) => "str",
        View::List(_) => "list",
        View::Tuple(_) => "tuple",
        View::Dict(_) => "dict",
        View::Range(_) => "range",
        View::Lazy(_) => "generator",
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

/// How deep a value nests, and whether a namespace is the value or inside it.
#[derive(Clone, Copy, Debug, Default)]
struct Nesting {
    depth: usize,
    namespace: bool,
}

impl Nesting {
    /// Of a container with nothing inside.
    const EMPTY: Nesting = Nesting { depth: 1, namespace: false };

    fn of(value: &Value) -> Nesting {
        match view(value) {
            View::List(l) | View::Tuple(l) => l.nesting,
            View::Dict(d) => d.nesting,
            View::Lazy(l) => l.nesting,
            View::Other => {
                let outer = Nesting { depth: 0, namespace: is_namespace(value) };
                super::functions::inner(value).iter().fold(outer, Nesting::around)
            }
            _ => Nesting::default(),
        }
    }

    /// With one more value inside.
    fn around(self, value: &Value) -> Nesting {
        let inner = Nesting::of(value);
        Nesting { depth: self.depth.max(inner.depth + 1), namespace: self.namespace || inner.namespace }
    }

    /// Of a container of these values. Fails when it is too deep.
    fn around_all(values: &[Value]) -> R<Nesting> {
        values.iter().fold(Nesting::EMPTY, Nesting::around).checked()
    }

    fn checked(self) -> R<Nesting> {
        if self.depth > VALUE_DEPTH_MAX {
            return Err(fault(format!("a value nests deeper than {VALUE_DEPTH_MAX} lists and dicts")));
        }
        Ok(self)
    }
}

/// Whether a namespace is the value or inside it.
pub(super) fn holds_namespace(value: &Value) -> bool {
    Nesting::of(value).namespace
}

/// Fails for lists and dicts, which Python cannot hash.
pub(super) fn hashable(key: &Value) -> R<()> {
    match view(key) {
        View::List(_) | View::Dict(_) => Err(fault(format!("unhashable type: '{}'", type_name(key)))),
        View::Tuple(t) => t.items.iter().try_for_each(hashable),
        _ => Ok(()),
    }
}

/// Builds a dict; later entries of a key replace earlier ones in place.
pub(super) struct DictBuilder {
    dict: Dict,
}

impl DictBuilder {
    pub(super) fn new(meter: &Arc<Meter>) -> R<DictBuilder> {
        let held = meter.hold(size_of::<Dict>())?;
        let dict = Dict { entries: Vec::new(), index: HashMap::new(), nesting: Nesting::EMPTY, held };
        Ok(DictBuilder { dict })
    }

    pub(super) fn insert(&mut self, key: Value, value: Value, meter: &Meter) -> R<()> {
        let d = &mut self.dict;
        d.nesting = d.nesting.around(&value).around(&key).checked()?;
        if let Some(entry) = d.position(&key, meter)?.and_then(|i| d.entries.get_mut(i)) {
            entry.1 = value;
            return Ok(());
        }
        d.held.grow(2 * size_of::<Value>())?;
        if d.entries.len() == INDEXED_DICT_MIN {
            let keys = d.entries.iter().enumerate().filter_map(|(i, (k, _))| Some((str_of(k)?.to_owned(), i)));
            d.index = keys.collect();
        }
        if let (true, Some(text)) = (d.entries.len() >= INDEXED_DICT_MIN, str_of(&key)) {
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
    /// A text value of the template's own.
    pub(super) fn plain(&self, text: &str) -> R<Value> {
        self.text(Text::plain(text))
    }

    /// A text value, with what is known of it.
    pub(super) fn text(&self, text: Text) -> R<Value> {
        self.charge(text.len())?;
        try_block(text.len())?;
        Ok(marks::value_of(text))
    }

    /// The same text as markup, or as none; any other value as it is.
    pub(super) fn markup(&self, value: Value, markup: bool) -> R<Value> {
        match marks::text(&value) {
            Some(text) if text.is_markup() != markup => self.text(text.as_markup(markup)),
            _ => Ok(value),
        }
    }

    /// What a generator yields.
    pub(super) fn lazy(self: &Arc<Self>, items: Vec<Value>, origin: &'static str) -> R<Value> {
        let nesting = Nesting::around_all(&items)?;
        let held = self.hold(items.capacity() * size_of::<Value>() + size_of::<Lazy>())?;
        Ok(Value::from_object(Lazy { items, origin, taken: AtomicUsize::new(0), nesting, _held: held }))
    }

    pub(super) fn list(self: &Arc<Self>, items: Vec<Value>) -> R<Value> {
        self.items_of(items, ItemsKind::List)
    }

    pub(super) fn tuple(self: &Arc<Self>, items: Vec<Value>) -> R<Value> {
        self.items_of(items, ItemsKind::Tuple)
    }

    /// A list of what can be made.
    pub(super) fn list_of(self: &Arc<Self>, items: impl Iterator<Item = R<Value>>) -> R<Value> {
        self.list(items.collect::<R<_>>()?)
    }

    /// A view of a dict.
    pub(super) fn view(self: &Arc<Self>, items: Vec<Value>, name: &'static str) -> R<Value> {
        self.items_of(items, ItemsKind::View(name))
    }

    /// A group of `groupby`.
    pub(super) fn group(self: &Arc<Self>, grouper: Value, list: Value) -> R<Value> {
        self.items_of(vec![grouper, list], ItemsKind::Group)
    }

    fn items_of(self: &Arc<Self>, items: Vec<Value>, kind: ItemsKind) -> R<Value> {
        let nesting = Nesting::around_all(&items)?;
        let held = self.hold(items.capacity().saturating_mul(size_of::<Value>()) + size_of::<Items>())?;
        Ok(Value::from_object(Items { items, kind, nesting, _held: held }))
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
                let each = size_of::<Value>() + if s.is_marked() { MARKED_CHAR_BYTES } else { 0 };
                self.room(s.len().saturating_mul(each))?;
                let value =
                    |(c, content): (char, bool)| marks::value_of(Text::whole(c.encode_utf8(&mut [0; 4]), content));
                s.chars().map(value).collect()
            }
            View::Dict(d) => {
                self.room(d.entries.len() * size_of::<Value>())?;
                d.entries.iter().map(|(k, _)| k.clone()).collect()
            }
            View::Range(r) => {
                self.room(r.len * size_of::<Value>())?;
                (0..r.len).map(|i| r.at(i)).collect()
            }
            View::Lazy(l) => {
                let items = l.take(usize::MAX);
                self.room(size_of_val(items))?;
                items.to_vec()
            }
            _ => return Err(fault(format!("'{}' object is not iterable", type_name(value)))),
        })
    }

    /// A number that no number of serde_json is.
    pub(super) fn number(&self, number: exact::Number) -> R<Value> {
        let digits = match number {
            exact::Number::Float(f) => return Ok(Value::from(f)),
            exact::Number::Whole(digits) => digits,
        };
        super::big::whole(digits, self)?.ok_or_else(|| fault("a whole number with too many digits"))
    }

    /// A JSON value; `content` tells whether its texts are content.
    pub(super) fn json(self: &Arc<Self>, value: &serde_json::Value, content: bool) -> R<Value> {
        Ok(match value {
            serde_json::Value::Null => Value::from(()),
            serde_json::Value::Bool(b) => Value::from(*b),
            serde_json::Value::Number(n) => match (n.as_i64(), n.as_u64()) {
                (Some(i), _) => Value::from(i),
                (_, Some(u)) => Value::from(u),
                _ => Value::from(n.as_f64().unwrap_or(f64::NAN)),
            },
            serde_json::Value::String(s) => self.text(Text::whole(s, content))?,
            serde_json::Value::Array(a) => self.list_of(a.iter().map(|v| self.json(v, content)))?,
            serde_json::Value::Object(o) => {
                if let Some(number) = exact::number(o) {
                    return self.number(number);
                }
                let mut dict = DictBuilder::new(self)?;
                for (k, v) in o {
                    dict.insert(self.text(Text::whole(k, content))?, self.json(v, content)?, self)?;
                }
                dict.finish()
            }
        })
    }
}
