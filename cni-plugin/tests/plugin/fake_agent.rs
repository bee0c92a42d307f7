//! A fake agent: answers as told and remembers what it was asked.
use std::{
    io::{BufRead, BufReader, Write},
    os::unix::net::{UnixListener, UnixStream},
    path::Path,
    sync::{Arc, Mutex},
    thread,
};

use agent_api::{Checked, Envelope, Error, ErrorKind, Health, Network, Reply, Request, SOCKET_NAME};

/// What the fake answers to `Attach`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum OnAttach {
    Succeed,
    Fail,
}

pub(crate) struct FakeAgent {
    requests: Arc<Mutex<Vec<Request>>>,
    refusing: Arc<Mutex<Vec<String>>>,
    missing: Arc<Mutex<Vec<String>>>,
}

impl FakeAgent {
    pub(crate) fn start(runtime_dir: &Path, on_attach: OnAttach) -> Self {
        let listener =
            UnixListener::bind(runtime_dir.join(SOCKET_NAME)).expect("binding the fake agent's socket");
        let requests = Arc::new(Mutex::new(Vec::new()));
        let refusing = Arc::new(Mutex::new(Vec::new()));
        let missing = Arc::new(Mutex::new(Vec::new()));
        let (seen, refused, missed) = (Arc::clone(&requests), Arc::clone(&refusing), Arc::clone(&missing));
        // Ends with the test process: the listener has no other end.
        thread::spawn(move || {
            for stream in listener.incoming() {
                let stream = stream.expect("accepting a connection of the plugin");
                answer(stream, on_attach, &seen, &refused, &missed);
            }
        });
        Self { requests, refusing, missing }
    }

    /// From now on the agent misses something of every attachment.
    pub(crate) fn miss(&self, what: &str) {
        self.missing.lock().expect("the fake agent panicked").push(what.to_owned());
    }

    /// From now on the agent would refuse a pod.
    pub(crate) fn refuse(&self, why: &str) {
        self.refusing.lock().expect("the fake agent panicked").push(why.to_owned());
    }

    pub(crate) fn requests(&self) -> Vec<Request> {
        self.requests.lock().expect("the fake agent panicked").clone()
    }

    pub(crate) fn detached(&self) -> usize {
        self.requests().iter().filter(|request| matches!(request, Request::Detach { .. })).count()
    }
}

fn answer(
    mut stream: UnixStream,
    on_attach: OnAttach,
    seen: &Mutex<Vec<Request>>,
    refusing: &Mutex<Vec<String>>,
    missing: &Mutex<Vec<String>>,
) {
    let mut line = String::new();
    BufReader::new(&stream).read_line(&mut line).expect("reading the plugin's request");
    let envelope: Envelope =
        serde_json::from_str(&line).expect("the plugin's request is not of the protocol");
    let reply = match &envelope.request {
        Request::Reserve { .. } => Reply::Reserved(Network {
            addresses: ["10.77.0.9/32", "fd77::9/128"].map(|address| address.parse().unwrap()).to_vec(),
            gateways: ["169.254.1.1", "fe80::1"].map(|gateway| gateway.parse().unwrap()).to_vec(),
            mtu: 1400,
        }),
        Request::Attach { .. } if on_attach == OnAttach::Fail => Reply::Error(Error {
            kind: ErrorKind::TryAgain,
            message: "pod default/web is not known yet".into(),
        }),
        Request::Attach { .. } => Reply::Attached,
        Request::Detach { .. } => Reply::Detached,
        Request::Check { .. } => {
            let missing = missing.lock().expect("the test panicked").clone();
            Reply::Checked(Checked { missing })
        }
        Request::Status => Reply::Status(Box::default()),
        Request::Names => Reply::Named,
        Request::Applied => Reply::Applied(agent_api::Applied::default()),
        Request::Health => {
            let refusing = refusing.lock().expect("the test panicked").clone();
            Reply::Health(Health { unmet: refusing.clone(), refusing })
        }
    };
    seen.lock().expect("the test panicked").push(envelope.request);
    let mut bytes = serde_json::to_vec(&reply).expect("writing JSON");
    bytes.push(b'\n');
    // The plugin may be gone.
    let _ = stream.write_all(&bytes);
}
