//! What keeps a chat template, which is a program by a stranger, within bounds.
//!
//! minijinja counts fuel: an instruction costs one, and so do 64 bytes of whatever an
//! operator, a filter or the output makes. That bounds time and memory as long as one
//! instruction does not do unbounded work, which it can where it walks a value: a list that
//! holds itself twice, forty times over, takes forty instructions to build and writes 2⁴⁰
//! items when it becomes a string. So every place that walks a value looks first how large it
//! is when all sharing is written out, and refuses what is too large or too deep:
//!
//! - output, through the formatter;
//! - operators, calls and look-ups, through filters that `source` puts on their operands;
//! - filters, tests and methods, through wrappers around minijinja's own.
//!
//! What is left is bounded in the size of what a value may be. minijinja's compiler calls itself
//! for every operator of `1+1+1+…`, and a list in a list is dropped by calls in calls: so a
//! template's own length is bounded, and the stack has room for all the calls that its text and
//! its fuel can buy. The last resort is a clock: a template renders on a thread of its own, and
//! after most of a second nobody waits for it any more.

use std::sync::{Arc, Mutex, Once, PoisonError, mpsc};
use std::time::Duration;

use minijinja::value::{Rest, ValueKind, ValueOrKwargs};
use minijinja::{AutoEscape, Environment, Error, ErrorKind, Output, State, Value};
use minijinja_contrib::pycompat;

use super::objects::Generator;
use super::python::too_large;
use super::source::{EACH, EARLIER, FACTOR, LEFT, MEMBER, OPERAND, RIGHT, SUM, TEXT};
use super::{filters, methods, python};

/// Fuel of a conversation of no length: about 64 MB of data, or a million instructions.
const FUEL: u64 = 1_000_000;
/// Bytes that a value may take when written out, besides those of the conversation.
const SIZE: u64 = 4 << 20;
/// Lists in lists.
const DEPTH: u32 = 64;
/// What a value costs besides the bytes of its text.
const VALUE: u64 = 16;
/// Bytes of a template. The longest known have less than a tenth of it.
const SOURCE: usize = 256 << 10;
/// Stack for a unit of fuel: two of them make a tuple, which takes 100 bytes to drop. All of it is
/// enough for the 500 calls in each other that minijinja allows.
const STACK_PER_FUEL: usize = 128;
/// More of it for each byte of template: the compiler takes at most 400 for one.
const STACK_PER_BYTE: usize = 1024;
/// Address space that is to be left beside that stack: allocators take some of it for each thread.
const ROOM: usize = 32 << 20;
/// The name of the rendering thread.
const THREAD: &str = "chat template";
/// The time for a conversation of no length: with all that comes before and after, a refusal takes
/// less than a second.
const TIME: Duration = Duration::from_millis(800);

/// Filters of minijinja that walk their arguments, besides those of `filters`. The others look at a
/// value's outside alone, or minijinja makes them pay for each item that they visit.
const FILTERS: [&str; 9] =
    ["groupby", "items", "map", "reject", "rejectattr", "select", "selectattr", "sum", "tojson"];
/// Tests that walk their arguments.
const TESTS: [&str; 22] = [
    "divisibleby",
    "lower",
    "upper",
    "sameas",
    "eq",
    "equalto",
    "==",
    "ne",
    "!=",
    "lt",
    "lessthan",
    "<",
    "le",
    "<=",
    "gt",
    "greaterthan",
    ">",
    "ge",
    ">=",
    "in",
    "odd",
    "even",
];

/// The bounds of one rendering.
#[derive(Clone, Copy)]
pub(super) struct Limits {
    fuel: u64,
    size: u64,
    time: Duration,
    stack: usize,
}

impl Limits {
    /// Those for so many bytes of template and of conversation: what handles them all a few
    /// times is no run-away.
    ///
    /// # Errors
    /// For a template that is longer than any.
    pub(super) fn for_bytes(source: usize, text: usize) -> Result<Limits, String> {
        if source > SOURCE {
            return Err(format!("it has {source} bytes, and no more than {SOURCE} are read"));
        }
        let bytes = (source + text) as u64;
        // Text is paid for by 64 bytes.
        let fuel = FUEL + source as u64 + text as u64 / 8;
        Ok(Limits {
            fuel,
            size: SIZE + 4 * bytes,
            time: TIME + Duration::from_micros(bytes / 10),
            stack: STACK_PER_FUEL.saturating_mul(fuel as usize).saturating_add(STACK_PER_BYTE * source),
        })
    }

    /// The bytes that a value may take when written out.
    pub(super) fn size(self) -> u64 {
        self.size
    }

    /// Sets the bounds on an environment whose own filters are complete.
    pub(super) fn apply(self, env: &mut Environment<'static>) {
        env.set_fuel(Some(self.fuel));
        let size = self.size;
        // The unguarded filters and tests are called in an environment of their own. The
        // filters that call others by name find them there too.
        let inner = Arc::new(env.clone());
        for name in filters::FILTERS.map(|(name, _)| name).into_iter().chain(FILTERS) {
            let inner = Arc::clone(&inner);
            env.add_filter(name, move |state: &State, args: Rest<ValueOrKwargs>| {
                let args = args.into_values();
                charge(state, &args, size)?;
                let result = inner.empty_state().apply_filter(name, &args)?;
                if filters::GENERATORS.contains(&name) { Generator::of(&result) } else { Ok(result) }
            });
        }
        for name in TESTS {
            let inner = Arc::clone(&inner);
            env.add_test(name, move |state: &State, args: Rest<ValueOrKwargs>| {
                let args = args.into_values();
                charge(state, &args, size)?;
                inner.empty_state().perform_test(name, &args)
            });
        }
        env.add_filter(OPERAND, move |state: &State, value: Value| {
            charge(state, std::slice::from_ref(&value), size)?;
            Ok::<_, Error>(value)
        });
        env.add_filter(SUM, move |state: &State, value: Value| {
            charge(state, std::slice::from_ref(&value), size)?;
            if value.is_safe() || python::is_own(&value) {
                return Err(python::invalid("texts for HTML and what has no items of its own are not added"));
            }
            Ok::<_, Error>(value)
        });
        env.add_filter(TEXT, move |state: &State, value: Value| {
            charge(state, std::slice::from_ref(&value), size)?;
            Ok::<_, Error>(if value.as_str().is_some() { value } else { python::str(&value)?.into() })
        });
        env.add_filter(EACH, |value: Value| match value.is_none() {
            true => Err(python::invalid("none has no items to loop over")),
            false => Ok(value),
        });
        env.add_filter(EARLIER, |_: Value| {
            Err::<Value, _>(python::invalid("the default of a macro's parameter cannot be another parameter"))
        });
        compare(env, size);
        env.add_filter(FACTOR, |value: Value| match value.kind() {
            ValueKind::Seq | ValueKind::Iterable | ValueKind::Map => {
                Err(Error::new(ErrorKind::InvalidOperation, "a list cannot be multiplied in a chat template"))
            }
            _ => Ok(value),
        });
        env.set_formatter(move |out: &mut Output, state: &mut State, value: &Value| {
            charge(state, std::slice::from_ref(value), size)?;
            let text = match value.as_str() {
                Some(_) => value.clone(),
                None => python::str(value)?.into(),
            };
            let escapes = *state.auto_escape() != AutoEscape::None && !text.is_safe();
            let text = match text.as_str().filter(|_| escapes) {
                Some(text) => Value::from_safe_string(filters::escaped(text)),
                None => text,
            };
            minijinja::escape_formatter(out, state, &text)
        });
        env.set_unknown_method_callback(move |state, value, method, args| {
            charge(state, std::slice::from_ref(value), size)?;
            let weight = charge(state, args, size)?;
            if method == "format" {
                charge_format(state, value, weight, size)?;
            }
            methods::call(value, method, args, size)
                .unwrap_or_else(|| pycompat::unknown_method_callback(state, value, method, args))
        });
    }

    /// Runs on a thread of its own for as long as is allowed. Gives what is wrong with the template
    /// where the time is over or the thread has failed.
    ///
    /// # Errors
    /// [`crate::Error::Device`] where there is no thread to be had: that is not the template's fault.
    pub(super) fn in_time<T: Send + 'static>(
        self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> crate::Result<Result<T, String>> {
        say_no_panics();
        let (send, receive) = mpsc::sync_channel(1);
        let thread = std::thread::Builder::new().name(THREAD.to_owned()).stack_size(self.stack);
        let refused = |e: &dyn std::fmt::Display| {
            let stack = self.stack >> 20;
            crate::Error::Device(format!(
                "no thread for the chat template, with a stack of {stack} MiB of address space: {e} (--raw does \
                 without the template)"
            ))
        };
        // Where the stack took the last of it, the next allocation would end the process.
        let room = memmap2::MmapMut::map_anon(self.stack.saturating_add(ROOM));
        drop(room.map_err(|e| refused(&e))?);
        let started = thread.spawn(move || {
            // Nobody may be waiting any more.
            let _ = send.send(work());
        });
        started.map_err(|e| refused(&e))?;
        Ok(receive.recv_timeout(self.time).map_err(|e| match e {
            mpsc::RecvTimeoutError::Timeout => "it takes more time than it may".to_owned(),
            mpsc::RecvTimeoutError::Disconnected => "rendering it failed".to_owned(),
        }))
    }
}

/// Lets a panic of the rendering thread be what it is to the user: a template that fails, in one
/// line. minijinja has `unreachable!()` where templates could reach.
fn say_no_panics() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let before = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |panic| {
            if std::thread::current().name() != Some(THREAD) {
                before(panic);
            }
        }));
    });
}

/// What is compared is looked at in pairs: the left side waits, by the number of its comparison, until
/// the right one is there. One that ended early has left its own behind, which is in nobody's way.
fn compare(env: &mut Environment<'static>, size: u64) {
    let waiting: Arc<Mutex<Vec<(usize, Value)>>> = Arc::default();
    let sides = Arc::clone(&waiting);
    env.add_filter(LEFT, move |state: &State, value: Value, site: usize| {
        charge(state, std::slice::from_ref(&value), size)?;
        sides.lock().unwrap_or_else(PoisonError::into_inner).push((site, value.clone()));
        Ok::<_, Error>(value)
    });
    for (name, member) in [(RIGHT, false), (MEMBER, true)] {
        let waiting = Arc::clone(&waiting);
        env.add_filter(name, move |state: &State, value: Value, site: usize| {
            charge(state, std::slice::from_ref(&value), size)?;
            let mut waiting = waiting.lock().unwrap_or_else(PoisonError::into_inner);
            let Some(at) = waiting.iter().rposition(|(other, _)| *other == site) else { return Ok(value) };
            let left = waiting.drain(at..).next().map(|(_, left)| left).unwrap_or_default();
            let fits = if member {
                left.kind() == ValueKind::String || value.kind() != ValueKind::String
            } else {
                python::comparable(&left, &value)
            };
            if fits { Ok(value) } else { Err(python::not_comparable(&left, &value)) }
        });
    }
}

/// Makes the template pay for walking values, and refuses those that are too large. What they weigh.
fn charge(state: &State, values: &[Value], size: u64) -> Result<u64, Error> {
    let mut left = size;
    for value in values {
        weigh(value, &mut left, DEPTH)?;
    }
    // Texts are paid for where they are made; here it is the values of a container.
    let visited = (size - left) / VALUE;
    let containers = values.iter().any(is_container);
    if containers {
        state.consume_fuel(visited / 4)?;
    }
    Ok(size - left)
}

/// Makes the template pay for what `str.format` may write: every field may show all arguments,
/// which weigh so much, and be as wide and as precise as it says.
fn charge_format(state: &State, format: &Value, weight: u64, size: u64) -> Result<(), Error> {
    let text = format.as_str().unwrap_or_default();
    let fields = text.split('{').skip(1).map(|rest| rest.split('}').next().unwrap_or(rest));
    let numbers = fields
        .clone()
        .filter_map(|field| field.split_once(':'))
        .flat_map(|(_, spec)| spec.split(|c: char| !c.is_ascii_digit()).filter(|digits| !digits.is_empty()));
    // What does not fit 64 bits is wide as well.
    let widths = numbers.map(|digits| digits.parse().unwrap_or(u64::MAX));
    let fields = fields.count() as u64;
    let most = widths.fold(fields.saturating_mul(weight), u64::saturating_add);
    if most > size {
        return Err(too_large());
    }
    state.consume_fuel(most / 64)
}

fn is_container(value: &Value) -> bool {
    matches!(value.kind(), ValueKind::Seq | ValueKind::Iterable | ValueKind::Map)
}

/// Takes what a value weighs, all sharing written out, from what is left.
fn weigh(value: &Value, left: &mut u64, depth: u32) -> Result<(), Error> {
    let text = value.as_bytes().map_or(0, <[u8]>::len) as u64;
    *left = left.checked_sub(VALUE + text).ok_or_else(too_large)?;
    if !is_container(value) {
        return Ok(());
    }
    let depth = depth.checked_sub(1).ok_or_else(too_large)?;
    if let Some(generator) = value.downcast_object_ref::<Generator>() {
        return generator.left().iter().try_for_each(|item| weigh(item, left, depth));
    }
    for key in value.try_iter()? {
        weigh(&key, left, depth)?;
        if value.kind() == ValueKind::Map {
            weigh(&value.get_item(&key)?, left, depth)?;
        }
    }
    Ok(())
}
