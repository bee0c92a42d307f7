//! Prints a reference document from the tables of this crate: `reference maps.md` or `reference drop-reasons.md`.
//! `cargo xtask docs` writes what it prints into `docs/`.
use std::process::ExitCode;

use dataplane_common::{
    maps::{Keeping, MapId, MapKind, NO_PREALLOC},
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
         Every map is pinned under `<bpffs>/millrace/maps/` by its name; `META` says of which version each is. Before it uses \
         a\npinned map, an agent (and the command line) compares version, kind, sizes and flags with this table. The command \
         line\nrefuses a map that differs, an agent takes its place: see [upgrade.md](upgrade.md), also for what becomes of \
         what\nit holds (*kept*).\n\n\
         Memory is taken per entry where the column *memory* says so; the others have all of theirs from the start.\n"
    );
    println!("| map | version | kind | key | value | entries | memory | kept | what, writer, readers |");
    println!("|---|---:|---|---|---|---:|---|---|---|");
    for map in MapId::ALL {
        let spec = map.spec();
        let (key, value) = map.types();
        let memory = if spec.flags & NO_PREALLOC == 0 { "fixed" } else { "per entry" };
        println!(
            "| `{}` | {} | {} | {} ({} B) | `{value}` ({} B) | {} | {memory} | {} | {} |",
            spec.name,
            spec.version,
            kind(spec.kind),
            key_type(spec.kind, key),
            spec.key_size,
            spec.value_size,
            spec.max_entries,
            kept(map.keeping()),
            map.purpose().trim(),
        );
    }
}

fn kept(keeping: Option<Keeping>) -> &'static str {
    match keeping {
        None => "rendered",
        Some(Keeping::Constant) => "written at start",
        Some(Keeping::Carried) => "carried over",
        Some(Keeping::Forgotten) => "no",
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

fn key_type(kind: MapKind, name: &str) -> String {
    match (kind, name) {
        (MapKind::LpmTrie, _) => format!("prefix length, `{name}`"),
        (_, "u32") => "index".into(),
        _ => format!("`{name}`"),
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
