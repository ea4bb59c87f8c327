//! The arguments of a filter or function, by place or by name, as Python takes them.

use minijinja::value::{Kwargs, from_args};
use minijinja::{Error, ErrorKind, Value};

use super::python::{integer, invalid};

/// Arguments that are taken one after another, in the order of the parameters.
pub(super) struct Arguments {
    places: std::vec::IntoIter<Value>,
    names: Kwargs,
}

impl Arguments {
    pub(super) fn new(args: &[Value]) -> Result<Arguments, Error> {
        let (places, named) = match args.split_last() {
            Some((last, places)) if last.is_kwargs() => (places, std::slice::from_ref(last)),
            _ => (args, &[][..]),
        };
        let (names,) = from_args::<(Kwargs,)>(named)?;
        Ok(Arguments { places: Vec::from(places).into_iter(), names })
    }

    /// The next parameter's, if it is given.
    pub(super) fn take(&mut self, name: &str) -> Result<Option<Value>, Error> {
        let named = self.names.get::<Option<Value>>(name)?;
        match (self.places.next(), named) {
            (Some(_), Some(_)) => Err(invalid(format!("two values for the argument {name}"))),
            (place, named) => Ok(place.or(named)),
        }
    }

    /// What has to be given.
    pub(super) fn need(&mut self, name: &str) -> Result<Value, Error> {
        self.take(name)?.ok_or_else(|| Error::new(ErrorKind::MissingArgument, name.to_owned()))
    }

    pub(super) fn flag(&mut self, name: &str, default: bool) -> Result<bool, Error> {
        Ok(self.take(name)?.map_or(default, |value| value.is_true()))
    }

    /// A whole number.
    pub(super) fn number(&mut self, name: &str, default: i64) -> Result<i64, Error> {
        let Some(value) = self.take(name)? else { return Ok(default) };
        let number = integer(&value).and_then(|number| i64::try_from(number).ok());
        number.ok_or_else(|| invalid(format!("{name} is no whole number")))
    }

    pub(super) fn text(&mut self, name: &str, default: &str) -> Result<String, Error> {
        let Some(value) = self.take(name)? else { return Ok(default.to_owned()) };
        value.as_str().map(str::to_owned).ok_or_else(|| invalid(format!("{name} is no string")))
    }

    /// All that is left: by place, and by name as a dictionary.
    pub(super) fn rest(&mut self) -> Result<(Vec<Value>, Option<Value>), Error> {
        let mut named = Vec::new();
        for name in self.names.args() {
            named.push((name.to_owned(), self.names.peek::<Value>(name)?));
        }
        for (name, _) in &named {
            let _: Value = self.names.get(name)?;
        }
        Ok((self.places.by_ref().collect(), (!named.is_empty()).then(|| Value::from_pairs(named))))
    }

    /// Refuses what nobody has taken.
    pub(super) fn finish(mut self) -> Result<(), Error> {
        if self.places.next().is_some() {
            return Err(Error::from(ErrorKind::TooManyArguments));
        }
        self.names.assert_all_used()
    }
}
