//! The walls between crates and modules, read off the sources: who may name whom. Crate boundaries hold by
//! themselves; these are the boundaries that the compiler does not know.

/// Longest file that is still one thing.
const LONGEST_FILE: usize = 400;

/// Files that may be longer, and why.
const LONG_FILES: &[(&str, &str)] = &[];

/// Crates of ours that each manifest may name. `harness` may name all, and only `tests` and `bench` may name `harness`.
const OWN_CRATES: &[(&str, &[&str])] = &[
    ("dataplane-common/Cargo.toml", &[]),
    ("dataplane-ebpf/Cargo.toml", &["dataplane-common"]),
    ("bpf-maps/Cargo.toml", &["dataplane-common"]),
    ("agent-core/Cargo.toml", &["dataplane-common"]),
    ("agent-api/Cargo.toml", &[]),
    ("agent-metrics/Cargo.toml", &[]),
    ("agent-sources/Cargo.toml", &["agent-api", "agent-core"]),
    (
        "agent/Cargo.toml",
        &["agent-api", "agent-core", "agent-metrics", "agent-sources", "bpf-maps", "dataplane-common"],
    ),
    ("cni-plugin/Cargo.toml", &["agent-api"]),
    ("cli/Cargo.toml", &["agent-api", "agent-core", "bpf-maps", "dataplane-common"]),
    ("verifier/Cargo.toml", &["dataplane-common"]),
    ("xtask/Cargo.toml", &[]),
    ("bench/ebpf/Cargo.toml", &[]),
    ("bench/Cargo.toml", &["bpf-maps", "dataplane-common", "harness"]),
];

/// Crates of others that a folder's manifest must not name.
const BANNED_CRATES: &[(&str, &[&str])] = &[
    ("dataplane-common/Cargo.toml", &["aya", "kube", "tokio"]),
    ("agent-core/Cargo.toml", &["aya", "kube", "k8s-openapi", "rtnetlink", "tokio"]),
    ("agent/Cargo.toml", &["kube", "k8s-openapi"]),
    ("agent-sources/Cargo.toml", &["aya", "rtnetlink"]),
    ("agent-api/Cargo.toml", &["aya", "kube", "tokio"]),
    ("cni-plugin/Cargo.toml", &["aya", "futures", "kube", "rtnetlink", "tokio"]),
    ("cli/Cargo.toml", &["aya", "kube", "tokio"]),
];

/// A path that only some places below a folder may name.
struct Wall {
    below: &'static str,
    path: &'static str,
    only: &'static [&'static str],
}

const WALLS: &[Wall] = &[
    Wall { below: "agent/src/", path: "aya", only: &["agent/src/dataplane/"] },
    Wall { below: "agent/src/", path: "rtnetlink", only: &["agent/src/net/"] },
    Wall { below: "agent/src/", path: "env", only: &["agent/src/config.rs"] },
    Wall { below: "", path: "harness", only: &["harness/", "tests/", "bench/"] },
];

/// Modules of the eBPF crate from the top down. A module names only modules of lower rows; those of the last row
/// may name each other.
const EBPF_SOURCES: &str = "dataplane-ebpf/src/";
const EBPF_LAYERS: &[&[&str]] = &[
    &["main"],
    &["pipeline", "socket"],
    &["stage", "pins"],
    &["config", "family", "flow", "global", "maps", "observe", "packet", "tables"],
];

/// What a file does that it may not.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Violation {
    pub(crate) file: String,
    /// 0 for the file as a whole.
    pub(crate) line: usize,
    pub(crate) what: String,
}

/// Checks one file; `file` is its path from the workspace's root.
pub(crate) fn violations(file: &str, text: &str) -> Vec<Violation> {
    let found = if file.ends_with("Cargo.toml") { manifest(file, text) } else { source(file, text) };
    found.into_iter().map(|(line, what)| Violation { file: file.into(), line, what }).collect()
}

fn manifest(file: &str, text: &str) -> Vec<(usize, String)> {
    let own = OWN_CRATES.iter().find(|(manifest, _)| *manifest == file).map(|(_, crates)| *crates);
    let banned =
        BANNED_CRATES.iter().find(|(manifest, _)| *manifest == file).map_or(&[][..], |(_, list)| *list);
    let mut found = Vec::new();
    let mut in_dependencies = false;
    for (index, line) in text.lines().enumerate() {
        if line.starts_with('[') {
            in_dependencies = line.trim_end_matches(']').ends_with("dependencies");
            continue;
        }
        let name = line.split(['=', '.']).next().unwrap_or_default().trim();
        if !in_dependencies || name.is_empty() || file == "Cargo.toml" {
            continue;
        }
        let is_ours = name == "harness" || OWN_CRATES.iter().any(|(manifest, _)| crate_of(manifest) == name);
        if is_ours && own.is_some_and(|allowed| !allowed.contains(&name)) {
            found.push((index + 1, format!("this crate may not depend on {name}")));
        }
        if banned.contains(&name) {
            found.push((index + 1, format!("this crate works without {name}")));
        }
    }
    found
}

/// The name of the crate in a folder: the folder's, with few exceptions.
fn crate_of(manifest: &str) -> &str {
    match manifest.trim_end_matches("/Cargo.toml") {
        "bench" => "millrace-bench",
        "bench/ebpf" => "bench-ebpf",
        folder => folder,
    }
}

fn source(file: &str, text: &str) -> Vec<(usize, String)> {
    let mut found = Vec::new();
    let lines = text.lines().count();
    if lines > LONGEST_FILE && !LONG_FILES.iter().any(|(long, _)| *long == file) {
        found.push((0, format!("{lines} lines, {LONGEST_FILE} are the most: which two things is it?")));
    }
    if file == "agent-core/src/lib.rs" && !text.contains("#![forbid(unsafe_code)]") {
        found.push((0, "agent-core forbids unsafe code: #![forbid(unsafe_code)] is missing".into()));
    }
    for (index, code) in code_only(text).lines().enumerate() {
        let inside = |wall: &&Wall| {
            file.starts_with(wall.below) && !wall.only.iter().any(|place| file.starts_with(place))
        };
        for wall in WALLS.iter().filter(inside).filter(|wall| names(code, wall.path)) {
            found.push((index + 1, format!("only {} may name {}", wall.only.join(" and "), wall.path)));
        }
        if implements_pod(code) {
            found.push((index + 1, "a hand-written Pod hides padding: declare the type with abi!".into()));
        }
    }
    found.extend(ebpf_layers(file, &code_only(text)));
    found
}

/// The text without line comments and string contents, line by line.
fn code_only(text: &str) -> String {
    let mut code = String::with_capacity(text.len());
    let mut in_string = false;
    for line in text.lines() {
        let mut rest = line.chars().peekable();
        while let Some(c) = rest.next() {
            match (in_string, c) {
                (false, '/') if rest.peek() == Some(&'/') => break,
                // The character `'"'` begins no string.
                (false, '\'') if rest.peek() == Some(&'"') => _ = rest.next(),
                (true, '\\') => _ = rest.next(),
                (_, '"') => in_string = !in_string,
                (true, _) => {}
                (false, c) => code.push(c),
            }
        }
        code.push('\n');
        // A string goes on in the next line after a backslash; otherwise a quote was misread, and that must not
        // hide the rest of the file.
        in_string &= line.ends_with('\\');
    }
    code
}

/// Whether the code uses `path` as a crate or module: `path::…`, `use path;`, `extern crate path`.
fn names(code: &str, path: &str) -> bool {
    code.match_indices(path).any(|(at, _)| {
        let before = &code[..at];
        let starts = !before.ends_with(|c: char| c.is_alphanumeric() || c == '_');
        let after = &code[at + path.len()..];
        let whole_import = || {
            let import = before.trim_end();
            (import.ends_with("use") || import.ends_with("use std::") || import.ends_with("extern crate"))
                && after.trim_start().starts_with([';', ' '])
        };
        starts && (after.starts_with("::") || whole_import())
    })
}

/// `unsafe impl … Pod for …`, except the one that `abi!` writes.
fn implements_pod(code: &str) -> bool {
    let code = code.trim_start();
    code.starts_with("unsafe impl") && code.contains("Pod for") && !code.contains("Pod for $")
}

fn ebpf_layers(file: &str, code: &str) -> Vec<(usize, String)> {
    let Some(inside) = file.strip_prefix(EBPF_SOURCES) else { return Vec::new() };
    let module = inside.split(['/', '.']).next().unwrap_or_default();
    let layer = |name: &str| EBPF_LAYERS.iter().position(|layer| layer.contains(&name));
    let Some(own) = layer(module) else {
        return vec![(0, format!("{module} is in no layer: add it to EBPF_LAYERS"))];
    };
    let shares_a_layer = own == EBPF_LAYERS.len() - 1;
    let mut found = Vec::new();
    for (line, name) in used(code, "crate::") {
        let within = name == module && module != "stage";
        let allowed = |theirs: usize| theirs > own || (theirs == own && (shares_a_layer || within));
        if layer(name).is_some_and(|theirs| !allowed(theirs)) {
            found.push((line, format!("{module} may not use {name}: it names only what is below it")));
        }
    }
    // `super` in a stage's file is its siblings; `stage/mod.rs` holds what they share. A stage that is a folder is one
    // stage: in its parts `super` is the stage itself.
    let is_part = inside.matches('/').count() > 1 && !inside.ends_with("/mod.rs");
    if module == "stage" && inside != "stage/mod.rs" && !is_part {
        let siblings =
            used(code, "super::").into_iter().filter(|(_, name)| name.starts_with(char::is_lowercase));
        found.extend(siblings.map(|(line, name)| (line, format!("stages never call each other: {name}"))));
    }
    found
}

/// The first names after `prefix`, with their lines: one for a path, all for a group in braces.
fn used<'a>(code: &'a str, prefix: &str) -> Vec<(usize, &'a str)> {
    let is_name = |c: char| c.is_alphanumeric() || c == '_';
    let mut found = Vec::new();
    for (at, _) in code.match_indices(prefix) {
        let start = at + prefix.len();
        let mut depth = 0;
        let mut expects_name = true;
        for (offset, c) in code[start..].char_indices() {
            let position = start + offset;
            match c {
                '{' => depth += 1,
                '}' => depth -= 1,
                ',' if depth == 1 => expects_name = true,
                c if is_name(c) && expects_name && depth <= 1 => {
                    let name = code[position..].split(|c| !is_name(c)).next().unwrap_or_default();
                    found.push((code[..position].lines().count(), name));
                    expects_name = false;
                }
                _ => {}
            }
            if depth <= 0 && !expects_name {
                break;
            }
        }
    }
    found
}

#[cfg(test)]
mod tests;
