//! Chat templates against renderings by Jinja2, and against templates that mean harm.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use infer::Error;
use infer::gguf::{File, writer::Writer};
use infer::tokenizer::{ChatTemplate, Message, Special, Tokenizer};
use proptest::prelude::*;
use serde_json::Value;

mod common;

/// The folder of test data beside the repository, if it is there; what is skipped is said.
fn shared(what: &str) -> Option<PathBuf> {
    let Some(path) = common::shared().map(|root| root.join(what)) else {
        common::note(&format!("SKIPPED: {what}: INFER_SHARED is not set"));
        return None;
    };
    if path.exists() {
        return Some(path);
    }
    common::note(&format!("SKIPPED: {} is not there", path.display()));
    None
}

fn json(path: &Path) -> Value {
    serde_json::from_slice(&std::fs::read(path).expect("readable")).expect("JSON")
}

fn messages(value: &Value) -> Vec<Message> {
    serde_json::from_value(value.clone()).expect("messages")
}

fn user(text: &str) -> Vec<Message> {
    vec![Message { role: "user".to_owned(), content: text.to_owned() }]
}

/// The tokenizer of the model that is part of the program.
fn demo_tokenizer() -> Tokenizer {
    let file = File::open(&common::repo("assets/demo.gguf")).expect("a model");
    Tokenizer::from_file(&file).expect("a tokenizer")
}

/// 26 July 2026, noon.
const DAY: i64 = 1_785_067_200;

fn template(source: &str) -> ChatTemplate {
    ChatTemplate::new(source, "<s>", "</s>").at(DAY)
}

fn render(source: &str) -> Result<String, Error> {
    template(source).render(&user("Hi <there> & 'you'"), true)
}

fn renders(source: &str, expected: &str) {
    match render(source) {
        Ok(text) => assert_eq!(text, expected, "{source}"),
        Err(e) => panic!("{source}: {e}"),
    }
}

#[test]
fn real_templates_render_as_in_jinja2() {
    let Some(dir) = shared("templates") else { return };
    assert_eq!(render_as_in_jinja2(&dir), (316, 6));
}

/// Templates of our own, each for one side of Jinja2; `scripts/template-cases` makes the expected
/// texts.
#[test]
fn every_side_of_jinja2_renders_as_in_jinja2() {
    assert_eq!(render_as_in_jinja2(&common::repo("tests/data/templates")), (163, 6));
}

/// Jinja2's built-ins one by one, and Python behind them: the same text, an error where that is one, or
/// an error for what is not here. `scripts/template-cases` makes the right values.
#[test]
fn expressions_are_as_in_jinja2() {
    const THEN: i64 = 1_798_988_709;
    let cases = json(&common::repo("tests/data/templates/expressions.json"));
    let (mut texts, mut errors, mut missing, mut wrong) = (0, 0, 0, Vec::new());
    for case in cases.as_array().expect("cases") {
        let source = case["source"].as_str().expect("a template");
        let template = ChatTemplate::new(source, "<s>", "</s>").at(THEN);
        match (template.render(&user("Hi <there> & 'you'"), true), case["text"].as_str()) {
            (Ok(text), Some(expected)) if text == expected => texts += 1,
            (Err(Error::Request(_)), None) => errors += 1,
            (Err(Error::Request(_)), Some(_)) => missing += 1,
            (got, _) => wrong.push(format!("{source}\n  {got:?}\n  {case}")),
        }
    }
    assert!(wrong.is_empty(), "{} wrong\n{}", wrong.len(), wrong.join("\n"));
    assert_eq!((texts, errors, missing), (1071, 144, 39));
}

/// What a template is given shows, whatever the template does to it, or it is said that it does not.
#[test]
fn real_templates_show_what_is_said() {
    let Some(dir) = shared("templates") else { return };
    let tokenizer = demo_tokenizer();
    let cases = json(&dir.join("cases.json"));
    let (mut texts, mut left_out) = (0, Vec::new());
    for case in cases.as_array().expect("cases").iter().filter(|case| case["add_generation_prompt"] == true) {
        let field = |key: &str| case[key].as_str().expect("a string");
        let Some(expected) = case["text"].as_str() else { continue };
        let source = std::fs::read_to_string(dir.join(field("template"))).expect("a template");
        let template = ChatTemplate::new(&source, field("bos_token"), field("eos_token")).at(DAY);
        match template.prompt(&messages(&case["messages"]), &tokenizer, Special::AsText) {
            Ok(rendered) => {
                assert_eq!(rendered.text, expected, "{} / {}", field("template"), field("talk"));
                texts += 1;
            }
            Err(e) => left_out.push(format!("{} / {}: {e}", field("template"), field("talk"))),
        }
    }
    assert_eq!((texts, left_out.len()), (270, 0), "{}", left_out.join("\n"));
}

/// Renders the cases of a folder: how many gave a text and how many an error, all as expected.
fn render_as_in_jinja2(dir: &Path) -> (usize, usize) {
    let cases = json(&dir.join("cases.json"));
    let (mut texts, mut errors, mut wrong) = (0, 0, Vec::new());
    for case in cases.as_array().expect("cases") {
        let field = |key: &str| case[key].as_str().expect("a string");
        let source = std::fs::read_to_string(dir.join(field("template"))).expect("a template");
        let template = ChatTemplate::new(&source, field("bos_token"), field("eos_token")).at(DAY);
        let prompt = case["add_generation_prompt"].as_bool().expect("a bool");
        let got = template.render(&messages(&case["messages"]), prompt);
        let right = match (&got, case["text"].as_str()) {
            (Ok(text), Some(expected)) => {
                texts += 1;
                text == expected
            }
            (Err(Error::Request(text)), None) => {
                errors += 1;
                text.contains(field("error")) && text.contains("--raw") && !text.contains('\n')
            }
            _ => false,
        };
        if !right {
            wrong.push(format!(
                "{} / {}: {got:?}\nexpected {}",
                field("template"),
                field("talk"),
                case["text"]
            ));
        }
    }
    assert!(wrong.is_empty(), "{} wrong\n{}", wrong.len(), wrong.join("\n\n"));
    (texts, errors)
}

#[test]
fn templates_of_real_models_render() {
    let Some(dir) = shared("golden") else { return };
    let models = match std::env::var_os("INFER_MODELS") {
        Some(dir) => PathBuf::from(dir),
        None => match shared("models") {
            Some(dir) => dir,
            None => return,
        },
    };
    for name in ["smollm2-135m", "qwen2.5-coder-0.5b", "gemma3-270m"] {
        let golden = json(&dir.join(format!("{name}.json")));
        let path = models.join(golden["model"]["file"].as_str().expect("a file name"));
        if !path.exists() {
            common::note(&format!("SKIPPED: {} is not there", path.display()));
            continue;
        }
        let file = File::open(&path).expect("a model");
        let template = ChatTemplate::from_file(&file);
        assert_eq!(Some(template.is_some()), golden["model"]["has_chat_template"].as_bool(), "{name}");
        let Some(template) = template else { continue };
        let tokenizer = Tokenizer::from_file(&file).expect("a tokenizer");
        for case in golden["chat"].as_array().expect("cases") {
            let prompt = case["add_generation_prompt"].as_bool().expect("a bool");
            let text = template.render(&messages(&case["messages"]), prompt).expect("a text");
            assert_eq!(Some(&*text), case["prompt"].as_str(), "{name}");
            let ids = tokenizer.encode(&text, Special::Recognise).expect("ids");
            assert_eq!(serde_json::json!(ids), case["ids"], "{name}");
        }
    }
}

#[test]
fn a_template_comes_with_its_file() {
    let file = |writer: &Writer| File::parse(writer.finish()).expect("a container");
    assert!(ChatTemplate::from_file(&file(&Writer::new())).is_none());
    let mut writer = Writer::new();
    writer
        .str("tokenizer.chat_template", "{{ bos_token }}{{ messages[0].content }}{{ eos_token }}")
        .strings("tokenizer.ggml.tokens", &["a", "<bos>", "<eos>"])
        .u32("tokenizer.ggml.bos_token_id", 1)
        .u32("tokenizer.ggml.eos_token_id", 99);
    let template = ChatTemplate::from_file(&file(&writer)).expect("a template");
    assert_eq!(template.render(&user("x"), true).expect("a text"), "<bos>x");
}

#[test]
fn what_transformers_has_is_there() {
    renders("{{ messages[0].content|tojson }}", r#""Hi <there> & 'you'""#);
    renders("{{ {'b': [1, 2.0, none, true], 'a': 'é'}|tojson }}", r#"{"b": [1, 2.0, null, true], "a": "é"}"#);
    renders("{{ 'é\u{1f600}'|tojson(ensure_ascii=true) }}", r#""\u00e9\ud83d\ude00""#);
    renders(
        "{{ {'b': [], 'a': [1, {}]}|tojson(indent=2, sort_keys=true) }}",
        "{\n  \"a\": [\n    1,\n    {}\n  ],\n  \"b\": []\n}",
    );
    renders("{{ [1, {'a': 2}]|tojson(separators=(',', ':')) }}", r#"[1,{"a":2}]"#);
    renders("{{ '%s is %d' % ('x', 3) }}|{{ '%s' % 'y' }}|{{ '100%%' % () }}", "x is 3|y|100%");
    renders("{{ 7 % 3 }}{{ -7 % 3 }}{{ 2 * 5 % 3 }}", "121");
    renders("{{ strftime_now('%d %b %Y, %Y-%m-%d, %B %d') }}", "26 Jul 2026, 2026-07-26, July 26");
    renders("{% generation %}a {%- endgeneration %}\nb", "ab");
    renders("{% for x in [1, 2, 3] %}{% if x == 2 %}{% continue %}{% endif %}{{ x }}{% endfor %}", "13");
    renders("  {% if true %}\n    x\n  {% endif %}\ny\n", "    x\ny");
    renders("{{ tools is none }} {{ documents is none }} {{ nothing is defined }}", "True True False");
    renders(
        "{{ ' x '.strip() ~ 'A'.lower() }}{% set ns = namespace(a=1) %}{% set ns.a = ns.a + 1 %}{{ ns.a }}",
        "xa2",
    );
    renders("{{ (messages|length - 1) ~ '/' ~ messages[-1]['role'][0] }}", "0/u");
    // Python's methods, with their corners.
    renders("{{ ' a b c '.rsplit(none, 1) }}{{ ' a b c '.split(maxsplit=1) }}", "[' a b', 'c']['a', 'b c ']");
    renders(
        "{{ 'a,b,c'.rsplit(',', 1) }}{{ 'a,b'.split(sep=',') }}{{ ''.split() }}",
        "['a,b', 'c']['a', 'b'][]",
    );
    renders("{{ 'a-b-c'.rpartition('-') }}{{ 'ab'.partition('-') }}", "('a-b', '-', 'c')('ab', '', '')");
    renders(
        "{{ 'x'.center(4) }}|{{ 'xy'.center(5) }}|{{ '-5'.zfill(4) }}|{{ 'é'.rjust(3, '*') }}",
        " x  |  xy |-005|**é",
    );
    renders(
        "{{ 'abc'.startswith('b', 1) }} {{ 'abc'.endswith(('x', 'b'), 0, -1) }} {{ 'abc'.startswith('', 4) }}",
        "True True False",
    );
    renders(
        "{{ 'aéc'.index('c') }}{{ [1, 2].index(2) }}{{ 'abca'.rindex('a') }}{{ '٣'.isdecimal() }}",
        "213True",
    );
    renders(
        "{{ 'abc'.removeprefix('a').removesuffix('c') }}{{ 'aB'.swapcase() }}{{ 'AB'.casefold() }}{{ \"it's 3D\".title() }}",
        "bAbabIt'S 3D",
    );
    renders(
        "{{ none|default('x', boolean=true) }}{{ none|default('x') }}{{ nothing|d('y') }}{{ nothing|default }}",
        "xNoney",
    );
    renders("{% for (a, b) in [(1, 2)] %}{{ a }}{{ b }}{% endfor %}{% set (c, d) = (3, 4) %}{{ d }}", "124");
    renders("{{ 2.5e-1 + 1E+1 }} {{ {none: 1, true: 2}|tojson }}", r#"10.25 {"null": 1, "true": 2}"#);
}

/// What Python makes one by one is there once.
#[test]
fn generators_are_walked_once() {
    let set = "{% set xs = [1, 2, 3]|select('odd') %}";
    for (source, expected) in [
        ("{{ xs|join }}-{{ xs|join }}", "13-"),
        ("{{ xs|first }}{{ xs|first }}", "13"),
        ("{% for x in xs %}{{ x }}{% endfor %}{% for x in xs %}{{ x }}{% else %}none{% endfor %}", "13none"),
        ("{{ xs|list|length }}{% if xs %}true{% endif %}", "2true"),
        ("{{ xs is iterable }}{{ xs|list }}", "True[1, 3]"),
    ] {
        renders(&format!("{set}{source}"), expected);
    }
}

#[test]
fn nothing_else_is_there() {
    for source in [
        "{% include '/etc/passwd' %}",
        "{% import 'x' as y %}",
        "{% import 'x' as y % 1 %}",
        "{% extends 'x' %}",
        "{{ debug() }}",
    ] {
        let error = render(source).expect_err("nothing to be had");
        assert!(matches!(error, Error::Request(_)), "{source}: {error}");
    }
    renders("{{ env }}{{ PATH }}{{ self }}", "");
}

#[test]
fn errors_say_where_and_what() {
    let text = |source: &str| match render(source) {
        Err(Error::Request(text)) => text,
        other => panic!("{source}: {other:?}"),
    };
    let refusal = text("a\n{{ raise_exception('no such\nthing') }}");
    assert!(refusal.contains("line 2: no such thing") && refusal.contains("--raw"), "{refusal}");
    let syntax = text("\n\n{% if %}");
    assert!(syntax.contains("line 3: syntax error"), "{syntax}");
    assert!(text("{{ nothing.at.all }}").contains("undefined"));
    assert!(text("{{ 1|nofilter }}").contains("nofilter"));
    assert!(text("{{ 'a'.index('z') }}").contains("line 1: substring not found"));
    assert!(
        text("\n{{ 'a'.nomethod() }}")
            .contains("line 2: unknown method: string has no method named nomethod")
    );
    assert!(text("{{ 'a'.center(3, 'xy') }}").contains("one character"));
}

fn refused(source: &str) {
    let start = Instant::now();
    match render(source) {
        Err(Error::Request(text)) => assert!(!text.contains('\n'), "{text}"),
        Ok(text) => panic!("{source}: rendered to {} bytes", text.len()),
        Err(other) => panic!("{source}: {other}"),
    }
    let took = start.elapsed();
    eprintln!("{took:?}: {source}");
    assert!(took < Duration::from_secs(3), "{source}: {took:?}");
}

/// A list that holds itself twice, forty times over, and what would write it out.
#[test]
fn shared_lists_cannot_be_written_out() {
    let build = "{% set ns = namespace(x=[1], y=[1]) %}{% for i in range(40) %}\
                 {% set ns.x = [ns.x, ns.x] %}{% set ns.y = [ns.y, ns.y] %}{% endfor %}";
    for end in [
        "{{ ns.x }}",
        "{{ ns.x ~ '' }}",
        "{{ '' ~ ns.x }}",
        "{{ 'a' + ('b' ~ ns.x) }}",
        "{{ ns.x|tojson }}",
        "{{ ns.x|string|length }}",
        "{{ ns.x|join }}",
        "{{ ns.x|pprint }}",
        "{{ [ns.x]|map('string')|list|length }}",
        "{{ 'a'|replace('a', ns.x) }}",
        "{{ '%s'|format(ns.x) }}",
        "{{ '%s' % (ns.x,) }}",
        "{{ '{}'.format(ns.x) }}",
        "{{ ns.x == ns.y }}",
        "{{ 1 if ns.x in [ns.y] }}",
        "{{ ns.x is eq(ns.y) }}",
        "{{ [ns.x, ns.y]|sort|length }}",
        "{{ [ns.x, ns.y]|unique|length }}",
        "{{ [ns.y].count(ns.x) }}",
        "{{ raise_exception(ns.x) }}",
        "{{ strftime_now(ns.x) }}",
        "{{ dict(a=ns.x)|string }}",
        "{% set z %}{{ ns.x }}{% endset %}",
        "{% filter upper %}{{ ns.x }}{% endfilter %}",
        "{% macro m(a) %}{{ a }}{% endmacro %}{{ m(ns.x) }}",
        "{{ {ns.x: 1} }}",
        "{{ {'a': 1}[ns.x] }}",
        "{% for i in [1, 2] %}{{ loop.changed([ns.x]) }}{% endfor %}",
    ] {
        refused(&format!("{build}{end}"));
    }
}

/// What one call writes is bounded by what is asked of it, not only by what it is given.
#[test]
fn fields_cannot_be_wide() {
    for source in [
        "{{ '{:99999999999}'.format(1) }}",
        "{{ '{:100000000}'.format(1) }}",
        "{{ '{:.99999999999f}'.format(1.5) }}",
        "{{ '{0:>9000000000000000000}'.format('a') }}",
        "{{ '{:99999999999999999999999}'.format(1) }}",
        "{{ ('{0}' * 100000).format('a' * 1000000) }}",
        "{{ 'a'.center(99999999999) }}",
        "{{ 'a'.zfill(9223372036854775807) }}",
        "{% for i in range(90000) %}{% set x = 'a'.ljust(4000000, 'é') %}{% endfor %}",
        "{% set ns = namespace(l=[]) %}{% for i in range(90000) %}{% set ns.l = ns.l + ('a' * 1000000).rsplit('b') %}{% endfor %}",
        "{{ '%99999999999d' % 1 }}",
        "{{ '%99999999999d'|format(1) }}",
        "{{ '%*d' % (99999999999, 1) }}",
        "{{ '%.99999999999f' % 1.5 }}",
        "{{ ('%4000000d' * 1000) % range(1000)|list }}",
        "{{ ('%s' * 100000) % (('a' * 1000000,) + range(9)|list) }}",
        "{{ '%(a)s' * 100000 % {'a': 'b' * 1000000} }}",
        "{{ 'a'|center(99999999999) }}",
        "{{ ('a\n' * 1000000)|indent(1000) }}",
        "{{ 'a\n'|indent(99999999999) }}",
        "{{ ('a' * 100000)|replace('', 'b' * 100000) }}",
        "{{ ('a ' * 1000000)|wordwrap(1, wrapstring='b' * 1000) }}",
        "{{ (('a' * 1000000,) * 100)|join }}",
        "{{ range(100000)|join('a' * 10000) }}",
        "{{ ('\t' * 1000000).expandtabs(1000) }}",
        "{{ [1]|batch(99999999999, 'x') }}",
        "{{ [1]|slice(99999999999, 'x') }}",
        "{{ strftime_now('%99999999999d') }}",
        "{{ strftime_now('%1000c' * 100000) }}",
        "{{ ('a' * 1000000).replace('a', 'b' * 1000000) }}",
        "{{ ('a' * 1000000).join(range(100000)) }}",
    ] {
        refused(source);
    }
    if let Some(peak) = peak_megabytes() {
        assert!(peak < 400, "{peak} MB");
    }
    renders("{{ '{:>6}|{:.2f}: 20260101123456789'.format('ab', 1.5) }}", "    ab|1.50: 20260101123456789");
}

#[test]
fn growth_is_bounded() {
    let ns = "{% set ns = namespace(x='ab', l=[1], t=(1,)) %}{% for i in range(200) %}";
    for body in [
        "{% set ns.x = ns.x ~ ns.x %}",
        "{% set ns.x = ns.x + ns.x %}",
        "{% set ns.x = ns.x * 2 %}",
        "{% set ns.x = ns.x|replace('a', 'aa') %}",
        "{% set ns.x %}{{ ns.x }}{{ ns.x }}{% endset %}",
        "{% set ns.x = '%s%s' % (ns.x, ns.x) %}",
        "{% set ns.x = ns.x.replace('b', 'bb') %}",
        "{% set ns.x = [ns.x, ns.x]|join %}",
        "{% set ns.l = ns.l + ns.l %}",
        "{% set ns.l = ns.l * 2 %}",
        "{% set ns.t = ns.t + ns.t %}",
        "{% set ns.l = [ns.l, ns.l]|sum(start=[]) %}",
    ] {
        refused(&format!("{ns}{body}{{% endfor %}}{{{{ ns.x ~ ns.l ~ ns.t }}}}"));
    }
    for source in [
        "{{ ([1] * 100000000) ~ '' }}",
        "{{ [1] * 100000000 ~ '' }}",
        "{{ 'a' * 1000000000 }}",
        "{{ '%1000000000d' % 1 }}",
        "{{ 'x\ny'|indent(1000000000) }}",
        "{{ [[1] * 10]|tojson(indent=1000000000) }}{{ 'a' * 1000000000 }}",
        "{{ range(1000000000000000000) }}",
        "{% for a in range(100000) %}{% for b in range(100000) %}{% endfor %}{% endfor %}",
        "{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}",
        "{% macro m() %}{{ m() }}{{ m() }}{% endmacro %}{{ m() }}",
        "{% for x in [[[]]] recursive %}{{ loop([[x]]) }}{% endfor %}",
        "{% set ns = namespace(x=[]) %}{% for i in range(90000) %}{% set ns.x = [ns.x] %}{% endfor %}{{ ns.x }}",
    ] {
        refused(source);
    }
    // As many brackets as fit: the parser's depth is bounded too.
    refused(&format!("{{{{ {}1{} }}}}", "(".repeat(100_000), ")".repeat(100_000)));
    refused(&format!("{}{}", "{% if 1 %}".repeat(100_000), "{% endif %}".repeat(100_000)));
}

/// What a process has used at most, where the system says.
fn peak_megabytes() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|l| l.strip_prefix("VmHWM:"))?;
    Some(line.split_whitespace().next()?.parse::<u64>().ok()? / 1024)
}

#[test]
fn malformed_templates_are_refused() {
    let Some(dir) = shared("fixtures/malformed") else { return };
    let mut seen = 0;
    for entry in std::fs::read_dir(dir).expect("a folder") {
        let path = entry.expect("an entry").path();
        let name = path.file_name().and_then(|n| n.to_str()).unwrap_or_default();
        if !name.starts_with("tok-chat-") {
            continue;
        }
        let template = ChatTemplate::from_file(&File::open(&path).expect("a container")).expect("a template");
        let start = Instant::now();
        let error = template.render(&user("Hello"), true).expect_err(name);
        let took = start.elapsed();
        eprintln!("{name}: {error} after {took:?}");
        assert!(matches!(error, Error::Request(_)) && took < Duration::from_secs(1), "{name}: {took:?}");
        seen += 1;
    }
    assert_eq!(seen, 6);
    if let Some(peak) = peak_megabytes() {
        eprintln!("peak of the whole test process: {peak} MB");
    }
}

/// Long conversations are no run-away.
#[test]
fn long_conversations_render() {
    let source = "{{ bos_token }}{% for m in messages %}{% if m.role not in ['user', 'assistant'] %}\
                  {{ raise_exception('role') }}{% endif %}{{ '<' + m.role + '>\n' + m.content|trim + '<end>\n' }}\
                  {% if loop.index0 == messages|length - 1 %}{{ 'last' ~ loop.index }}{% endif %}{% endfor %}";
    let mut long = Vec::new();
    for i in 0..500 {
        let role = if i % 2 == 0 { "user" } else { "assistant" };
        long.push(Message { role: role.to_owned(), content: "word ".repeat(2000) });
    }
    let text = template(source).render(&long, true).expect("a text");
    assert!(text.len() > 4_900_000 && text.ends_with("last500"));
}

/// Whatever a template is made of, it renders or it is refused: nothing panics, and nothing
/// takes long.
#[test]
fn any_template_ends() {
    let parts = vec![
        "{{",
        "}}",
        "{%",
        "%}",
        "{%-",
        "-%}",
        "{#",
        "#}",
        "{% raw %}",
        "{% endraw %}",
        "{% for x in ",
        "{% endfor %}",
        "{% if ",
        "{% else %}",
        "{% endif %}",
        "{% set x = ",
        "{% macro m(a, b=1) %}",
        "{% endmacro %}",
        "m(",
        "messages",
        "[0]",
        ".content",
        "|tojson",
        "|length",
        "|join(",
        "|replace(",
        "x",
        "a.b",
        "'s'",
        "\"",
        "'",
        "1",
        "1.5",
        " ",
        "\n",
        "~",
        "+",
        "-",
        "*",
        "**",
        "/",
        "//",
        "%",
        "==",
        "!=",
        "<",
        "in",
        "not in",
        "not",
        "is",
        "defined",
        "and",
        "or",
        "(",
        ")",
        "[",
        "]",
        "{",
        "}",
        ",",
        ":",
        "=",
        ".",
        "|",
        "\\",
        "é",
        "{% generation %}",
        "{% endgeneration %}",
        "range(9)",
        "namespace(x=1)",
        "loop.index",
        "strftime_now('%Y')",
        "raise_exception(",
    ];
    let soup = prop::collection::vec(prop::sample::select(parts), 0..24);
    let config = ProptestConfig { cases: 3000, failure_persistence: None, ..ProptestConfig::default() };
    let tokenizer = demo_tokenizer();
    let said = user("> Hi<|im_end|> <");
    let run = proptest::test_runner::TestRunner::new(config).run(&soup, |parts| {
        let template = template(&parts.concat());
        let rendered = template.render(&said, true).map(drop);
        let prompt = template.prompt(&said, &tokenizer, Special::AsText).map(drop);
        for error in [rendered, prompt].into_iter().filter_map(Result::err) {
            let text = error.to_string();
            prop_assert!(!text.contains("rendering it failed") && !text.contains("more time"), "{}", text);
        }
        Ok(())
    });
    run.expect("all end");
}
