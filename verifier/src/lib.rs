//! What a kernel says of each program of the object: how much it verified, or why it refused.
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use aya::{
    EbpfLoader, VerifierLogLevel,
    programs::{Program, ProgramError, ProgramType},
    sys::{BpfHelper, is_helper_supported},
};
use dataplane_common::config::{Config, flag};
use zerocopy::IntoBytes as _;

/// A program as the kernel took it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Verified {
    pub name: String,
    /// Not before Linux 5.16 (aba64c7da983).
    pub instructions: Option<u32>,
    /// Bytes of machine code.
    pub jitted: u32,
    pub took: Duration,
}

/// A program that the kernel refused.
#[derive(Debug)]
pub struct Refused {
    pub name: String,
    /// Holds the verifier's log.
    pub error: ProgramError,
}

/// Loads every program of the object, attached to nothing, and goes on after one that the kernel refuses.
///
/// # Errors
/// If the object is none, or one of its maps cannot be made.
pub fn verify(object: &[u8]) -> Result<Vec<Result<Verified, Refused>>> {
    let mut config = Config::DEFAULT;
    // As the agent does.
    let has_set_retval = is_helper_supported(ProgramType::CgroupSockAddr, BpfHelper::BPF_FUNC_set_retval);
    if !has_set_retval.context("ask for bpf_set_retval")? {
        config.flags |= flag::NO_SET_RETVAL;
    }
    let mut ebpf = EbpfLoader::new()
        .verifier_log_level(VerifierLogLevel::default())
        .override_global("CONFIG", config.as_bytes(), true)
        .load(object)
        .context("load the object")?;
    let mut outcomes = Vec::new();
    for (name, program) in ebpf.programs_mut() {
        let begun = Instant::now();
        let loaded = load(program);
        let took = begun.elapsed();
        outcomes.push(match loaded {
            Ok(()) => {
                let info = program.info().with_context(|| format!("read what the kernel has of {name}"))?;
                Ok(Verified {
                    name: name.to_owned(),
                    instructions: info.verified_instruction_count(),
                    jitted: info.size_jitted(),
                    took,
                })
            }
            Err(error) => Err(Refused { name: name.to_owned(), error }),
        });
    }
    Ok(outcomes)
}

fn load(program: &mut Program) -> Result<(), ProgramError> {
    if let Program::SchedClassifier(program) = program {
        program.load()
    } else if let Program::CgroupSockAddr(program) = program {
        program.load()
    } else {
        // No hook has a program of another type.
        Err(ProgramError::UnexpectedProgramType)
    }
}
