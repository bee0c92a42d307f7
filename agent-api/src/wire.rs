//! Messages as bytes: one line of JSON each.
use serde::{Serialize, de::DeserializeOwned};

use crate::MAX_MESSAGE;

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
    use crate::{API_VERSION, Attachment, Envelope, PodRef, Reply, Request};

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
    fn a_reply_of_another_form_is_malformed() {
        assert!(matches!(decode::<Reply>(b"{\"result\":\"unheard-of\"}"), Err(WireError::Malformed(_))));
    }
}
