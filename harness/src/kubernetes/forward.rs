//! The API server lives in a network namespace; a forwarder makes it reachable on the loopback of another one. A socket
//! stays in the namespace that it was made in, so it listens there while its process is elsewhere.
use std::{
    io,
    net::{Shutdown, SocketAddr, TcpListener, TcpStream},
    os::fd::OwnedFd,
    process::Command,
    thread,
};

use anyhow::{Context as _, Result};

use super::{component::Component, control_plane::API_PORT, place::Place};
use crate::machine::binaries::binary;

/// Starts a forwarder from a listening socket to the API server of a place.
pub(super) fn start(component: &Component, place: &Place, listener: TcpListener) -> Result<()> {
    let mut command = Command::new(binary("cluster")?);
    command.env_clear().args(["forward", &format!("127.0.0.1:{API_PORT}")]);
    component.start_with_input(place, command, OwnedFd::from(listener).into())
}

/// Forwards every connection of a listener, as long as this process lives.
pub fn serve(listener: &TcpListener, to: SocketAddr) -> Result<()> {
    loop {
        let (near, _) = listener.accept().context("accept a connection")?;
        thread::spawn(move || match TcpStream::connect(to) {
            Ok(far) => forward(&near, &far),
            // The server restarts; the client sees the end of its connection and tries again.
            Err(error) => eprintln!("connect to {to}: {error}"),
        });
    }
}

fn forward(near: &TcpStream, far: &TcpStream) {
    // Without it, small requests wait for acknowledgements.
    let _ = (near.set_nodelay(true), far.set_nodelay(true));
    thread::scope(|scope| {
        scope.spawn(|| copy(near, far));
        copy(far, near);
    });
}

fn copy(mut from: &TcpStream, mut to: &TcpStream) {
    // Whatever ends it, the other side is told.
    let _ = io::copy(&mut from, &mut to);
    let _ = to.shutdown(Shutdown::Write);
}
