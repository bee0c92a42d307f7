//! The release's programs in the kernels that users have, each booted in a virtual machine without KVM.
use std::{
    collections::BTreeMap,
    fs,
    num::NonZeroUsize,
    panic::resume_unwind,
    path::{Path, PathBuf},
    thread,
    time::Instant,
};

use anyhow::{Context as _, Result, bail};

use self::{
    console::Report,
    guest::{Files, Programs},
    kernels::Kernel,
};
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
    /// Load the programs only: no packets
    #[arg(long)]
    load_only: bool,
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
    let programs = if options.load_only { None } else { Some(programs()?) };
    build_ebpf::build()?;
    let (loader, object) = (build::guest()?, workspace::ebpf_object());
    let bare = Files::collect(&loader, &object, None)?;
    let whole = Files::collect(&loader, &object, programs.as_ref())?;
    let budget = budget()?;
    let (mut rows, mut judged) = (Vec::new(), Vec::new());
    // As many at a time as there are processors: each machine has one.
    let side_by_side = thread::available_parallelism().map_or(1, NonZeroUsize::get);
    for some in kernels.chunks(side_by_side) {
        let reports: Vec<Result<Report>> = thread::scope(|scope| {
            let files = |kernel: &Kernel| if kernel.is_supported { &whole } else { &bare };
            let running: Vec<_> = some
                .iter()
                .map(|kernel| (*kernel, files(kernel)))
                .map(|(kernel, files)| scope.spawn(move || run(kernel, files)))
                .collect();
            running.into_iter().map(|run| run.join().unwrap_or_else(|panic| resume_unwind(panic))).collect()
        });
        for (&kernel, report) in some.iter().zip(reports) {
            let problems = match report {
                Ok(report) => {
                    let problems = table::problems(kernel, &report, &budget);
                    rows.push((kernel, report));
                    problems
                }
                Err(error) => vec![format!("Linux {} of {}: {error:#}", kernel.name, kernel.suite)],
            };
            judged.push(Judged { kernel: kernel.name, problems });
        }
    }
    println!("{}", table::table(&rows, &budget));
    Ok(judged)
}

/// Boots one kernel and returns what it reported.
fn run(kernel: &Kernel, files: &Files) -> Result<Report> {
    let image = kernel.fetch()?;
    command::announce(&format!("Linux {}, emulated", kernel.name));
    let begun = Instant::now();
    let root = workspace::target().join("vm").join(format!("root-{}.cpio", kernel.name));
    fs::write(&root, files.root(&image.modules)?)
        .with_context(|| format!("cannot write {}", root.display()))?;
    let report = guest::boot(&image.vmlinuz, &root).and_then(|console| console::report(&console));
    eprintln!("    Linux {}: {:.1} s", kernel.name, begun.elapsed().as_secs_f64());
    report
}

/// The tests of the machines, and what they start.
fn programs() -> Result<Programs> {
    build::for_tests()?;
    let built = workspace::target().join("debug");
    let mut others: Vec<PathBuf> =
        ["millrace-agent", "millrace-cni", "netprobe"].map(|name| built.join(name)).into();
    others.push(debian::find("ip").context("there is no `ip`")?);
    Ok(Programs { tests: build::test_program("netns")?, others })
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
