//! A node without an agent, and the command on it.
use std::{
    fs,
    net::IpAddr,
    path::PathBuf,
    process::{Command, Output},
};

use agent_core::entry::{Backend, Frontend, PolicyEntry, PortPrefix, addr_to_bytes, prefix_to_bytes};
use bpf_maps::{Map, MillraceDir, Versions};
use dataplane_common::{
    endpoint::EndpointValue,
    maps::MapId,
    net::proto,
    policy::{PolicyKey, PolicyValue, verdict},
    service::FrontendValue,
};
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use zerocopy::IntoBytes;

pub(crate) const DATABASE_SET: u32 = 0xa1;
pub(crate) const WEB_CLASS: u32 = 0xc1;
pub(crate) const OFFICE_CLASS: u32 = 0xd1;
pub(crate) const WEB_RULE: u32 = 0x100;
pub(crate) const OFFICE_RULE: u32 = 0x101;
pub(crate) const DATABASE_SERVICE: u32 = 0x51;

/// A node without an agent: a bpffs of its own with all maps pinned; gone when the test ends.
pub(crate) struct Node {
    pub(crate) temporary: tempfile::TempDir,
    pub(crate) dir: MillraceDir,
}

impl Node {
    /// Only the bpffs.
    pub(crate) fn bare() -> Self {
        let temporary = tempfile::tempdir().expect("temporary directory");
        let bpffs = temporary.path().join("bpf");
        fs::create_dir(&bpffs).expect("mount point");
        let none: Option<&str> = None;
        mount(Some("bpf"), &bpffs, Some("bpf"), MsFlags::empty(), none).expect("mount a bpffs (needs root)");
        fs::create_dir(temporary.path().join("run")).expect("runtime directory");
        Self { temporary, dir: MillraceDir::new(bpffs) }
    }

    /// All maps, empty but for the versions.
    pub(crate) fn empty() -> Self {
        let node = Self::bare();
        node.dir.create().unwrap();
        for &id in MapId::ALL {
            Map::create(&id.spec()).unwrap().pin(&node.dir.map_path(id)).unwrap();
        }
        let meta = Map::open_checked(&node.dir, MapId::META).unwrap();
        meta.update_batch(&Versions::current().to_entries()).unwrap();
        node
    }

    /// The database at 10.1.0.9 lets in web (10.1.0.7) on 5432 and the office (192.0.2.0/24) on 80 and 81. Its
    /// service has a second backend on another node.
    pub(crate) fn with_database() -> Self {
        let node = Self::empty();
        node.endpoint("10.1.0.9", 7, DATABASE_SET);
        node.endpoint("10.1.0.7", 8, 0);
        node.write(MapId::CLASSES_V4, &[10, 1, 0, 7], &WEB_CLASS.to_ne_bytes());
        let office = prefix_to_bytes("192.0.2.0/24".parse().unwrap());
        node.write(MapId::CIDRS_V4, &office, &OFFICE_CLASS.to_ne_bytes());
        node.rule(WEB_CLASS, PolicyKey::FULL_BITS, 5432, WEB_RULE);
        node.rule(OFFICE_CLASS, PolicyKey::prefix_len(15), 80, OFFICE_RULE);
        for (slot, backend) in [(5_u32, "10.1.0.9"), (6, "10.1.1.4")] {
            let backend = Backend { addr: backend.parse().unwrap(), port: 5432 };
            node.write(MapId::BACKENDS_V4, &slot.to_ne_bytes(), &backend.to_bytes());
        }
        node.frontend("10.96.0.1", frontend_value(DATABASE_SERVICE, 5, 2));
        node.frontend("10.96.0.2", frontend_value(0x52, 0, 0));
        node
    }

    pub(crate) fn write(&self, map: MapId, key: &[u8], value: &[u8]) {
        Map::open_checked(&self.dir, map).unwrap().update(key, value).unwrap();
    }

    pub(crate) fn endpoint(&self, ip: &str, ifindex: u32, ingress_set: u32) {
        let value = EndpointValue {
            ifindex,
            ingress_set,
            egress_set: 0,
            pod_mac: [2, 0, 0, 0, 0, 1],
            host_mac: [2, 0, 0, 0, 0, 2],
            translated: 0,
            reserved: [0; 3],
        };
        let ip: IpAddr = ip.parse().unwrap();
        self.write(MapId::ENDPOINTS_V4, &addr_to_bytes(ip), value.as_bytes());
    }

    pub(crate) fn rule(&self, class: u32, prefix_len: u32, port: u16, rule: u32) {
        let ports = PortPrefix { prefix_len, proto: proto::TCP, port };
        let value = PolicyValue { rule, verdict: verdict::ALLOW, reserved: [0; 3] };
        let key = PolicyEntry { set: DATABASE_SET, class, ports }.to_bytes();
        self.write(MapId::POLICIES, &key, value.as_bytes());
    }

    pub(crate) fn frontend(&self, ip: &str, value: FrontendValue) {
        let key = Frontend::cluster(ip.parse().unwrap(), 5432, proto::TCP);
        self.write(MapId::FRONTENDS_V4, &key.to_bytes(), value.as_bytes());
    }

    pub(crate) fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_millrace"));
        command
            .args(arguments)
            .env("MILLRACE_BPFFS", self.dir.bpffs())
            .env("MILLRACE_RUNTIME_DIR", self.runtime_dir());
        command
    }

    pub(crate) fn runtime_dir(&self) -> PathBuf {
        self.temporary.path().join("run")
    }

    pub(crate) fn write_catalog(&self, bytes: &[u8]) {
        fs::write(self.runtime_dir().join(agent_core::catalog::FILE_NAME), bytes).unwrap();
    }

    pub(crate) fn run(&self, arguments: &[&str]) -> Ran {
        self.command(arguments).output().expect("run millrace").into()
    }

    /// What the command prints, when it succeeds.
    pub(crate) fn prints(&self, arguments: &[&str]) -> String {
        let ran = self.run(arguments);
        assert_eq!(ran.code, Some(0), "{}{}", ran.stdout, ran.stderr);
        ran.stdout
    }

    pub(crate) fn json(&self, arguments: &[&str]) -> serde_json::Value {
        let printed = self.prints(&[arguments, &["-o", "json"]].concat());
        serde_json::from_str(&printed).unwrap_or_else(|error| panic!("{error}: {printed}"))
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        if let Err(error) = umount2(self.dir.bpffs(), MntFlags::MNT_DETACH) {
            eprintln!("unmount {}: {error}", self.dir.bpffs().display());
        }
    }
}

pub(crate) struct Ran {
    pub(crate) code: Option<i32>,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

impl From<Output> for Ran {
    fn from(output: Output) -> Self {
        let text = |bytes| String::from_utf8(bytes).expect("text");
        Self { code: output.status.code(), stdout: text(output.stdout), stderr: text(output.stderr) }
    }
}

/// A value of `FRONTENDS_*` whose backends are all to be chosen from.
fn frontend_value(service_id: u32, backends_start: u32, backends_count: u16) -> FrontendValue {
    FrontendValue { service_id, backends_start, backends_count, kept_count: 0, flags: 0, reserved: 0 }
}
