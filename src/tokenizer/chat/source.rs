//! Small changes to a template's text before minijinja reads it.
//!
//! What Jinja2 in transformers does is made expressible, and operators are made safe, without parsing:
//! tags are cut into tokens and text is only ever inserted.
//!
//! - A line ends with `\n`, whatever it ended with; strings have Python's escapes.
//! - `{% generation %}` marks what a model wrote, for training. It becomes `{% if true %}`.
//! - `a % b` becomes `a|__mod(b)`, so that a string can be a format.
//! - Each operand of another binary operator gets a filter, `a|__arg + b|__arg`, which refuses
//!   values that are too large (see `limits`), and so does each argument of a call and each key.
//!   A filter binds more tightly than any operator, and an operand ends just where the operator
//!   or what closes the expression begins: that is where the filter is inserted.
//! - What `~` joins becomes a text first, `(a)|__text ~ (b)|__text`. What is compared is looked at
//!   in pairs: `(a)|__left(1) < (b)|__right(1)`, and what a loop runs over, `in (a)|__each`.
//! - `varargs` and `kwargs` of a macro are empty: a macro that is called with more is refused.

use super::token::{KEYWORDS, STRING, Token, is_name, lines, literal, next_token};

/// The filter on operands.
pub(super) const OPERAND: &str = "__arg";
/// The filter on operands of `+`, which joins no texts for HTML.
pub(super) const SUM: &str = "__sum";
/// The filter on operands of `*`, of which a list would grow without being built.
pub(super) const FACTOR: &str = "__factor";
/// The filter on operands of `~`, which are texts.
pub(super) const TEXT: &str = "__text";
/// The filter that is `%`.
pub(super) const MODULO: &str = "__mod";
/// The filters on what is compared, with the number of the comparison.
pub(super) const LEFT: &str = "__left";
pub(super) const RIGHT: &str = "__right";
/// The filter on the right side of `in`, with the number of the comparison.
pub(super) const MEMBER: &str = "__member";
/// The filter on what a loop runs over.
pub(super) const EACH: &str = "__each";
/// The filter on a macro's parameter where another's default names it, which minijinja cannot see there.
pub(super) const EARLIER: &str = "__earlier";

/// The text for minijinja. What is not understood is left for minijinja to refuse.
pub(super) fn prepare(source: &str) -> String {
    let source = &*lines(source);
    let mut out = String::with_capacity(source.len() + source.len() / 2);
    let mut sites = 0;
    let mut rest = source;
    while let Some(start) = next_tag(rest) {
        let (data, tag) = rest.split_at(start);
        out.push_str(data);
        rest = if tag.starts_with("{#") {
            let end = tag.find("#}").map_or(tag.len(), |i| i + 2);
            let (comment, after) = tag.split_at(end);
            out.push_str(comment);
            after
        } else {
            let block = tag.starts_with("{%");
            let end = Tag::new(tag, &mut out, &mut sites).run(block);
            let (tag, after) = tag.split_at(end);
            match raw_end(tag, after) {
                Some(end) => {
                    let (raw, after) = after.split_at(end);
                    out.push_str(raw);
                    after
                }
                None => after,
            }
        };
    }
    out.push_str(rest);
    out
}

/// Where the next tag or comment begins.
fn next_tag(text: &str) -> Option<usize> {
    let follows = |i: usize| text.as_bytes().get(i + 1).is_some_and(|b| matches!(b, b'{' | b'%' | b'#'));
    text.match_indices('{').map(|(i, _)| i).find(|i| follows(*i))
}

/// Behind `{% raw %}` nothing is a tag until `{% endraw %}`, which is where this ends, or the text.
fn raw_end(tag: &str, after: &str) -> Option<usize> {
    let inside = |tag: &str| {
        let inside = tag.strip_prefix("{%")?.strip_suffix("%}")?;
        Some(inside.trim_matches(|c: char| c == '-' || c == '+' || c.is_whitespace()).to_owned())
    };
    if inside(tag)? != "raw" {
        return None;
    }
    let mut from = 0;
    while let Some(start) = after.get(from..)?.find("{%").map(|i| from + i) {
        let Some(end) = after.get(start..)?.find("%}").map(|i| start + i + 2) else { break };
        if inside(after.get(start..end)?).is_some_and(|name| name == "endraw") {
            return Some(end);
        }
        from = start + 2;
    }
    Some(after.len())
}

/// What an operator before the current operand asks for.
#[derive(Clone, Copy, PartialEq)]
enum Pending {
    Nothing,
    /// The operand is one of an operator.
    Operand,
    /// It is one of `+`.
    Sum,
    /// It is one of `*`, `**`, `/` or `//`.
    Factor,
    /// It is the argument of a `%` that has become a filter.
    Modulo,
}

/// What is between two brackets.
#[derive(Clone, Copy)]
struct Level {
    /// The operator before the current operand.
    pending: Pending,
    /// Arguments of a call, or items of `[…]`: each is an operand.
    items: bool,
    /// A map: what stands before a colon is an operand.
    map: bool,
    /// Where in the output the current side of a `~` begins.
    term: Option<usize>,
    /// It stands behind one.
    joined: bool,
    /// Where the current side of a comparison begins.
    side: Option<usize>,
    /// The filter that looks at it, and the number of the comparison that it ends.
    compared: Option<(&'static str, usize)>,
}

impl Level {
    const fn new(items: bool, map: bool) -> Level {
        Level { pending: Pending::Nothing, items, map, term: None, joined: false, side: None, compared: None }
    }
}

/// One tag while it is copied.
struct Tag<'a, 'o> {
    tag: &'a str,
    at: usize,
    out: &'o mut String,
    /// The brackets that are open, and around them the tag itself.
    levels: Vec<Level>,
    /// Its parentheses may be parameters: of a macro, or of a block that is called.
    declares: bool,
    /// The first `in` belongs to `for`, until it was seen.
    awaits_in: bool,
    /// Where in the output begins what a loop runs over.
    each: Option<usize>,
    /// The parameters of a macro.
    parameters: Option<Vec<&'a str>>,
    /// Comparisons so far, of all tags.
    sites: &'o mut usize,
    /// The token before this one.
    last: Token<'a>,
}

impl<'a, 'o> Tag<'a, 'o> {
    fn new(tag: &'a str, out: &'o mut String, sites: &'o mut usize) -> Self {
        Tag {
            tag,
            at: 0,
            out,
            levels: vec![Level::new(false, false)],
            declares: false,
            awaits_in: false,
            each: None,
            parameters: None,
            sites,
            last: Token::Other(""),
        }
    }

    fn rest(&self) -> &'a str {
        self.tag.get(self.at..).unwrap_or("")
    }

    fn copy(&mut self, len: usize) {
        let text = self.rest().get(..len).unwrap_or(self.rest());
        self.out.push_str(text);
        self.at += text.len();
    }

    /// Copies the tag with what is to be inserted, and gives its length.
    fn run(mut self, block: bool) -> usize {
        let close = if block { "%}" } else { "}}" };
        self.copy(2);
        if self.rest().starts_with(['-', '+']) {
            self.copy(1);
        }
        if block && let Some(replacement) = self.generation() {
            self.skip_spaces();
            self.at += self.rest().find(|c: char| !is_name(c)).unwrap_or(self.rest().len());
            self.out.push_str(replacement);
        }
        let mut first = true;
        loop {
            self.skip_spaces();
            let rest = self.rest();
            let ends = rest.strip_prefix(['-', '+']).unwrap_or(rest).starts_with(close);
            if rest.is_empty() || ends && self.levels.len() == 1 {
                self.finish_operand();
                self.finish_loop();
                if self.parameters.is_some() && !rest.is_empty() {
                    self.out.push_str("%}{% set varargs = () %}{% set kwargs = {} ");
                }
                let end = rest.find(close).map_or(rest.len(), |i| i + close.len());
                self.copy(end);
                return self.at;
            }
            let (mut token, len) = next_token(rest);
            if std::mem::take(&mut first) && block {
                // The name of a statement is no operand, whatever stands behind it.
                self.awaits_in = token == Token::Operand("for");
                self.declares = matches!(token, Token::Operand("macro" | "call"));
                self.parameters = (token == Token::Operand("macro")).then(Vec::new);
                if let Token::Operand(name) = token {
                    token = Token::Other(name);
                }
            }
            self.token(token, len);
        }
    }

    /// Inside `{% generation %}` and `{% endgeneration %}`: what stands there instead.
    fn generation(&self) -> Option<&'static str> {
        let word: String = self.rest().trim_start().chars().take_while(|c| is_name(*c)).collect();
        match &*word {
            "generation" => Some("if true"),
            "endgeneration" => Some("endif"),
            _ => None,
        }
    }

    fn skip_spaces(&mut self) {
        let rest = self.rest();
        self.copy(rest.len() - rest.trim_start().len());
    }

    fn token(&mut self, token: Token<'a>, len: usize) {
        let behind_operand = matches!(self.last, Token::Operand(_) | Token::Close);
        let token = match token {
            // A name behind a dot is an attribute; `is in` is a test.
            Token::Operand(word) if KEYWORDS.contains(&word) && self.last != Token::Other(".") => {
                match word {
                    "in" if self.awaits_in && self.levels.len() == 1 => {
                        self.awaits_in = false;
                        self.finish_operand();
                        self.copy(len);
                        self.skip_spaces();
                        self.each = Some(self.out.len());
                        self.last = Token::Other(word);
                        return;
                    }
                    "in" | "not" if behind_operand => Token::Operator(word),
                    "in" if self.last == Token::Operator("not") => Token::Operator(word),
                    _ => Token::Other(word),
                }
            }
            Token::Operator(_) if !behind_operand => Token::Other(""),
            token => token,
        };
        // What follows an operand goes on with it, in brackets or behind a dot or a bar.
        let continues =
            matches!(token, Token::Operator(_) | Token::Close | Token::Other("," | ":" | "." | "|"));
        if !continues
            && token != Token::Other("is")
            && !matches!(token, Token::Other(word) if ends_expression(word))
        {
            let end = self.out.len();
            if let Some(level) = self.levels.last_mut() {
                level.term.get_or_insert(end);
                level.side.get_or_insert(end);
            }
        }
        match token {
            Token::Operand(name) => {
                if self.parameter(name) {
                    self.out.push('(');
                    self.copy(len);
                    self.insert(&format!("|{EARLIER})"));
                    self.last = token;
                    return;
                }
            }
            Token::Open(bracket) => {
                let items = bracket == '[' || bracket == '(' && behind_operand && !self.declares;
                self.levels.push(Level::new(items, bracket == '{'));
            }
            Token::Close => {
                self.finish_item(false);
                if self.levels.len() > 1 {
                    self.levels.pop();
                }
            }
            Token::Operator("in") if self.last == Token::Operator("not") => {}
            Token::Operator(operator) => {
                if self.operator(operator) {
                    self.at += len;
                    self.last = Token::Other("");
                    return;
                }
            }
            // These continue an operand, or stand before one.
            Token::Other("." | "|" | "" | "is") => {}
            Token::Other("," | ":") => self.finish_item(token == Token::Other(":")),
            Token::Other(word) => {
                self.finish_operand();
                if self.levels.len() == 1 && matches!(word, "if" | "recursive") {
                    self.finish_loop();
                }
            }
        }
        if token == STRING {
            let text = self.rest().get(..len).unwrap_or_default();
            self.out.push_str(&literal(text));
            self.at += len;
        } else if matches!(token, Token::Operand(text) if text.starts_with(|c: char| c.is_ascii_digit())) {
            self.number(len);
        } else {
            self.copy(len);
        }
        self.last = token;
    }

    /// Copies a number. Where Jinja2 sees another end of it, a space makes it end there: it is an error.
    fn number(&mut self, len: usize) {
        let text = self.rest().get(..len).unwrap_or_default();
        let octal = text.starts_with('0') && text.bytes().all(|b| b.is_ascii_digit() || b == b'_');
        if octal && text.bytes().any(|b| (b'1'..=b'9').contains(&b)) {
            self.copy(1);
            self.out.push(' ');
            self.copy(len - 1);
        } else {
            self.copy(len);
        }
        if self.rest().starts_with('.') {
            self.out.push(' ');
        }
    }

    /// Notes a macro's parameter. True where the default of one names another before it.
    fn parameter(&mut self, name: &'a str) -> bool {
        let (Some(parameters), 2) = (&mut self.parameters, self.levels.len()) else { return false };
        if matches!(self.last, Token::Open(_) | Token::Other(",")) {
            parameters.push(name);
            return false;
        }
        self.last != Token::Other(".") && parameters.contains(&name)
    }

    /// Ends the operand before an operator. True if the operator itself was written.
    fn operator(&mut self, operator: &str) -> bool {
        let before = self.pending();
        if before == Pending::Modulo && operator != "**" {
            self.insert(")");
        }
        if operator == "%" && before != Pending::Factor {
            self.insert("|");
            self.insert(MODULO);
            self.insert("(");
            self.set_pending(Pending::Modulo);
            return true;
        }
        let factor = matches!(operator, "*" | "**" | "/" | "//" | "%");
        self.guard(if factor || before == Pending::Factor {
            FACTOR
        } else if operator == "+" || before == Pending::Sum {
            SUM
        } else {
            OPERAND
        });
        self.set_pending(match operator {
            _ if factor => Pending::Factor,
            "+" => Pending::Sum,
            _ => Pending::Operand,
        });
        if !factor {
            self.finish_term(operator == "~");
        }
        match operator {
            "<" | ">" | "<=" | ">=" => self.finish_side(Some(RIGHT)),
            "in" | "not" => self.finish_side(Some(MEMBER)),
            "==" | "!=" => self.finish_side(None),
            _ => {}
        }
        false
    }

    /// Ends a side of a `~`, before another one or not.
    fn finish_term(&mut self, joins: bool) {
        let Some(level) = self.levels.last_mut() else { return };
        let wrapped = level.term.filter(|_| level.joined || joins);
        (level.term, level.joined) = (None, joins);
        self.wrap(wrapped, &format!("|{TEXT}"));
    }

    /// Ends a side of a comparison, before another one, whose right side has a filter, or not.
    fn finish_side(&mut self, next: Option<&'static str>) {
        *self.sites += usize::from(next.is_some());
        let next = next.map(|filter| (filter, *self.sites));
        let Some(level) = self.levels.last_mut() else { return };
        let (start, before) = (level.side.take(), std::mem::replace(&mut level.compared, next));
        let before = before.map(|(filter, site)| format!("|{filter}({site})"));
        let next = next.map(|(_, site)| format!("|{LEFT}({site})"));
        let filters: String = before.into_iter().chain(next).collect();
        if !filters.is_empty() {
            self.wrap(start, &filters);
        }
    }

    /// Ends what a loop runs over.
    fn finish_loop(&mut self) {
        let start = self.each.take();
        self.wrap(start, &format!("|{EACH}"));
    }

    /// Puts what was written from here on into parentheses, and filters behind them.
    fn wrap(&mut self, start: Option<usize>, filters: &str) {
        if let Some(start) = start {
            self.out.insert(start, '(');
            self.insert(")");
            self.insert(filters);
        }
    }

    /// Ends the last operand of an expression.
    fn finish_operand(&mut self) {
        let operand = matches!(self.last, Token::Operand(_) | Token::Close);
        match self.pending() {
            Pending::Operand if operand => self.guard(OPERAND),
            Pending::Sum if operand => self.guard(SUM),
            Pending::Factor if operand => self.guard(FACTOR),
            Pending::Nothing | Pending::Operand | Pending::Sum | Pending::Factor => {}
            Pending::Modulo => self.insert(")"),
        }
        self.set_pending(Pending::Nothing);
        self.finish_term(false);
        self.finish_side(None);
    }

    /// Ends an item between two brackets, which may be an operand by itself.
    fn finish_item(&mut self, colon: bool) {
        let level = self.levels.last().copied().unwrap_or(Level::new(false, false));
        if level.pending == Pending::Nothing && (level.items || level.map && colon) {
            self.set_pending(Pending::Operand);
        }
        self.finish_operand();
    }

    fn guard(&mut self, filter: &str) {
        self.insert("|");
        self.insert(filter);
    }

    /// Puts text directly behind what was last written, before the white space there.
    fn insert(&mut self, text: &str) {
        let end = self.out.trim_end().len();
        self.out.insert_str(end, text);
    }

    fn pending(&self) -> Pending {
        self.levels.last().map_or(Pending::Nothing, |level| level.pending)
    }

    fn set_pending(&mut self, pending: Pending) {
        if let Some(level) = self.levels.last_mut() {
            level.pending = pending;
        }
    }
}

/// What no operand begins with.
fn ends_expression(word: &str) -> bool {
    KEYWORDS.contains(&word) || matches!(word, "," | ":" | "=")
}

#[cfg(test)]
mod tests {
    use super::*;

    /// In what is expected, `@` is the filter on operands, `@+` and `@*` those on sums and factors, `~T` that
    /// on texts, `L1`, `R1` and `M1` those on what is compared, and `EACH` that on what a loop runs over.
    fn check(source: &str, expected: &str) {
        let mut expected = expected.replace("@*", "|__factor").replace("@+", "|__sum").replace('@', "|__arg");
        for (short, filter) in [("~T", TEXT), ("EACH", EACH), ("MOD", MODULO), ("EARLIER", EARLIER)] {
            expected = expected
                .replace(short, &if short == "MOD" { filter.to_owned() } else { format!("|{filter}") });
        }
        for (short, filter) in [('L', LEFT), ('R', RIGHT), ('M', MEMBER)] {
            for site in 1..3 {
                expected = expected.replace(&format!("{short}{site}"), &format!("|{filter}({site})"));
            }
        }
        assert_eq!(prepare(source), expected, "{source}");
    }

    #[test]
    fn operands_are_guarded() {
        check("{{ a - b }}", "{{ a@ - b@ }}");
        check("{{ a.b(c)['x']|f(1) - -b|g -}}", "{{ a.b(c@)['x'@]|f(1@)@ - -b|g@ -}}");
        check("{{ f(a + b, c) }}", "{{ f(a@+ + b@+, c@) }}");
        check("{{ (a + b) - c }}", "{{ (a@+ + b@+)@ - c@ }}");
        check("{{ [a] * n - '' }}", "{{ [a@]@* * n@* - ''@ }}");
        check("{{ -1 }}{{ x[-1:] }}{{ x[::-1] }}", "{{ -1 }}{{ x[-1@:] }}{{ x[::-1@] }}");
        check("{{ {'a': b - c, 'd': {}} }}", "{{ {'a'@: b@ - c@, 'd'@: {}} }}");
        check("{{ f(a, b=c, *d)|g(x)[y] }}", "{{ f(a@, b=c@, *d@)|g(x@)[y@] }}");
        check("{{ a - b if c == d else e }}", "{{ a@ - b@ if c@ == d@ else e }}");
        check("{{ a == b is defined }}", "{{ a@ == b is defined@ }}");
    }

    #[test]
    fn what_is_joined_is_a_text() {
        check("{{ a ~ b }}", "{{ (a@)~T ~ (b@)~T }}");
        check("{{ a ~ b * c ~ -d.e(f)|g }}", "{{ (a@)~T ~ (b@* * c@*)~T ~ (-d.e(f@)|g@)~T }}");
        check("{{ (a ~ b) ~ c + d }}", "{{ (((a@)~T ~ (b@)~T)@)~T ~ (c@+)~T + d@+ }}");
        check("{{ [a ~ b, c] if not d ~ e }}", "{{ [(a@)~T ~ (b@)~T, c@] if not (d@)~T ~ (e@)~T }}");
    }

    #[test]
    fn what_is_compared_is_seen_in_pairs() {
        check("{{ a < b }}", "{{ (a@)L1 < (b@)R1 }}");
        check("{{ a < b <= c }}", "{{ (a@)L1 < (b@)R1L2 <= (c@)R2 }}");
        check("{{ a + b > c and d }}", "{{ (a@+ + b@+)L1 > (c@)R1 and d }}");
        check("{{ a not in b == c }}", "{{ (a@)L1 not in (b@)M1 == c@ }}");
        check("{{ f(a < b) }}{{ a in b }}", "{{ f((a@)L1 < (b@)R1) }}{{ (a@)L2 in (b@)M2 }}");
    }

    #[test]
    fn statements_stay_what_they_are() {
        check("{% for a in b if a in c %}", "{% for a in (b)EACH if (a@)L1 in (c@)M1 %}");
        check("{% for k, v in x + y recursive %}", "{% for k, v in (x@+ + y@+)EACH recursive %}");
        check("{%- for a in b or (c if d else e) -%}", "{%- for a in (b or (c if d else e))EACH -%}");
        check("{% if a not in b and c is not none %}", "{% if (a@)L1 not in (b@)M1 and c is not none %}");
        check("{%- set x.y = x.if - 1.5 -%}", "{%- set x.y = x.if@ - 1.5@ -%}");
        check("{% if x is in [1, (2, 3)] %}", "{% if x is in [1@, (2, 3)@] %}");
        check(
            "{% for (a, b) in c %}{% set (a, b) = c, d - e %}",
            "{% for (a, b) in (c)EACH %}{% set (a, b) = c, d@ - e@ %}",
        );
        check("{{ 1.5e-7 + 2E+3 - 4e-x }}", "{{ 1.5e-7@+ + 2E+3@+ - 4e@-x@ }}");
        check("{% call(x) f(a) %}", "{% call(x) f(a) %}");
        let none = "{% set varargs = () %}{% set kwargs = {}";
        check("{% macro f(a, b='x' + 'y') %}", &format!("{{% macro f(a, b='x'@+ + 'y'@+) %}}{none} %}}"));
        check("{% macro f(a, b=a.x) -%}", &format!("{{% macro f(a, b=(aEARLIER).x) %}}{none} -%}}"));
    }

    #[test]
    fn strings_and_numbers_are_pythons() {
        check("a\r\nb\rc", "a\nb\nc");
        check(r"{{ 'a\x41\101\'\\\q\n' }}", "{{ 'aAA\\'\\\\\\\\q\n' }}");
        check("{{ '\\u00e9\\U0001F600\\\n' }}", "{{ 'é\u{1f600}' }}");
        check(
            r"{{ '\ud83d' }}{{ '\N{BULLET}' }}{{ '\x4' }}",
            r"{{ '\uzzzz' }}{{ '\uzzzz{BULLET}' }}{{ '\uzzzz' }}",
        );
        check("{{ 012 }}{{ 1. }}{{ 00 }}{{ 1.5 }}", "{{ 0 12 }}{{ 1 . }}{{ 00 }}{{ 1.5 }}");
    }

    #[test]
    fn modulo_becomes_a_filter() {
        check("{{ '%s' % x }}", "{{ '%s'|MOD(  x) }}");
        check("{{ '%s-%s' % (a, b - c) - d }}", "{{ '%s-%s'|MOD(  (a, b@ - c@))@ - d@ }}");
        check("{{ (loop.index0 % 2 == 0) }}", "{{ (loop.index0|MOD(  2)@ == 0@) }}");
        check("{{ a * b % c }}", "{{ a@* * b@* % c@* }}");
        check("{% if a %}b{% endif %}", "{% if a %}b{% endif %}");
    }

    #[test]
    fn text_comments_and_raw_blocks_stay() {
        check("a ~ b {# c ~ d #} e", "a ~ b {# c ~ d #} e");
        check(
            "{% raw %}{{ a - b }}{% endraw %}{{ '}}' - c }}",
            "{% raw %}{{ a - b }}{% endraw %}{{ '}}'@ - c@ }}",
        );
        check("{{ 'it\\'s' - \"%}\" }}", "{{ 'it\\'s'@ - \"%}\"@ }}");
        check("{{ a -", "{{ a@ -");
    }

    #[test]
    fn generation_is_transparent() {
        check("{%- generation -%}x{% endgeneration %}", "{%- if true -%}x{% endif %}");
    }
}
