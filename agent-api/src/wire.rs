//! Messages as bytes: one line of JSON each.
use serde::{Serialize, de::DeserializeOwned};

use crate::{Error, ErrorKind, MAX_MESSAGE, Reply};

/// Why a message cannot be written or read.
#[derive(Debug, thiserror::Error)]
pub enum WireError {
    #[error("the message is longer than {MAX_MESSAGE} bytes")]
    TooLong,
    #[error("the connection ended before the end of the message ({received} bytes received)")]
    Truncated { received: usize },
    #[error("the message is not valid JSON of the expected form")]
    Malformed(#[from] serde_json::Error),
}

/// A message as a line.
///
/// # Errors
/// If the message is too long.
pub fn encode<T: Serialize>(message: &T) -> Result<Vec<u8>, WireError> {
    let mut line = serde_json::to_vec(message)?;
    line.push(b'\n');
    if line.len() > MAX_MESSAGE { Err(WireError::TooLong) } else { Ok(line) }
}

/// A reply as a line: one that is too long says less, but it is said.
///
/// # Errors
/// Never: whatever is too long has a part that may be left out.
pub fn encode_reply(reply: Reply) -> Result<Vec<u8>, WireError> {
    match encode(&reply) {
        Err(WireError::TooLong) => encode(&shorter(reply)),
        result => result,
    }
}

/// The reply without the sentences for which there is no room.
fn shorter(reply: Reply) -> Reply {
    match reply {
        Reply::Status(mut status) => {
            let problems = std::mem::take(&mut status.problems);
            if encode(&*status).map_or(MAX_MESSAGE, |line| line.len()) > MAX_MESSAGE / 2 {
                status.programs.clear();
            }
            status.problems = cut(problems);
            Reply::Status(status)
        }
        Reply::Health(mut health) => {
            (health.unmet, health.refusing) = (cut(health.unmet), cut(health.refusing));
            Reply::Health(health)
        }
        Reply::Reserved(_)
        | Reply::Attached
        | Reply::Detached
        | Reply::Checked(_)
        | Reply::Named
        | Reply::Applied(_)
        | Reply::Error(_) => Reply::Error(Error {
            kind: ErrorKind::Internal,
            message: format!("the answer is longer than {MAX_MESSAGE} bytes: see the agent's log"),
        }),
    }
}

/// The first sentences, as many as there is room for, and how many there are besides.
fn cut(sentences: Vec<String>) -> Vec<String> {
    let count = sentences.len();
    let mut room = MAX_MESSAGE / 4;
    let mut kept: Vec<String> = sentences
        .into_iter()
        .map_while(|sentence| {
            let length = serde_json::to_vec(&sentence).map_or(MAX_MESSAGE, |json| json.len() + 1);
            room = room.checked_sub(length)?;
            Some(sentence)
        })
        .collect();
    if kept.len() < count {
        kept.push(format!("{} more are not shown: the agent's log has them", count - kept.len()));
    }
    kept
}

/// Collects the bytes of one line, as they arrive, and never more than [`MAX_MESSAGE`].
#[derive(Debug, Default)]
pub struct LineBuffer {
    bytes: Vec<u8>,
}

impl LineBuffer {
    /// Takes the next bytes. `Some` is the line, without its end; what follows the line is dropped.
    ///
    /// # Errors
    /// If the line is too long, or ended (`chunk` is empty) too early.
    pub fn push(&mut self, chunk: &[u8]) -> Result<Option<Vec<u8>>, WireError> {
        if chunk.is_empty() {
            return Err(WireError::Truncated { received: self.bytes.len() });
        }
        let end = chunk.iter().position(|byte| *byte == b'\n');
        self.bytes.extend_from_slice(&chunk[..end.unwrap_or(chunk.len())]);
        if self.bytes.len() > MAX_MESSAGE {
            return Err(WireError::TooLong);
        }
        Ok(end.map(|_| std::mem::take(&mut self.bytes)))
    }
}

/// Reads a message from its line.
///
/// # Errors
/// If the line is not the JSON of a `T`.
pub fn decode<T: DeserializeOwned>(line: &[u8]) -> Result<T, WireError> {
    Ok(serde_json::from_slice(line)?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{API_VERSION, Attachment, Envelope, Health, PodRef, Program, Request, Status};

    fn envelope() -> Envelope {
        let attachment = Attachment { container_id: "c1".into(), ifname: "eth0".into() };
        let pod = PodRef { namespace: "ns".into(), name: "line\nbreak".into(), uid: String::new() };
        Envelope { version: API_VERSION, request: Request::Reserve { attachment, pod } }
    }

    #[test]
    fn a_message_survives_the_wire_in_pieces_of_any_size() {
        let line = encode(&envelope()).unwrap();
        for size in 1..=line.len() {
            let mut buffer = LineBuffer::default();
            let whole = line.chunks(size).find_map(|chunk| buffer.push(chunk).unwrap()).unwrap();
            assert_eq!(decode::<Envelope>(&whole).unwrap(), envelope());
        }
    }

    #[test]
    fn an_early_end_is_reported_with_what_was_received() {
        let mut buffer = LineBuffer::default();
        assert!(buffer.push(b"{\"ver").unwrap().is_none());
        assert!(matches!(buffer.push(b""), Err(WireError::Truncated { received: 5 })));
    }

    #[test]
    fn an_endless_line_is_refused_before_it_fills_memory() {
        let mut buffer = LineBuffer::default();
        let chunk = [b'x'; 4096];
        let refused_after = (0..=MAX_MESSAGE).find(|_| buffer.push(&chunk).is_err()).unwrap();
        assert_eq!(refused_after, MAX_MESSAGE / chunk.len());
    }

    #[test]
    fn a_reply_that_is_too_long_says_what_there_is_room_for_and_how_much_is_missing() {
        let many: Vec<String> =
            (0..15_000).map(|n| format!("Service shop/web-{n}: \"{}\"", "x".repeat(80))).collect();
        let long = vec!["y".repeat(MAX_MESSAGE); 2];
        let program = Program { attached_to: many.clone(), ..Program::default() };
        for (problems, programs) in [
            (many.clone(), vec![]),
            (long.clone(), vec![]),
            (many.clone(), vec![program.clone()]),
            (vec![], vec![program]),
        ] {
            let status =
                Status { node_name: "n".into(), problems: problems.clone(), programs, ..Status::default() };
            let line = encode_reply(Reply::Status(Box::new(status))).unwrap();
            let Reply::Status(status) = decode(&line).unwrap() else { panic!("no status") };
            assert_eq!(status.node_name, "n");
            if let Some((last, kept)) = status.problems.split_last() {
                assert_eq!(kept, &problems[..kept.len()]);
                assert!(last.starts_with(&format!("{} more", problems.len() - kept.len())), "{last}");
            }
        }
        for reply in [
            Reply::Health(Health { unmet: many, refusing: long }),
            Reply::Error(Error { kind: ErrorKind::TryAgain, message: "z".repeat(2 * MAX_MESSAGE) }),
        ] {
            assert!(matches!(encode(&reply), Err(WireError::TooLong)));
            assert!(encode_reply(reply).unwrap().len() <= MAX_MESSAGE);
        }
    }

    #[test]
    fn a_reply_of_another_form_is_malformed() {
        assert!(matches!(decode::<Reply>(b"{\"result\":\"unheard-of\"}"), Err(WireError::Malformed(_))));
    }
}
