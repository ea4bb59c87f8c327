//! What the documentation says of architectures is so: lists are compared with the code's, and the
//! example is taken from the page and run.

use std::ops::ControlFlow;
use std::sync::Arc;

use infer::engine::{DeviceChoice, Options, open};
use infer::gguf::File;
use infer::gguf::writer::Writer;
use infer::model::{Model, arch};
use infer::quant::Type;

mod common;
#[path = "common/golden.rs"]
mod golden;

use golden::{all_logits, relative};

fn text(path: &str) -> String {
    std::fs::read_to_string(common::repo(path)).unwrap_or_else(|e| panic!("{path}: {e}"))
}

fn page() -> String {
    text("docs/adding-an-architecture.md")
}

/// The blocks of a page in this language.
fn blocks<'a>(page: &'a str, language: &str) -> Vec<&'a str> {
    let begin = format!("\n```{language}\n");
    page.split(&begin[..]).skip(1).map(|rest| rest.split_once("```").unwrap().0).collect()
}

/// The names in the first column of the table under a header.
fn column(page: &str, header: &str) -> Vec<String> {
    let (_, rows) = page.split_once(header).unwrap_or_else(|| panic!("no table {header}"));
    let rows = rows.lines().skip(2).take_while(|line| line.starts_with('|'));
    rows.map(|row| row.split('`').nth(1).unwrap().to_owned()).collect()
}

/// Names of what stands directly in an item of a source file: fields, variants.
fn members(source: &str, item: &str) -> Vec<String> {
    let (_, body) = source.split_once(item).unwrap_or_else(|| panic!("no {item}"));
    let (body, _) = body.split_once("\n}\n").unwrap();
    let lines = body.lines().filter_map(|line| line.strip_prefix("    "));
    let name = |line: &str| {
        let line = line.strip_prefix("pub ").unwrap_or(line);
        let end = line.find(|c: char| !c.is_alphanumeric() && c != '_')?;
        (end > 0).then(|| line[..end].to_owned())
    };
    lines.filter_map(name).collect()
}

#[test]
fn architectures_are_listed() {
    let known: Vec<&str> = arch::names().collect();
    assert_eq!(column(&page(), "| name | what is special | models |"), known);
    // README.md's entry begins with the names, each in backticks.
    let readme = text("README.md");
    let (_, entry) = readme.split_once("\n- Architectures: ").unwrap();
    let (entry, _) = entry.split_once("\n- ").unwrap();
    let listed: Vec<&str> = entry.split('`').skip(1).step_by(2).collect();
    assert_eq!(listed, known);
    for linked in [readme, text("ARCHITECTURE.md")] {
        assert!(linked.contains("(docs/adding-an-architecture.md)"));
    }
}

#[test]
fn fields_and_operations_are_listed() {
    let fields = members(&text("src/model/spec.rs"), "\npub struct Spec {\n");
    assert!(fields.len() > 20 && fields.contains(&"residual_scale".to_owned()), "{fields:?}");
    assert_eq!(column(&page(), "| field | says |"), fields);
    let operations = members(&text("src/model/plan.rs"), "\npub enum Op {\n");
    assert!(operations.contains(&"Attend".to_owned()), "{operations:?}");
    assert_eq!(column(&page(), "| operation | does |"), operations);
}

#[test]
fn files_that_are_named_exist() {
    let page = page();
    let named = page.split('`').skip(1).step_by(2).filter(|name| {
        let file = [".rs", ".toml", ".md"].iter().any(|end| name.ends_with(end)) || name.ends_with('/');
        file && !name.contains(char::is_whitespace)
    });
    let mut seen = 0;
    for name in named {
        assert!(common::repo(name).exists(), "{name}");
        seen += 1;
    }
    assert!(seen > 10, "{seen}");
}

#[test]
fn the_example_is_the_code() {
    let page = page();
    let code = blocks(&page, "rust");
    assert_eq!(code[0], text("src/model/arch/granite.rs"));
    assert!(text("src/model/arch/mod.rs").contains(&format!("\n{}", code[1])), "{}", code[1]);
}

/// A file with the page's keys, one of them left out or with another value, and its tensors.
fn written(page: &str, without: &str, instead: Option<f32>) -> Vec<u8> {
    let mut file = Writer::new();
    file.str("general.architecture", "granite");
    for line in blocks(page, "keys")[0].lines() {
        let (key, value) = line.split_once(" = ").unwrap();
        match (key == without, instead) {
            (true, Some(value)) => file.f32(key, value),
            (true, None) => continue,
            (false, _) if value.contains('.') => file.f32(key, value.parse().unwrap()),
            (false, _) => file.u32(key, value.parse().unwrap()),
        };
    }
    let mut state = 7u32;
    let mut number = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 8) as f32 / 8_388_608.0 - 1.0
    };
    for line in blocks(page, "tensors")[0].lines() {
        let mut words = line.split(' ');
        let name = words.next().unwrap();
        let dims: Vec<u64> = words.map(|n| n.parse().unwrap()).collect();
        let size = dims.iter().product::<u64>();
        let data: Vec<u8> = (0..size).flat_map(|_| (0.3 * number()).to_le_bytes()).collect();
        file.tensor(name, Type::F32, &dims, &data);
    }
    file.finish()
}

/// The page's keys and tensors are a model; each key is needed or counts.
#[test]
fn the_example_runs() {
    let page = page();
    let model = |bytes: Vec<u8>| Model::from_file(File::parse(bytes).unwrap());
    let whole = model(written(&page, "", None)).unwrap_or_else(|e| panic!("{e}"));
    let spec = &whole.plan.spec;
    assert_eq!((spec.embedding_scale, spec.residual_scale, spec.logit_scale), (12.0, 0.22, 0.125));
    assert_eq!((spec.attention_scale, spec.head_dim, spec.vocab), (0.0625, 24, 384));
    let logits = |model: Model| {
        let options = Options { device: DeviceChoice::Cpu, ..Options::default() };
        let mut engine = open(Arc::new(model), &options, &mut |_, _| ControlFlow::Continue(())).unwrap();
        all_logits(engine.as_mut(), &[1, 50, 380, 7, 7])
    };
    let want = logits(whole);
    assert!(want.iter().all(|v| v.is_finite()) && want.iter().any(|v| v.abs() > 0.01));
    let factors = ["embedding_scale", "residual_scale", "logit_scale", "attention.scale"];
    for factor in factors.map(|name| format!("granite.{name}")) {
        let by = relative(&logits(model(written(&page, &factor, Some(1.5))).unwrap()), &want);
        assert!(by > 1e-3, "{factor}: {by:.1e}");
        assert!(model(written(&page, &factor, Some(f32::NAN))).is_err(), "{factor}: not checked");
        assert!(model(written(&page, &factor, None)).is_ok(), "{factor} has a default");
    }
    for needed in ["block_count", "context_length", "embedding_length", "attention.head_count"] {
        let error = model(written(&page, &format!("granite.{needed}"), None)).err().unwrap();
        assert!(error.exit_code() == 4 && error.to_string().contains(needed), "{error}");
    }
}
