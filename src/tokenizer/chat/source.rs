//! Small changes to a template's text before minijinja reads it.
//!
//! Three things that Jinja2 in transformers does are made expressible, and operators are made
//! safe, without parsing: tags are cut into tokens and text is only ever inserted.
//!
//! - `{% generation %}` marks what a model wrote, for training. It becomes `{% if true %}`.
//! - `a % b` becomes `a|__mod(b)`, so that a string can be a format.
//! - Each operand of another binary operator gets a filter, `a|__arg ~ b|__arg`, which refuses
//!   values that are too large (see `limits`), and so does each argument of a call and each key.
//!   A filter binds more tightly than any operator, and an operand ends just where the operator
//!   or what closes the expression begins: that is where the filter is inserted.

/// The filter on operands.
pub(super) const OPERAND: &str = "__arg";
/// The filter on operands of `*`, of which a list would grow without being built.
pub(super) const FACTOR: &str = "__factor";
/// The filter on operands of `~`, which are texts.
pub(super) const TEXT: &str = "__text";
/// The filter that is `%`.
pub(super) const MODULO: &str = "__mod";

/// The text for minijinja. What is not understood is left for minijinja to refuse.
pub(super) fn prepare(source: &str) -> String {
    let mut out = String::with_capacity(source.len() + source.len() / 4);
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
            let end = Tag::new(tag, &mut out).run(block);
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

#[derive(Clone, Copy, PartialEq, Debug)]
enum Token<'a> {
    /// A name, a number or a string.
    Operand(&'a str),
    Open(char),
    Close,
    /// An operator between two operands, if it stands behind one.
    Operator(&'a str),
    /// Anything that neither is nor joins operands: a comma, a dot, a bar, …
    Other(&'a str),
}

/// Names that are no operands.
const KEYWORDS: [&str; 9] = ["and", "or", "not", "if", "else", "elif", "is", "in", "recursive"];

/// What an operator before the current operand asks for.
#[derive(Clone, Copy, PartialEq)]
enum Pending {
    Nothing,
    /// The operand is one of an operator.
    Operand,
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
}

impl Level {
    const TAG: Level = Level { pending: Pending::Nothing, items: false, map: false };
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
    /// The token before this one.
    last: Token<'a>,
}

impl<'a, 'o> Tag<'a, 'o> {
    fn new(tag: &'a str, out: &'o mut String) -> Self {
        Tag {
            tag,
            at: 0,
            out,
            levels: vec![Level::TAG],
            declares: false,
            awaits_in: false,
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
                let end = rest.find(close).map_or(rest.len(), |i| i + close.len());
                self.copy(end);
                return self.at;
            }
            let (mut token, len) = next_token(rest);
            if std::mem::take(&mut first) && block {
                // The name of a statement is no operand, whatever stands behind it.
                self.awaits_in = token == Token::Operand("for");
                self.declares = matches!(token, Token::Operand("macro" | "call"));
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
                        Token::Other(word)
                    }
                    "in" | "not" if behind_operand => Token::Operator(word),
                    "in" if self.last == Token::Operator("not") => Token::Operator(word),
                    _ => Token::Other(word),
                }
            }
            Token::Operator(_) if !behind_operand => Token::Other(""),
            token => token,
        };
        match token {
            Token::Operand(_) => {}
            Token::Open(bracket) => self.levels.push(Level {
                pending: Pending::Nothing,
                items: bracket == '[' || bracket == '(' && behind_operand && !self.declares,
                map: bracket == '{',
            }),
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
            Token::Other(_) => self.finish_operand(),
        }
        self.copy(len);
        self.last = token;
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
        self.guard(if factor || before == Pending::Factor { FACTOR } else { OPERAND });
        self.set_pending(if factor { Pending::Factor } else { Pending::Operand });
        false
    }

    /// Ends the last operand of an expression.
    fn finish_operand(&mut self) {
        let operand = matches!(self.last, Token::Operand(_) | Token::Close);
        match self.pending() {
            Pending::Operand if operand => self.guard(OPERAND),
            Pending::Factor if operand => self.guard(FACTOR),
            Pending::Nothing | Pending::Operand | Pending::Factor => {}
            Pending::Modulo => self.insert(")"),
        }
        self.set_pending(Pending::Nothing);
    }

    /// Ends an item between two brackets, which may be an operand by itself.
    fn finish_item(&mut self, colon: bool) {
        let level = self.levels.last().copied().unwrap_or(Level::TAG);
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

fn is_name(c: char) -> bool {
    c.is_alphanumeric() || c == '_'
}

/// The token at the beginning of a text that is not empty, and its length.
fn next_token(text: &str) -> (Token<'_>, usize) {
    let head = |len: usize| text.get(..len).unwrap_or(text);
    let first = text.chars().next().unwrap_or(' ');
    if first == '"' || first == '\'' {
        let mut escaped = false;
        let end = text.char_indices().skip(1).find(|(_, c)| {
            let ends = *c == first && !escaped;
            escaped = *c == '\\' && !escaped;
            ends
        });
        let len = end.map_or(text.len(), |(i, c)| i + c.len_utf8());
        return (Token::Operand("\"\""), len);
    }
    if is_name(first) {
        let mut len = text.find(|c| !is_name(c)).unwrap_or(text.len());
        // The point of 1.5, which is no attribute.
        if first.is_ascii_digit() && text.get(len..).is_some_and(|t| t.starts_with('.')) {
            let digits = text.get(len + 1..).unwrap_or("");
            if digits.starts_with(|c: char| c.is_ascii_digit()) {
                len += 1 + digits.find(|c| !is_name(c)).unwrap_or(digits.len());
            }
        }
        // The sign of 1e-5, which is no operator.
        if first.is_ascii_digit() && !head(len).starts_with("0x") && head(len).ends_with(['e', 'E']) {
            let exponent = text.get(len..).unwrap_or("").strip_prefix(['-', '+']).unwrap_or("");
            if exponent.starts_with(|c: char| c.is_ascii_digit()) {
                len += 1 + exponent.find(|c| !is_name(c)).unwrap_or(exponent.len());
            }
        }
        return (Token::Operand(head(len)), len);
    }
    let two = head(2);
    if ["==", "!=", "<=", ">=", "//", "**"].contains(&two) {
        return (Token::Operator(two), 2);
    }
    let len = first.len_utf8();
    match first {
        '(' | '[' | '{' => (Token::Open(first), len),
        ')' | ']' | '}' => (Token::Close, len),
        '~' | '+' | '-' | '*' | '/' | '%' | '<' | '>' => (Token::Operator(head(len)), len),
        _ => (Token::Other(head(len)), len),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(source: &str, expected: &str) {
        let expected = expected.replace("@*", "|__factor").replace('@', "|__arg").replace("MOD", "__mod");
        assert_eq!(prepare(source), expected, "{source}");
    }

    #[test]
    fn operands_are_guarded() {
        check("{{ a ~ b }}", "{{ a@ ~ b@ }}");
        check("{{ a.b(c)['x']|f(1) ~ -b|g -}}", "{{ a.b(c@)['x'@]|f(1@)@ ~ -b|g@ -}}");
        check("{{ f(a + b, c) }}", "{{ f(a@ + b@, c@) }}");
        check("{{ (a ~ b) ~ c }}", "{{ (a@ ~ b@)@ ~ c@ }}");
        check("{{ [a] * n ~ '' }}", "{{ [a@]@* * n@* ~ ''@ }}");
        check("{{ -1 }}{{ x[-1:] }}{{ x[::-1] }}", "{{ -1 }}{{ x[-1@:] }}{{ x[::-1@] }}");
        check("{{ {'a': b ~ c, 'd': {}} }}", "{{ {'a'@: b@ ~ c@, 'd'@: {}} }}");
        check("{{ f(a, b=c, *d)|g(x)[y] }}", "{{ f(a@, b=c@, *d@)|g(x@)[y@] }}");
        check("{{ a ~ b if c == d else e }}", "{{ a@ ~ b@ if c@ == d@ else e }}");
        check("{{ a == b is defined }}", "{{ a@ == b is defined@ }}");
    }

    #[test]
    fn statements_stay_what_they_are() {
        check("{% for a in b if a in c %}", "{% for a in b if a@ in c@ %}");
        check("{% for k, v in x + y recursive %}", "{% for k, v in x@ + y@ recursive %}");
        check("{% if a not in b and c is not none %}", "{% if a@ not in b@ and c is not none %}");
        check("{%- set x.y = x.if ~ 1.5 -%}", "{%- set x.y = x.if@ ~ 1.5@ -%}");
        check("{% if x is in [1, (2, 3)] %}", "{% if x is in [1@, (2, 3)@] %}");
        check(
            "{% for (a, b) in c %}{% set (a, b) = c, d ~ e %}",
            "{% for (a, b) in c %}{% set (a, b) = c, d@ ~ e@ %}",
        );
        check("{{ 1.5e-7 + 2E+3 - 4e-x }}", "{{ 1.5e-7@ + 2E+3@ - 4e@-x@ }}");
        check("{% call(x) f(a) %}", "{% call(x) f(a) %}");
        check("{% macro f(a, b='x' + 'y') %}", "{% macro f(a, b='x'@ + 'y'@) %}");
    }

    #[test]
    fn modulo_becomes_a_filter() {
        check("{{ '%s' % x }}", "{{ '%s'|MOD(  x) }}");
        check("{{ '%s-%s' % (a, b ~ c) ~ d }}", "{{ '%s-%s'|MOD(  (a, b@ ~ c@))@ ~ d@ }}");
        check("{{ (loop.index0 % 2 == 0) }}", "{{ (loop.index0|MOD(  2)@ == 0@) }}");
        check("{{ a * b % c }}", "{{ a@* * b@* % c@* }}");
        check("{% if a %}b{% endif %}", "{% if a %}b{% endif %}");
    }

    #[test]
    fn text_comments_and_raw_blocks_stay() {
        check("a ~ b {# c ~ d #} e", "a ~ b {# c ~ d #} e");
        check(
            "{% raw %}{{ a ~ b }}{% endraw %}{{ '}}' ~ c }}",
            "{% raw %}{{ a ~ b }}{% endraw %}{{ '}}'@ ~ c@ }}",
        );
        check("{{ 'it\\'s' ~ \"%}\" }}", "{{ 'it\\'s'@ ~ \"%}\"@ }}");
        check("{{ a ~", "{{ a@ ~");
    }

    #[test]
    fn generation_is_transparent() {
        check("{%- generation -%}x{% endgeneration %}", "{%- if true -%}x{% endif %}");
    }
}
