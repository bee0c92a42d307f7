//! What the agent does between its sources and the maps, without the agent: objects in, map writes out.
use std::time::Duration;

use agent_core::{
    observed::{Observed, REST},
    plan::{Action, Plan, plan},
    render::{NodeConfig, render},
    state::{Changed, ClusterState},
    update::Update,
};
use anyhow::{Result, ensure};

use super::{Programs, random::NODE};

/// A cluster, compiled into the maps of the loaded programs.
pub struct ControlPlane<'a> {
    programs: &'a Programs,
    pub state: ClusterState,
    observed: Observed,
    config: NodeConfig,
    clock: Duration,
}

impl<'a> ControlPlane<'a> {
    /// Starts from what is in the maps, as a restarted agent does.
    ///
    /// # Panics
    /// When the maps cannot be read.
    #[must_use]
    pub fn new(programs: &'a Programs, uplink: Option<u32>) -> Self {
        let config = NodeConfig {
            node_name: NODE.to_owned(),
            uplink_v4: uplink,
            uplink_v6: uplink,
            ..NodeConfig::default()
        };
        let observed = Observed::from_dump(|map| programs.map(map).dump().expect("the maps can be read"));
        Self { programs, state: ClusterState::default(), observed, config, clock: Duration::ZERO }
    }

    /// Brings changes of the cluster into the maps.
    pub fn apply(&mut self, updates: Vec<Update>) -> Result<()> {
        let mut changed = Changed::default();
        for update in updates {
            changed.extend(self.state.apply(update));
        }
        self.compile(&changed)
    }

    fn compile(&mut self, changed: &Changed) -> Result<()> {
        let desired = render(&self.state, &self.config, changed);
        let plan = plan(&desired, &self.observed);
        ensure!(plan.problems.is_empty(), "the plan has problems: {:?}", plan.problems);
        self.carry_out(&plan)?;
        // No program runs between two changes here: nothing rests.
        self.clock += REST;
        self.observed.advance(self.clock);
        Ok(())
    }

    /// Removes what the changes before have left behind.
    pub fn tidy(&mut self) -> Result<()> {
        let changed = self.state.tidy();
        self.compile(&changed)
    }

    /// Forgets all but the objects and the maps.
    pub fn restart(&mut self) -> Result<()> {
        let programs = self.programs;
        self.observed = Observed::from_dump(|map| programs.map(map).dump().expect("the maps can be read"));
        self.compile(&Changed::everything())
    }

    fn carry_out(&mut self, plan: &Plan) -> Result<()> {
        for step in &plan.steps {
            let map = self.programs.map(step.map);
            match &step.action {
                Action::Upsert(entries) => map.update_batch(entries)?,
                Action::Delete(keys) => {
                    map.delete_batch(keys)?;
                }
            }
            self.observed.record(step);
        }
        Ok(())
    }
}
