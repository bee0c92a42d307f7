//! ClusterIP balancing over pods of both nodes.
use std::net::SocketAddr;

use anyhow::{Result, bail};
use harness::{
    eventually::{PATIENCE, eventually},
    probe::wire::{Target, Transport},
    topology::Topology,
};

use super::{ALL, TIMEOUT, ask_many, millrace, output, shares};
use crate::{
    cast::{Cast, WEB_PORT},
    show::{self, Show},
};

const REQUESTS: usize = 300;

pub(crate) fn play(show: &Show, topology: &Topology, cast: &Cast) -> Result<()> {
    show.title("1  A service over pods of two nodes");
    let [v4, v6] = cast.web.both().map(|ip| SocketAddr::new(ip, WEB_PORT));
    let client = cast.visitor.probe();
    for (what, transport, to) in
        [("TCP", Transport::Tcp, v4), ("UDP", Transport::Udp, v4), ("TCP", Transport::Tcp, v6)]
    {
        show::say(&format!("{REQUESTS} {what} requests from pod visitor to {to}:"));
        let answers = ask_many(client, transport, to, REQUESTS)?;
        shares(show, cast, &answers);
        if answers.len() != cast.webs.len() {
            bail!("only {} of {} pods answered", answers.len(), cast.webs.len());
        }
    }
    let (held, _) = client.open(Target::tcp(v4), TIMEOUT)?;
    if held.peer_name()? != v4 {
        bail!("the application sees {} as its peer, not {v4}", held.peer_name()?);
    }
    drop(held);
    show.good("the backend is chosen once, as the socket connects: no packet is translated,");
    show.good(&format!("and the application still sees {v4} as its peer"));
    let host = ask_many(topology.node(1).host(), Transport::Tcp, v4, 50)?;
    show.good(&format!("processes of the node itself are balanced, too: 50 requests, {} pods", host.len()));
    // Names reach the command line a moment after the maps.
    eventually("the services have their names", PATIENCE, || {
        let list = output(topology.node(0), &["service", "list"])?;
        if list.contains("shop/web") { Ok(()) } else { bail!("{list}") }
    })?;
    millrace(show, topology.node(0), &["service", "list"], ALL)
}
