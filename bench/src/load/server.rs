//! The server of a pod: answers with its number. A connection of one request is served by the thread that accepts it,
//! as the fastest servers do, and closed by the server first.
use std::{
    io::{self, BufRead as _, BufReader, Read as _, Write as _},
    net::{Ipv4Addr, SocketAddrV4, TcpListener, TcpStream, UdpSocket},
    thread,
    time::Duration,
};

use anyhow::{Context as _, Result};

use super::wire::ask;
use crate::{
    measure::cpu,
    system::services::{SERVER_PORT, SINGLE_SERVER_PORT},
};

/// A client that connects and says nothing is not waited for longer.
const SILENT: Duration = Duration::from_secs(1);

/// Serves until standard input ends; says `ready` when its sockets are bound.
pub(crate) fn serve(number: u8, addr: Ipv4Addr) -> Result<()> {
    cpu::pin()?;
    cpu::first_in_line()?;
    let listener = TcpListener::bind(SocketAddrV4::new(addr, SERVER_PORT)).context("listen")?;
    let socket = UdpSocket::bind(SocketAddrV4::new(addr, SINGLE_SERVER_PORT)).context("bind")?;
    thread::spawn(move || {
        for stream in listener.incoming() {
            // A client that goes away in the middle is the client's failure, and counted there.
            let _ = stream.and_then(|stream| answer(stream, number));
        }
    });
    thread::spawn(move || {
        let mut bytes = [0; 64];
        loop {
            if let Ok((_, peer)) = socket.recv_from(&mut bytes) {
                // The client counts what is not answered.
                let _ = socket.send_to(&[number], peer);
            }
        }
    });
    println!("ready");
    io::stdin().lock().read_line(&mut String::new()).context("wait for the end")?;
    Ok(())
}

fn answer(mut stream: TcpStream, number: u8) -> io::Result<()> {
    let mut first = [0];
    stream.set_read_timeout(Some(SILENT))?;
    stream.read_exact(&mut first)?;
    match first[0] {
        ask::KEEP => {
            stream.set_read_timeout(None)?;
            stream.set_nodelay(true)?;
            thread::spawn(move || keep_answering(stream, number));
            Ok(())
        }
        ask::HTTP => {
            stream.set_read_timeout(None)?;
            stream.set_nodelay(true)?;
            thread::spawn(move || speak_http(stream, first[0]));
            Ok(())
        }
        _ => stream.write_all(&[number]),
    }
}

fn keep_answering(mut stream: TcpStream, number: u8) -> io::Result<()> {
    let mut bytes = [0];
    stream.write_all(&[number])?;
    while stream.read(&mut bytes)? > 0 {
        stream.write_all(&[number])?;
    }
    Ok(())
}

/// Answers every request head with a small page.
fn speak_http(stream: TcpStream, first: u8) -> io::Result<()> {
    const ANSWER: &[u8] = b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nok\n";
    let mut writer = stream.try_clone()?;
    let first = [first];
    let mut lines = BufReader::new(first.as_slice().chain(stream));
    let mut line = Vec::new();
    while lines.read_until(b'\n', &mut line)? > 0 {
        if line == b"\r\n" {
            writer.write_all(ANSWER)?;
        }
        line.clear();
    }
    Ok(())
}
