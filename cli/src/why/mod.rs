//! `millrace why`: a question, the addresses it means, and the walk that answers it.
pub(crate) mod question;
pub(crate) mod resolve;
pub(crate) mod walk;
