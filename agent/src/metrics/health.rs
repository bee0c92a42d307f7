//! Whether the agent lives, and whether its node can be used. Pure: the time is an argument.
use std::time::Duration;

use crate::vitals::Snapshot;

/// A loop that has not looked for work for so long is stuck: it looks every ten seconds when there is none, and the largest
/// clusters are programmed in less.
const STUCK: Duration = Duration::from_secs(30);

/// Why the agent does not live; `age` is that of its loop's last beat.
pub(super) fn unlive(age: Duration) -> Option<String> {
    (age >= STUCK)
        .then(|| format!("the agent's loop is stuck: it has not looked for work for {} s", age.as_secs()))
}

/// Why the node cannot be used, a sentence each.
pub(super) fn unmet(age: Duration, last: Option<&Snapshot>) -> Vec<String> {
    let stuck = unlive(age);
    let unmet = match last {
        Some(last) => last.unmet.clone(),
        None => vec!["the agent is starting".to_owned()],
    };
    stuck.into_iter().chain(unmet).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ready(unmet: &[&str]) -> Snapshot {
        Snapshot { unmet: unmet.iter().map(|&sentence| sentence.to_owned()).collect(), ..Snapshot::default() }
    }

    #[test]
    fn a_loop_that_stops_is_not_alive() {
        for (seconds, lives) in [(0, true), (10, true), (29, true), (30, false), (3600, false)] {
            assert_eq!(unlive(Duration::from_secs(seconds)).is_none(), lives, "{seconds} s");
        }
    }

    #[test]
    fn an_agent_is_ready_when_its_loop_says_so_and_still_lives() {
        let second = Duration::from_secs(1);
        assert_eq!(unmet(second, None), ["the agent is starting"]);
        assert_eq!(unmet(second, Some(&ready(&[]))), [""; 0]);
        assert_eq!(unmet(second, Some(&ready(&["no pod CIDR"]))), ["no pod CIDR"]);
        let sentences = unmet(second * 60, Some(&ready(&["no pod CIDR"])));
        assert!(sentences.len() == 2 && sentences[0].contains("stuck"), "{sentences:?}");
        assert!(unmet(second * 60, Some(&ready(&[])))[0].contains("60 s"));
    }
}
