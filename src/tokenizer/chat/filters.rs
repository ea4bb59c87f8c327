//! Filters of Jinja2 that minijinja lacks, or has otherwise.

use std::cmp::Ordering;

use minijinja::value::{Kwargs, Tuple, ValueKind};
use minijinja::{Error, State, Value};

use super::arguments::Arguments;
use super::python::{self, integer, invalid, is_space, too_large};
use super::{numbers, percent, wrap};

/// A filter: the environment's state, the arguments behind the value, and what a value may take in bytes.
pub(super) type Filter = fn(&mut State, Value, &mut Arguments, u64) -> Result<Value, Error>;

/// By name.
pub(super) const FILTERS: [(&str, Filter); 37] = [
    ("abs", numbers::abs),
    ("attr", attr),
    ("batch", batch),
    ("capitalize", |_, value, _, _| Ok(capitalized(&python::str(&value)?).into())),
    ("center", center),
    ("d", default),
    ("default", default),
    ("dictsort", dictsort),
    ("e", escape),
    ("escape", escape),
    ("filesizeformat", numbers::filesizeformat),
    ("float", numbers::float),
    ("forceescape", |_, value, _, _| Ok(Value::from_safe_string(escaped(&python::str(&value)?)))),
    ("format", format),
    ("indent", indent),
    ("int", numbers::int),
    ("join", join),
    ("lower", |_, value, _, _| Ok(like(&value, python::str(&value)?.to_lowercase()))),
    ("max", |state, value, args, _| extreme(state, &value, args, Ordering::Greater)),
    ("min", |state, value, args, _| extreme(state, &value, args, Ordering::Less)),
    ("pprint", pprint),
    ("replace", replace),
    ("round", numbers::round),
    ("safe", |_, value, _, _| Ok(Value::from_safe_string(python::str(&value)?))),
    ("slice", slice),
    ("sort", sort),
    ("string", |_, value, _, _| {
        Ok(if value.as_str().is_some() { value } else { python::str(&value)?.into() })
    }),
    ("striptags", striptags),
    ("title", |_, value, _, _| Ok(title(&python::str(&value)?).into())),
    ("trim", trim),
    ("truncate", truncate),
    ("unique", unique),
    ("upper", |_, value, _, _| Ok(like(&value, python::str(&value)?.to_uppercase()))),
    ("urlencode", urlencode),
    ("wordcount", wordcount),
    ("wordwrap", wrap::wordwrap),
    ("xmlattr", xmlattr),
];

/// Those whose items Python makes one by one.
pub(super) const GENERATORS: [&str; 9] =
    ["batch", "items", "map", "reject", "rejectattr", "select", "selectattr", "slice", "unique"];

/// Filters and tests of minijinja that Jinja2 has not.
pub(super) const FOREIGN_FILTERS: [&str; 5] = ["bool", "chain", "lines", "split", "zip"];
pub(super) const FOREIGN_TESTS: [&str; 4] = ["endingwith", "int", "safe", "startingwith"];

/// A text that is safe for HTML if the value was.
fn like(value: &Value, text: String) -> Value {
    if value.is_safe() { Value::from_safe_string(text) } else { text.into() }
}

/// Names for minijinja's filters, of what was given.
fn names<const N: usize>(given: [(&str, Option<Value>); N]) -> Kwargs {
    given.into_iter().filter_map(|(name, value)| Some((name, value?))).collect()
}

fn batch(state: &mut State, value: Value, args: &mut Arguments, _: u64) -> Result<Value, Error> {
    let count = args.need("linecount")?.try_into()?;
    let fill = args.take("fill_with")?.filter(|fill| !fill.is_none());
    minijinja::filters::batch(state, value, count, fill)
}

fn slice(state: &mut State, value: Value, args: &mut Arguments, _: u64) -> Result<Value, Error> {
    let count = args.need("slices")?.try_into()?;
    let fill = args.take("fill_with")?.filter(|fill| !fill.is_none());
    minijinja::filters::slice(state, value, count, fill)
}

fn unique(state: &mut State, value: Value, args: &mut Arguments, _: u64) -> Result<Value, Error> {
    let given = [("case_sensitive", args.take("case_sensitive")?), ("attribute", args.take("attribute")?)];
    minijinja::filters::unique(state, value, names(given))
}

/// The first letter large, the others small.
pub(super) fn capitalized(text: &str) -> String {
    let mut chars = text.chars();
    chars.next().map(python::title).unwrap_or_default() + &chars.as_str().to_lowercase()
}

/// Python's look-up of attributes: a dictionary has no keys here.
fn attr(state: &mut State, value: Value, args: &mut Arguments, _: u64) -> Result<Value, Error> {
    let name = args.need("name")?;
    let dictionary = value.kind() == ValueKind::Map && !python::is_namespace(&value);
    if dictionary || matches!(value.kind(), ValueKind::Seq | ValueKind::String) {
        return Ok(Value::UNDEFINED);
    }
    state.apply_filter("attr", &[value, name])
}

fn default(_: &mut State, value: Value, args: &mut Arguments, _: u64) -> Result<Value, Error> {
    // None that is given is a value as any other.
    let other = args.take("default_value")?.unwrap_or_else(|| Value::from(""));
    let boolean = args.flag("boolean", false)?;
    Ok(if value.is_undefined() || boolean && !value.is_true() { other } else { value })
}

/// A width that fits.
fn width(args: &mut Arguments, name: &str, default: i64, size: u64) -> Result<usize, Error> {
    let width = args.number(name, default)?.max(0);
    if width.unsigned_abs() > size {
        Err(too_large())
    } else {
        usize::try_from(width).map_err(|_| too_large())
    }
}

fn center(_: &mut State, value: Value, args: &mut Arguments, size: u64) -> Result<Value, Error> {
    let width = width(args, "width", 80, size)?;
    Ok(centered(&python::str(&value)?, width, " ").into())
}

/// As Python does it: what is left over stands before the text only in odd widths.
pub(super) fn centered(text: &str, width: usize, fill: &str) -> String {
    let missing = width.saturating_sub(text.chars().count());
    let before = missing / 2 + (missing & width & 1);
    format!("{}{text}{}", fill.repeat(before), fill.repeat(missing - before))
}

fn dictsort(_: &mut State, value: Value, args: &mut Arguments, _: u64) -> Result<Value, Error> {
    let case_sensitive = args.take("case_sensitive")?;
    let by = args.text("by", "key")?;
    let reverse = args.take("reverse")?;
    if by != "key" && by != "value" {
        return Err(invalid("You can only sort by either \"key\" or \"value\""));
    }
    if value.kind() == ValueKind::Map {
        let keys: Vec<Value> = value.try_iter()?.collect();
        let sorted = if by == "key" {
            keys
        } else {
            keys.iter().map(|key| value.get_item(key)).collect::<Result<_, _>>()?
        };
        in_order(&sorted)?;
    }
    let given = [("case_sensitive", case_sensitive), ("by", Some(by.into())), ("reverse", reverse)];
    minijinja::filters::dictsort(&value, names(given))
}

/// Refuses values that Python does not put in an order.
fn in_order(values: &[Value]) -> Result<(), Error> {
    let mut pairs = values.iter().zip(values.iter().skip(1));
    match pairs.find(|(left, right)| !python::comparable(left, right)) {
        Some((left, right)) => Err(python::not_comparable(left, right)),
        None => Ok(()),
    }
}

/// What values are compared by: themselves, or an attribute.
fn keys(state: &mut State, value: &Value, attribute: Option<&Value>) -> Result<Vec<Value>, Error> {
    // Several attributes are compared as minijinja does it.
    let one =
        |attribute: &&Value| !attribute.is_none() && !attribute.as_str().is_some_and(|a| a.contains(','));
    match attribute.filter(one) {
        None if attribute.is_some_and(|attribute| !attribute.is_none()) => Ok(vec![]),
        None => Ok(value.try_iter()?.collect()),
        Some(attribute) => {
            let attribute = names([("attribute", Some(attribute.clone()))]);
            Ok(state.apply_filter("map", &[value.clone(), attribute.into()])?.try_iter()?.collect())
        }
    }
}

fn sort(state: &mut State, value: Value, args: &mut Arguments, _: u64) -> Result<Value, Error> {
    let given = [
        ("reverse", args.take("reverse")?),
        ("case_sensitive", args.take("case_sensitive")?),
        ("attribute", args.take("attribute")?),
    ];
    in_order(&keys(state, &value, given[2].1.as_ref())?)?;
    minijinja::filters::sort(state, value, names(given))
}

/// The first of the largest or smallest.
fn extreme(state: &mut State, value: &Value, args: &mut Arguments, wanted: Ordering) -> Result<Value, Error> {
    let case_sensitive = args.flag("case_sensitive", false)?;
    let attribute = args.take("attribute")?;
    let keys = keys(state, value, attribute.as_ref())?;
    in_order(&keys)?;
    let mut best: Option<(Value, Value)> = None;
    for (key, item) in keys.into_iter().zip(value.try_iter()?) {
        let key = match key.as_str().filter(|_| !case_sensitive) {
            Some(text) => text.to_lowercase().into(),
            None => key,
        };
        if best.as_ref().is_none_or(|(most, _)| key.cmp(most) == wanted) {
            best = Some((key, item));
        }
    }
    Ok(best.map_or(Value::UNDEFINED, |(_, item)| item))
}

/// The text for HTML, by markupsafe's names.
pub(super) fn escaped(text: &str) -> String {
    let mut out = String::with_capacity(text.len() + text.len() / 8);
    for c in text.chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '\'' => out.push_str("&#39;"),
            '"' => out.push_str("&#34;"),
            c => out.push(c),
        }
    }
    out
}

fn escape(_: &mut State, value: Value, _: &mut Arguments, _: u64) -> Result<Value, Error> {
    Ok(if value.is_safe() { value } else { Value::from_safe_string(escaped(&python::str(&value)?)) })
}

/// `format % arguments`, or `% names`.
fn format(_: &mut State, value: Value, args: &mut Arguments, size: u64) -> Result<Value, Error> {
    let (places, names) = args.rest()?;
    let argument = match (places.is_empty(), names) {
        (_, None) => Tuple::from(places).into(),
        (true, Some(names)) => names,
        (false, Some(_)) => {
            return Err(invalid("can't handle positional and keyword arguments at the same time"));
        }
    };
    Ok(percent::format(&python::str(&value)?, &argument, size)?.into())
}

fn indent(_: &mut State, value: Value, args: &mut Arguments, size: u64) -> Result<Value, Error> {
    let indention = match args.take("width")? {
        Some(text) if text.kind() == ValueKind::String => text.as_str().unwrap_or_default().to_owned(),
        Some(width) => {
            let width = integer(&width).ok_or_else(|| invalid("the width is no whole number"))?;
            let width = usize::try_from(width.max(0)).map_err(|_| too_large())?;
            if width as u64 > size {
                return Err(too_large());
            }
            " ".repeat(width)
        }
        None => "    ".to_owned(),
    };
    let (first, blank) = (args.flag("first", false)?, args.flag("blank", false)?);
    let text = value.as_str().ok_or_else(|| invalid("what is indented is a string"))?;
    let mut lines = python::lines(text, false);
    let ends = |c| python::lines(&String::from(c), false) == [""];
    if text.is_empty() || text.ends_with(ends) {
        lines.push("");
    }
    if (lines.len() as u64).saturating_mul(indention.len() as u64 + 1) > size {
        return Err(too_large());
    }
    // Every line but an empty one; the last, which may have no end, is empty as well.
    let lines = lines.iter().enumerate().map(|(i, line)| {
        let indented = if i == 0 { first } else { blank || !line.is_empty() };
        if indented { format!("{indention}{line}") } else { (*line).to_owned() }
    });
    Ok(lines.collect::<Vec<_>>().join("\n").into())
}

fn join(state: &mut State, value: Value, args: &mut Arguments, size: u64) -> Result<Value, Error> {
    let between = args.take("d")?.map(|d| python::str(&d)).transpose()?.unwrap_or_default();
    let attribute = args.take("attribute")?;
    let items = match &attribute {
        Some(attribute) => {
            let attribute = names([("attribute", Some(attribute.clone()))]);
            state.apply_filter("map", &[value, attribute.into()])?
        }
        None => value,
    };
    if items.kind() == ValueKind::None || items.kind() == ValueKind::Number || items.kind() == ValueKind::Bool
    {
        return Err(invalid(format!("a value of type {} cannot be joined", items.kind())));
    }
    let mut out = String::new();
    for (i, item) in items.try_iter()?.enumerate() {
        if i > 0 {
            out.push_str(&between);
        }
        out.push_str(&python::str(&item)?);
        if out.len() as u64 > size {
            return Err(too_large());
        }
    }
    Ok(out.into())
}

fn replace(_: &mut State, value: Value, args: &mut Arguments, size: u64) -> Result<Value, Error> {
    let (old, new) = (python::str(&args.need("old")?)?, python::str(&args.need("new")?)?);
    let count = match args.take("count")?.filter(|count| !count.is_none()) {
        Some(count) => integer(&count).ok_or_else(|| invalid("the count is no whole number"))?,
        None => -1,
    };
    let count = usize::try_from(count).unwrap_or(usize::MAX);
    let text = python::str(&value)?;
    let times = text.matches(&old).count().min(count) as u64;
    if (text.len() as u64).saturating_add(times.saturating_mul(new.len() as u64)) > size {
        return Err(too_large());
    }
    let replaced = text.replacen(&old, &new, count);
    Ok(like(&value, replaced))
}

/// Jinja2's own: upper case behind white space and brackets.
fn title(text: &str) -> String {
    let (mut out, mut first) = (String::with_capacity(text.len()), true);
    for c in text.chars() {
        if first {
            out.push_str(&python::title(c))
        } else {
            out.extend(c.to_lowercase())
        }
        first = is_space(c) || "-({[<".contains(c);
    }
    out
}

/// Comments and tags are left out, white space becomes a space, and entities their characters.
fn striptags(_: &mut State, value: Value, _: &mut Arguments, _: u64) -> Result<Value, Error> {
    let mut text = python::str(&value)?;
    for (open, close) in [("<!--", "-->"), ("<", ">")] {
        let mut kept = String::with_capacity(text.len());
        let mut rest = &*text;
        while let Some((before, inside)) = rest.split_once(open) {
            let Some((_, behind)) = inside.split_once(close) else { break };
            kept.push_str(before);
            rest = behind;
        }
        kept.push_str(rest);
        text = kept;
    }
    let words: Vec<&str> = text.split(is_space).filter(|word| !word.is_empty()).collect();
    unescaped(&words.join(" ")).map(Value::from)
}

/// HTML's entities as characters: those of markup and those with numbers. Others are refused.
fn unescaped(text: &str) -> Result<String, Error> {
    const NAMES: [(&str, &str); 6] =
        [("amp", "&"), ("lt", "<"), ("gt", ">"), ("quot", "\""), ("apos", "'"), ("nbsp", "\u{a0}")];
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some((before, entity)) = rest.split_once('&') {
        out.push_str(before);
        rest = entity;
        if !entity.starts_with(|c: char| c == '#' || c.is_ascii_alphabetic()) {
            out.push('&');
            continue;
        }
        let (name, behind) = entity.split_once(';').unwrap_or((entity, ""));
        let code = name.strip_prefix('#').and_then(|code| match code.strip_prefix(['x', 'X']) {
            Some(hex) => u32::from_str_radix(hex, 16).ok(),
            None => code.parse().ok(),
        });
        let numbered = code.and_then(char::from_u32).filter(|c| python::is_printable(*c)).map(String::from);
        let named = NAMES.iter().find(|(known, _)| *known == name).map(|(_, c)| (*c).to_owned());
        let Some(c) = named.or(numbered) else {
            let name: String = name.chars().take(16).collect();
            return Err(invalid(format!("the entity &{name} is not known")));
        };
        out.push_str(&c);
        rest = behind;
    }
    out.push_str(rest);
    Ok(out)
}

fn trim(_: &mut State, value: Value, args: &mut Arguments, _: u64) -> Result<Value, Error> {
    let chars = args.take("chars")?.filter(|chars| !chars.is_none());
    let text = python::str(&value)?;
    let trimmed = match &chars {
        Some(chars) => {
            let chars = chars.as_str().ok_or_else(|| invalid("what is trimmed is a string"))?;
            text.trim_matches(|c| chars.contains(c))
        }
        None => text.trim_matches(is_space),
    };
    Ok(like(&value, trimmed.to_owned()))
}

fn truncate(_: &mut State, value: Value, args: &mut Arguments, _: u64) -> Result<Value, Error> {
    let length = args.number("length", 255)?;
    let kill_words = args.flag("killwords", false)?;
    let end = args.text("end", "...")?;
    let leeway = args.take("leeway")?.filter(|leeway| !leeway.is_none());
    let leeway = leeway.map_or(Some(5), |leeway| integer(&leeway).and_then(|n| i64::try_from(n).ok()));
    let leeway = leeway.ok_or_else(|| invalid("the leeway is no whole number"))?;
    let end_length = i64::try_from(end.chars().count()).unwrap_or(i64::MAX);
    if length < end_length || leeway < 0 {
        return Err(invalid(format!(
            "the length is {length}, that of the end is {end_length}, the leeway {leeway}"
        )));
    }
    let text = value.as_str().ok_or_else(|| invalid("what is truncated is a string"))?;
    if i64::try_from(text.chars().count()).unwrap_or(i64::MAX) <= length.saturating_add(leeway) {
        return Ok(value);
    }
    let kept: String = text.chars().take(usize::try_from(length - end_length).unwrap_or(0)).collect();
    let kept = if kill_words { &*kept } else { kept.rsplit_once(' ').map_or(&*kept, |(before, _)| before) };
    Ok(format!("{kept}{end}").into())
}

/// `urllib.parse.quote`: a text, or the pairs of a query, in which a space is a plus.
fn urlencode(_: &mut State, value: Value, _: &mut Arguments, _: u64) -> Result<Value, Error> {
    let quote = |text: &str, query: bool| -> String {
        let safe = |b: u8| b.is_ascii_alphanumeric() || b"_.-~".contains(&b) || b == b'/' && !query;
        let mut out = String::with_capacity(text.len());
        for byte in text.bytes() {
            match byte {
                b' ' if query => out.push('+'),
                byte if safe(byte) => out.push(char::from(byte)),
                byte => out.push_str(&format!("%{byte:02X}")),
            }
        }
        out
    };
    if !matches!(value.kind(), ValueKind::Map | ValueKind::Seq | ValueKind::Iterable) {
        return Ok(quote(&python::str(&value)?, false).into());
    }
    let mut pairs = Vec::new();
    for item in value.try_iter()? {
        let (key, value) = if value.kind() == ValueKind::Map {
            (item.clone(), value.get_item(&item)?)
        } else {
            let pair: Vec<Value> = item.try_iter()?.collect();
            let [key, value] = &*pair else { return Err(invalid("a query is made of pairs")) };
            (key.clone(), value.clone())
        };
        pairs.push(format!("{}={}", quote(&python::str(&key)?, true), quote(&python::str(&value)?, true)));
    }
    Ok(pairs.join("&").into())
}

/// A value on one line; those that need several, and dictionaries that would be sorted, are refused.
fn pprint(_: &mut State, value: Value, _: &mut Arguments, _: u64) -> Result<Value, Error> {
    fn sorted(value: &Value) -> bool {
        let map = value.kind() == ValueKind::Map;
        let Ok(items) = value.try_iter() else { return true };
        let items: Vec<Value> = items.collect();
        let inside =
            |item: &Value| if map { value.get_item(item).is_ok_and(|v| sorted(&v)) } else { sorted(item) };
        (!map || items.is_sorted()) && (value.kind() == ValueKind::String || items.iter().all(inside))
    }
    let text = python::repr(&value)?;
    if text.chars().count() > 80 || !sorted(&value) {
        return Err(invalid("pprint: what takes several lines or is to be sorted is not written"));
    }
    Ok(text.into())
}

/// Words are what stands between other characters than letters, digits and underscores.
fn wordcount(_: &mut State, value: Value, _: &mut Arguments, _: u64) -> Result<Value, Error> {
    let text = python::str(&value)?;
    let words = text.split(|c: char| !(c.is_alphanumeric() || c == '_')).filter(|word| !word.is_empty());
    Ok(words.count().into())
}

fn xmlattr(_: &mut State, value: Value, args: &mut Arguments, _: u64) -> Result<Value, Error> {
    let space = args.flag("autospace", true)?;
    if value.kind() != ValueKind::Map {
        return Err(invalid("attributes are the items of a dictionary"));
    }
    let mut out = String::new();
    for key in value.try_iter()? {
        let value = value.get_item(&key)?;
        if value.is_none() || value.is_undefined() {
            continue;
        }
        let key = python::str(&key)?;
        if key.contains(|c: char| c.is_ascii_whitespace() || "/>=".contains(c)) {
            return Err(invalid(format!("invalid character in attribute name {key:?}")));
        }
        if space || !out.is_empty() {
            out.push(' ');
        }
        let value = if value.is_safe() { python::str(&value)? } else { escaped(&python::str(&value)?) };
        out.push_str(&format!("{}=\"{value}\"", escaped(&key)));
    }
    Ok(out.into())
}
