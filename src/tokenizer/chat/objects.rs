//! Functions of Jinja2 that minijinja lacks, and values that are Python's rather than lists.

use std::fmt;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use minijinja::value::{Enumerator, Object, ObjectRepr, Rest, Tuple, ValueKind};
use minijinja::{Error, ErrorKind, State, Value};

use super::python::{self, invalid};

/// What Python makes one by one: true even if there is nothing, and with no text.
#[derive(Debug)]
pub(super) struct Generator(Mutex<std::vec::IntoIter<Value>>);

impl Generator {
    pub(super) fn of(items: &Value) -> Result<Value, Error> {
        let items: Vec<Value> = items.try_iter()?.collect();
        Ok(Value::from_object(Generator(Mutex::new(items.into_iter()))))
    }

    /// What nobody has taken yet.
    pub(super) fn left(&self) -> Vec<Value> {
        self.0.lock().map(|items| items.as_slice().to_vec()).unwrap_or_default()
    }
}

impl Object for Generator {
    fn repr(self: &Arc<Self>) -> ObjectRepr {
        ObjectRepr::Iterable
    }

    fn enumerate(self: &Arc<Self>) -> Enumerator {
        // What one walk has taken is gone for the next, as in Python.
        let items = Arc::clone(self);
        Enumerator::Iter(Box::new(std::iter::from_fn(move || items.0.lock().ok()?.next())))
    }

    fn is_true(self: &Arc<Self>) -> bool {
        true
    }

    fn render(self: &Arc<Self>, _: &mut fmt::Formatter<'_>) -> fmt::Result {
        Err(fmt::Error)
    }
}

/// `range(…)`, of as many numbers as the sandbox allows.
#[derive(Debug)]
struct Range {
    start: i64,
    stop: i64,
    step: i64,
    len: usize,
}

impl Object for Range {
    fn repr(self: &Arc<Self>) -> ObjectRepr {
        ObjectRepr::Seq
    }

    fn get_value(self: &Arc<Self>, key: &Value) -> Option<Value> {
        let at = key.as_usize().filter(|at| *at < self.len)?;
        Some((self.start + i64::try_from(at).ok()? * self.step).into())
    }

    fn enumerate(self: &Arc<Self>) -> Enumerator {
        Enumerator::Seq(self.len)
    }

    fn render(self: &Arc<Self>, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.step {
            1 => write!(f, "range({}, {})", self.start, self.stop),
            step => write!(f, "range({}, {}, {step})", self.start, self.stop),
        }
    }
}

pub(super) fn range(args: Rest<Value>) -> Result<Value, Error> {
    const MOST: i128 = 100_000;
    let number = |value: &Value| {
        let number = python::integer(value).and_then(|number| i64::try_from(number).ok());
        number.ok_or_else(|| invalid("a range is made of whole numbers"))
    };
    let numbers = args.iter().map(number).collect::<Result<Vec<i64>, _>>()?;
    let (start, stop, step) = match *numbers {
        [stop] => (0, stop, 1),
        [start, stop] => (start, stop, 1),
        [start, stop, step] => (start, stop, step),
        _ => return Err(invalid("a range takes one to three numbers")),
    };
    let (distance, step_size) = (i128::from(stop) - i128::from(start), i128::from(step));
    if step == 0 {
        return Err(invalid("a range's step is not zero"));
    }
    let len = if distance.signum() == step_size.signum() {
        (distance.abs() + step_size.abs() - 1) / step_size.abs()
    } else {
        0
    };
    let len = usize::try_from(len).ok().filter(|_| len <= MOST);
    let len = len.ok_or_else(|| invalid(format!("a range has at most {MOST} numbers")))?;
    Ok(Value::from_object(Range { start, stop, step, len }))
}

/// Keys, values or items of a dictionary.
#[derive(Debug)]
struct View {
    name: &'static str,
    items: Vec<Value>,
}

impl Object for View {
    fn repr(self: &Arc<Self>) -> ObjectRepr {
        ObjectRepr::Iterable
    }

    fn enumerate(self: &Arc<Self>) -> Enumerator {
        Enumerator::Values(self.items.clone())
    }

    fn render(self: &Arc<Self>, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let items = python::repr(&Value::from(self.items.clone())).map_err(|_| fmt::Error)?;
        write!(f, "{}({items})", self.name)
    }
}

/// A dictionary's method, if it is one of these.
pub(super) fn of_map(map: &Value, method: &str) -> Option<Result<Value, Error>> {
    let name = match method {
        "keys" => "dict_keys",
        "values" => "dict_values",
        "items" => "dict_items",
        "copy" => "dict",
        _ => return None,
    };
    let item = |key: Value| {
        let value = map.get_item(&key)?;
        Ok(match name {
            "dict_keys" => key,
            "dict_values" => value,
            _ => Tuple::from([key, value]).into(),
        })
    };
    let items = map.try_iter().and_then(|keys| keys.map(item).collect::<Result<Vec<Value>, Error>>());
    Some(items.and_then(|items| match name {
        "dict" => {
            let pair = |item: &Value| Ok((item.get_item_by_index(0)?, item.get_item_by_index(1)?));
            Ok(Value::from_pairs(items.iter().map(pair).collect::<Result<Vec<_>, Error>>()?))
        }
        _ => Ok(Value::from_object(View { name, items })),
    }))
}

/// `cycler(…)`: its items one after another, again and again.
#[derive(Debug)]
struct Cycler {
    items: Vec<Value>,
    at: AtomicUsize,
}

impl Object for Cycler {
    fn repr(self: &Arc<Self>) -> ObjectRepr {
        ObjectRepr::Plain
    }

    fn get_value(self: &Arc<Self>, key: &Value) -> Option<Value> {
        match key.as_str()? {
            "current" => self.items.get(self.at.load(Ordering::Relaxed)).cloned(),
            "items" => Some(Tuple::from(self.items.clone()).into()),
            "pos" => Some(self.at.load(Ordering::Relaxed).into()),
            _ => None,
        }
    }

    fn call_method(self: &Arc<Self>, _: &mut State, method: &str, args: &[Value]) -> Result<Value, Error> {
        match (method, args.is_empty()) {
            ("next", true) => {
                let at = self.at.load(Ordering::Relaxed);
                self.at.store((at + 1) % self.items.len(), Ordering::Relaxed);
                self.items.get(at).cloned().ok_or_else(|| invalid("a cycler without items"))
            }
            ("reset", true) => {
                self.at.store(0, Ordering::Relaxed);
                Ok(().into())
            }
            _ => Err(Error::new(ErrorKind::UnknownMethod, format!("cycler has no method named {method}"))),
        }
    }

    fn render(self: &Arc<Self>, _: &mut fmt::Formatter<'_>) -> fmt::Result {
        Err(fmt::Error)
    }
}

pub(super) fn cycler(items: Rest<Value>) -> Result<Value, Error> {
    if items.is_empty() {
        return Err(invalid("cycler: at least one item has to be provided"));
    }
    Ok(Value::from_object(Cycler { items: items.to_vec(), at: AtomicUsize::new(0) }))
}

/// `joiner(separator)`: nothing the first time, then the separator.
#[derive(Debug)]
struct Joiner {
    separator: Value,
    calls: AtomicUsize,
}

impl Object for Joiner {
    fn repr(self: &Arc<Self>) -> ObjectRepr {
        ObjectRepr::Plain
    }

    fn call(self: &Arc<Self>, _: &mut State, _: &[Value]) -> Result<Value, Error> {
        let first = self.calls.fetch_add(1, Ordering::Relaxed) == 0;
        Ok(if first { "".into() } else { self.separator.clone() })
    }

    fn render(self: &Arc<Self>, _: &mut fmt::Formatter<'_>) -> fmt::Result {
        Err(fmt::Error)
    }
}

pub(super) fn joiner(separator: Option<Value>) -> Value {
    Value::from_object(Joiner {
        separator: separator.unwrap_or_else(|| ", ".into()),
        calls: AtomicUsize::new(0),
    })
}

/// `x is sequence`: what has a length and items by number or key, and what is undefined.
pub(super) fn is_sequence(value: &Value) -> bool {
    let other = matches!(value.kind(), ValueKind::String | ValueKind::Map | ValueKind::Undefined);
    python::is_list(value) || other || value.downcast_object_ref::<Range>().is_some()
}

/// `x is callable`.
pub(super) fn is_callable(value: &Value) -> bool {
    value.kind() == ValueKind::Plain && value.downcast_object_ref::<Cycler>().is_none()
}
