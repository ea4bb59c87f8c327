//! `datetime.now().strftime(format)` as CPython gives it with glibc in the C locale: of a time that
//! knows no zone.

use minijinja::Error;
use time::OffsetDateTime;

use super::python::{invalid, too_large};

/// The longest width of a field; a template that wants more means harm.
const WIDTH: usize = 1024;
/// The longest text.
const LENGTH: usize = 1 << 20;

/// What stands between `%` and the letter.
#[derive(Clone, Copy, Default, PartialEq)]
struct Flags {
    /// `_`, `0` or `-`, the last of them: what fills a field, or that nothing does.
    fill: Option<char>,
    upper: bool,
    swap: bool,
    width: usize,
    /// `E` or `O`, which ask for a locale's other form.
    modifier: Option<char>,
}

/// The time as this format says.
pub(super) fn strftime(now: OffsetDateTime, format: &str) -> Result<String, Error> {
    if format.contains('\0') {
        return Err(invalid("strftime_now: embedded null character"));
    }
    let mut out = String::new();
    let mut rest = format;
    while let Some((text, directive)) = rest.split_once('%') {
        out.push_str(text);
        let (flags, len) = Flags::read(directive)?;
        let letter = directive.get(len..).and_then(|rest| rest.chars().next());
        let (directive, behind) = directive.split_at(len + letter.map_or(0, char::len_utf8));
        let known = letter.and_then(|letter| field(now, letter, flags));
        // What is no directive stays as it is.
        out.push_str(&known.unwrap_or_else(|| flags.padded(&format!("%{directive}"))));
        rest = behind;
        if out.len() > LENGTH {
            return Err(too_large());
        }
    }
    out.push_str(rest);
    Ok(out)
}

/// The text of a directive; none if it is none.
fn field(now: OffsetDateTime, letter: char, flags: Flags) -> Option<String> {
    let fits = match flags.modifier {
        Some('E') => "cCnprstxyzPRTXYZ%",
        Some(_) => "bdeghjklmnprstuwyzBCGHIMPRSTUVWZ%",
        None => "abcdefghjklmnprstuwxyzABCDFGHIMPRSTUVWXYZ%",
    };
    if !fits.contains(letter) {
        return None;
    }
    let number = |value: i64, width: usize, fill: char| Some(flags.number(value, width, fill));
    let hour12 = i64::from((now.hour() + 11) % 12 + 1);
    let name = |name: &str| Some(flags.text(name, flags.upper || flags.swap));
    let text = |text: &str| Some(flags.text(text, flags.upper));
    let whole = |format: &str| strftime(now, format).ok().and_then(|whole| text(&whole));
    let (weekday, month) = (now.weekday().to_string(), now.month().to_string());
    let (iso_year, iso_week, _) = now.to_iso_week_date();
    let year = i64::from(now.year());
    match letter {
        'a' => name(weekday.get(..3)?),
        'A' => name(&weekday),
        'b' | 'h' => name(month.get(..3)?),
        'B' => name(&month),
        'c' => whole("%a %b %e %H:%M:%S %Y"),
        'C' => number(year.div_euclid(100), 2, '0'),
        'd' => number(i64::from(now.day()), 2, '0'),
        'D' | 'x' => whole("%m/%d/%y"),
        'e' => number(i64::from(now.day()), 2, ' '),
        'F' => whole("%Y-%m-%d"),
        // Python's own, which takes no flags.
        'f' => (flags == Flags::default()).then(|| format!("{:06}", now.microsecond())),
        'g' => number(i64::from(iso_year.rem_euclid(100)), 2, '0'),
        'G' => number(i64::from(iso_year), 1, '0'),
        'H' => number(i64::from(now.hour()), 2, '0'),
        'I' => number(hour12, 2, '0'),
        'j' => number(i64::from(now.ordinal()), 3, '0'),
        'k' => number(i64::from(now.hour()), 2, ' '),
        'l' => number(hour12, 2, ' '),
        'm' => number(i64::from(u8::from(now.month())), 2, '0'),
        'M' => number(i64::from(now.minute()), 2, '0'),
        'n' => text("\n"),
        'p' | 'P' => {
            let half = if now.hour() < 12 { "AM" } else { "PM" };
            let lower = flags.swap || letter == 'P';
            Some(flags.padded(if lower { half.to_lowercase() } else { half.to_owned() }.as_str()))
        }
        'r' => whole("%I:%M:%S %p"),
        'R' => whole("%H:%M"),
        's' => number(now.unix_timestamp(), 1, ' '),
        'S' => number(i64::from(now.second()), 2, '0'),
        't' => text("\t"),
        'T' | 'X' => whole("%H:%M:%S"),
        'u' => number(i64::from(now.weekday().number_from_monday()), 1, '0'),
        'U' => number(i64::from(now.sunday_based_week()), 2, '0'),
        'V' => number(i64::from(iso_week), 2, '0'),
        'w' => number(i64::from(now.weekday().number_days_from_sunday()), 1, '0'),
        'W' => number(i64::from(now.monday_based_week()), 2, '0'),
        'y' => number(year.rem_euclid(100), 2, '0'),
        'Y' => number(year, 1, '0'),
        // The time has no zone.
        'z' => Some(String::new()),
        'Z' => text(""),
        '%' => text("%"),
        _ => None,
    }
}

impl Flags {
    /// The flags of a directive, and the length of their text.
    fn read(directive: &str) -> Result<(Flags, usize), Error> {
        let mut flags = Flags::default();
        let mut chars = directive.bytes().peekable();
        let mut len = 0;
        while let Some(flag) = chars.next_if(|c| b"_-0^#".contains(c)) {
            match flag {
                b'^' => flags.upper = true,
                b'#' => flags.swap = true,
                fill => flags.fill = Some(char::from(fill)),
            }
            len += 1;
        }
        while let Some(digit) = chars.next_if(u8::is_ascii_digit) {
            flags.width = flags.width * 10 + usize::from(digit - b'0');
            if flags.width > WIDTH {
                return Err(too_large());
            }
            len += 1;
        }
        flags.modifier = chars.next_if(|c| b"EO".contains(c)).map(char::from);
        Ok((flags, len + usize::from(flags.modifier.is_some())))
    }

    fn number(self, value: i64, width: usize, fill: char) -> String {
        let (width, fill) = match self.fill {
            Some('-') => (self.width, ' '),
            Some('_') => (self.width.max(width), ' '),
            Some(_) => (self.width.max(width), '0'),
            None => (self.width.max(width), fill),
        };
        if fill == ' ' { format!("{value:>width$}") } else { format!("{value:0>width$}") }
    }

    fn text(self, text: &str, upper: bool) -> String {
        if upper { self.padded(&text.to_uppercase()) } else { self.padded(text) }
    }

    fn padded(self, text: &str) -> String {
        let width = self.width;
        if self.fill == Some('0') { format!("{text:0>width$}") } else { format!("{text:>width$}") }
    }
}
