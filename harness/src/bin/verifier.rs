//! Loads every program, attached to nothing, and prints what the kernel's verifier says of it.
//! `cargo xtask verifier` builds the object and runs this.
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use aya::{EbpfLoader, VerifierLogLevel, programs::Program};
use dataplane_common::config::Config;
use zerocopy::IntoBytes as _;

fn main() -> Result<()> {
    let object = harness::program::object()?;
    let mut ebpf = EbpfLoader::new()
        .verifier_log_level(VerifierLogLevel::STATS)
        .override_global("CONFIG", Config::DEFAULT.as_bytes(), true)
        .load(&object)
        .context("load the object")?;
    let mut rows = Vec::new();
    for (name, program) in ebpf.programs_mut() {
        let begun = Instant::now();
        load(program).with_context(|| format!("load {name}"))?;
        rows.push((name.to_owned(), measured(program, begun.elapsed())?));
    }
    rows.sort();
    println!("{:<14} {:>12} {:>12} {:>10}", "program", "verified", "jitted", "load");
    for (name, Measured { verified, jitted, took }) in &rows {
        let milliseconds = took.as_secs_f64() * 1e3;
        println!("{name:<14} {verified:>7} insns {jitted:>10} B {milliseconds:>7.1} ms");
    }
    Ok(())
}

#[derive(PartialEq, Eq, PartialOrd, Ord)]
struct Measured {
    verified: u32,
    jitted: u32,
    took: Duration,
}

fn load(program: &mut Program) -> Result<()> {
    if let Program::SchedClassifier(program) = program {
        program.load()?;
    } else if let Program::CgroupSockAddr(program) = program {
        program.load()?;
    } else {
        bail!("no hook has a program of type {:?}", program.prog_type());
    }
    Ok(())
}

fn measured(program: &Program, took: Duration) -> Result<Measured> {
    let info = program.info().context("read the program's information")?;
    let verified = info.verified_instruction_count().context("the kernel counts no verified instructions")?;
    Ok(Measured { verified, jitted: info.size_jitted(), took })
}
