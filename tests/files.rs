//! Models as they lie on a disk: in several files, in files that change while they are read, in
//! files that are large, and in files whose texts are meant to harm.

mod common;
#[path = "common/edit.rs"]
mod edit;

use std::fs::OpenOptions;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use infer::gguf::File;
use infer::gguf::writer::Writer;
use infer::quant::Type;
use serde_json::Value as Json;

/// The demo as a split model, in so many parts. The first one's metadata are the demo's.
fn split_demo(folder: &Path, name: &str, count: u16) -> Vec<PathBuf> {
    let demo = File::open(&common::repo("assets/demo.gguf")).unwrap();
    let per = demo.tensors().len().div_ceil(usize::from(count));
    let mut paths = Vec::new();
    for no in 0..count {
        let mut writer = Writer::new();
        if no == 0 {
            edit::copy_metadata(&demo, &mut writer, &[]);
        }
        let all = i32::try_from(demo.tensors().len()).unwrap();
        writer.u16("split.no", no).u16("split.count", count).i32("split.tensors.count", all);
        for t in demo.tensors().iter().skip(usize::from(no) * per).take(per) {
            writer.tensor(&t.name, t.ty, &t.shape[..t.n_dims], demo.data(t));
        }
        paths.push(folder.join(format!("{name}-{:05}-of-{count:05}.gguf", no + 1)));
        std::fs::write(&paths[usize::from(no)], writer.finish()).unwrap();
    }
    paths
}

/// A part with a tensor of its own.
fn part(no: u16, count: u16, tensors: i32, tensor: &str) -> Vec<u8> {
    let mut writer = Writer::new();
    writer.u16("split.no", no).u16("split.count", count).i32("split.tensors.count", tensors);
    writer.tensor(tensor, Type::F32, &[8], &[u8::try_from(no).unwrap(); 32]).finish()
}

fn command(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_infer"));
    command.args(arguments).stdin(Stdio::null());
    // What is measured for tests is the tests' own.
    command.env("INFER_CACHE_DIR", concat!(env!("CARGO_TARGET_TMPDIR"), "/cache"));
    command
}

/// Exit code, stdout, stderr.
fn infer(arguments: &[&str]) -> (i32, String, String) {
    let output = command(arguments).output().unwrap();
    let code = output.status.code().unwrap_or_else(|| panic!("{arguments:?}: {}", output.status));
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (code, text(output.stdout), text(output.stderr))
}

fn json(arguments: &[&str]) -> Json {
    let (code, stdout, stderr) = infer(arguments);
    assert_eq!(code, 0, "{stderr}");
    serde_json::from_str(&stdout).unwrap()
}

#[test]
fn any_part_opens_the_whole_model() {
    let folder = tempfile::tempdir().unwrap();
    let demo = File::open(&common::repo("assets/demo.gguf")).unwrap();
    for path in &split_demo(folder.path(), "a", 3) {
        let file = File::open(path).unwrap();
        assert_eq!((file.parts().len(), file.tensors().len()), (3, demo.tensors().len()));
        assert_eq!(file.get("split.no").unwrap().as_u64(), Some(0), "metadata are the first part's");
        assert_eq!(file.size(), file.parts().iter().map(|p| p.bytes().len() as u64).sum::<u64>());
        for (ours, whole) in file.tensors().iter().zip(demo.tensors()) {
            assert_eq!((&ours.name, ours.ty, ours.shape), (&whole.name, whole.ty, whole.shape));
            assert!(ours.offset >= file.parts()[ours.part].data_start());
            assert!(file.data(ours) == demo.data(whole), "{}", ours.name);
        }
        file.intact().unwrap();
    }
}

#[test]
fn a_split_model_computes_what_the_whole_one_does() {
    let folder = tempfile::tempdir().unwrap();
    let parts = split_demo(folder.path(), "a", 4);
    let last = parts[3].to_str().unwrap();
    let gpu = !json(&["devices", "--json"]).as_array().unwrap().is_empty();
    if !gpu {
        common::note("SKIPPED: a_split_model_computes_what_the_whole_one_does on a GPU: there is no adapter");
    }
    for device in if gpu { &["cpu", "gpu"][..] } else { &["cpu"] } {
        let flags =
            ["--device", device, "--temperature", "0", "--json", "--prompt", "What is the capital of Japan?"];
        let whole = json(&[&["run", "demo"][..], &flags].concat());
        let split = json(&[&["run", last][..], &flags].concat());
        assert_eq!((&split["text"], &split["ids"]), (&whole["text"], &whole["ids"]));
    }
    let (code, stdout, _) = infer(&["tokenize", last, "--text", "Hello"]);
    assert_eq!((code, stdout.contains("Hello")), (0, true));
}

#[test]
fn inspect_shows_the_parts() {
    let folder = tempfile::tempdir().unwrap();
    let parts = split_demo(folder.path(), "a", 3);
    let path = parts[1].to_str().unwrap();
    let report = json(&["inspect", path, "--json", "--check"]);
    assert_eq!((&report["supported"], &report["problems"]), (&true.into(), &serde_json::json!([])));
    assert_eq!((&report["parameters"], report.get("sha256")), (&5_770_496.into(), None));
    let files = report["files"].as_array().unwrap();
    assert_eq!(files.len(), 3);
    for (file, path) in files.iter().zip(&parts) {
        let bytes = std::fs::read(path).unwrap();
        assert_eq!(file["name"], path.to_str().unwrap());
        assert_eq!(file["bytes"], bytes.len());
        let hash: String =
            sha2::Digest::finalize(sha2::Digest::chain_update(<sha2::Sha256 as sha2::Digest>::new(), bytes))
                .iter()
                .map(|b| format!("{b:02x}"))
                .collect();
        assert_eq!(file["sha256"], hash);
    }
    let in_part = |n: usize| report["tensors"].as_array().unwrap().iter().filter(|t| t["part"] == n).count();
    assert_eq!((in_part(0), in_part(1), in_part(2)), (19, 19, 18));
    let (_, human, _) = infer(&["inspect", path, "--tensors", "--check"]);
    for path in &parts {
        let line = human.lines().find(|l| l.contains(path.to_str().unwrap()) && l.contains("SHA-256"));
        assert!(line.is_some_and(|l| l.contains(" tensors ")), "{human}");
    }
    assert!(human.contains(" of file 2\n"));
    // A model in one file has no parts to tell apart.
    let report = json(&["inspect", "--json", "--check"]);
    assert!(report.get("files").is_none() && report["tensors"][0].get("part").is_none());
    assert_eq!(report["sha256"].as_str().map(str::len), Some(64));

    // What is not finite is found in the last part, too.
    let file = File::open(&parts[1]).unwrap();
    let norm = file.tensors().iter().rfind(|t| t.ty == Type::F32).unwrap();
    assert_eq!(norm.part, 2);
    let mut bytes = std::fs::read(&parts[2]).unwrap();
    let at = usize::try_from(norm.offset).unwrap();
    bytes[at..at + 4].copy_from_slice(&f32::NAN.to_le_bytes());
    std::fs::write(&parts[2], bytes).unwrap();
    let report = json(&["inspect", path, "--json", "--check"]);
    assert!(report["problems"][0].as_str().unwrap().contains(&norm.name), "{report}");
}

#[test]
fn parts_that_do_not_fit_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    let write = |name: &str, bytes: &[u8]| std::fs::write(at(name), bytes).unwrap();
    // What is wrong with m-*, seen from a file that is there.
    let refused = |from: &str, in_file: &str, why: &str| {
        let error = File::open(&at(from)).expect_err(why);
        let line = error.to_string();
        assert_eq!(error.exit_code(), 3, "{line}");
        assert!(line.starts_with(at(in_file).to_str().unwrap()) && line.contains(why), "{line}");
        assert!(!line.contains(char::is_control), "{line}");
        for arguments in [&["inspect"][..], &["run", "--prompt", "x", "--device", "no such device"]] {
            let (code, _, stderr) = infer(&[arguments, &[at(from).to_str().unwrap()]].concat());
            assert_eq!((code, stderr), (3, format!("error: {line}\n")));
        }
    };
    let [first, second, third] = [1, 2, 3].map(|i| format!("m-{i:05}-of-00003.gguf"));
    let fresh = || {
        for (no, name) in (0..).zip([&first, &second, &third]) {
            write(name, &part(no, 3, 3, &format!("t{no}")));
        }
    };
    fresh();
    File::open(&at(&second)).unwrap();

    std::fs::remove_file(at(&third)).unwrap();
    refused(&first, &third, "no such file");
    refused(&first, &third, "(part 3 of 3)");
    std::fs::remove_file(at(&first)).unwrap();
    refused(&second, &first, "no such file");
    fresh();
    write(&second, &part(0, 3, 3, "t1"));
    refused(&third, &second, "split.no is 0 and should be 1");
    write(&second, &part(1, 4, 3, "t1"));
    refused(&third, &second, "split.count is 4 and should be 3");
    write(&second, &Writer::new().str("x", "y").finish());
    refused(&third, &second, "split.count is 1 and should be 3");
    write(&second, &part(1, 3, 3, "t0"));
    refused(&first, &second, "tensor t0: stands in ");
    write(&second, &part(1, 3, 4, "t1"));
    refused(&first, &second, "split.tensors.count is 4, and the parts have 3 tensors");
    // What parts beside the first say must fit: some tools write all keys into each.
    let with = |no, name: &str| {
        let mut writer = Writer::new();
        writer
            .u16("split.no", no)
            .u16("split.count", 3)
            .i32("split.tensors.count", 3)
            .str("general.name", name);
        writer.tensor(&format!("t{no}"), Type::F32, &[8], &[0; 32]).finish()
    };
    write(&first, &with(0, "one"));
    write(&second, &with(1, "one"));
    File::open(&at(&third)).unwrap();
    write(&second, &with(1, "two"));
    refused(&third, &second, "general.name has not the value that it has in ");
    fresh();
    write(&second, b"GGUF");
    refused(&first, &second, "truncated");
    write(&second, &part(5, 3, 3, "t1"));
    refused(&second, &second, "split.no is 5, of 3 parts");
    write(&second, Writer::new().u16("split.count", 3).finish().as_slice());
    refused(&second, &second, "split.no, which says which");
    write(&second, Writer::new().str("split.count", "3").finish().as_slice());
    refused(&second, &second, "split.count must be an integer");
    write(&second, Writer::new().i32("split.count", -3).finish().as_slice());
    refused(&second, &second, "split.count must be an integer");

    // The name says which part it is, or which it should be.
    write("alone.gguf", &part(1, 3, 3, "t1"));
    refused("alone.gguf", "alone.gguf", "alone-00002-of-00003.gguf");
    refused("alone.gguf", "alone.gguf", "alone-00001-of-00003.gguf");
    write("m-00002-of-00002.gguf", &part(1, 3, 3, "t1"));
    refused("m-00002-of-00002.gguf", "m-00002-of-00002.gguf", "part 2 of 3");
    // No count makes anything be opened or reserved.
    for count in [10_000, u16::MAX] {
        write("many-00001-of-10000.gguf", &part(0, count, 3, "t"));
        refused("many-00001-of-10000.gguf", "many-00001-of-10000.gguf", "at most 9999");
    }
    write("huge.gguf", Writer::new().u32("split.count", u32::MAX).u16("split.no", 0).finish().as_slice());
    refused("huge.gguf", "huge.gguf", "at most 9999");

    // One part is a whole model, whatever it is called.
    for count in [0, 1] {
        write("one.gguf", &part(0, count, 1, "t"));
        assert_eq!(File::open(&at("one.gguf")).unwrap().parts().len(), 1);
    }
    let error = File::parse(part(0, 3, 3, "t")).unwrap_err().to_string();
    assert!(error.contains("3 parts of a split model"), "{error}");
}

/// `cat` makes no model of parts: each has a header of its own.
#[test]
fn parts_that_are_joined_are_recognised() {
    let folder = tempfile::tempdir().unwrap();
    let parts = split_demo(folder.path(), "a", 3).into_iter().map(|path| std::fs::read(path).unwrap());
    let parts: Vec<Vec<u8>> = parts.collect();
    // A tool may align the end of a file, or not.
    let mut odd = Writer::new();
    odd.u16("split.no", 0).u16("split.count", 3);
    let odd = odd.tensor("t", Type::F32, &[3], &[1; 12]).finish();
    let mut aligned = odd.clone();
    aligned.resize(odd.len().next_multiple_of(32), 0);
    assert!(odd.len() < aligned.len());
    for (name, bytes, no) in [
        ("all.gguf", parts.concat(), 1),
        ("two.gguf", parts[1..].concat(), 2),
        ("a-00001-of-00003.gguf", parts.concat(), 1),
        ("odd.gguf", [odd, part(1, 3, 3, "u")].concat(), 1),
        ("aligned.gguf", [aligned, part(1, 3, 3, "u")].concat(), 1),
    ] {
        let path = folder.path().join(name);
        std::fs::write(&path, bytes).unwrap();
        let (code, _, stderr) = infer(&["inspect", path.to_str().unwrap()]);
        assert_eq!(code, 3, "{stderr}");
        for what in [&format!("is part {no} of 3 "), "joined", "--merge", "beside each other"] {
            assert!(stderr.contains(what) && stderr.lines().count() == 1, "{stderr}");
        }
    }
    // Other bytes behind a part, or a file that is none, hurt nobody.
    std::fs::write(folder.path().join("a-00001-of-00003.gguf"), [&parts[0][..], &[0; 100]].concat()).unwrap();
    File::open(&folder.path().join("a-00003-of-00003.gguf")).unwrap();
}

/// Other tools cut a file anywhere: such pieces are joined by `cat`.
#[test]
fn pieces_of_a_file_are_recognised_by_their_names() {
    let folder = tempfile::tempdir().unwrap();
    let demo = std::fs::read(common::repo("assets/demo.gguf")).unwrap();
    let (head, tail) = demo.split_at(demo.len() / 2);
    for (name, bytes, said) in [
        ("m.gguf.part1of2", head, true),
        ("m.gguf.part2of2", tail, true),
        ("M.Q8_0.GGUF-split-a", head, true),
        ("m.gguf.001", head, true),
        ("m.gguf", head, false),
        ("m.gguf.tmp", head, false),
    ] {
        let path = folder.path().join(name);
        std::fs::write(&path, bytes).unwrap();
        let line = File::open(&path).unwrap_err().to_string();
        assert_eq!(line.contains("join all pieces"), said, "{line}");
    }
    std::fs::write(folder.path().join("m.gguf.part1of1"), &demo).unwrap();
    File::open(&folder.path().join("m.gguf.part1of1")).unwrap();
}

/// Names are bytes where the system says so.
#[cfg(unix)]
#[test]
fn names_of_parts_need_not_be_text() {
    use std::ffi::OsStr;
    use std::os::unix::ffi::OsStrExt;
    let folder = tempfile::tempdir().unwrap();
    let latin = folder.path().join(OsStr::from_bytes(b"caf\xe9"));
    if std::fs::create_dir(&latin).is_err() {
        common::note("SKIPPED: names_of_parts_need_not_be_text: this file system wants UTF-8");
        return;
    }
    let named = |no: u16| [b"mod\xe8le-", format!("{no:05}-of-00002.gguf").as_bytes()].concat();
    let path = |no: u16| latin.join(OsStr::from_bytes(&named(no)));
    for (no, plain) in (1..).zip(split_demo(&latin, "a", 2)) {
        std::fs::rename(plain, path(no)).unwrap();
    }
    for no in [1, 2] {
        assert_eq!(File::open(&path(no)).unwrap().parts().len(), 2);
    }
    // One that is not named so says how it should be.
    let other = latin.join(OsStr::from_bytes(b"\xe8.gguf"));
    std::fs::rename(path(2), &other).unwrap();
    let line = File::open(&other).unwrap_err().to_string();
    assert!(line.contains("-00002-of-00002.gguf"), "{line}");
    assert!(File::open(&path(1)).unwrap_err().to_string().contains("no such file"));
}

/// A first part may have nothing but the metadata, and each part has an alignment of its own.
#[test]
fn parts_are_files_of_their_own() {
    let folder = tempfile::tempdir().unwrap();
    let at = |no: u16| folder.path().join(format!("m-{no:05}-of-00002.gguf"));
    let mut first = Writer::new();
    first.u32("general.alignment", 4096).u16("split.no", 0).u16("split.count", 2);
    std::fs::write(at(1), first.finish()).unwrap();
    std::fs::write(at(2), part(1, 2, 1, "t")).unwrap();
    let file = File::open(&at(1)).unwrap();
    assert_eq!((file.alignment(), file.parts()[1].alignment()), (4096, 32));
    assert_eq!(file.data(file.tensor("t").unwrap()), [1; 32]);
}

fn shorten(path: &Path, len: u64) {
    OpenOptions::new().write(true).open(path).unwrap().set_len(len).unwrap();
}

#[cfg(unix)]
#[test]
fn a_file_that_shrinks_reads_as_zeros_and_is_noticed() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("m.gguf");
    let data: Vec<u8> = (0..1u32 << 18).flat_map(|i| (i | 1 << 24).to_le_bytes()).collect();
    let mut writer = Writer::new();
    writer.tensor("a", Type::F32, &[1 << 18], &data).tensor("b", Type::F32, &[1 << 18], &data);
    std::fs::write(&path, writer.finish()).unwrap();
    let (file, other) = (File::open(&path).unwrap(), File::open(&common::repo("assets/demo.gguf")).unwrap());
    file.intact().unwrap();
    let b = file.tensor("b").unwrap();
    shorten(&path, b.offset + 4096);
    assert!(file.data(file.tensor("a").unwrap()) == data);
    // From several threads at once, and again once it has happened.
    for _ in 0..2 {
        std::thread::scope(|scope| {
            for start in (0..1 << 20).step_by(1 << 18) {
                let bytes = &file.data(b)[start..start + (1 << 18)];
                scope.spawn(move || assert!(bytes[1 << 14..].iter().all(|b| *b == 0)));
            }
        });
    }
    let error = file.intact().unwrap_err();
    assert_eq!(error.exit_code(), 3);
    assert_eq!(error.to_string(), format!("{}: changed while it was read: start again", path.display()));
    other.intact().unwrap();
    // Growing back makes nothing good.
    shorten(&path, b.offset + b.bytes);
    file.intact().unwrap_err();
}

#[test]
fn a_file_that_is_written_to_is_noticed() {
    let folder = tempfile::tempdir().unwrap();
    for (no, path) in split_demo(folder.path(), "a", 2).iter().enumerate() {
        let file = File::open(path).unwrap();
        file.intact().unwrap();
        OpenOptions::new().append(true).open(path).unwrap().write_all(b"more").unwrap();
        assert!(file.intact().unwrap_err().to_string().starts_with(path.to_str().unwrap()), "part {no}");
    }
}

/// Who writes to a file may turn the time of it back. Another link or name is no other content; another
/// mode or owner may go with one.
#[cfg(unix)]
#[test]
fn turned_back_time_is_noticed_and_new_names_are_not() {
    use std::os::unix::fs::{FileExt, PermissionsExt};
    let folder = tempfile::tempdir().unwrap();
    let demo = std::fs::read(common::repo("assets/demo.gguf")).unwrap();
    let at = |name: &str| folder.path().join(name);
    let path = at("m.gguf");
    let fresh = || {
        std::fs::write(&path, &demo).unwrap();
        File::open(&path).unwrap()
    };
    // The clock of a file system goes in steps.
    let tick = || std::thread::sleep(std::time::Duration::from_millis(50));
    let allow = |path: &Path, mode| {
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
    };
    // Bytes that no sample has.
    let unsampled = demo.len() - 1000..demo.len() - 600;
    let overwrite = |path: &Path, range: std::ops::Range<usize>| {
        let file = OpenOptions::new().write(true).open(path).unwrap();
        let before = file.metadata().unwrap().modified().unwrap();
        let other: Vec<u8> = demo[range.clone()].iter().map(|byte| !byte).collect();
        file.write_all_at(&other, range.start as u64).unwrap();
        file.set_modified(before).unwrap();
        assert_eq!(file.metadata().unwrap().modified().unwrap(), before);
    };

    let file = fresh();
    tick();
    overwrite(&path, demo.len() / 2..demo.len());
    let line = file.intact().unwrap_err();
    assert_eq!(line.exit_code(), 3);
    // A few bytes, and nothing that would explain it.
    let file = fresh();
    tick();
    overwrite(&path, unsampled.clone());
    file.intact().unwrap_err();

    // Another mode or owner proves nothing about the bytes, whether these are others or not.
    for few in [false, true] {
        let file = fresh();
        tick();
        if few {
            overwrite(&path, unsampled.clone());
        }
        allow(&path, 0o640);
        assert_eq!(file.intact().unwrap_err().exit_code(), 3);
        // Nor does a name that is lost as well.
        std::fs::rename(&path, at("gone")).unwrap();
        file.intact().unwrap_err();
    }
    let file = fresh();
    tick();
    // Root may do this, and whoever is in that group.
    if std::os::unix::fs::chown(&path, None, Some(1)).is_ok() {
        file.intact().unwrap_err();
    }

    let file = fresh();
    tick();
    std::fs::hard_link(&path, at("hard")).unwrap();
    file.intact().unwrap();
    tick();
    std::fs::rename(&path, at("renamed")).unwrap();
    file.intact().unwrap();
    // Another file takes the name: the old one is still what was opened.
    std::fs::write(&path, b"another").unwrap();
    file.intact().unwrap();
    tick();
    std::fs::remove_file(at("hard")).unwrap();
    std::fs::remove_file(at("renamed")).unwrap();
    file.intact().unwrap();

    // A name explains no more than its own coming and going.
    let file = fresh();
    tick();
    std::fs::rename(&path, at("renamed")).unwrap();
    file.intact().unwrap();
    file.intact().unwrap();
    tick();
    overwrite(&at("renamed"), unsampled.clone());
    file.intact().unwrap_err();
    let file = fresh();
    tick();
    std::fs::rename(&path, at("renamed")).unwrap();
    file.intact().unwrap();
    tick();
    std::fs::rename(at("renamed"), &path).unwrap();
    file.intact().unwrap();
    tick();
    overwrite(&path, unsampled.clone());
    file.intact().unwrap_err();

    // What would explain it does not where the bytes are others.
    let file = fresh();
    tick();
    std::fs::hard_link(&path, at("hard")).unwrap();
    overwrite(&path, 100_000..demo.len());
    file.intact().unwrap_err();
}

/// The file is cut once the text has begun: the next step reads what is gone.
#[cfg(unix)]
#[test]
fn a_file_that_shrinks_while_text_is_made_is_an_error() {
    use std::io::Read;
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("m.gguf");
    for cut in [0, 4096, 1 << 20] {
        std::fs::copy(common::repo("assets/demo.gguf"), &path).unwrap();
        // Without an end, so that there is a next step.
        let story = ["--raw", "--prompt", "Once upon a time", "--temperature", "0", "--repeat-penalty", "3"];
        let mut command = command(&["run", path.to_str().unwrap(), "--device", "cpu", "--threads", "1"]);
        command.args(story).arg("--quiet").stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        child.stdout.as_mut().unwrap().read_exact(&mut [0]).unwrap();
        shorten(&path, cut);
        let output = child.wait_with_output().unwrap();
        let stderr = String::from_utf8(output.stderr).unwrap();
        let expected = format!("error: {}: changed while it was read: start again\n", path.display());
        assert_eq!((output.status.code(), stderr), (Some(3), expected), "cut to {cut}: {}", output.status);
    }
}

/// What an engine has read before it is ready, and what the CPU engine reads at every step.
#[cfg(unix)]
#[test]
fn engines_refuse_weights_that_have_changed() {
    use std::ops::ControlFlow;
    use std::sync::Arc;

    use infer::engine::{self, DeviceChoice, Options};
    use infer::kernels::sample::Sampling;
    use infer::model::Model;

    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("m.gguf");
    let model = || {
        std::fs::copy(common::repo("assets/demo.gguf"), &path).unwrap();
        Arc::new(Model::from_file(File::open(&path).unwrap()).unwrap())
    };
    let mut go_on = |_, _| ControlFlow::Continue(());
    for device in [DeviceChoice::Cpu, DeviceChoice::Gpu] {
        let options = Options { device: device.clone(), ..Options::default() };
        let cut = model();
        shorten(&path, 100_000);
        match engine::open(cut, &options, &mut go_on) {
            Err(infer::Error::Device(_)) if device == DeviceChoice::Gpu => {
                common::note(
                    "SKIPPED: engines_refuse_weights_that_have_changed on a GPU: there is no adapter",
                );
            }
            Err(infer::Error::File(line)) => assert!(line.contains("changed while it was read"), "{line}"),
            other => panic!("{device:?}: {:?}", other.map(|_| ())),
        }
    }
    let options = Options { device: DeviceChoice::Cpu, ..Options::default() };
    let mut engine = engine::open(model(), &options, &mut go_on).unwrap();
    engine.begin(0, &[0, 2, 318], &Sampling::greedy(), 8, &mut go_on).unwrap();
    engine.next().unwrap();
    engine.next().unwrap();
    shorten(&path, 100_000);
    assert_eq!(engine.next().unwrap_err().exit_code(), 3);
    let refused = engine.begin(0, &[0, 2, 318], &Sampling::greedy(), 8, &mut go_on);
    assert_eq!(refused.unwrap_err().exit_code(), 3);
    assert_eq!(engine.logits(&[0, 2], true, &mut go_on, &mut |_| Ok(())).unwrap_err().exit_code(), 3);
}

/// A map that is none of a model's ends the process as it always has. The test runs itself again
/// to see that.
#[cfg(unix)]
#[test]
fn other_bus_errors_still_end_the_process() {
    use std::os::unix::process::ExitStatusExt;
    const FILE: &str = "INFER_TEST_READ_BEYOND";
    if let Some(path) = std::env::var_os(FILE) {
        let model = File::open(&common::repo("assets/demo.gguf")).unwrap();
        let file = std::fs::File::open(&path).unwrap();
        // SAFETY: whether reading it is sound is what this process is for.
        let map = unsafe { memmap2::Mmap::map(&file).unwrap() };
        shorten(Path::new(&path), 0);
        assert_ne!((map[8192], model.size()), (1, 0), "this was not to be reached");
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("m");
    std::fs::write(&path, vec![1; 16384]).unwrap();
    let mut itself = Command::new(std::env::current_exe().unwrap());
    itself.args(["--exact", "other_bus_errors_still_end_the_process"]).env(FILE, &path);
    let output = itself.output().unwrap();
    assert_eq!(output.status.signal(), Some(libc::SIGBUS), "{output:?}");
}

/// A bus error that somebody has sent has no address, whatever stands in the place of one: it says
/// nothing about a map. It ends the process, unless something else was done about it before; then what is
/// gone from a map is still no reason to end. The test runs itself again, as it ends.
#[cfg(target_os = "linux")]
#[test]
fn a_bus_error_that_was_sent_ends_the_process_or_damages_nothing() {
    use std::os::unix::process::ExitStatusExt;
    const BEFORE: &str = "INFER_TEST_SEND_BUS_ERROR";
    if let Ok(before) = std::env::var(BEFORE) {
        send_a_bus_error(&before);
        return;
    }
    let ends = [("", false), ("default", false), ("ignored", true), ("handled", true), ("told", true)];
    for (before, lives) in ends {
        let mut itself = Command::new(std::env::current_exe().unwrap());
        let name = "a_bus_error_that_was_sent_ends_the_process_or_damages_nothing";
        itself.args(["--exact", name, "--nocapture"]).env(BEFORE, before);
        let output = itself.output().unwrap();
        assert_eq!(output.status.success(), lives, "{before}: {output:?}");
        assert_eq!(output.status.signal(), (!lives).then_some(libc::SIGBUS), "{before}: {output:?}");
        let stdout = String::from_utf8_lossy(&output.stdout);
        // Not by the second one either.
        assert_eq!(stdout.contains("lives on"), lives, "{before}: {output:?}");
        assert_eq!(stdout.contains("intact"), lives, "{before}: {output:?}");
    }
}

#[cfg(target_os = "linux")]
fn send_a_bus_error(before: &str) {
    use std::sync::atomic::{AtomicI32, Ordering::SeqCst};
    static HEARD: AtomicI32 = AtomicI32::new(0);
    extern "C" fn hear(signal: i32) {
        HEARD.fetch_add(signal, SeqCst);
        errno::set_errno(errno::Errno(libc::EIO));
    }
    extern "C" fn hear_more(signal: i32, info: *mut libc::siginfo_t, _: *mut libc::c_void) {
        // SAFETY: this is the information that comes with the signal.
        let code = unsafe { (*info).si_code };
        hear(if code == libc::SI_QUEUE { signal } else { 1000 });
    }
    // SAFETY: the handlers touch an atomic and `errno`, and are of the kinds that the flags say.
    unsafe {
        let mut action: libc::sigaction = std::mem::zeroed();
        action.sa_sigaction = match before {
            "default" => libc::SIG_DFL,
            "ignored" => libc::SIG_IGN,
            "handled" => hear as extern "C" fn(_) as usize,
            "told" => hear_more as extern "C" fn(_, _, _) as usize,
            _ => 0,
        };
        action.sa_flags = if before == "told" { libc::SA_SIGINFO } else { 0 };
        // Otherwise it is the standard library's.
        if !before.is_empty() {
            assert_eq!(libc::sigaction(libc::SIGBUS, &raw const action, std::ptr::null_mut()), 0);
        }
    }
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("m.gguf");
    std::fs::copy(common::repo("assets/demo.gguf"), &path).unwrap();
    let model = File::open(&path).unwrap();
    let bytes = model.parts()[0].bytes().to_vec();
    for sent in 1..=2 {
        // SAFETY: all zero bits are a signal's information. Behind its three numbers and what aligns
        // them stands the address, or who has sent it.
        unsafe {
            let mut info: libc::siginfo_t = std::mem::zeroed();
            info.si_signo = libc::SIGBUS;
            info.si_code = libc::SI_QUEUE;
            let address = model.parts()[0].bytes().as_ptr().addr() + 8192;
            (&raw mut info).cast::<usize>().add(2).write(address);
            assert_eq!(info.si_addr().addr(), address);
            let (process, thread) = (libc::getpid(), libc::syscall(libc::SYS_gettid));
            errno::set_errno(errno::Errno(libc::ENOTTY));
            // To this thread: it has been seen to before the call is over.
            let call = libc::SYS_rt_tgsigqueueinfo;
            assert_eq!(libc::syscall(call, process, thread, libc::SIGBUS, &raw const info), 0);
        }
        assert_eq!(errno::errno().0, libc::ENOTTY);
        println!("lives on");
        let heard = if matches!(before, "handled" | "told") { sent * libc::SIGBUS } else { 0 };
        assert_eq!(HEARD.load(SeqCst), heard);
        model.intact().unwrap();
        assert!(bytes == model.parts()[0].bytes()[..]);
    }
    shorten(&path, 8192);
    assert_eq!(model.parts()[0].bytes().last(), Some(&0));
    model.intact().unwrap_err();
    println!("intact");
}

/// A tensor beyond 4 GiB, in a file that takes no room.
#[test]
fn a_large_file_is_read_where_its_tensors_are() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("large.gguf");
    let far = 5u64 << 30;
    let mut bytes = b"GGUF\x03\0\0\0".to_vec();
    bytes.extend(2u64.to_le_bytes());
    bytes.extend(0u64.to_le_bytes());
    for (name, elements, offset) in [("hole", far, 0u64), ("far", 32, far)] {
        bytes.extend((name.len() as u64).to_le_bytes());
        bytes.extend(name.as_bytes());
        bytes.extend(1u32.to_le_bytes());
        bytes.extend(elements.to_le_bytes());
        bytes.extend((Type::I8 as u32).to_le_bytes());
        bytes.extend(offset.to_le_bytes());
    }
    bytes.resize(bytes.len().next_multiple_of(32), 0);
    let data_start = bytes.len() as u64;
    std::fs::write(&path, bytes).unwrap();
    shorten(&path, data_start + far);
    let data: Vec<u8> = (1..=32).collect();
    OpenOptions::new().append(true).open(&path).unwrap().write_all(&data).unwrap();
    let file = File::open(&path).unwrap();
    let tensor = file.tensor("far").unwrap();
    assert_eq!(tensor.offset, data_start + far);
    assert_eq!(file.data(tensor), data);
    assert!(file.data(file.tensor("hole").unwrap()).iter().step_by(1 << 26).all(|b| *b == 0));
    let report = json(&["inspect", path.to_str().unwrap(), "--json"]);
    assert_eq!(report["tensors"][1]["offset"], data_start + far);
    shorten(&path, data_start + far + 31);
    assert!(File::open(&path).unwrap_err().to_string().contains("tensor far: 32 bytes"));
}

/// Clears the screen, sets the title, adds a line, and turns the direction of writing.
const HARM: &str = "x\u{1b}[2J\u{1b}]0;title\u{7}\nerror: y\r\u{9b}31m\u{202e}z\u{2066}\u{61c}";

/// Nothing that a file says reaches a terminal raw, whatever it is said about.
#[test]
fn texts_of_a_file_are_shown_harmless() {
    let folder = tempfile::tempdir().unwrap();
    let demo = File::open(&common::repo("assets/demo.gguf")).unwrap();
    let with = |but: &[&str], change: &dyn Fn(&mut Writer) -> &mut Writer| {
        let mut writer = Writer::new();
        edit::copy_metadata(&demo, &mut writer, but);
        change(&mut writer);
        for t in demo.tensors() {
            writer.tensor(&t.name, t.ty, &t.shape[..t.n_dims], demo.data(t));
        }
        writer.finish()
    };
    let text = |key: &'static str| with(&[key], &|w| w.str(key, HARM));
    let template = |template: &str| {
        let key = "tokenizer.chat_template";
        with(&[key], &|w| w.str(key, template))
    };
    let merges = "tokenizer.ggml.merges";
    let nan: Vec<u8> = [f32::NAN; 8].iter().flat_map(|v| v.to_le_bytes()).collect();
    let tensor = format!("blk.0.{HARM}");
    let mut unknown_type = with(&[], &|w| w.tensor(&tensor, Type::F32, &[8], &nan));
    let at = unknown_type.windows(tensor.len()).position(|w| w == tensor.as_bytes()).unwrap();
    unknown_type[at + tensor.len() + 12] = 99;
    // What it is about, the bytes, and whether `run` refuses it.
    let files = [
        ("key", with(&[], &|w| w.str(HARM, HARM).strings("list", &[HARM])), false),
        ("key twice", with(&[], &|w| w.str(HARM, "x").str(HARM, "x")), true),
        ("name", text("general.name"), false),
        ("architecture", text("general.architecture"), true),
        ("tokenizer", text("tokenizer.ggml.model"), true),
        ("pre-tokenizer", text("tokenizer.ggml.pre"), true),
        ("merge", with(&[merges], &|w| w.strings(merges, &[format!("a {HARM}")])), true),
        (
            "scaling",
            with(&[], &|w| w.str("llama.rope.scaling.type", HARM).f32("llama.rope.scaling.factor", 2.0)),
            true,
        ),
        ("tensor", with(&[], &|w| w.tensor(&tensor, Type::F32, &[8], &nan)), true),
        ("tensor's type", unknown_type, true),
        ("exception", template(&format!("{{{{ raise_exception('{HARM}') }}}}")), true),
        ("template's error", template(&format!("{{{{ {HARM} }}}}")), true),
        ("template's filter", template(&format!("{{{{ 'x' | x{HARM} }}}}")), true),
    ];
    let acts = |c: char| c != '\n' && (c.is_control() || "\u{61c}\u{202e}\u{2066}".contains(c));
    for (what, bytes, refused) in &files {
        let path = folder.path().join(format!("{what}.gguf"));
        std::fs::write(&path, bytes).unwrap();
        let path = path.to_str().unwrap();
        for arguments in [
            &["inspect", path, "--tensors"][..],
            &["inspect", path, "--check", "--json"],
            &["run", path, "--prompt", "x", "--device", "no such device"],
            &["tokenize", path, "--text", "x"],
            &["logits", path, "--ids", "1", "--out", "-", "--device", "no such device"],
        ] {
            let (code, stdout, stderr) = infer(arguments);
            assert!(!stdout.contains(acts) && !stderr.contains(acts), "{what}: {stdout:?} {stderr:?}");
            assert!(stderr.lines().count() <= 1, "{what}: {stderr:?}");
            assert!(stderr.len() < 1000, "{what}: {stderr:?}");
            if arguments[0] == "run" {
                assert_eq!(code != 5, *refused, "{what}: {stderr:?}");
            }
        }
    }
    // The path is the user's own, and may have been made by somebody else.
    let path = folder.path().join(format!("{}.gguf", HARM.replace('/', "")));
    let (code, _, stderr) = infer(&["inspect", path.to_str().unwrap()]);
    assert!(code == 3 && !stderr.contains(acts) && stderr.lines().count() == 1, "{stderr:?}");
    std::fs::copy(common::repo("assets/demo.gguf"), &path).unwrap();
    let (code, stdout, stderr) = infer(&["inspect", path.to_str().unwrap()]);
    assert!(code == 0 && stderr.is_empty() && !stdout.contains(acts), "{stdout:?}");
}
