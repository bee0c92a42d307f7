//! Serves and probes from inside a pod, as ordered on standard input. Ends with its input.
//!
//! `netprobe NAME RUN [--outlive]`: NAME is what its servers answer; RUN marks the process as part of a test run;
//! with `--outlive` it goes on serving when its input ends.
use std::process::ExitCode;

use harness::probe::worker::obey;

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().collect();
    let [_, name, _, options @ ..] = &arguments[..] else {
        eprintln!("usage: netprobe NAME RUN [--outlive]");
        return ExitCode::from(2);
    };
    let outlive = options.iter().any(|option| option == "--outlive");
    obey(name, std::io::stdin().lock(), std::io::stdout().lock(), || {
        if outlive {
            loop {
                std::thread::park();
            }
        }
    });
    ExitCode::SUCCESS
}
