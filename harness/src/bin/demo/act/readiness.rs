//! A pod that becomes unready loses its traffic, and gets it back.
use std::{net::SocketAddr, time::Instant};

use anyhow::{Result, bail};
use harness::{probe::wire::Transport, topology::Topology};

use super::{ask_many, full_name, shares};
use crate::{
    cast::{Cast, WEB_PORT},
    show::{self, Show},
};

const REQUESTS: usize = 200;

pub(crate) fn play(show: &Show, topology: &Topology, cast: &Cast) -> Result<()> {
    show.title("3  A pod that becomes unready loses its traffic");
    let to = SocketAddr::new(cast.web.v4.into(), WEB_PORT);
    let pod = &cast.webs[1];
    for ready in [false, true] {
        let begun = Instant::now();
        topology.set_ready(pod, ready)?;
        topology.settle()?;
        let (word, took) = (if ready { "ready again" } else { "not ready" }, begun.elapsed().as_millis());
        show::say(&format!(
            "{} is {word}; both nodes knew after {took} ms. {REQUESTS} requests:",
            pod.name()
        ));
        let answers = ask_many(cast.visitor.probe(), Transport::Tcp, to, REQUESTS)?;
        shares(show, cast, &answers);
        if answers.contains_key(&full_name(pod)) != ready {
            bail!("{} is {word}, and answered {:?}", pod.name(), answers.get(&full_name(pod)));
        }
    }
    Ok(())
}
