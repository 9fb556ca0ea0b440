//! Functions every template can call, and the objects they make: macros, cyclers, joiners.

use super::arguments::Arguments;
use super::marks::{self, str_of};
use super::meter::{Meter, R, fault};
use super::value::{DictBuilder, Method, Range, View, as_int, defined, holds_namespace, is_namespace, type_name, view};
use super::{filters, methods, ops, print};
use minijinja::value::{Kwargs, Object, Rest, ValueOrKwargs};
use minijinja::{Environment, Error, ErrorKind, State, Value};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed};

/// Arguments, named ones too.
pub(super) type Args = Rest<ValueOrKwargs>;

/// What a template raised: the message, word for word.
#[derive(Debug)]
pub(super) struct Raised(pub(super) String);

impl std::fmt::Display for Raised {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Raised {}

/// What calling a macro costs, in steps.
const MACRO_STEPS: usize = 8;
/// What each of its arguments costs.
const ARGUMENT_STEPS: usize = 4;

/// Stands in for an argument with a default that was not given.
#[derive(Debug)]
struct Unset;

impl Object for Unset {
    super::meter::plain_object!();
}

/// A macro: the engine's, called by Python's rules for arguments.
#[derive(Debug)]
pub(super) struct Macro {
    pub(super) name: String,
    parameters: Vec<String>,
    /// How many of them, from the end, have a default.
    defaults: usize,
    /// The names, as the template sees them.
    arguments: Value,
    varargs: bool,
    kwargs: bool,
    caller: bool,
    inner: Value,
}

impl Object for Macro {
    super::meter::plain_object!();

    fn get_value(self: &Arc<Self>, key: &Value) -> Option<Value> {
        Some(match str_of(key)? {
            "name" => Value::from(self.name.as_str()),
            "arguments" => self.arguments.clone(),
            "catch_varargs" => Value::from(self.varargs),
            "catch_kwargs" => Value::from(self.kwargs),
            "caller" => Value::from(self.caller),
            _ => return None,
        })
    }

    fn call(self: &Arc<Self>, state: &mut State<'_, '_>, args: &[Value]) -> R<Value> {
        let meter = Meter::of(state)?;
        meter.stack()?;
        let Arguments { positional, named } = Arguments::new(args)?;
        let each = self.parameters.len() + positional.len() + 2 * named.len();
        meter.steps(MACRO_STEPS + ARGUMENT_STEPS * each)?;
        let mut inner: Vec<(String, Value)> = Vec::new();
        let mut rest = positional.into_iter();
        for (parameter, value) in self.parameters.iter().zip(rest.by_ref()) {
            inner.push((parameter.clone(), value));
        }
        let mut extra = DictBuilder::new(&meter)?;
        for (key, value) in named {
            let name = str_of(&key).unwrap_or_default();
            if self.parameters.iter().any(|p| p == name) && inner.iter().all(|(n, _)| n != name)
                || name == "caller" && self.caller
            {
                inner.push((name.to_owned(), value));
            } else if self.kwargs {
                extra.insert(key, value, &meter)?;
            } else {
                return Err(fault(format!("macro '{}' takes no keyword argument '{name}'", self.name)));
            }
        }
        let optional = self.parameters.iter().skip(self.parameters.len().saturating_sub(self.defaults));
        for parameter in optional {
            if inner.iter().all(|(n, _)| n != parameter) {
                inner.push((parameter.clone(), Value::from_object(Unset)));
            }
        }
        let rest: Vec<Value> = rest.collect();
        if self.varargs {
            inner.push(("varargs".to_owned(), meter.tuple(rest)?));
        } else if !rest.is_empty() {
            let n = self.parameters.len();
            return Err(fault(format!("macro '{}' takes not more than {n} argument(s)", self.name)));
        }
        if self.kwargs {
            inner.push(("kwargs".to_owned(), extra.finish()));
        }
        let kwargs: Kwargs = inner.into_iter().collect();
        let text = self.inner.call(state, &[Value::from(kwargs)])?;
        filters::captured(&text, &meter)
    }
}

/// The body of a `call` block.
#[derive(Debug)]
struct Caller(Value);

impl Object for Caller {
    super::meter::plain_object!();

    fn get_value(self: &Arc<Self>, key: &Value) -> Option<Value> {
        self.0.get_item(key).ok()
    }

    fn call(self: &Arc<Self>, state: &mut State<'_, '_>, args: &[Value]) -> R<Value> {
        let meter = Meter::of(state)?;
        meter.stack()?;
        // The engine's own macro: it has no use for the marks of a name.
        let Arguments { positional: mut args, named } = Arguments::new(args)?;
        if !named.is_empty() {
            let named = named.into_iter().map(|(name, value)| (str_of(&name).unwrap_or_default().to_owned(), value));
            args.push(Value::from(named.collect::<Kwargs>()));
        }
        filters::captured(&self.0.call(state, &args)?, &meter)
    }
}

/// A named argument whose name is content, on its way through the engine, for which names are strings without marks.
#[derive(Debug)]
struct Named {
    name: Value,
    value: Value,
}

impl Object for Named {
    super::meter::plain_object!();
}

/// A named argument as the engine takes it; [`named`] gives name and value back.
pub(super) fn carried((name, value): (Value, Value)) -> (String, Value) {
    let text = str_of(&name).unwrap_or_default().to_owned();
    if marks::text(&name).is_some_and(|text| text.is_marked()) {
        return (text, Value::from_object(Named { name, value }));
    }
    (text, value)
}

/// Name and value of a named argument that came from the engine. The engine's own macro, an argument called `caller`, gives
/// encoded text.
pub(super) fn named(name: &str, given: Value) -> (Value, Value) {
    let (key, value) = match given.downcast_object_ref::<Named>() {
        Some(carried) => (carried.name.clone(), carried.value.clone()),
        None => (Value::from(name), given),
    };
    let encodes = name == "caller" && is_namespace(&value);
    (key, if encodes { Value::from_object(Caller(value)) } else { value })
}

#[derive(Debug)]
struct Cycler {
    items: Vec<Value>,
    position: AtomicUsize,
}

impl Object for Cycler {
    super::meter::plain_object!();

    fn get_value(self: &Arc<Self>, key: &Value) -> Option<Value> {
        if str_of(key) == Some("current") { self.items.get(self.position.load(Relaxed)).cloned() } else { None }
    }

    fn call_method(self: &Arc<Self>, _: &mut State<'_, '_>, method: &str, _: &[Value]) -> R<Value> {
        let position = self.position.load(Relaxed);
        match method {
            "next" => {
                self.position.store((position + 1) % self.items.len().max(1), Relaxed);
                Ok(self.items.get(position).cloned().unwrap_or_default())
            }
            "reset" => {
                self.position.store(0, Relaxed);
                Ok(Value::from(()))
            }
            _ => Err(Error::from(ErrorKind::UnknownMethod)),
        }
    }
}

#[derive(Debug)]
struct Joiner {
    separator: Value,
    used: AtomicBool,
}

impl Object for Joiner {
    super::meter::plain_object!();

    fn call(self: &Arc<Self>, _: &mut State<'_, '_>, _: &[Value]) -> R<Value> {
        Ok(if self.used.swap(true, Relaxed) { self.separator.clone() } else { Value::from("") })
    }
}

/// The values inside one of these objects.
pub(super) fn inner(value: &Value) -> Vec<Value> {
    if let Some(c) = value.downcast_object_ref::<Cycler>() {
        return c.items.clone();
    }
    if let Some(named) = value.downcast_object_ref::<Named>() {
        return vec![named.value.clone()];
    }
    if let Some(method) = value.downcast_object_ref::<Method>() {
        return vec![method.object.clone()];
    }
    value.downcast_object_ref::<Joiner>().map(|j| vec![j.separator.clone()]).unwrap_or_default()
}

/// Adds the functions templates call by name, and those that operators and literals are lowered to.
pub(super) fn install(env: &mut Environment<'_>) {
    env.add_function("range", |args: Rest<Value>| range(&args));
    env.add_function("dict", |state: &mut State, args: Args| {
        methods::dict(Arguments::new(&args.into_values())?, &Meter::of(state)?)
    });
    env.add_function("namespace", namespace);
    env.add_function("cycler", |args: Rest<Value>| {
        if args.is_empty() {
            return Err(fault("at least one item has to be provided"));
        }
        if args.iter().any(holds_namespace) {
            return Err(fault("a namespace cannot be cycled"));
        }
        Ok(Value::from_object(Cycler { items: args.to_vec(), position: AtomicUsize::new(0) }))
    });
    env.add_function("joiner", |args: Args| {
        let [separator] = Arguments::new(&args.into_values())?.bind("joiner", ["sep"])?;
        let separator = separator.unwrap_or_else(|| Value::from(", "));
        if holds_namespace(&separator) {
            return Err(fault("a namespace cannot separate"));
        }
        Ok(Value::from_object(Joiner { separator, used: AtomicBool::new(false) }))
    });
    env.add_function("lipsum", |_: Args| R::<Value>::Err(fault("lipsum is not available in chat templates")));
    env.add_function("raise_exception", |state: &mut State, args: Args| -> R<Value> {
        let [message] = Arguments::new(&args.into_values())?.bind("raise_exception", ["message"])?;
        let message = message.ok_or_else(|| fault("raise_exception() missing 1 required argument: 'message'"))?;
        let text = print::to_text(&message, &Meter::of(state)?)?;
        Err(fault("raised").with_source(Raised(print::text_in(&text).str().to_owned())))
    });
    env.add_function("strftime_now", |state: &mut State, args: Args| -> R<Value> {
        let [format] = Arguments::new(&args.into_values())?.bind("strftime_now", ["format"])?;
        let format = format.ok_or_else(|| fault("strftime_now() missing 1 required argument: 'format'"))?;
        super::clock::strftime_now(state, &format)
    });
    lowered(env);
}

/// What operators and literals become; see [`super::lower`].
fn lowered(env: &mut Environment<'_>) {
    env.add_function("__py_list", |state: &mut State, args: Rest<Value>| Meter::of(state)?.list(args.0));
    env.add_function("__py_tuple", |state: &mut State, args: Rest<Value>| Meter::of(state)?.tuple(args.0));
    env.add_function("__py_dict", |state: &mut State, args: Rest<Value>| -> R<Value> {
        let meter = Meter::of(state)?;
        let mut builder = DictBuilder::new(&meter)?;
        for pair in args.chunks_exact(2) {
            if let [k, v] = pair {
                builder.insert(k.clone(), v.clone(), &meter)?;
            }
        }
        Ok(builder.finish())
    });
    env.add_function("__py_math", |state: &mut State, args: Rest<Value>| {
        let meter = Meter::of(state)?;
        let mut args = args.0.into_iter();
        let mut left = args.next().unwrap_or_default();
        while let (Some(operator), Some(right)) = (args.next(), args.next()) {
            left = ops::arithmetic(str_of(&operator).unwrap_or_default(), &left, &right, &meter)?;
        }
        Ok(left)
    });
    env.add_function("__py_compare", |state: &mut State, args: Rest<Value>| -> R<bool> {
        let meter = Meter::of(state)?;
        let mut rest: &[Value] = &args;
        while let [left, sign, right, ..] = rest {
            if !ops::compare(str_of(sign).unwrap_or_default(), left, right, &meter)? {
                return Ok(false);
            }
            rest = rest.get(2..).unwrap_or_default();
        }
        Ok(true)
    });
    env.add_function("__py_concat", |state: &mut State, args: Rest<Value>| -> R<Value> {
        let mut sink = super::meter::Sink::new(&Meter::of(state)?);
        for value in args.iter() {
            print::display(value, &mut sink)?;
        }
        Ok(sink.finish())
    });
    env.add_function("__py_negative", |value: Value| ops::signed(&value, true));
    env.add_function("__py_positive", |value: Value| ops::signed(&value, false));
    env.add_function("__py_item", |state: &mut State, value: Value, key: Value| {
        ops::item(&value, &key, &Meter::of(state)?)
    });
    env.add_function("__py_slice", |state: &mut State, args: Rest<Value>| match &args[..] {
        [value, start, stop, step] => ops::slice(value, [start, stop, step], &Meter::of(state)?),
        _ => Ok(Value::UNDEFINED),
    });
    env.add_function("__py_attribute", |value: Value, name: &str| ops::attribute(&value, name));
    env.add_function("__py_named", |state: &mut State, value: Value| -> R<Value> {
        let meter = Meter::of(state)?;
        let View::Dict(dict) = view(&value) else {
            let name = type_name(&value);
            return Err(fault(format!("argument after ** must be a mapping, not {name}")));
        };
        let mut named = DictBuilder::new(&meter)?;
        for (key, value) in &dict.entries {
            str_of(key).ok_or_else(|| fault("keywords must be strings"))?;
            let (name, value) = carried((key.clone(), value.clone()));
            named.insert(Value::from(name), value, &meter)?;
        }
        Ok(named.finish())
    });
    env.add_function("__py_loop", |state: &mut State, args: Rest<Value>| {
        // loop.changed(...) and loop.cycle(...): the engine compares with its own equality, and divides by the number of
        // arguments.
        let mut args = args.0;
        let (of, method) = (args.remove(0), args.remove(0));
        let method = str_of(&method).unwrap_or_default().to_owned();
        if is_namespace(&of) {
            if method == "cycle" && args.is_empty() {
                return Err(fault("no items for cycling given"));
            }
            if method == "changed" {
                let meter = Meter::of(state)?;
                args = args.iter().map(|a| plain(a, &meter)).collect::<R<Vec<_>>>()?;
            }
        }
        of.call_method(state, &method, &args)
    });
    env.add_function("__py_iterate", |state: &mut State, value: Value, unpack: bool| -> R<Value> {
        let meter = Meter::of(state)?;
        let items = meter.iterate(&value)?;
        // One step for each time the engine will go through the body.
        meter.steps(items.len())?;
        meter.list_of(items.into_iter().map(|item| match view(&item) {
            // The engine does not unpack text.
            View::Str(_) | View::Lazy(_) if unpack => meter.list(meter.iterate(&item)?),
            _ => Ok(item),
        }))
    });
    env.add_function("__py_assigned", |name: &str, value: Value| -> R<Value> {
        if name.starts_with('_') {
            return Err(fault(format!("a namespace cannot store '{name}': the name begins with an underscore")));
        }
        if holds_namespace(&value) {
            return Err(fault("a namespace cannot hold a namespace or a loop"));
        }
        Ok(value)
    });
    env.add_function("__py_macro", |state: &mut State, args: Rest<Value>| -> R<Value> {
        let mut args = args.0.into_iter();
        let (inner, name, flags) = (args.next().unwrap_or_default(), args.next(), args.next());
        let text = |v: Option<&Value>| v.and_then(str_of).unwrap_or_default().to_owned();
        let flags = text(flags.as_ref());
        let signed: Vec<String> = args.map(|p| text(Some(&p))).collect();
        let parameters: Vec<String> = signed.iter().map(|p| p.trim_end_matches('=').to_owned()).collect();
        Ok(Value::from_object(Macro {
            name: text(name.as_ref()),
            defaults: signed.iter().filter(|p| p.ends_with('=')).count(),
            arguments: Meter::of(state)?.tuple(parameters.iter().map(|p| Value::from(p.as_str())).collect())?,
            parameters,
            varargs: flags.contains('v'),
            kwargs: flags.contains('k'),
            caller: flags.contains('c'),
            inner,
        }))
    });
    env.add_test("__py_unset", |value: Value| value.downcast_object_ref::<Unset>().is_some());
    env.add_function("__py_unavailable", |tag: &str| {
        let why = if tag == "autoescape" { "its text is no HTML" } else { "it is alone" };
        R::<Value>::Err(fault(format!("'{tag}' is not available in chat templates: {why}")))
    });
}

/// A value whose texts compare as the engine compares them.
fn plain(value: &Value, meter: &Arc<Meter>) -> R<Value> {
    match view(value) {
        View::List(items) | View::Tuple(items) => items.mapped(|v| plain(v, meter), meter),
        _ => Ok(marks::unmarked(value)),
    }
}

fn range(args: &[Value]) -> R<Value> {
    let mut numbers = Vec::new();
    for value in args {
        let n = as_int(value).and_then(|n| i64::try_from(n).ok());
        let kind = type_name(value);
        numbers.push(n.ok_or_else(|| fault(format!("'{kind}' object cannot be interpreted as an integer")))?);
    }
    let range = match *numbers {
        [stop] => Range::new(0, stop, 1),
        [start, stop] => Range::new(start, stop, 1),
        [start, stop, step] => Range::new(start, stop, step),
        _ => return Err(fault(format!("range expected 1 to 3 arguments, got {}", numbers.len()))),
    };
    range.map(Value::from_object)
}

/// `namespace(...)`: the engine's own, which `set` can assign to.
fn namespace(state: &mut State, args: Args) -> R<Value> {
    let meter = Meter::of(state)?;
    meter.charge(256)?;
    let initial = methods::dict(Arguments::new(&args.into_values())?, &meter)?;
    let View::Dict(dict) = view(&initial) else { return Ok(initial) };
    let mut plain = DictBuilder::new(&meter)?;
    for (name, value) in &dict.entries {
        if str_of(name).is_some_and(|n| n.starts_with('_')) {
            return Err(fault("a namespace cannot store a name that begins with an underscore"));
        }
        if holds_namespace(value) {
            return Err(fault("a namespace cannot hold a namespace or a loop"));
        }
        defined(name)?;
        // The engine drops names that are no strings of its own. No template can print the name of an attribute.
        plain.insert(marks::unmarked(name), value.clone(), &meter)?;
    }
    Value::from_function(minijinja::functions::namespace).call(state, &[plain.finish()])
}
