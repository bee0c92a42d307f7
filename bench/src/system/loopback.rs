//! Client and servers in one namespace.
use std::{fs, net::Ipv4Addr, time::Duration};

use anyhow::{Context as _, Result, bail};
use harness::machine::{
    cgroup::{self, Cgroup},
    netns::Netns,
    process::Place,
    run::Run,
};

use super::{Ends, Footprint, Setup, System, routed::apply_hygiene, services::ENDPOINTS};

pub(super) struct Loopback {
    setup: Setup,
    run: Run,
    netns: Netns,
    cgroup: Cgroup,
}

impl Loopback {
    pub(super) fn build(setup: Setup) -> Result<Self> {
        let run = Run::unique();
        fs::create_dir(run.folder()).with_context(|| format!("create {}", run.folder().display()))?;
        let cgroup = Cgroup::create(&cgroup::root()?, &run.to_string())?;
        let netns = Netns::create(&run.part("loopback"))?;
        (0..ENDPOINTS)
            .try_for_each(|endpoint| netns.ip(&format!("addr add {}/32 dev lo\n", addr(endpoint))))?;
        apply_hygiene(setup.hygiene, &netns, std::iter::once(&netns))?;
        Ok(Self { setup, run, netns, cgroup })
    }

    const fn place(&self) -> Place<'_> {
        Place { netns: &self.netns, cgroup: &self.cgroup, outlives: false, capabilities: None }
    }
}

fn addr(endpoint: usize) -> Ipv4Addr {
    Ipv4Addr::new(10, 244, 9, 3 + u8::try_from(endpoint).expect("few endpoints"))
}

impl Ends for Loopback {
    fn client(&self) -> Place<'_> {
        self.place()
    }

    fn client_addr(&self) -> Ipv4Addr {
        addr(0)
    }

    fn server(&self, _endpoint: usize) -> Place<'_> {
        self.place()
    }

    fn server_addr(&self, endpoint: usize) -> Ipv4Addr {
        addr(endpoint)
    }

    fn node(&self) -> &Netns {
        &self.netns
    }

    fn pod_links(&self) -> Vec<String> {
        Vec::new()
    }
}

impl System for Loopback {
    fn setup(&self) -> Setup {
        self.setup
    }

    fn forget_flows(&self) -> Result<()> {
        Ok(())
    }

    fn footprint(&self) -> Result<Footprint> {
        Ok(Footprint::default())
    }

    fn set_endpoints(&self, _service: usize, _endpoints: &[usize]) -> Result<()> {
        bail!("loopback knows no services")
    }

    fn cold_sync(&self) -> Result<Duration> {
        bail!("loopback knows no services")
    }
}

impl Drop for Loopback {
    fn drop(&mut self) {
        if let Err(error) = fs::remove_dir_all(self.run.folder())
            && error.kind() != std::io::ErrorKind::NotFound
        {
            eprintln!("remove {}: {error}", self.run.folder().display());
        }
    }
}
