//! A system with its client and servers, resident from the first round to the last.
use std::{
    cell::{RefCell, RefMut},
    net::SocketAddrV4,
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};
use dataplane_common::verdict::{DropReason, Hook};

use crate::{
    load::{
        driver::{Client, Server},
        wire::{Order, Slice, Targets},
    },
    system::{
        self, Setup, System,
        services::{ENDPOINTS, SERVER_PORT},
    },
};

/// Marks the processes of the bench in their command lines.
const MARK: &str = "millrace-bench";

/// A system ready to be measured.
pub(crate) struct Station {
    client: RefCell<Client>,
    /// A client whose sockets no program translates, where that makes a difference.
    bystander: Option<RefCell<Client>>,
    _servers: Vec<Server>,
    // Last: the processes end before their namespaces do.
    system: Box<dyn System>,
}

impl Station {
    pub(crate) fn build(setup: Setup) -> Result<Self> {
        let what = || format!("set up {} with {} services", setup.kind, setup.services.count);
        Self::around(system::build(setup).with_context(what)?)
    }

    /// Starts servers and a client around a system.
    pub(crate) fn around(system: Box<dyn System>) -> Result<Self> {
        let setup = system.setup();
        let what = || format!("set up {} with {} services", setup.kind, setup.services.count);
        let servers = (0..ENDPOINTS)
            .map(|endpoint| {
                let number = u8::try_from(endpoint).context("few endpoints")?;
                Server::start(number, system.server_addr(endpoint), MARK, system.server(endpoint))
            })
            .collect::<Result<Vec<_>>>()
            .with_context(what)?;
        let name = format!("{}@{}", setup.kind, setup.services.count);
        let client = RefCell::new(Client::start(&name, MARK, system.client()).with_context(what)?);
        let bystander = system.bystander();
        let bystander =
            bystander.map(|place| Client::start(&name, MARK, place).map(RefCell::new)).transpose()?;
        let station = Self { client, bystander, _servers: servers, system };
        station.greet().with_context(what)?;
        Ok(station)
    }

    /// One connection to each server: everybody is known to everybody, and everything works.
    fn greet(&self) -> Result<()> {
        for endpoint in 0..ENDPOINTS {
            let server = SocketAddrV4::new(self.system.server_addr(endpoint), SERVER_PORT);
            let order =
                Order::Connections { targets: Targets::One(server), lasting: Duration::from_millis(1) };
            self.slice(&order, false)?;
        }
        Ok(())
    }

    pub(crate) fn system(&self) -> &dyn System {
        self.system.as_ref()
    }

    pub(crate) fn client(&self) -> RefMut<'_, Client> {
        self.client.borrow_mut()
    }

    /// A slice of load. What is not answered is a failure of the whole, unless `tolerant`.
    pub(crate) fn slice(&self, order: &Order, tolerant: bool) -> Result<Slice> {
        checked(self.client.borrow_mut().slice(order)?, self, tolerant)
    }

    /// Closes the connections that round trips left open. Those of the bystander are translated by packets: a connection
    /// from the same port straight to the same pod cannot be told from one of them (decision 9).
    pub(crate) fn part(&self) -> Result<()> {
        for client in std::iter::once(&self.client).chain(&self.bystander) {
            client.borrow_mut().order(&Order::Part)?;
        }
        Ok(())
    }

    /// A slice of load of the client whose sockets no program translates.
    pub(crate) fn bystander_slice(&self, order: &Order) -> Result<Slice> {
        let bystander = self.bystander.as_ref().context("the system treats all clients alike")?;
        checked(bystander.borrow_mut().slice(order)?, self, false)
    }
}

fn checked(slice: Slice, station: &Station, tolerant: bool) -> Result<Slice> {
    let kind = station.system.setup().kind;
    let why = || slice.failure.clone().unwrap_or_default();
    ensure!(
        slice.answered > 0 || tolerant,
        "{kind}: no request was answered, {} failed: {}",
        slice.failed,
        why()
    );
    ensure!(
        slice.failed == 0 || tolerant,
        "{kind}: {} of {} requests failed: {}{}",
        slice.failed,
        slice.answered + slice.failed,
        why(),
        dropped(station)
    );
    Ok(slice)
}

/// What Millrace's programs have dropped so far, for the message of a failure.
fn dropped(station: &Station) -> String {
    let Some(millrace) = station.system.as_millrace() else { return String::new() };
    let maps = millrace.node_of().maps();
    let count = |hook, reason: DropReason| match maps.drops(hook, reason) {
        Ok(0) => None,
        Ok(count) => Some(format!("; {} dropped {count}: {}", hook.name(), reason.name())),
        Err(error) => Some(format!("; {error:#}")),
    };
    let of_hook = |hook: Hook| DropReason::ALL.iter().filter_map(move |reason| count(hook, *reason));
    [Hook::FromPod, Hook::ToPod].into_iter().flat_map(of_hook).collect()
}
