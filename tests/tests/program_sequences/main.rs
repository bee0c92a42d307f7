//! Random sequences of what happens in a cluster: both ends of connections speak in any order, policies, labels and
//! backends change, the agent restarts. Whatever comes, the loaded programs let nothing arrive that the policies of
//! that moment forbid to whoever opened the connection, and lose nothing that they allow; [`model`] says what exactly.
#![expect(
    clippy::trivially_copy_pass_by_ref,
    reason = "a call is a key of seven bytes today, and handed on as a key"
)]
mod cast;
mod model;
mod script;
mod stage;
mod step;

use std::{env, fmt::Write as _, panic::resume_unwind, thread, time::SystemTime};

use anyhow::{Error, Result, anyhow};
use harness::program::{Programs, in_private_netns};
use rand::{SeedableRng as _, rngs::StdRng};

use self::{cast::LOCAL, script::Author, stage::Stage, step::Step};

/// Sequences per run.
const SEQUENCES: u64 = 10_000;
/// How often a shorter sequence is tried: the programs choose backends at random.
const TRIES: usize = 6;

fn written(seed: u64) -> Vec<Step> {
    Author { rng: &mut StdRng::seed_from_u64(seed) }.sequence()
}

/// Plays the sequences of these seeds.
fn explore(seeds: impl Iterator<Item = u64> + Send) -> Result<()> {
    in_private_netns(usize::from(LOCAL) + 1, move |interfaces| {
        let programs = Programs::load(0)?;
        let mut stage = Stage::new(&programs, interfaces)?;
        for seed in seeds {
            let steps = written(seed);
            if let Err(error) = stage.play(&steps) {
                return Err(shrunk(&mut stage, seed, steps, error));
            }
        }
        Ok(())
    })
}

/// Leaves out steps as long as what is left fails, and tells the rest.
fn shrunk(stage: &mut Stage, seed: u64, mut steps: Vec<Step>, mut error: Error) -> Error {
    let mut position = steps.len();
    while position > 0 {
        position -= 1;
        let mut shorter = steps.clone();
        shorter.remove(position);
        if let Some(found) = (0..TRIES).find_map(|_| stage.play(&shorter).err()) {
            (steps, error) = (shorter, found);
            position = steps.len();
        }
    }
    let mut text = format!("MILLRACE_SEQUENCE={seed} plays this sequence alone; what is left of it:\n");
    for (number, step) in steps.iter().enumerate() {
        let _infallible = writeln!(text, "{:4}. {step}", number + 1);
    }
    let _infallible = write!(text, "{error:#}");
    anyhow!(text)
}

fn number(variable: &str) -> Option<u64> {
    env::var(variable).ok().and_then(|text| text.parse().ok())
}

#[test]
fn no_sequence_lets_forbidden_packets_arrive_or_loses_allowed_ones() -> Result<()> {
    if let Some(seed) = number("MILLRACE_SEQUENCE") {
        println!("{:#?}", written(seed));
        return explore(std::iter::repeat_n(seed, TRIES));
    }
    let seed = number("MILLRACE_SEED").unwrap_or_else(|| {
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        now.as_secs() << 20
    });
    println!("MILLRACE_SEED={seed} repeats this run of {SEQUENCES} sequences");
    let half = |first: u64| move || explore((first..SEQUENCES).step_by(2).map(move |n| seed.wrapping_add(n)));
    thread::scope(|scope| {
        let halves = [0, 1].map(|first| scope.spawn(half(first)));
        halves.into_iter().try_for_each(|half| half.join().unwrap_or_else(|panic| resume_unwind(panic)))
    })
}
