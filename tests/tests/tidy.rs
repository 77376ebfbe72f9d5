//! The rules of the tree that neither the compiler nor clippy knows: sizes, layers, absences.

#![allow(clippy::unwrap_used)]

use std::fs;
use std::path::{Path, PathBuf};
use weir_tests::{release_binary, root};

const FILE_LINES_MAX: usize = 500;
const FUNCTION_LINES_MAX: usize = 70;
const COLUMNS_MAX: usize = 100;
/// Crates in `Cargo.lock`, our own and those of the tests included.
const CRATES_MAX: usize = 260;
/// Bytes of the stripped release binary: the budget of an aarch64 gateway.
const BINARY_BYTES_MAX: u64 = 8_000_000;

/// The rooms of `core`, from the vocabulary up: a room imports only rooms of lower layers.
const LAYERS: [&[&str]; 7] = [
    &["types", "bytes", "error", "limits", "rng"],
    &["wire", "batch"],
    &["log", "peer"],
    &["quorum", "metadata", "group"],
    &["replica"],
    &["node"],
    &[],
];

fn sources() -> Vec<(PathBuf, String)> {
    let mut found = Vec::new();
    for room in ["core", "edge-node", "bridge", "tests"] {
        collect(&root().join(room), &mut found);
    }
    assert!(found.len() > 20, "the walk found {} source files only", found.len());
    found
}

fn collect(folder: &Path, found: &mut Vec<(PathBuf, String)>) {
    for entry in fs::read_dir(folder).expect("a room of the tree can be read").flatten() {
        let path = entry.path();
        let name = entry.file_name();
        let hidden = name.to_string_lossy().starts_with('.');
        if path.is_dir() && !hidden && name != "target" && name != "corpus" {
            collect(&path, found);
        } else if path.extension().is_some_and(|e| e == "rs") {
            let text = fs::read_to_string(&path).expect("a source file is text");
            found.push((path.strip_prefix(root()).expect("below the root").to_path_buf(), text));
        }
    }
}

/// Fails with every breach, one a line.
fn report(rule: &str, breaches: Vec<String>) {
    assert!(breaches.is_empty(), "{rule}:\n  {}", breaches.join("\n  "));
}

#[test]
fn a_file_has_at_most_500_lines_of_100_columns_and_opens_with_its_purpose() {
    let mut breaches = Vec::new();
    for (path, text) in sources() {
        let lines = text.lines().count();
        if lines > FILE_LINES_MAX {
            breaches.push(format!("{}: {lines} lines", path.display()));
        }
        if !text.starts_with("//!") {
            breaches.push(format!("{}: does not open with //!", path.display()));
        }
        for (number, line) in text.lines().enumerate() {
            if line.chars().count() > COLUMNS_MAX {
                breaches.push(format!("{}:{}: too wide", path.display(), number + 1));
            }
        }
    }
    report("file sizes", breaches);
}

/// Functions longer than the limit. Relies on rustfmt: a body ends at the first `}` that is
/// indented as its `fn` is.
fn long_functions(text: &str) -> Vec<(usize, usize)> {
    let lines: Vec<&str> = text.lines().collect();
    let mut found = Vec::new();
    for (at, line) in lines.iter().enumerate() {
        let body = line.trim_start();
        let head = body.split("fn ").next().unwrap_or("");
        let is_function = body.contains("fn ")
            && head.split_whitespace().all(|word| {
                matches!(word, "pub" | "pub(crate)" | "pub(super)" | "const" | "async" | "unsafe")
            });
        if !is_function {
            continue;
        }
        let close = format!("{}}}", &line[..line.len() - body.len()]);
        if line.ends_with(';') {
            continue;
        }
        let end = lines[at..].iter().position(|l| **l == close || **l == format!("{close},"));
        let Some(length) = end else { continue };
        if length + 1 > FUNCTION_LINES_MAX {
            found.push((at + 1, length + 1));
        }
    }
    found
}

#[test]
fn a_function_has_at_most_70_lines() {
    let mut breaches = Vec::new();
    for (path, text) in sources() {
        for (line, length) in long_functions(&text) {
            breaches.push(format!("{}:{line}: {length} lines", path.display()));
        }
    }
    report("function sizes", breaches);
}

#[test]
fn the_function_rule_finds_a_long_function() {
    let long = format!("//! x\npub fn f() {{\n{}}}\n", "    g();\n".repeat(70));
    assert_eq!(long_functions(&long), [(2, 72)]);
    assert_eq!(long_functions("fn f() {\n    g();\n}\n"), []);
}

fn layer_of(room: &str) -> Option<usize> {
    LAYERS.iter().position(|rooms| rooms.contains(&room))
}

#[test]
fn imports_of_the_core_point_down_only() {
    let mut breaches = Vec::new();
    for (path, text) in sources() {
        let Ok(inside) = path.strip_prefix("core/src") else { continue };
        let room = inside.components().next().expect("a file").as_os_str().to_string_lossy();
        let room = room.trim_end_matches(".rs").to_string();
        if room == "lib" {
            continue;
        }
        let own = layer_of(&room).unwrap_or_else(|| panic!("{room} has no layer in tidy.rs"));
        for (number, line) in text.lines().enumerate() {
            let code = line.split("//").next().unwrap_or("");
            for part in code.split("crate::").skip(1) {
                let word = |c: char| c.is_alphanumeric() || c == '_';
                let target: String = part.chars().take_while(|c| word(*c)).collect();
                let below =
                    layer_of(&target).is_none_or(|layer| layer < own || own == 0 && layer == 0);
                if target != room && !below {
                    breaches.push(format!(
                        "{}:{}: {room} imports {target}",
                        path.display(),
                        number + 1
                    ));
                }
            }
        }
    }
    report("layers (vocabulary < wire, batch < log < metadata, group < node)", breaches);
}

#[test]
fn nothing_is_left_unfinished_or_ignored() {
    // Written in halves so that this file does not find itself.
    let words = [["TO", "DO"], ["FIX", "ME"], ["unimplemen", "ted!"], ["#[ign", "ore"]];
    let mut breaches = Vec::new();
    for (path, text) in sources() {
        for (number, line) in text.lines().enumerate() {
            if words.iter().any(|halves| line.contains(&halves.concat())) {
                breaches.push(format!("{}:{}: {}", path.display(), number + 1, line.trim()));
            }
        }
    }
    report("unfinished", breaches);
}

#[test]
fn the_top_level_holds_the_fixed_layout_only() {
    let known = [
        "Cargo.toml",
        "Cargo.lock",
        "README.md",
        "LICENSE",
        "core",
        "edge-node",
        "bridge",
        "boards",
        "cross",
        "tests",
        "rustfmt.toml",
        "target",
        "weir-data",
    ];
    let mut breaches = Vec::new();
    for entry in fs::read_dir(root()).expect("the root can be read").flatten() {
        let name = entry.file_name().to_string_lossy().to_string();
        if !name.starts_with('.') && !known.contains(&name.as_str()) {
            breaches.push(name);
        }
    }
    report("top level", breaches);
}

#[test]
fn the_dependencies_are_no_more_than_agreed() {
    let lock = fs::read_to_string(root().join("Cargo.lock")).expect("Cargo.lock is committed");
    let crates = lock.matches("[[package]]").count();
    assert!(crates <= CRATES_MAX, "{crates} crates in Cargo.lock, {CRATES_MAX} agreed");
}

#[test]
fn the_release_binary_keeps_its_size() {
    let binary = release_binary();
    let content = fs::read(&binary).expect("the release binary is built");
    let bytes = content.len() as u64;
    assert!(bytes <= BINARY_BYTES_MAX, "{} is {bytes} bytes", binary.display());
    println!("{}: {:.2} MB", binary.display(), bytes as f64 / 1e6);
    let symbols = content.windows(9).any(|name| name == b"\0.symtab\0");
    assert!(!symbols, "{} is not stripped", binary.display());
}
