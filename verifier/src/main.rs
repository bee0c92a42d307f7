//! The only program of the virtual machine of `cargo xtask vm`: loads the object that it is given and says on the
//! console what the kernel made of it, one fact a line, so that lines of the kernel in between do no harm.
use std::{env, error::Error as _, fs, process::ExitCode};

use anyhow::{Context as _, Result};
use aya::programs::ProgramError;
use verifier::{Refused, Verified, verify};

/// How every line begins; `cargo xtask vm` looks for it.
const MARK: &str = "millrace:";
/// The last lines of the verifier's log tell why.
const LOG_LINES: usize = 24;

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            println!("{MARK} error {}", one_line(&format!("{error:#}")));
            ExitCode::FAILURE
        }
    }
}

fn run() -> Result<()> {
    let path = env::args().nth(1).context("which object?")?;
    let object = fs::read(&path).with_context(|| format!("read {path}"))?;
    let release = fs::read_to_string("/proc/sys/kernel/osrelease").context("read the kernel's release")?;
    println!("{MARK} kernel {}", release.trim());
    for outcome in verify(&object)? {
        match outcome {
            Ok(program) => loaded(&program),
            Err(program) => refused(&program),
        }
    }
    println!("{MARK} end");
    Ok(())
}

fn loaded(Verified { name, instructions, took, .. }: &Verified) {
    let instructions = instructions.map_or_else(|| "-".to_owned(), |count| count.to_string());
    println!("{MARK} loaded {name} {instructions} {}", took.as_millis());
}

fn refused(Refused { name, error }: &Refused) {
    let (reason, log) = if let ProgramError::LoadError { io_error, verifier_log } = error {
        (io_error.to_string(), verifier_log.to_string())
    } else {
        let source = error.source().map_or_else(String::new, |source| format!(": {source}"));
        (format!("{error}{source}"), String::new())
    };
    let lines: Vec<&str> = log.lines().map(str::trim_end).filter(|line| !line.is_empty()).collect();
    for line in lines.iter().skip(lines.len().saturating_sub(LOG_LINES)) {
        println!("{MARK} log {name} {line}");
    }
    println!("{MARK} refused {name} {}", one_line(&reason));
}

fn one_line(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}
