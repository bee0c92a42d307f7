//! Prints a reference document from the tables of this crate: `reference maps.md` or `reference drop-reasons.md`.
//! `cargo xtask docs` writes what it prints into `docs/`.
use std::process::ExitCode;

use dataplane_common::{
    ABI_VERSION,
    maps::{MapId, MapKind, NO_PREALLOC},
    verdict::DropReason,
};

const NOTE: &str = "<!-- Written by `cargo xtask docs` from dataplane-common. Change it there. -->";

fn main() -> ExitCode {
    match std::env::args().nth(1).as_deref() {
        Some("maps.md") => maps(),
        Some("drop-reasons.md") => drop_reasons(),
        _ => {
            eprintln!("usage: reference maps.md|drop-reasons.md");
            return ExitCode::FAILURE;
        }
    }
    ExitCode::SUCCESS
}

fn maps() {
    println!(
        "# Maps\n\n{NOTE}\n\n\
         Every map is pinned under `<bpffs>/millrace/maps/` by its name. The layouts below are ABI version {ABI_VERSION}. \
         Before it\nuses a pinned map, an agent (and the command line) compares kind, sizes, number of entries and \
         flags with this table;\na map that differs is refused, never adopted. See [upgrade.md](upgrade.md).\n\n\
         Memory is taken per entry where the column *memory* says so; the others have all of theirs from the start.\n"
    );
    println!("| map | kind | key | value | entries | memory | what, writer, readers |");
    println!("|---|---|---|---|---:|---|---|");
    for map in MapId::ALL {
        let spec = map.spec();
        let (key, value) = map.types();
        let memory = if spec.flags & NO_PREALLOC == 0 { "fixed" } else { "per entry" };
        println!(
            "| `{}` | {} | {} ({} B) | `{value}` ({} B) | {} | {memory} | {} |",
            spec.name,
            kind(spec.kind),
            key_type(key),
            spec.key_size,
            spec.value_size,
            spec.max_entries,
            map.purpose().trim(),
        );
    }
}

fn kind(kind: MapKind) -> &'static str {
    match kind {
        MapKind::Hash => "hash",
        MapKind::Array => "array",
        MapKind::PerCpuArray => "array per CPU",
        MapKind::LruHash => "LRU hash",
        MapKind::LpmTrie => "LPM trie",
        MapKind::SkStorage => "socket storage",
    }
}

/// The table spells a key as its size: `size_of::<T>()`, behind `PREFIX` in a trie, or a number for an index.
fn key_type(size: &str) -> String {
    let named = size.split_once("::<").and_then(|(_, rest)| rest.split_once('>'));
    match named {
        Some((name, _)) if size.starts_with("PREFIX") => format!("prefix length, `{name}`"),
        Some((name, _)) => format!("`{name}`"),
        None => "index".into(),
    }
}

fn drop_reasons() {
    println!(
        "# Drop reasons\n\n{NOTE}\n\n\
         Every packet that a program drops is counted under one of these reasons, per hook and CPU. `millrace drops` \
         shows the\ncounts. The numbers are part of the ABI: a retired one is never used again.\n"
    );
    println!("| number | name | what happened | what to do |");
    println!("|---:|---|---|---|");
    for reason in DropReason::ALL {
        println!("| {} | `{}` | {} | {} |", *reason as u32, reason.name(), reason.cause(), reason.remedy());
    }
}
