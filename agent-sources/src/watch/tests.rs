//! The whole source against a small API server of our own.
use std::{
    collections::BTreeMap,
    fs,
    path::PathBuf,
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use agent_core::update::Kind;
use tokio::{
    io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader},
    net::{TcpListener, TcpStream},
    sync::{mpsc, watch},
    time::timeout,
};

use crate::open_problems::{Attention, OpenProblems};
use crate::pulse::Watches;
use crate::source::{Event, SourceConfig, run, subject_of};

const BOUND: Duration = Duration::from_secs(30);

/// What the server answers, by path: to a list, and to watches one after the other.
#[derive(Default)]
struct Script {
    lists: BTreeMap<&'static str, String>,
    watches: BTreeMap<&'static str, Vec<(u16, String)>>,
    /// Request targets, in order.
    requests: Vec<String>,
}

struct Server {
    script: Arc<Mutex<Script>>,
    kubeconfig: PathBuf,
    _dir: tempfile::TempDir,
    /// Open watches end when this is dropped.
    _open: watch::Sender<()>,
}

impl Server {
    async fn start(script: Script) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let dir = tempfile::tempdir().unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let kubeconfig = kubeconfig(&dir, &url, "");
        let script = Arc::new(Mutex::new(script));
        let (open, closed) = watch::channel(());
        let shared = Arc::clone(&script);
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(serve(stream, Arc::clone(&shared), closed.clone()));
            }
        });
        Self { script, kubeconfig, _dir: dir, _open: open }
    }

    fn source(&self) -> mpsc::Receiver<Event> {
        self.source_noting(&Arc::default())
    }

    fn source_noting(&self, watches: &Arc<Watches>) -> mpsc::Receiver<Event> {
        let (sender, events) = mpsc::channel(16);
        let config = SourceConfig::Kubeconfig(self.kubeconfig.clone());
        let watches = Arc::clone(watches);
        tokio::spawn(async move { super::run(&config, sender, &watches).await });
        events
    }

    fn requests(&self, part: &str) -> Vec<String> {
        self.script
            .lock()
            .unwrap()
            .requests
            .iter()
            .filter(|request| request.contains(part))
            .cloned()
            .collect()
    }
}

fn kubeconfig(dir: &tempfile::TempDir, url: &str, cluster: &str) -> PathBuf {
    let path = dir.path().join("kubeconfig");
    let text = format!(
        "apiVersion: v1\nkind: Config\ncurrent-context: c\ncontexts: [{{name: c, context: {{cluster: c, user: u}}}}]\n\
         clusters: [{{name: c, cluster: {{server: '{url}'{cluster}}}}}]\nusers: [{{name: u, user: {{}}}}]\n"
    );
    fs::write(&path, text).unwrap();
    path
}

async fn serve(stream: TcpStream, script: Arc<Mutex<Script>>, mut closed: watch::Receiver<()>) {
    let mut stream = BufReader::new(stream);
    loop {
        let mut head = Vec::new();
        loop {
            let mut line = String::new();
            if stream.read_line(&mut line).await.unwrap_or(0) == 0 {
                return;
            }
            if line == "\r\n" {
                break;
            }
            head.push(line);
        }
        let target = head[0].split(' ').nth(1).unwrap().to_owned();
        let (path, query) = target.split_once('?').unwrap();
        let is_watch = query.contains("watch=true");
        let answer = {
            let mut script = script.lock().unwrap();
            script.requests.push(target.clone());
            if is_watch {
                script.watches.get_mut(path).filter(|left| !left.is_empty()).map(|left| left.remove(0))
            } else {
                let items = script.lists.get(path).cloned().unwrap_or_default();
                Some((200, format!(r#"{{"metadata":{{"resourceVersion":"1"}},"items":[{items}]}}"#)))
            }
        };
        let (code, body) = answer.unwrap_or((200, String::new()));
        if !is_watch || code != 200 {
            let head = format!("HTTP/1.1 {code} X\r\ncontent-length: {}\r\n\r\n", body.len());
            stream.write_all(format!("{head}{body}").as_bytes()).await.unwrap();
            continue;
        }
        // A watch stays open after its events.
        stream.write_all(format!("HTTP/1.1 200 X\r\n\r\n{body}").as_bytes()).await.unwrap();
        // An error means that the server is gone, which is what is waited for.
        let _ = closed.changed().await;
        return;
    }
}

/// Takes events until the texts have all come; returns them in order.
async fn until(
    events: &mut mpsc::Receiver<Event>,
    open: &mut OpenProblems,
    expected: &[&str],
) -> Vec<String> {
    let mut collected: Vec<String> = Vec::new();
    while !expected.iter().all(|&text| collected.iter().any(|found| found == text)) {
        let event = timeout(BOUND, events.recv()).await.unwrap_or_else(|_| panic!("{collected:?}")).unwrap();
        collected.extend(event.batch.updates.iter().map(subject_of));
        open.record(event.batch.reports, |_| Attention::Log, Instant::now());
    }
    collected
}

const SYNCED: [&str; 6] = [
    "synced Service",
    "synced EndpointSlice",
    "synced Pod",
    "synced Namespace",
    "synced Node",
    "synced NetworkPolicy",
];

fn namespace(name: &str, version: u32) -> String {
    format!(
        r#"{{"apiVersion":"v1","kind":"Namespace","metadata":{{"name":"{name}","resourceVersion":"{version}","managedFields":[{{"manager":"x"}}]}}}}"#
    )
}

#[tokio::test]
async fn lists_and_watches_become_differences_across_a_lost_position() {
    const NAMESPACES: &str = "/api/v1/namespaces";
    let added = format!("{{\"type\":\"ADDED\",\"object\":{}}}\n", namespace("c", 2));
    let gone = r#"{"kind":"Status","apiVersion":"v1","status":"Failure","message":"too old","reason":"Expired","code":410}"#;
    let in_stream = format!("{added}{{\"type\":\"ERROR\",\"object\":{gone}}}\n");
    let script = Script {
        lists: [(NAMESPACES, format!("{},{}", namespace("a", 1), namespace("b", 1)))].into(),
        // Lost at the start, then lost within the stream, then nothing more.
        watches: [(NAMESPACES, vec![(410, gone.to_owned()), (200, in_stream)])].into(),
        ..Script::default()
    };
    let server = Server::start(script).await;
    let watches = Arc::new(Watches::default());
    let mut events = server.source_noting(&watches);
    let mut open = OpenProblems::default();
    let expected =
        [SYNCED.as_slice(), &["+Namespace a", "+Namespace b", "+Namespace c", "-Namespace c"]].concat();
    let mut collected = until(&mut events, &mut open, &expected).await;
    collected.sort();
    let mut sorted = expected.clone();
    sorted.sort_unstable();
    assert_eq!(collected, sorted, "each difference once");
    assert_eq!(open.sentences(|_| true).len(), 0, "a lost position is no problem");
    let lists = server.requests(NAMESPACES).into_iter().filter(|request| !request.contains("watch=true"));
    assert_eq!(lists.count(), 3);
    let seen = watches.seen().find(|seen| seen.kind == Kind::Namespace).unwrap();
    assert_eq!((seen.lists, seen.errors, seen.is_failing), (3, 2, false));
}

#[tokio::test]
async fn only_what_is_in_use_is_asked_for() {
    let server = Server::start(Script::default()).await;
    let mut events = server.source();
    until(&mut events, &mut OpenProblems::default(), &SYNCED).await;
    for (path, selector) in [
        ("/api/v1/services?", "fieldSelector=spec.clusterIP%21%3DNone"),
        ("/api/v1/services?", "labelSelector=%21service.kubernetes.io%2Fservice-proxy-name"),
        (
            "/endpointslices?",
            "labelSelector=kubernetes.io%2Fservice-name%2C%21service.kubernetes.io%2Fheadless",
        ),
        ("/apis/networking.k8s.io/v1/networkpolicies?", ""),
    ] {
        let requests = server.requests(path);
        assert!(
            !requests.is_empty() && requests.iter().all(|request| request.contains(selector)),
            "{requests:?}"
        );
    }
}

/// Also shows that a TLS client can be made at all: it needs a cryptography provider.
#[tokio::test]
async fn a_server_that_is_away_is_reported_with_its_remedy() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("https://{}", listener.local_addr().unwrap());
    drop(listener);
    let dir = tempfile::tempdir().unwrap();
    let config = SourceConfig::Kubeconfig(kubeconfig(&dir, &url, ", insecure-skip-tls-verify: true"));
    let (sender, mut events) = mpsc::channel(16);
    tokio::spawn(async move { run(&config, sender).await });
    let mut open = OpenProblems::default();
    while open.sentences(|_| true).len() < 6 {
        let event = timeout(BOUND, events.recv()).await.unwrap().unwrap();
        assert!(event.batch.updates.is_empty());
        open.record(event.batch.reports, |_| Attention::Log, Instant::now());
    }
    for sentence in open.sentences(|_| true) {
        assert!(
            sentence.contains("cannot be reached (Connection refused") && sentence.contains("check that"),
            "{sentence}"
        );
    }
}

#[tokio::test]
async fn a_kubeconfig_that_cannot_be_used_is_an_error_with_its_remedy() {
    let dir = tempfile::tempdir().unwrap();
    for path in [dir.path().join("missing"), {
        fs::write(dir.path().join("broken"), "current-context: [").unwrap();
        dir.path().join("broken")
    }] {
        let (sender, _events) = mpsc::channel(1);
        let error = run(&SourceConfig::Kubeconfig(path.clone()), sender).await.unwrap_err().to_string();
        assert!(
            error.contains(path.to_str().unwrap()) && error.contains("name a kubeconfig file"),
            "{error}"
        );
    }
}
