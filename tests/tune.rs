//! Tuning to a device: what is measured is kept and used, a file that says anything else does no
//! harm, and knobs change no result.

use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use infer::engine::tune::{Tune, Tuned, When};
use infer::engine::{DeviceChoice, Options, open};
use infer::gguf::File;
use infer::kernels::Math;
use infer::kernels::sample::Sampling;
use infer::model::Model;
use serde_json::{Value, json};
use tempfile::TempDir;

mod common;
#[path = "common/golden.rs"]
mod golden;

use golden::relative;

/// What an engine makes of a prompt, and what it says of itself.
struct Made {
    knobs: Tuned,
    notes: Vec<String>,
    /// After the prompt.
    logits: Vec<f32>,
    greedy: Vec<u32>,
}

fn model(name: &str) -> Arc<Model> {
    let path = common::fixtures().join("models").join(format!("{name}.gguf"));
    Arc::new(Model::from_file(File::open(&path).unwrap()).unwrap())
}

fn made(model: &Arc<Model>, tune: Tune) -> Made {
    let options = Options { device: DeviceChoice::Gpu, math: Some(Math::F32), tune, ..Options::default() };
    let mut go_on = |_, _| ControlFlow::Continue(());
    let mut engine = open(Arc::clone(model), &options, &mut go_on).unwrap();
    let ids: Vec<u32> = (0..12).map(|i| i * 7 % 50).collect();
    let mut logits = Vec::new();
    let mut keep = |row: &[f32]| {
        logits = row.to_vec();
        Ok(())
    };
    engine.logits(&ids, false, &mut go_on, &mut keep).unwrap();
    engine.begin(0, &ids, &Sampling::greedy(), 24, &mut go_on).unwrap();
    let greedy = (0..24).map(|_| engine.next().unwrap()).collect();
    engine.end();
    let info = engine.info();
    Made { knobs: info.knobs.unwrap(), notes: info.notes.clone(), logits, greedy }
}

/// With a folder, and no time at all unless it is always.
fn tune(when: When, folder: &Path) -> Tune {
    let budget = Duration::from_millis(if when == When::Always { 500 } else { 0 });
    Tune { when, folder: Some(folder.to_owned()), budget, say: None }
}

/// The one file of a folder.
fn file(folder: &TempDir) -> PathBuf {
    let files = common::files(folder.path(), "json");
    assert_eq!(files.len(), 1, "{files:?}");
    files[0].clone()
}

fn read(path: &Path) -> Value {
    serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap()
}

/// Gives all of a file's products other knobs: lanes, tiles, unrolling.
fn edit(path: &Path, knobs: impl Fn(&str) -> [u64; 3]) {
    let mut contents = read(path);
    for (product, entry) in contents["products"].as_object_mut().unwrap() {
        let [threads, tiles, unroll] = knobs(product);
        for (key, value) in [("threads", threads), ("tiles", tiles), ("unroll", unroll)] {
            entry[key] = json!(value);
        }
    }
    std::fs::write(path, contents.to_string()).unwrap();
}

#[track_caller]
fn alike(got: &Made, want: &Made, what: &str) {
    let error = relative(&got.logits, &want.logits);
    // As far as both may be from exact logits.
    assert!(error < 5e-4, "{what}: {error:.1e}");
    assert_eq!(got.greedy, want.greedy, "{what}");
    common::note(&format!("tune: {what}: differs by {error:.1e}"));
}

/// Dense layers, experts beside one for all, and a stream that is settled.
#[test]
fn measured_knobs_are_kept_and_change_no_result() {
    for name in ["llama-yarn.q4_k_m", "qwen2moe.q8_0", "gemma3.q8_0"] {
        let model = model(name);
        let folder = tempfile::tempdir().unwrap();
        let never = made(&model, tune(When::Never, folder.path()));
        assert!(never.knobs.products >= 3 && never.knobs.measured == 0, "{name}: {:?}", never.knobs);
        // Nothing is written where nothing is measured.
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);

        let always = made(&model, tune(When::Always, folder.path()));
        assert!(always.knobs.measured > 0 && always.notes == never.notes, "{name}: {:?}", always.knobs);
        alike(&always, &never, &format!("{name} measured"));
        let path = file(&folder);
        let kept = read(&path);
        assert_eq!(kept["products"].as_object().unwrap().len(), always.knobs.measured);

        let auto = made(&model, tune(When::Auto, folder.path()));
        assert_eq!(auto.knobs, always.knobs, "{name}");
        assert_eq!(read(&path), kept);
        alike(&auto, &never, &format!("{name} kept"));

        // As far from the rules as a device allows. Rows of several matrices take one tile at a time.
        for (threads, unroll) in [(64, 4), (128, 3)] {
            let tiles = |product: &str| if product.starts_with("rows") { 1 } else { 4 };
            edit(&path, |product| [threads, tiles(product), unroll]);
            let edited = made(&model, tune(When::Auto, folder.path()));
            let Tuned { measured, changed, .. } = edited.knobs;
            assert_eq!((measured, changed), (always.knobs.measured, measured), "{name}");
            alike(&edited, &never, &format!("{name} with {threads} lanes"));
        }
        // What is kept is not looked at.
        let never = made(&model, tune(When::Never, folder.path()));
        assert_eq!(never.knobs.measured, 0);
    }
}

/// Knobs that no kernel has, that this device has no room for, or that a product cannot have.
#[test]
fn knobs_that_the_device_cannot_run_are_dropped() {
    let model = model("llama-yarn.q4_k_m");
    let folder = tempfile::tempdir().unwrap();
    let never = made(&model, tune(When::Never, folder.path()));
    let always = made(&model, tune(When::Always, folder.path()));
    let path = file(&folder);
    let most = u64::MAX;
    let bad = [
        [0, 1, 1],
        [96, 1, 1],
        [32, 1, 1],
        [1 << 20, 1, 1],
        [most, 1, 1],
        [64, 0, 1],
        [128, 3, 1],
        [64, 1, 0],
    ];
    for knobs in bad.into_iter().chain([[64, 8, 1], [64, most, 1], [64, 1, 9], [64, 1, most]]) {
        edit(&path, |_| knobs);
        let made = made(&model, tune(When::Auto, folder.path()));
        assert_eq!(made.knobs.measured, 0, "{knobs:?}");
        assert_eq!((made.logits, made.greedy), (never.logits.clone(), never.greedy.clone()), "{knobs:?}");
    }
    // Three matrices in one go are computed a tile at a time; the other products may have more.
    edit(&path, |_| [64, 2, 1]);
    let several = |product: &&String| product.starts_with("rows") && product.contains(',');
    let kept = read(&path);
    let several = kept["products"].as_object().unwrap().keys().filter(several).count();
    let made = made(&model, tune(When::Auto, folder.path()));
    assert_eq!(made.knobs.measured + several, always.knobs.measured);
    assert!(several > 0);
}

/// Neither a file that is damaged nor a folder that cannot be written keeps a model from running.
#[test]
fn what_cannot_be_read_or_kept_is_no_error() {
    let model = model("llama-yarn.q4_k_m");
    let folder = tempfile::tempdir().unwrap();
    let first = made(&model, tune(When::Always, folder.path()));
    assert!(first.notes.is_empty(), "{:?}", first.notes);
    let path = file(&folder);
    let whole = std::fs::read(&path).unwrap();
    std::fs::write(&path, &whole[..whole.len() / 2]).unwrap();
    assert_eq!(made(&model, tune(When::Auto, folder.path())).knobs.measured, 0);
    let again = made(&model, tune(When::Always, folder.path()));
    assert!(again.notes.is_empty() && again.knobs.measured > 0, "{:?}", again.notes);
    assert!(read(&path)["products"].is_object());

    // A file stands where the folder should.
    let taken = folder.path().join("taken");
    std::fs::write(&taken, "").unwrap();
    let made = made(&model, tune(When::Always, &taken));
    assert!(made.knobs.measured > 0);
    assert!(
        matches!(&made.notes[..], [note] if note.contains("not kept") && note.contains("taken")),
        "{:?}",
        made.notes
    );
}
