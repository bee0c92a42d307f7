//! A cluster for tests that break something. They take it one after the other, and give it back whole.
use std::sync::{
    Mutex, PoisonError,
    atomic::{AtomicUsize, Ordering},
};

use anyhow::Result;
use harness::kubernetes::{Cluster, Network, Options, Proxy, guard::Guard};

use crate::shared::own_name;

struct Owned {
    cluster: Cluster,
    _guard: Guard,
}

impl Owned {
    fn make() -> Result<Self> {
        static MADE: AtomicUsize = AtomicUsize::new(0);
        let name = own_name(&format!("own-{}", MADE.fetch_add(1, Ordering::Relaxed)));
        let guard = Guard::set(&name)?;
        let options = Options { proxy: Proxy::Millrace, network: Network::Millrace, ..Options::default() };
        let cluster = Cluster::up(&name, &options, &|step| eprintln!("{name}: {step}"))?;
        Ok(Self { cluster, _guard: guard })
    }
}

/// Runs a test with a cluster of two nodes that nobody else uses meanwhile: Millrace connects its pods and balances its
/// services. After a test that failed, the next one gets another cluster.
pub(crate) fn alone(test: impl FnOnce(&Cluster) -> Result<()>) -> Result<()> {
    static WHOLE: Mutex<Option<Owned>> = Mutex::new(None);
    let mut whole = WHOLE.lock().unwrap_or_else(PoisonError::into_inner);
    let owned = whole.take().map_or_else(Owned::make, Ok)?;
    test(&owned.cluster)?;
    *whole = Some(owned);
    Ok(())
}
