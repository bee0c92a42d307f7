//! Leaving the maps of another layout, and the programs of the agent before that use them.
use std::{
    io, mem,
    time::{Duration, Instant},
};

use agent_core::model::endpoint::Endpoint;
use dataplane_common::maps::MapId;
use nix::time::{ClockId, clock_gettime};

use super::{
    Dataplane, DataplaneError, install,
    maps::{Maps, Takeover},
};

/// A packet waits for its flow no longer than this while flows are carried over. It goes round and round meanwhile, which keeps a
/// processor busy.
const WAIT: Duration = Duration::from_millis(50);

impl Dataplane {
    /// Whether maps of another layout are in use.
    pub(crate) fn is_taking_over(&self) -> bool {
        self.takeover.is_some()
    }

    /// Has programs and pins leave the maps of another layout, which hold less than this agent's by now. Flows and sockets
    /// are carried over. What fails is to be tried again.
    pub(crate) fn take_over<'a>(
        &mut self,
        endpoints: impl Iterator<Item = &'a Endpoint>,
    ) -> Result<(), DataplaneError> {
        let Some(takeover) = &mut self.takeover else { return Ok(()) };
        let start = Instant::now();
        takeover.place(&self.maps)?;
        let placed = Instant::now();
        await_flows(&self.maps, Some(WAIT))?;
        install(&self.links, &mut self.programs, self.options)?;
        let switched = Instant::now();
        takeover.carry_later_flows(&self.maps)?;
        await_flows(&self.maps, None)?;
        takeover.finish(&self.maps)?;
        tracing::info!(
            "took the place of {takeover}: {:?} to carry over, {:?} to switch, {:?} for the rest",
            placed.duration_since(start),
            switched.duration_since(placed),
            switched.elapsed()
        );
        self.takeover = None;
        // What flows were judged by is not compared with what was rendered: each is judged once more.
        self.observed.raise_epoch();
        let slot = 0_u32.to_ne_bytes();
        self.maps.get(MapId::POLICY_EPOCH).update(&slot, &self.observed.epoch().to_ne_bytes())?;
        self.collector.removed(mem::take(&mut self.gone));
        self.collector.services_changed();
        let uplinks = mem::take(&mut self.uplinks);
        self.attach_uplinks(uplinks)?;
        for endpoint in endpoints {
            self.restore(endpoint)?;
        }
        Ok(())
    }

    /// Whether the links run the programs of another agent still.
    pub(super) fn leaves_links_alone(&self) -> bool {
        self.takeover.as_ref().is_some_and(Takeover::is_filling)
    }
}

/// Has packets whose flows are unknown come through their hooks again for a while, until these may be carried over; or no longer.
fn await_flows(maps: &Maps, wait: Option<Duration>) -> Result<(), DataplaneError> {
    let until = match wait {
        // The clock of `bpf_ktime_get_ns`.
        Some(wait) => {
            let now = clock_gettime(ClockId::CLOCK_MONOTONIC).map_err(io::Error::from);
            let now = Duration::from(now.map_err(DataplaneError::Clock)?);
            u64::try_from((now + wait).as_nanos()).unwrap_or_default()
        }
        None => 0,
    };
    Ok(maps.get(MapId::CARRYING_OVER).update(&0_u32.to_ne_bytes(), &until.to_ne_bytes())?)
}
