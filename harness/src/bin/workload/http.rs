//! As much of HTTP as a readiness probe needs.
use std::{
    fs,
    io::{self, BufRead as _, BufReader, Write as _},
    net::{TcpListener, TcpStream},
    path::Path,
    thread,
};

use anyhow::{Context as _, Result};

/// While it exists, the pod is not ready.
const UNREADY: &str = "/unready";

/// Makes this pod ready or unready.
pub(crate) fn set_ready(ready: bool) -> Result<()> {
    let changed = match (ready, Path::new(UNREADY).exists()) {
        (true, true) => fs::remove_file(UNREADY),
        (false, false) => fs::write(UNREADY, ""),
        (true, false) | (false, true) => Ok(()),
    };
    changed.with_context(|| format!("change {UNREADY}"))
}

/// Answers every request on a port.
pub(crate) fn serve(name: &str, port: u16) -> Result<()> {
    let listener = TcpListener::bind(("::", port)).context("listen")?;
    let name = name.to_owned();
    thread::spawn(move || {
        for stream in listener.incoming() {
            let name = name.clone();
            // A client that goes away is none of our business.
            thread::spawn(move || stream.and_then(|stream| answer(&stream, &name)));
        }
    });
    Ok(())
}

fn answer(mut stream: &TcpStream, name: &str) -> io::Result<()> {
    for line in BufReader::new(stream).lines() {
        if line?.is_empty() {
            break;
        }
    }
    let status = if Path::new(UNREADY).exists() { "503 Service Unavailable" } else { "200 OK" };
    let length = name.len() + 1;
    write!(stream, "HTTP/1.1 {status}\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n{name}\n")
}
