//! The release's programs in the kernels that users have, each booted in a virtual machine without KVM.
use std::{collections::BTreeMap, fs, path::Path, time::Instant};

use anyhow::{Context as _, Result, bail};

use crate::{build, build_ebpf, command, debian, workspace};

mod console;
mod cpio;
mod guest;
mod kernels;
mod table;

/// The most instructions that a verifier may walk of each program.
const BUDGET: &str = "tests/verifier-budget.txt";

/// Which kernels.
#[derive(clap::Args, Default)]
pub(crate) struct Options {
    /// Debian's kernels: 5.10, 6.1, 6.12, newest; all of them if none is named
    kernels: Vec<String>,
}

/// A kernel, and what is not as it must be on it.
pub(crate) struct Judged {
    pub(crate) kernel: &'static str,
    pub(crate) problems: Vec<String>,
}

/// Loads every program into each kernel and prints what the kernels said.
pub(crate) fn vm(options: &Options) -> Result<()> {
    let problems: Vec<String> = judge(options)?.into_iter().flat_map(|judged| judged.problems).collect();
    if !problems.is_empty() {
        bail!("{}", problems.join("\n"));
    }
    Ok(())
}

/// The same, and says which kernels failed.
pub(crate) fn judge(options: &Options) -> Result<Vec<Judged>> {
    let kernels = kernels::chosen(&options.kernels)?;
    debian::ensure(guest::NEEDED)?;
    let mut images = Vec::new();
    for &kernel in &kernels {
        images.push((kernel, kernel.fetch()?));
    }
    build_ebpf::build()?;
    let root = workspace::target().join("vm/root.cpio");
    fs::write(&root, guest::root(&build::guest()?, &workspace::ebpf_object())?)
        .with_context(|| format!("cannot write {}", root.display()))?;
    let budget = budget()?;
    let (mut rows, mut judged) = (Vec::new(), Vec::new());
    for (kernel, image) in images {
        let begun = Instant::now();
        command::announce(&format!("Linux {}, emulated", kernel.name));
        let problems = match guest::boot(&image, &root).and_then(|console| console::report(&console)) {
            Ok(report) => {
                let problems = table::problems(kernel, &report, &budget);
                rows.push((kernel, report));
                problems
            }
            Err(error) => vec![format!("Linux {} of {}: {error:#}", kernel.name, kernel.suite)],
        };
        judged.push(Judged { kernel: kernel.name, problems });
        eprintln!("    {:.1} s", begun.elapsed().as_secs_f64());
    }
    println!("{}", table::table(&rows, &budget));
    Ok(judged)
}

fn budget() -> Result<BTreeMap<String, u32>> {
    let text = workspace::read(Path::new(BUDGET))?;
    let rows = text.lines().filter(|line| !line.is_empty() && !line.starts_with('#'));
    rows.map(|row| {
        let (name, most) = row.split_once(' ').with_context(|| format!("{BUDGET}: {row}"))?;
        Ok((name.to_owned(), most.trim().parse().with_context(|| format!("{BUDGET}: {row}"))?))
    })
    .collect()
}
