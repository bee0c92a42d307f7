//! A control plane on maps made of bytes.
pub(crate) mod kernel;
pub(crate) mod objects;
pub(crate) mod random;

use std::time::Duration;

use agent_core::{
    model::workload::DepartedPod,
    observed::{Observed, REST},
    plan::{Action, Plan, plan},
    problem::ProblemLog,
    render::{NodeConfig, render},
    state::{Changed, ClusterState},
    update::{Kind, Update},
};

use self::kernel::Maps;

/// The node that the lab plays.
pub(crate) const NODE: &str = "node-1";

/// State, maps and what connects them.
#[derive(Clone)]
pub(crate) struct Lab {
    pub(crate) state: ClusterState,
    pub(crate) config: NodeConfig,
    pub(crate) observed: Observed,
    pub(crate) maps: Maps,
    pub(crate) problems: ProblemLog,
    /// What the last plans could not place.
    pub(crate) unplaced: Changed,
    clock: Duration,
}

impl Lab {
    /// A lab whose sources have delivered these updates and are in sync.
    pub(crate) fn with(updates: impl IntoIterator<Item = Update>) -> Self {
        Self::on(Maps::default(), updates)
    }

    /// An agent that starts on maps of an earlier run.
    pub(crate) fn on(maps: Maps, updates: impl IntoIterator<Item = Update>) -> Self {
        let (mut lab, plan) = Self::starting_on(maps, updates);
        lab.carry_out(&plan);
        lab
    }

    /// Like [`Self::on`], with the first plan not carried out yet.
    pub(crate) fn starting_on(maps: Maps, updates: impl IntoIterator<Item = Update>) -> (Self, Plan) {
        Self::resuming(maps, updates, [])
    }

    /// Like [`Self::starting_on`], with what the earlier run remembered of pods whose objects were gone.
    pub(crate) fn resuming(
        maps: Maps,
        updates: impl IntoIterator<Item = Update>,
        departed: impl IntoIterator<Item = DepartedPod>,
    ) -> (Self, Plan) {
        let mut lab = Self {
            state: ClusterState::default(),
            config: NodeConfig {
                node_name: NODE.into(),
                uplink_v4: Some(2),
                uplink_v6: Some(2),
                ..NodeConfig::default()
            },
            observed: Observed::from_dump(|map| maps.dump(map)),
            maps,
            problems: ProblemLog::default(),
            unplaced: Changed::default(),
            clock: Duration::ZERO,
        };
        for update in updates {
            assert!(lab.state.apply(update).is_empty(), "nothing is dirty before the sources are in sync");
        }
        for departed in departed {
            lab.state.restore_departed(departed);
        }
        let mut changed = Changed::default();
        for kind in Kind::ALL {
            changed.extend(lab.state.apply(Update::Synced(kind)));
        }
        let plan = lab.plan(&changed);
        (lab, plan)
    }

    /// Time passes, so that slots which were in use are free.
    pub(crate) fn rest(&mut self) {
        self.wait(REST);
    }

    pub(crate) fn wait(&mut self, time: Duration) {
        self.clock += time;
        self.observed.advance(self.clock);
    }

    /// One update, all the way to the maps. Returns what was written.
    pub(crate) fn apply(&mut self, update: Update) -> Plan {
        let changed = self.state.apply(update);
        self.bring(&changed)
    }

    /// Forgets what the transition needed. Returns what was written.
    pub(crate) fn tidy(&mut self) -> Plan {
        let changed = self.state.tidy();
        self.bring(&changed)
    }

    /// Renders what is dirty and writes it.
    pub(crate) fn bring(&mut self, changed: &Changed) -> Plan {
        let plan = self.plan(changed);
        self.carry_out(&plan);
        plan
    }

    pub(crate) fn plan(&mut self, changed: &Changed) -> Plan {
        let desired = render(&self.state, &self.config, changed);
        let plan = plan(&desired, &self.observed);
        self.problems.record(&desired, &plan);
        self.unplaced = plan.unplaced.clone();
        plan
    }

    pub(crate) fn carry_out(&mut self, plan: &Plan) {
        self.carry_out_watched(plan, |_| {});
    }

    /// Writes entry by entry and shows the maps after each.
    pub(crate) fn carry_out_watched(&mut self, plan: &Plan, mut watch: impl FnMut(&Maps)) {
        for step in &plan.steps {
            match &step.action {
                Action::Upsert(entries) => {
                    for (key, value) in entries {
                        self.maps.upsert(step.map, key, value);
                        watch(&self.maps);
                    }
                }
                Action::Delete(keys) => {
                    for key in keys {
                        self.maps.delete(step.map, key);
                        watch(&self.maps);
                    }
                }
            }
            self.observed.record(step);
        }
    }

    /// The problems, as people read them.
    pub(crate) fn problem_texts(&self) -> Vec<String> {
        self.problems.iter().map(ToString::to_string).collect()
    }
}
